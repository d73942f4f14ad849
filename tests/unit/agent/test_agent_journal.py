from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zeus_agent.journal import Entry, Journal, JournalError, read_boot_id
from zeus_agent.limits import SavedLimit

NOW = 1_000.0
SAVED = SavedLimit("GPU-1234", 200_000, (150_000, 175_000))


def test_what_is_saved_is_there_for_the_next_agent(tmp_path: Path) -> None:
    first = Journal(tmp_path, "boot-1")
    first.save(SAVED, 77, durable=True)
    first.close()
    second = Journal(tmp_path, "boot-1")
    entries, problems = second.load()
    second.close()
    assert problems == []
    assert entries["GPU-1234"].saved == SAVED
    assert entries["GPU-1234"].boot_id == "boot-1"
    assert entries["GPU-1234"].energy_millijoules == 77


def test_forgetting_removes_it_and_may_be_repeated(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    journal.forget("GPU-1234")
    journal.forget("GPU-1234")
    assert journal.load() == ({}, [])
    journal.close()


def _open_and_tell(folder: str, answer: multiprocessing.queues.Queue[str]) -> None:
    try:
        Journal(Path(folder), "boot-1")
        answer.put("opened")
    except JournalError as error:
        answer.put(str(error))


def test_a_second_agent_with_the_same_folder_is_refused_with_a_reason(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.queues.Queue[str] = context.Queue()
    child = context.Process(target=_open_and_tell, args=(str(tmp_path), answer))
    child.start()
    text = answer.get(timeout=30)
    child.join(30)
    journal.close()
    assert "another agent is running" in text
    assert "--state-dir" in text


def test_a_half_written_file_is_no_entry_and_a_damaged_one_is_kept_and_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    saved = tmp_path / "saved"
    (saved / "GPU-1.json.tmp").write_text("{")
    (saved / "GPU-2.json").write_text("{")
    (saved / "GPU-3.json").write_text(json.dumps({"format": 99}))
    journal.save(SAVED, None, durable=True)
    entries, problems = journal.load()
    journal.close()
    assert list(entries) == ["GPU-1234"]
    assert [(each.gpu_uuid, each.may_pass) for each in problems] == [
        ("GPU-2", False),
        ("GPU-3", False),
    ]
    assert (saved / "GPU-2.unreadable").exists()
    assert not (saved / "GPU-1.json.tmp").exists()


def test_what_was_set_aside_is_told_until_a_person_has_removed_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    (tmp_path / "saved" / "GPU-2.json").write_text("{")
    for _ in range(3):
        _, (problem,) = journal.load()
        assert (problem.gpu_uuid, problem.may_pass) == ("GPU-2", False)
        assert "by hand" in problem.reason
    (tmp_path / "saved" / "GPU-2.unreadable").unlink()
    assert journal.load() == ({}, [])
    journal.close()


def test_what_the_disk_does_not_give_for_now_stays_and_nothing_is_written_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Journal(tmp_path, "boot-1")
    first.save(SAVED, None, durable=True)
    first.close()
    journal = Journal(tmp_path, "boot-1")

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    entries, (problem,) = journal.load()
    assert entries == {}
    assert (problem.gpu_uuid, problem.may_pass) == ("GPU-1234", True)
    assert journal.read_again(["GPU-1234"]) == ({}, [problem])
    monkeypatch.undo()
    other = SavedLimit("GPU-1234", 1, (2,))
    for durable in (True, False):
        with pytest.raises(OSError, match="can't be read yet"):
            journal.save(other, None, durable=durable)
    with pytest.raises(OSError, match="can't be read yet"):
        journal.forget("GPU-1234")
    entries, problems = journal.read_again(["GPU-1234"])
    assert (entries["GPU-1234"].saved, problems) == (SAVED, [])
    journal.admit("GPU-1234")
    journal.forget("GPU-1234")
    assert journal.load() == ({}, [])
    journal.close()


def test_a_half_written_file_that_can_not_be_removed_does_not_matter(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    (tmp_path / "saved" / "GPU-1.json.tmp").mkdir()  # what not even root can unlink
    assert list(journal.load()[0]) == ["GPU-1234"]
    journal.close()


def test_a_disk_without_room_leaves_what_was_saved_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    blocker = tmp_path / "saved" / "GPU-1234.json.tmp"
    blocker.mkdir()  # root may write anywhere, so the failure is one that root has too
    with pytest.raises(OSError, match="directory"):
        journal.save(SavedLimit("GPU-1234", 1, (2,)), None, durable=True)
    blocker.rmdir()
    assert journal.load()[0]["GPU-1234"].saved == SAVED
    journal.close()


WITH_PERSISTENCE = SavedLimit("GPU-1234", 200_000, (150_000,), previous_persistence=False)


def test_a_persistence_mode_to_put_back_is_kept_in_format_2(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(WITH_PERSISTENCE, None, durable=True)
    assert json.loads((tmp_path / "saved" / "GPU-1234.json").read_text())["format"] == 2
    assert journal.load()[0]["GPU-1234"].saved == WITH_PERSISTENCE
    journal.close()


def test_what_an_agent_of_format_1_has_saved_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    (tmp_path / "saved" / "GPU-1234.json").write_text(
        '{"format": 1, "boot_id": "boot-1", "gpu_uuid": "GPU-1234", '
        '"previous_milliwatts": 200000, "written_milliwatts": [150000, 175000], '
        '"energy_millijoules": 77}'
    )
    entries, problems = journal.load()
    journal.close()
    assert problems == []
    assert entries["GPU-1234"] == Entry(SAVED, "boot-1", 77)


def test_without_a_persistence_mode_an_agent_of_format_1_could_read_it_after_a_roll_back(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    journal.close()
    assert json.loads((tmp_path / "saved" / "GPU-1234.json").read_text())["format"] == 1


def test_a_persistence_mode_that_is_none_is_no_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(WITH_PERSISTENCE, None, durable=True)
    path = tmp_path / "saved" / "GPU-1234.json"
    path.write_text(path.read_text().replace("false", '"off"'))
    entries, problems = journal.load()
    journal.close()
    assert entries == {}
    assert "previous_persistence 'off'" in problems[0].reason


class FullDisk:
    """The calls of `os` that a write makes, of which one fails as if the disk were full."""

    def __init__(self, fails_at: int) -> None:
        self.calls = 0
        self.fails_at = fails_at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counting(real) if name in ("open", "write", "fsync") else real

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        return call


# open, write, fsync of the file; open, fsync of its folder
@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_disk_that_is_full_at_any_step_of_a_save_leaves_an_entry_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    other = SavedLimit("GPU-1234", 200_000, (175_000,))
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    monkeypatch.setattr("zeus_agent.journal.os", FullDisk(fails_at))
    with pytest.raises(OSError, match="No space left"):
        journal.save(other, None, durable=True)
    monkeypatch.undo()
    entries, problems = journal.load()
    journal.close()
    assert problems == []
    # Before the rename the old one is there, after it the new one; never none, never half of one.
    assert entries["GPU-1234"].saved == (SAVED if fails_at <= 3 else other)


def test_what_changes_later_is_overwritten_in_place_and_needs_no_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    path = tmp_path / "saved" / "GPU-1234.json"
    before = path.stat()
    (tmp_path / "saved" / "GPU-1234.json.tmp").mkdir()  # no other file could be written
    longer = SavedLimit("GPU-1234", 200_000, (150_000, 175_000, 250_000))
    journal.save(longer, 1 << 60, durable=False)
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    (tmp_path / "saved" / "GPU-1234.json.tmp").rmdir()
    assert journal.load()[0]["GPU-1234"].saved == longer
    journal.close()


def test_an_entry_that_is_not_there_or_of_another_length_is_written_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=False)
    assert journal.load()[0]["GPU-1234"].saved == SAVED
    path = tmp_path / "saved" / "GPU-1234.json"
    path.write_text(path.read_text().strip())  # as an agent of an earlier version leaves it
    other = SavedLimit("GPU-1234", 200_000, (175_000,))
    journal.save(other, None, durable=False)
    assert journal.load()[0]["GPU-1234"].saved == other
    journal.close()


def test_a_write_that_only_half_fits_leaves_the_entry_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "boot-1")
    journal.save(SAVED, None, durable=True)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
    with pytest.raises(OSError, match="only in part"):
        journal.save(SavedLimit("GPU-1234", 1, (2,)), None, durable=True)
    monkeypatch.undo()
    assert journal.load()[0]["GPU-1234"].saved == SAVED
    journal.close()


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_start_that_can_not_be_remembered_is_told_and_the_next_fence_still_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    journal = Journal(tmp_path, "boot-1")
    first = journal.first_fence(NOW)
    monkeypatch.setattr("zeus_agent.journal.os", FullDisk(fails_at))
    with contextlib.suppress(OSError):
        journal.first_fence(NOW)
    monkeypatch.undo()
    assert journal.first_fence(NOW) > first
    journal.close()


def test_a_uuid_can_not_name_a_file_elsewhere(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    with pytest.raises(OSError, match="not a GPU UUID"):
        journal.save(SavedLimit("../escape", 1, ()), None, durable=True)
    journal.close()


def test_fences_grow_over_starts(tmp_path: Path) -> None:
    first = Journal(tmp_path, "boot-1")
    one = first.first_fence(NOW)
    first.close()
    second = Journal(tmp_path, "boot-1")
    assert second.first_fence(NOW) > one + 1000
    second.close()


def test_fences_grow_over_starts_that_could_not_be_remembered(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    remembered = journal.first_fence(NOW)
    unremembered = journal.first_fence_unremembered(NOW + 5.0)
    assert unremembered > remembered
    assert journal.first_fence(NOW + 6.0) > unremembered + 1000
    assert journal.first_fence(0.0) > unremembered + 1000, "whatever the clock says"
    before = journal.first_fence(0.0)
    assert journal.first_fence_unremembered(0.0) > before
    journal.close()


def test_the_folder_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state", "boot-1")
    journal.save(SAVED, None, durable=True)
    journal.close()
    file = tmp_path / "state" / "saved" / "GPU-1234.json"
    assert file.stat().st_mode & 0o077 == 0


def test_this_machine_has_a_boot_id() -> None:
    assert len(read_boot_id()) == 36


@pytest.mark.parametrize(
    ("before", "now", "was_reset"),
    [(100, 99, True), (100, 100, False), (100, 200, False), (None, 1, False), (100, None, False)],
)
def test_an_energy_counter_that_fell_tells_a_reset(
    before: int | None, now: int | None, was_reset: bool
) -> None:
    assert Entry(SAVED, "boot-1", before).tells_reset(now) is was_reset
