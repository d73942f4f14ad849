"""The harness itself: what the other tests here stand on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.cluster.support.binaries import MODULES, Binaries, BinariesUnavailable, find_binaries
from tests.cluster.support.binaries import kubernetes_version as pinned_version
from tests.cluster.support.control_plane import ControlPlane, ControlPlaneError, KubectlError
from tests.cluster.support.own_postgres import OwnPostgres
from tests.support.eventually import eventually

MINOR = os.environ.get("ZEUS_TEST_KUBERNETES") or "1.37"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_api_server_is_the_pinned_version(cluster: ControlPlane) -> None:
    version = json.loads(cluster.kubectl("version", "-o", "json"))

    assert version["serverVersion"]["gitVersion"] == pinned_version(MODULES / f"kubernetes-{MINOR}")


def test_what_is_stored_survives_a_restart_of_the_api_server(
    cluster: ControlPlane, namespace: str
) -> None:
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", namespace)

    cluster.stop_api_server()
    with pytest.raises(KubectlError, match="refused"):
        cluster.kubectl("get", "configmap", "kept", "-n", namespace)
    cluster.start_api_server()

    assert "kept" in cluster.kubectl("get", "configmap", "kept", "-n", namespace, "-o", "name")


def test_a_service_account_has_its_rights_and_no_more(
    cluster: ControlPlane, namespace: str
) -> None:
    cluster.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    cluster.kubectl("create", "role", "r", "--verb=list", "--resource=configmaps", "-n", namespace)
    cluster.kubectl(
        *("create", "rolebinding", "r", "--role=r", "-n", namespace),
        f"--serviceaccount={namespace}:reader",
    )

    reader = cluster.kubeconfig_for("reader", namespace)

    assert cluster.kubectl("get", "configmaps", "-o", "name", as_user=reader)
    with pytest.raises(KubectlError, match="secrets is forbidden"):
        cluster.kubectl("get", "secrets", as_user=reader)


def test_a_controller_manager_that_restarts_goes_on_with_its_work(
    cluster: ControlPlane, namespace: str
) -> None:
    cluster.restart_controller_manager()

    cluster.kubectl("create", "job", "plain", "--image=none", "-n", namespace)
    eventually(
        lambda: cluster.kubectl(
            "get", "pods", "-l", "job-name=plain", "-o", "name", "-n", namespace
        ),
        "the Job has its pod",
    )


def test_stop_leaves_no_process(own_cluster: ControlPlane) -> None:
    pids = own_cluster.pids()
    assert sorted(pids) == ["etcd", "kube-apiserver", "kube-controller-manager"]

    own_cluster.stop()

    assert not [name for name, pid in pids.items() if is_alive(pid)]


STARTS_AND_WAITS = """
import json, sys
from pathlib import Path
from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
plane = ControlPlane(Path(sys.argv[1]), find_binaries())
plane.start()
print(json.dumps(plane.pids()), flush=True)
sys.stdin.read()
"""


def test_everything_dies_with_the_process_that_started_it(
    binaries: Binaries, tmp_path: Path
) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS, str(tmp_path / "plane")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert starter.stdout is not None
    pids = json.loads(starter.stdout.readline())
    assert all(is_alive(pid) for pid in pids.values())

    starter.send_signal(signal.SIGKILL)
    starter.communicate()

    eventually(lambda: not any(is_alive(pid) for pid in pids.values()), "all of it is gone")


def test_a_part_that_does_not_start_says_why(binaries: Binaries, tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane", binaries, api_server_flags=("--no-such-flag",))

    with pytest.raises(ControlPlaneError, match="unknown flag: --no-such-flag"):
        plane.start()

    assert plane.pids() == {}


def test_without_a_go_toolchain_it_is_said_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BinariesUnavailable, match=r"no `go` on PATH.*go\.dev/dl"):
        find_binaries({"ZEUS_TEST_BINARIES": str(tmp_path / "cache"), "HOME": str(tmp_path)})


def test_ready_binaries_are_used_as_they_are(binaries: Binaries, tmp_path: Path) -> None:
    given = binaries.kube_apiserver.parent

    with pytest.raises(BinariesUnavailable, match="has no etcd"):
        find_binaries({"KUBEBUILDER_ASSETS": str(given)})
    for program in (binaries.etcd, *given.iterdir()):
        (tmp_path / program.name).symlink_to(program)

    found = find_binaries({"KUBEBUILDER_ASSETS": str(tmp_path)})

    assert found.kubectl == tmp_path / "kubectl"


def test_postgres_comes_back_after_a_kill_with_what_was_committed(
    own_postgres: OwnPostgres,
) -> None:
    address = own_postgres.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE kept (x int)")

    own_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address)
    own_postgres.start()

    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
