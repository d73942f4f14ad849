"""Who is at the other end of a Unix socket, and whether that process still lives.

The kernel vouches for pid and uid (`SO_PEERCRED`).  A pid can be reused, so a
process is known by pid and start time, and watched through a pidfd, which never
changes its meaning.  Linux 6.5 and later hand out the pidfd of the very process
that connected; on older kernels the start time is compared before and after
opening one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from asyncio.trsock import TransportSocket
from dataclasses import dataclass
from pathlib import Path

from zeus_agent.sessions import Owner

_SO_PEERPIDFD = 77  # asm-generic/socket.h; not in Python 3.11's socket module
_UCRED = struct.Struct("3i")
_PROC = Path("/proc")
_STAT_BYTES = 4096  # 52 numbers and a name of 64 bytes at most


class PeerGone(Exception):  # noqa: N818 -- a fact about the peer
    """The process can't be identified: it has ended, or can't be seen from here."""


@dataclass(frozen=True)
class Credentials:
    """What the kernel says of the process that connected."""

    pid: int
    uid: int
    gid: int


def credentials(connection: socket.socket | TransportSocket) -> Credentials:
    """Return pid, uid and gid of the process that connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Credentials(pid, uid, gid)


def start_ticks(pid: int, proc: Path = _PROC) -> int:
    """Return when the process started, in clock ticks since boot.

    Raises:
        PeerGone: there is no such process, or it is hidden.
    """
    try:
        # Without a file object: each new connection pays for this.
        descriptor = os.open(f"{proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.read(descriptor, _STAT_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PeerGone(f"process {pid} can't be seen: {error.strerror}") from error
    # The name, in parentheses, may contain anything; the fields after it are fixed.
    return int(stat.rpartition(b")")[2].split()[19])


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended (a zombie has)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def identify(connection: socket.socket | TransportSocket) -> tuple[Owner, int]:
    """Return the process at the other end and a pidfd of it, which the caller closes.

    Raises:
        PeerGone: it has ended or is in a pid namespace that is not visible from here.
    """
    peer = credentials(connection)
    if peer.pid <= 0:
        raise PeerGone("the caller's process is not visible in the agent's pid namespace")
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return open_by_pid(peer)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, pidfd)
        # Alive after its start time was read: then it was its start time.
        owner = Owner(peer.pid, start_ticks(peer.pid), peer.uid)
        _require_alive(pidfd, peer.pid)
        cleanup.pop_all()
    return owner, pidfd


def open_by_pid(peer: Credentials, proc: Path = _PROC) -> tuple[Owner, int]:
    """As `identify`, for kernels that don't hand out the peer's pidfd.

    Raises:
        PeerGone: the process has ended, or the pid now belongs to another one.
    """
    owner = Owner(peer.pid, start_ticks(peer.pid, proc), peer.uid)
    try:
        pidfd = os.pidfd_open(peer.pid)
    except OSError as error:
        raise PeerGone(f"process {peer.pid} has ended") from error
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, pidfd)
        if start_ticks(peer.pid, proc) != owner.start_ticks:
            raise PeerGone(f"pid {peer.pid} now belongs to another process")
        _require_alive(pidfd, peer.pid)
        cleanup.pop_all()
    return owner, pidfd


def _require_alive(pidfd: int, pid: int) -> None:
    if has_ended(pidfd):
        raise PeerGone(f"process {pid} has ended")
