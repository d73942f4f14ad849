"""`python -m tests.full_cluster up | down | status`: a whole cluster to look at."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.cluster.support.binaries import BinariesUnavailable
from tests.cluster.support.control_plane import ControlPlaneError
from tests.full_cluster.addresses import NoFreeAddresses
from tests.full_cluster.cgroups import CgroupsUnusable
from tests.full_cluster.cluster import DEFAULT_GPUS, FullCluster, NotRoot
from tests.full_cluster.images import TEST_IMAGE, ImageError
from tests.full_cluster.instance import Found, clean, clusters_directory, find_instances
from tests.full_cluster.network import NetworkError
from tests.full_cluster.node_processes import NodeError
from tests.full_cluster.programs import find_programs
from tests.support.eventually import eventually

_ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_FAILURES = (
    *(BinariesUnavailable, CgroupsUnusable, ControlPlaneError, ImageError),
    *(NetworkError, NoFreeAddresses, NodeError, NotRoot),
)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.full_cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run a cluster until Ctrl-C, SIGTERM or `down`")
    up.add_argument(
        "--node",
        action="append",
        metavar="MODEL[,MODEL...]",
        help="a node with GPUs of these models, `none` for one without; may be repeated",
    )
    up.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="an OCI archive for every node, such as build/images/operator.tar; may be repeated",
    )
    up.add_argument("--time-scale", type=float, default=1.0, help="of the simulated GPUs' steps")
    down = commands.add_parser("down", help="end clusters of `up`; remove what dead ones left")
    down.add_argument("name", nargs="?", help="this one alone")
    commands.add_parser("status", help="list the clusters on this machine")
    options = parser.parse_args(arguments)
    try:
        if options.command == "up":
            return _up(_models(options.node), options.image, options.time_scale)
        return _down(options.name) if options.command == "down" else _status()
    except _FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _models(nodes: list[str] | None) -> tuple[tuple[str, ...], ...]:
    if nodes is None:
        return DEFAULT_GPUS
    return tuple(() if node == "none" else tuple(node.split(",")) for node in nodes)


def _up(gpus: tuple[tuple[str, ...], ...], archives: list[Path], time_scale: float) -> int:
    for number in _ENDS:  # half-way, too, everything that was started is ended
        signal.signal(number, signal.default_int_handler)
    programs, options = find_programs(), {"time_scale": time_scale}
    with FullCluster(programs, gpus=gpus, gpu_options=options, kept=True) as cluster:
        for archive in archives:
            cluster.load_image(archive)
        waiting = _Waiting()
        print(f"export KUBECONFIG={cluster.kubeconfig}")
        print(f"alias kubectl={programs.control_plane.kubectl}")
        for node, models in zip(cluster.nodes, gpus, strict=True):
            print(f"# {node.name}: GPUs {', '.join(models) or 'none'}; {node.folder}")
        print(f"# Pods can run {TEST_IMAGE} (imagePullPolicy: IfNotPresent).")
        print(f"# {cluster.name} runs until Ctrl-C.", flush=True)
        waiting.until_told_to_end()
    return 0


class _Waiting:
    """From now on a signal to end interrupts nothing, the clean-up least of all.

    A file descriptor, because the kernel may hand a signal to any thread, and would then not wake
    this one from its wait.
    """

    def __init__(self) -> None:
        self._readable, writable = os.pipe()
        os.set_blocking(writable, False)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        for number in _ENDS:
            signal.signal(number, lambda *_: None)

    def until_told_to_end(self) -> None:
        """Return after one of the signals."""
        os.read(self._readable, 1)


def _down(name: str | None) -> int:
    directory = clusters_directory()
    removed = clean(directory)
    for left in removed:
        print(f"{left}: its owner was dead; what it left is removed")
    alive = [found for found in find_instances(directory) if found.alive]
    chosen = [found for found in alive if found.name == name or (name is None and found.kept)]
    if name is not None and name not in removed and not chosen:
        print(f"no cluster {name} runs; those that do: {_names(alive)}", file=sys.stderr)
        return 1
    for found in chosen:
        _end(found)
    return 0


def _end(found: Found) -> None:
    os.kill(found.owner_pid, signal.SIGTERM)
    eventually(lambda: not _is_there(found.folder), f"{found.name} has ended")
    print(f"{found.name}: ended")


def _is_there(folder: Path) -> bool:
    """Whether the cluster is still there; one whose owner was killed meanwhile is cleaned up."""
    clean(folder.parent)
    return folder.exists()


def _status() -> int:
    found = find_instances(clusters_directory())
    for each in found:
        if not each.alive:
            print(f"{each.name}: dead; `down` removes what it left in {each.folder}")
            continue
        what = "kept" if each.kept else "of a test"
        kubeconfig = each.folder / "plane" / "admin.kubeconfig"
        print(f"{each.name}: {what}, process {each.owner_pid}, KUBECONFIG={kubeconfig}")
    if not found:
        print("no cluster runs")
    return 0


def _names(found: list[Found]) -> str:
    return ", ".join(each.name for each in found) or "none"


if __name__ == "__main__":
    sys.exit(main())
