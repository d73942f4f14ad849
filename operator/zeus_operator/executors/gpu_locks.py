"""Which GPU is in use by which run, for the whole machine.

A lock is an abstract Unix socket bound to the GPU's name.  The kernel gives a name to one socket
at a time, whoever's it is, and takes it back with the process.  A file would have to lie where
every user may write, where it outlives a crash and belongs to whoever came first.

Standard library only: the shim imports this module and must start fast.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Sequence

_PREFIX = "\0zeus-gpu"


class GpuLock:
    """The right to use one GPU, until it is closed or this process ends."""

    def __init__(self, uuid: str, bound: socket.socket) -> None:
        self.uuid = uuid
        self._bound = bound

    def close(self) -> None:
        """Give the GPU back."""
        self._bound.close()


def lock_name(uuid: str, machine: str) -> str:
    """Return the name of a GPU's lock.

    Args:
        uuid: as NVML gives it.
        machine: "" for this one; of a simulated GPU, what tells its machine from another one
            whose GPU has the same UUID.
    """
    if not machine:
        return f"{_PREFIX}/{uuid}"
    # A name has 107 bytes at most, a path may have more.
    return f"{_PREFIX}/{hashlib.sha256(machine.encode()).hexdigest()[:16]}/{uuid}"


def take(uuids: Sequence[str], count: int, machine: str) -> tuple[GpuLock, ...] | None:
    """Lock the first `count` of `uuids` that are free; None, and none locked, if there are fewer.

    Raises:
        OSError: no socket can be made.
    """
    taken: list[GpuLock] = []
    for uuid in uuids:
        if len(taken) == count:
            break
        lock = _try(uuid, machine)
        if lock is not None:
            taken.append(lock)
    if len(taken) == count:
        return tuple(taken)
    for lock in taken:
        lock.close()
    return None


def _try(uuid: str, machine: str) -> GpuLock | None:
    # Not inheritable, as all of Python's sockets: else the child would hold it as well.
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(lock_name(uuid, machine))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return GpuLock(uuid, bound)
