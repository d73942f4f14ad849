"""The limits to be put back, on disk: one small file per GPU.

A file is written to a temporary name, synced, renamed, and its folder synced,
before the GPU's limit is touched.  It holds the boot id: a real driver forgets
limits at a reboot, so that what an earlier boot had saved no longer counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from zeus_agent.leases import SavedLimit

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_FENCES_PER_START = 1 << 20


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

    def first_fence(self) -> int:
        """Return a number larger than every fence of earlier starts, and remember this start.

        Raises:
            OSError: the start can't be remembered.
        """
        path = self.folder / "starts"
        try:
            starts = int(path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            starts = 0
        self._write(path, str(starts + 1), durable=True)
        return (starts + 1) * _FENCES_PER_START

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
        body = {
            "format": _FORMAT,
            "boot_id": self.boot_id,
            "gpu_uuid": saved.gpu_uuid,
            "previous_milliwatts": saved.previous_milliwatts,
            "written_milliwatts": list(saved.written_milliwatts),
            "energy_millijoules": energy_millijoules,
        }
        self._write(self._path(saved.gpu_uuid), json.dumps(body), durable=durable)

    def forget(self, gpu_uuid: str) -> None:
        """Remove what was stored for a GPU, if anything.

        Raises:
            OSError: it can't be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            self._path(gpu_uuid).unlink()
            _sync_folder(self._saved_folder)

    def load(self) -> tuple[dict[str, Entry], list[str]]:
        """Return the entries by GPU UUID, and one sentence for each file that can't be read.

        Such a file is kept under another name, for a person to look at.
        """
        entries: dict[str, Entry] = {}
        problems = []
        for path in sorted(self._saved_folder.iterdir()):
            if path.suffix == ".tmp":
                path.unlink(missing_ok=True)  # a write that never became valid
            elif path.suffix == ".json":
                try:
                    entry = _parse(path.read_bytes())
                    entries[entry.saved.gpu_uuid] = entry
                except (OSError, ValueError, KeyError, TypeError) as error:
                    aside = path.with_suffix(".unreadable")
                    with contextlib.suppress(OSError):
                        path.rename(aside)
                    problems.append(
                        f"{path.name} can't be read ({error}); kept as {aside.name}, "
                        "check that GPU's power limit by hand"
                    )
        return entries, problems

    def _path(self, gpu_uuid: str) -> Path:
        if not _NAME.fullmatch(gpu_uuid):
            raise OSError(f"{gpu_uuid!r} is not a GPU UUID")
        return self._saved_folder / f"{gpu_uuid}.json"

    @staticmethod
    def _write(path: Path, text: str, *, durable: bool) -> None:
        temporary = path.with_name(path.name + ".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = text.encode()
            if os.write(descriptor, data) != len(data):
                raise OSError(f"{temporary}: written only in part")
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)


def _parse(data: bytes) -> Entry:
    raw = json.loads(data)
    if raw["format"] != _FORMAT:
        raise ValueError(f"format {raw['format']}")
    saved = SavedLimit(
        str(raw["gpu_uuid"]),
        int(raw["previous_milliwatts"]),
        tuple(int(value) for value in raw["written_milliwatts"]),
    )
    energy = raw["energy_millijoules"]
    return Entry(saved, str(raw["boot_id"]), None if energy is None else int(energy))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
