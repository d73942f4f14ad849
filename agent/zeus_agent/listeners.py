"""Sockets that callers connect to: a Unix socket, TCP with TLS, TCP for probes and Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import resource
import socket
import stat
import sys
from asyncio import sslproto
from pathlib import Path
from typing import Any

from zeus_agent.connections import Connections
from zeus_agent.logs import note
from zeus_agent.tls import Certificates

logger = logging.getLogger("zeus_agent.listeners")

BACKLOG = 1024
HANDSHAKE_SECONDS = 5.0
GOODBYE_SECONDS = 2.0  # for the peer's half of the end of TLS
MAX_HANDSHAKES = 128
ACCEPTED_AT_ONCE = 32  # without TLS: a millisecond of work
TLS_RECORD_BYTES = 16 * 1024
PAUSE_SECONDS = 0.1  # when the system has no room for another connection
QUIET_SECONDS = 60.0
DESCRIPTORS_OF_OURS = 256
_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un has 108, one of them ends the text
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BROKEN = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})  # the listening socket itself


class SocketError(Exception):
    """The socket can't be used; the text says why."""


class Listener:
    """Accepts connections.

    Args:
        listening: the socket, bound and listening.
        connections: takes those that were accepted.
        certificates: for TLS; None: without.
    """

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        certificates: Certificates | None = None,
    ) -> None:
        self._listening = listening
        self._connections = connections
        self._certificates = certificates
        self._serving: asyncio.Task[Any] | None = None
        self._greetings: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._quiet_until = 0.0
        # A handshake takes a hundred times as long as a connection without.
        self._at_once = ACCEPTED_AT_ONCE if certificates is None else 1
        listening.setblocking(False)

    async def serve(self) -> None:
        """Accept until closed or cancelled.

        Raises:
            OSError: the listening socket can't be used any more.
        """
        loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening)
                self._admit(accepted)
                self._admit_those_who_wait()
            except OSError as error:
                if error.errno in _BROKEN:
                    raise
                await self._wait_for_room(error)
                continue
            # While callers wait in the backlog, `sock_accept` does not give way to anything else.
            await asyncio.sleep(0)

    def _admit_those_who_wait(self) -> None:
        """Accept some more at once, but not so many that those who are here notice.

        Callers wait in the backlog in one line; only here can they be told apart.

        Raises:
            OSError: see `serve`.
        """
        for _ in range(self._at_once - 1):
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            self._admit(accepted)

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._greetings) >= MAX_HANDSHAKES:
            oldest = next(iter(self._greetings))
            del self._greetings[oldest]  # now, not when it has ended: another takes its place
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._greet(accepted))
        self._greetings[task] = None
        task.add_done_callback(functools.partial(self._greeted, accepted))

    async def close(self) -> None:
        """Accept nobody any more; connections stay."""
        tasks = [*self._greetings, *([] if self._serving is None else [self._serving])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Only now: the loop must not watch a descriptor that something else may get.
        self._listening.close()

    async def _greet(self, accepted: socket.socket) -> None:
        """Hand an accepted connection over, after TLS has begun if it is to."""
        context = None if self._certificates is None else self._certificates.context
        if self._certificates is not None and context is None:
            accepted.close()
            return
        is_tls = context is not None
        try:
            # Not a server of asyncio's: its certificate could not be replaced, and connections
            # whose handshake has not ended could be neither counted nor ended.
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connections,
                accepted,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if is_tls else None,
                ssl_shutdown_timeout=GOODBYE_SECONDS if is_tls else None,
            )
        except OSError:  # no TLS, or none that we speak; the peer has gone
            accepted.close()

    def _greeted(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._greetings.pop(task, None)
        if task.cancelled():
            accepted.close()  # here, since a task that has not begun does nothing when cancelled
        elif task.exception() is not None:
            logger.error("a connection failed", exc_info=task.exception())

    async def _wait_for_room(self, error: OSError) -> None:
        """Go on after an accept that failed; the peer's faults (it has gone) cost no time."""
        if error.errno not in _NO_ROOM:
            await asyncio.sleep(0)
            return
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            note(logger, logging.WARNING, "callers must wait", reason=str(error))
        self._connections.make_room()  # the connection used longest ago does
        await asyncio.sleep(PAUSE_SECONDS)


def take_little_memory_for_tls() -> None:
    """Have each TLS connection read with a buffer of one TLS record.

    asyncio's own is 256 KiB, of memory that is really used: a few hundred idle callers would have
    the container killed.  It is not to be set by any public way; where a later Python has no such
    attribute, nothing happens.
    """
    if hasattr(sslproto.SSLProtocol, "max_size"):
        sslproto.SSLProtocol.max_size = TLS_RECORD_BYTES


def listen_tcp(address: str) -> socket.socket:
    """Return a listening socket at `HOST:PORT`; an empty host is every address.

    Raises:
        SocketError: it can't be had.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not int(port) <= 65535:
        raise SocketError(f"{address!r}: expected HOST:PORT, e.g. 0.0.0.0:8443 or [::]:8443")
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"  # noqa: S104 -- as asked for
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, int(port)))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise SocketError(f"can't listen at {address}: {error.strerror or error}") from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Return `HOST:PORT`, with the port that the system has chosen where 0 was asked for."""
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_unix(path: Path, *, shared: bool) -> socket.socket:
    """Return a listening socket at `path`; what a killed agent left there is replaced.

    Args:
        path: where callers connect.
        shared: other users may connect (who may call is checked for each connection).

    Raises:
        SocketError: a live agent is listening there, or the path can't be used.
    """
    # Bound under another name and then renamed: at `path` there is always one that answers.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    if len(os.fsencode(temporary)) > _MAX_SOCKET_PATH_BYTES:
        raise SocketError(f"the socket's path {path} is too long for a Unix socket")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755 if shared else 0o700, parents=True, exist_ok=True)
        require_free(path)
        temporary.unlink(missing_ok=True)
        listening.bind(os.fspath(temporary))
        temporary.chmod(0o666 if shared else 0o600)
        listening.listen(BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listening.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise SocketError(f"can't listen at {path}: {error.strerror or error}") from error
    except SocketError:
        listening.close()
        raise
    return listening


def require_free(path: Path) -> None:
    """Check that nothing but a dead socket is at `path`.

    Raises:
        SocketError: something else is.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} exists and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return  # nobody listens: left by an agent that was killed
    raise SocketError(
        f"another agent is listening at {path}; stop it, or give this one a path of its own with "
        "--socket"
    )


def remove_unix(path: Path, inode: int) -> None:
    """Remove the socket's file, unless a later agent has already put its own there.

    What can't be removed is logged: the next agent replaces a socket at which nobody listens.
    """
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        note(logger, logging.WARNING, "socket not removed", path=path, reason=str(error))


def allow_many_connections() -> int:
    """Raise the soft limit of open files to the hard one; return how many connections fit.

    Idle callers must not lock others out.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(DESCRIPTORS_OF_OURS, hard - DESCRIPTORS_OF_OURS)
