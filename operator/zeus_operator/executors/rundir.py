"""The directory of one execution of an attempt, as the executor and its shim share it.

    <runs>/<child name>/owner.json        whose child this is; written once
    <runs>/<child name>/<n>/              execution n, from 1
        output.log                        what the child wrote to stdout and stderr
        output.log.1                      what it wrote before, if that was much
        result                            what the runtime wrote (`zeus_runtime.protocol`)
        shim.lock                         locked by the shim as long as it lives
        shim.json                         the shim that claimed this execution; written once
        waiting                           there are too few free GPUs, or were at first
        started.json                      the child: pid and start time
        stop.json                         somebody asked for an end, and why
        exit.json                         how it ended; the last file the shim writes

Standard library only: the shim imports this module and must start fast.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

OWNER = "owner.json"
OUTPUT = "output.log"
RESULT = "result"
LOCK = "shim.lock"
CLAIM = "shim.json"
WAITING = "waiting"
STARTED = "started.json"
STOP = "stop.json"
EXIT = "exit.json"

EXIT_NOT_FOUND = 127  # a shell's code for a command that does not exist
EXIT_NOT_EXECUTABLE = 126


@dataclass(frozen=True)
class Claim:
    """The one shim that may start a child in this directory.  Epoch seconds."""

    pid: int
    start_ticks: int
    claimed_at: float


@dataclass(frozen=True)
class Started:
    """The child.  `start_ticks` tells it from a later process with the same pid."""

    pid: int
    start_ticks: int
    started_at: float
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class StopRequest:
    """Somebody wants the child to end."""

    reason: str
    grace_seconds: float


@dataclass(frozen=True)
class Exit:
    """How an execution ended.  Epoch seconds.

    Args:
        exit_code: of the child; 128 + the signal that killed it; None: it was never started,
            or nobody saw how it ended.
        signal: the signal that killed it, if one did.
        stopped: it ended after we asked it to.
        orphaned: it was ended because the program that started it had died.
        error: one sentence if the child could not be started or watched.
    """

    exit_code: int | None
    signal: int | None = None
    stopped: bool = False
    orphaned: bool = False
    reason: str = ""
    error: str = ""
    started_at: float | None = None
    ended_at: float = 0.0


Document = TypeVar("Document", Claim, Started, StopRequest, Exit)


def write_document(path: Path, document: Claim | Started | StopRequest | Exit) -> None:
    """Write `document` so that a reader sees all of it or nothing, also after a power cut."""
    write_json(path, asdict(document))


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Replace `path` atomically and durably by `body` as JSON."""
    temporary = _write_temporary(path, body)
    temporary.replace(path)
    _sync_directory(path.parent)


def create_json(path: Path, body: Mapping[str, Any]) -> bool:
    """Create `path` with `body`, whole and durable; False if it exists already."""
    temporary = _write_temporary(path, body)
    try:
        # A link fails where the name is taken, a rename would replace it.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_directory(path.parent)
    return True


def _write_temporary(path: Path, body: Mapping[str, Any]) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(body, file)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`; None if there is no such file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return raw


def read_document(path: Path, kind: type[Document]) -> Document | None:
    """Return the `kind` in `path`; None if there is no such file."""
    raw = read_json(path)
    if raw is None:
        return None
    if "gpus" in raw:
        raw["gpus"] = tuple(raw["gpus"])
    return kind(**raw)


def process_start_ticks(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may contain spaces: count from the last one.
    state, *rest = stat[stat.rfind(b")") + 2 :].split()
    return None if state in (b"Z", b"X") else int(rest[18])


def open_process(pid: int, start_ticks: int) -> int | None:
    """Return a pidfd of exactly that process, or None if it is gone.

    The start time is compared after the descriptor was opened: from then on the pid can't
    be given to another process unnoticed.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if process_start_ticks(pid) == start_ticks:
        return descriptor
    os.close(descriptor)
    return None


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds an exclusive lock on `path`; None if another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock on `path` for the block; yields False if another process holds it."""
    descriptor = try_lock(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def has_environment(pid: int, name: str, value: str) -> bool:
    """Whether `pid` is a process of a user we may look at that has `name=value`."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it is gone, or another user's
        return False
    return f"{name}={value}".encode() in environment.split(b"\0")


def processes_with_environment(name: str, value: str) -> tuple[int, ...]:
    """Return the pids of the processes whose environment has `name=value`."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return tuple(pid for pid in pids if has_environment(pid, name, value))


def children_of(parent: int) -> tuple[int, ...]:
    """Return the pids whose parent is `parent`, zombies excepted."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            stat = (directory / "stat").read_bytes()
        except OSError:
            continue
        state, parent_pid = stat[stat.rfind(b")") + 2 :].split()[:2]
        if int(parent_pid) == parent and state not in (b"Z", b"X"):
            found.append(int(directory.name))
    return tuple(found)
