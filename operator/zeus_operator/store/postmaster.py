"""The embedded server as files, locks and one process; no SQL and no heavy imports.

Shared by the programs that use the server (`embedded.py`) and by the guard that
stops it after the last of them (`embedded_guard.py`).
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

POLL_SECONDS = 0.02


class EmbeddedPostgresError(RuntimeError):
    """The embedded server can't be used; the text says why and what to do."""


@dataclass(frozen=True)
class Layout:
    """Where the files of one embedded server are."""

    home: Path

    @property
    def cluster(self) -> Path:
        """The server's data directory (PGDATA)."""
        return self.home / "cluster"

    @property
    def log(self) -> Path:
        """What the server writes to its output."""
        return self.home / "server.log"

    @property
    def users_lock(self) -> Path:
        """Held shared by users, exclusively by a guard that stops the server."""
        return self.home / "users.lock"

    @property
    def start_lock(self) -> Path:
        """Held by whoever looks whether the server runs, and starts it."""
        return self.home / "start.lock"

    @property
    def guard_lock(self) -> Path:
        """Held by the guard as long as it is on duty."""
        return self.home / "guard.lock"

    @property
    def socket_record(self) -> Path:
        """Names the socket directory where it could not be under `home`."""
        return self.home / "socket-directory"


@dataclass(frozen=True)
class Postmaster:
    """What a running server says about itself in `postmaster.pid`."""

    pid: int
    socket_directory: Path
    ready: bool


def open_lock(path: Path) -> int:
    """Return a descriptor of the lock file, created if need be."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold `path` exclusively; the kernel lets go when the process dies."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def running_postmaster(cluster: Path) -> Postmaster | None:
    """Return the live server of `cluster`, or None.

    A pid file that outlived its server may name a stranger by now, so the
    process must also stand in the data directory, as every postmaster does.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
        if not Path(f"/proc/{pid}/cwd").samefile(cluster):
            return None
    except (OSError, ValueError, IndexError):
        return None
    ready = len(lines) >= 8 and lines[7].strip() == "ready"
    socket_directory = Path(lines[4].strip()) if len(lines) >= 5 else Path()
    return Postmaster(pid, socket_directory, ready)


def is_occupied(cluster: Path) -> bool:
    """Whether a live process stands in the data directory: a postmaster or one of its sessions."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if (process / "cwd").samefile(cluster):
                return True
        except OSError:  # it ended, is a corpse or somebody else's
            continue
    return False


def has_exited(pid: int) -> bool:
    """Whether the process is gone, or dead and not yet collected by its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state == "Z"


def wait_until(
    condition: Callable[[], bool],
    timeout_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Poll `condition`; return whether it became true in time."""
    deadline = clock() + timeout_seconds
    while not condition():
        if clock() >= deadline:
            return False
        sleep(POLL_SECONDS)
    return True


def stop_postmaster(cluster: Path, fast_timeout_seconds: float = 20.0) -> None:
    """Stop the server of `cluster`, if it runs: fast, and immediately if that hangs.

    Signals instead of `pg_ctl`, which refuses to run as root.

    Raises:
        EmbeddedPostgresError: it is still there after SIGKILL.
    """
    for number, timeout_seconds in (
        (signal.SIGINT, fast_timeout_seconds),  # fast: sessions end, a checkpoint is written
        (signal.SIGQUIT, 5.0),  # immediate: recovery at the next start
        (signal.SIGKILL, 5.0),
    ):
        server = running_postmaster(cluster)
        if server is None or has_exited(server.pid):
            return
        try:
            os.kill(server.pid, number)
        except ProcessLookupError:
            return
        if wait_until(partial(has_exited, server.pid), timeout_seconds):
            return
    raise EmbeddedPostgresError(f"the PostgreSQL server of {cluster} does not end")
