"""A cluster leaves the machine as it was, however it ends, and does not meet another one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.cluster.support.processes import end, spawn
from tests.full_cluster import node_init
from tests.full_cluster.cgroups import hierarchies
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.instance import clusters_directory, find_instances
from tests.full_cluster.pods import await_phase, run_pod, shell
from tests.full_cluster.programs import Programs
from tests.support.eventually import eventually


def machine_state() -> frozenset[str]:
    """Return what a cluster could leave behind, and what it could change."""
    folders = (clusters_directory(), Path("/run"), Path("/var/lib"), Path("/var/log"))
    # Others may mount elsewhere meanwhile, as those who build images do.
    mounted = tuple(str(folder) for folder in (*folders, "/proc", "/sys"))
    mounts = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return frozenset(
        [
            *(f"link {each['ifname']}" for each in _ip("link")),
            *(f"route {each['dst']}" for each in _ip("route", "show", "table", "all")),
            *(f"mount {path}" for path in mounts if path.startswith(mounted)),
            *(f"control group {path}" for each in hierarchies() for path in each.glob("*/")),
            *(f"network namespace {each}" for each in _network_namespaces()),
            *(f"folder {path}" for folder in folders for path in folder.glob("*")),
            *(f"firewall {line}" for line in rules.splitlines() if line.startswith("-A")),
            *(_sysctl(name) for name in node_init.SYSCTLS),
        ]
    )


def await_nothing_new(before: frozenset[str]) -> None:
    """Wait for it: the kernel takes namespaces apart after the processes in them.

    What has gone does not count: the first cluster's pods come and go meanwhile.
    """
    try:
        eventually(lambda: machine_state() <= before, "the machine is as it was before")
    except AssertionError as error:
        new = "\n".join(sorted(machine_state() - before))
        raise AssertionError(f"{error}; new:\n{new}") from None


def _ip(*arguments: str) -> list[dict[str, str]]:
    shown = subprocess.run(
        ["ip", "-j", *arguments], capture_output=True, text=True, check=True
    ).stdout
    found: list[dict[str, str]] = json.loads(shown or "[]")
    return found


def _network_namespaces() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append(str((process / "ns" / "net").readlink()))
        except OSError:  # has ended meanwhile
            continue
    return found


def _sysctl(name: str) -> str:
    setting = Path("/proc/sys", name)
    return f"setting {name}={setting.read_text().strip()}" if setting.exists() else f"no {name}"


def test_two_clusters_run_at_once_and_one_that_stops_leaves_nothing(
    full_cluster: FullCluster, programs: Programs
) -> None:
    before = machine_state()

    with FullCluster(programs, gpus=[()]) as other:
        assert other.name != full_cluster.name
        api = other.api()
        run_pod(api, "default", "runs", shell("exec sleep infinity"))
        await_phase(api, "default", "runs", "Running")
        assert [node["metadata"]["name"] for node in api.items("/api/v1/nodes")] == ["node-1"]
        api.close()
        assert {f"link {other.name}", f"folder {other.folder}"} <= machine_state() - before

    await_nothing_new(before)


def test_what_a_killed_owner_leaves_is_removed_on_request(
    full_cluster: FullCluster, tmp_path: Path
) -> None:
    before = machine_state()
    owner, name = keep_a_cluster(tmp_path / "up.log", "V100")

    owner.send_signal(signal.SIGKILL)
    owner.wait()

    assert f"{name}: its owner was dead" in command("down", name)
    await_nothing_new(before)


def test_down_ends_a_cluster_that_is_kept_and_no_other(
    full_cluster: FullCluster, tmp_path: Path
) -> None:
    owner, name = keep_a_cluster(tmp_path / "up.log", "none")
    try:
        assert f"{name}: kept" in command("status")
        assert f"{full_cluster.name}: of a test" in command("status")

        assert command("down", name) == f"{name}: ended\n"
        assert owner.wait() == 0
    finally:
        end(owner)
    left = [found.name for found in find_instances(clusters_directory())]
    assert full_cluster.name in left
    assert name not in left


def keep_a_cluster(log: Path, *gpus: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a cluster with one node as its user does; return its owner and its name."""
    up = [sys.executable, "-m", "tests.full_cluster", "up", "--node", ",".join(gpus)]
    owner = spawn(up, log)

    def runs() -> bool:
        assert owner.poll() is None, log.read_text()
        return "export KUBECONFIG" in log.read_text()

    eventually(runs, "the other cluster runs", 120)
    found = find_instances(clusters_directory())
    return owner, next(each.name for each in found if each.owner_pid == owner.pid)


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.full_cluster", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr
