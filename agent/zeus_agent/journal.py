"""The limits to be put back, on disk: one small file per GPU.

A file is written to a temporary name, synced, renamed, and its folder synced,
before the GPU's limit is touched.  It holds the boot id: a real driver forgets
limits at a reboot, so that what an earlier boot had saved no longer counts.

An entry has a fixed length, so that what changes later (`written_milliwatts`) can be
overwritten in place: that is ten times as fast, needs no room on a full disk, and
a kill can't tear it.  Only a crash of the machine could, after which it no longer
matters.

Format 1 has no persistence mode.  It is still written where there is none to put
back, so that an agent of an earlier version, rolled back to, can restore it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from zeus_agent.limits import SavedLimit

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FORMAT = 2
_FORMAT_WITHOUT_PERSISTENCE = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_FENCES_PER_START = 1 << 20
_ENTRY_BYTES = 1024  # of which a sector, or a page, holds all
_ASIDE = ".unreadable"
_BY_HAND = "check that GPU's power limit by hand"


class JournalError(Exception):
    """The state folder can't be used; the text says what to do."""


@dataclass(frozen=True)
class Entry:
    """A file of the journal.

    Args:
        saved: what was saved.
        boot_id: in which boot.
        energy_millijoules: the GPU's energy counter then; one that is lower now
            tells that the GPU or its driver was reset since.
    """

    saved: SavedLimit
    boot_id: str
    energy_millijoules: int | None

    def tells_reset(self, energy_millijoules: int | None) -> bool:
        """Whether the GPU's energy counter, as it is now, shows that the GPU was reset since."""
        before = self.energy_millijoules
        return before is not None and energy_millijoules is not None and energy_millijoules < before


@dataclass(frozen=True)
class Unread:
    """A file of the journal that can't be read.

    Args:
        gpu_uuid: whose limit it tells.
        reason: a sentence.
        may_pass: the disk is to blame, and may give it later.
    """

    gpu_uuid: str
    reason: str
    may_pass: bool


def read_boot_id(path: Path = _BOOT_ID) -> str:
    """Return the kernel's id of this boot."""
    return path.read_text(encoding="ascii").strip()


class Journal:
    """The state folder of one agent, locked for as long as the agent lives.

    Args:
        folder: made if it is missing, readable by its owner only.
        boot_id: id of this boot.

    Raises:
        JournalError: it can't be made, or another live agent has it.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        self.folder = folder
        self.boot_id = boot_id
        self._saved_folder = folder / "saved"
        self._paths: dict[str, Path] = {}  # making one costs more than writing the file
        self._unread: set[str] = set()
        try:
            self._saved_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A lock on the folder itself needs no space and leaves nothing behind.
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"can't use the state folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise JournalError(
                f"another agent is running with the state folder {folder}; stop it, or give this "
                "one a folder of its own with --state-dir"
            ) from error

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def first_fence(self, seconds: float) -> int:
        """Return a number larger than every fence of earlier starts, and remember this start.

        Args:
            seconds: the time of day, since the epoch.

        Raises:
            OSError: the start can't be remembered.
        """
        start = self._this_start(seconds)
        write_file(self._starts_path, str(start).encode(), durable=True)
        return start * _FENCES_PER_START

    def first_fence_unremembered(self, seconds: float) -> int:
        """Return a fence for an agent that can't remember its start: it can't save limits either.

        Starts are no lower than the time, so that those after it are above it all the same.
        """
        try:
            return self._this_start(seconds) * _FENCES_PER_START
        except OSError:
            return int(seconds) * _FENCES_PER_START

    def _this_start(self, seconds: float) -> int:
        try:
            earlier = int(self._starts_path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            earlier = 0
        return max(earlier + 1, int(seconds))

    def save(self, saved: SavedLimit, energy_millijoules: int | None, *, durable: bool) -> None:
        """Store what is to be put back.

        Args:
            saved: what to store.
            energy_millijoules: the GPU's energy counter now, if it has one.
            durable: wait until the disk has it.  The first write for a GPU must
                be; later ones change only `written_milliwatts`, which no longer
                matters after a crash of the machine.

        Raises:
            OSError: it is not stored; what was stored before still is.
        """
        self._require_read(saved.gpu_uuid)
        persistence = saved.previous_persistence
        body = {
            "format": _FORMAT_WITHOUT_PERSISTENCE if persistence is None else _FORMAT,
            "boot_id": self.boot_id,
            "gpu_uuid": saved.gpu_uuid,
            "previous_milliwatts": saved.previous_milliwatts,
            "written_milliwatts": list(saved.written_milliwatts),
            "energy_millijoules": energy_millijoules,
        }
        if persistence is not None:
            body["previous_persistence"] = persistence
        path, data = self._path(saved.gpu_uuid), json.dumps(body).ljust(_ENTRY_BYTES).encode()
        if durable or not _write_in_place(path, data):
            write_file(path, data, durable=True)

    def forget(self, gpu_uuid: str) -> None:
        """Remove what was stored for a GPU, if anything.

        Raises:
            OSError: it can't be removed.
        """
        self._require_read(gpu_uuid)
        with contextlib.suppress(FileNotFoundError):
            self._path(gpu_uuid).unlink()
            _sync_folder(self._saved_folder)

    def load(self) -> tuple[dict[str, Entry], list[Unread]]:
        """Return the entries by GPU UUID, and what can't be read.

        What makes no sense is kept under another name, for a person to look at.  What the
        disk does not give stays as it is, to be read again; until `admit` nothing is saved
        or removed for that GPU.
        """
        entries: dict[str, Entry] = {}
        unread = []
        for path in sorted(self._saved_folder.iterdir()):
            if path.suffix == ".tmp":
                with contextlib.suppress(OSError):  # a write that never became valid
                    path.unlink()
            elif path.suffix == _ASIDE:
                reason = f"{path.name} is still there; {_BY_HAND}, then remove the file"
                unread.append(Unread(path.stem, reason, may_pass=False))
            elif path.suffix == ".json":
                found = self._read(path)
                if isinstance(found, Entry):
                    entries[found.saved.gpu_uuid] = found
                else:
                    unread.append(found)
        self._unread.update(each.gpu_uuid for each in unread if each.may_pass)
        return entries, unread

    def read_again(self, gpu_uuids: Collection[str]) -> tuple[dict[str, Entry], list[Unread]]:
        """Read the entries of these GPUs, which the disk did not give before."""
        found = [self._read(self._path(uuid)) for uuid in gpu_uuids]
        entries = [each for each in found if isinstance(each, Entry)]
        unread = [each for each in found if isinstance(each, Unread)]
        return {entry.saved.gpu_uuid: entry for entry in entries}, unread

    def admit(self, gpu_uuid: str) -> None:
        """Let limits of this GPU be saved and removed: what was there for it is known now."""
        self._unread.discard(gpu_uuid)

    def _read(self, path: Path) -> Entry | Unread:
        try:
            return _parse(path.read_bytes())
        except OSError as error:
            reason = f"{path.name} can't be read ({error.strerror or error}); tried again"
            return Unread(path.stem, reason, may_pass=True)
        except (ValueError, KeyError, TypeError) as error:
            aside = path.with_suffix(_ASIDE)
            with contextlib.suppress(OSError):
                path.rename(aside)
            reason = f"{path.name} can't be read ({error}); kept as {aside.name}, {_BY_HAND}"
            return Unread(path.stem, reason, may_pass=False)

    def _require_read(self, gpu_uuid: str) -> None:
        if gpu_uuid in self._unread:
            raise OSError("what an earlier agent has saved for this GPU can't be read yet")

    @property
    def _starts_path(self) -> Path:
        return self.folder / "starts"

    def _path(self, gpu_uuid: str) -> Path:
        path = self._paths.get(gpu_uuid)
        if path is None:
            if not _NAME.fullmatch(gpu_uuid):
                raise OSError(f"{gpu_uuid!r} is not a GPU UUID")
            path = self._paths[gpu_uuid] = self._saved_folder / f"{gpu_uuid}.json"
        return path


def write_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace a file by another content, wholly or not at all.

    Raises:
        OSError: it was not replaced, or (durable) may not survive a crash of the machine.
    """
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{temporary}: written only in part")
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    if durable:
        _sync_folder(path.parent)


def _write_in_place(path: Path, data: bytes) -> bool:
    """Overwrite a file of the same length; return whether there was one.

    Raises:
        OSError: it was not overwritten.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(descriptor).st_size != len(data):
            return False
        if os.pwrite(descriptor, data, 0) != len(data):
            raise OSError(f"{path}: written only in part")
    finally:
        os.close(descriptor)
    return True


def _parse(data: bytes) -> Entry:
    raw = json.loads(data)
    if raw["format"] not in (_FORMAT_WITHOUT_PERSISTENCE, _FORMAT):
        raise ValueError(f"format {raw['format']}")
    persistence = raw["previous_persistence"] if raw["format"] == _FORMAT else None
    if not isinstance(persistence, bool | None):
        raise ValueError(f"previous_persistence {persistence!r}")
    saved = SavedLimit(
        str(raw["gpu_uuid"]),
        int(raw["previous_milliwatts"]),
        tuple(int(value) for value in raw["written_milliwatts"]),
        persistence,
    )
    energy = raw["energy_millijoules"]
    return Entry(saved, str(raw["boot_id"]), None if energy is None else int(energy))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
