"""A control group for each node's pods, in every hierarchy of the machine.

The kubelet wants its root to exist.  Groups are named after the cluster and the node, so that all
of a cluster's are found again by its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.support.eventually import eventually

_MOUNTS = Path("/proc/self/mounts")
_V2_CONTROLLERS = {"cpu", "cpuset", "memory", "pids"}
_REMOVAL_SECONDS = 20.0


class CgroupsUnusable(Exception):  # noqa: N818 - a state of the machine
    """The machine's control groups can't take a node; the text says what to do."""


def hierarchies() -> list[Path]:
    """Return where hierarchies of control groups are mounted, v1 and v2."""
    lines = (line.split() for line in _MOUNTS.read_text().splitlines())
    return [Path(line[1]) for line in lines if line[2] in {"cgroup", "cgroup2"}]


def create(name: str) -> None:
    """Make the group `name` in every hierarchy, where it isn't yet.

    Raises:
        CgroupsUnusable: a controller that the kubelet needs is not handed down.
    """
    found = hierarchies()
    for hierarchy in found:
        if len(found) == 1:
            _need_controllers(hierarchy)
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        # A new cpuset of v1 is empty, and takes no process until it has both.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / setting).exists():
                (group / setting).write_text((hierarchy / setting).read_text())


def remove(pattern: str) -> None:
    """Kill what runs in the groups whose names match `pattern`, and remove them."""

    def gone() -> bool:
        groups = list(_groups(pattern))
        for group in groups:
            for process in _processes(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            try:
                group.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:  # a process that was killed takes a moment to leave
                if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
                    raise
        return not groups

    eventually(gone, f"no control group {pattern} is left", _REMOVAL_SECONDS)


def _groups(pattern: str) -> Iterator[Path]:
    """Yield children before their parents."""
    for hierarchy in hierarchies():
        for top in hierarchy.glob(pattern):
            for folder, _, _ in os.walk(top, topdown=False):
                yield Path(folder)


def _processes(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:  # the group has gone meanwhile, or is a threaded one
        return []


def _need_controllers(hierarchy: Path) -> None:
    handed_down = set((hierarchy / "cgroup.subtree_control").read_text().split())
    missing = sorted(_V2_CONTROLLERS - handed_down)
    if missing:
        raise CgroupsUnusable(
            f"{hierarchy}/cgroup.subtree_control lacks {', '.join(missing)}, which the kubelet "
            f"needs: echo '{' '.join('+' + name for name in missing)}' into it"
        )
