from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from zeus_agent.journal import Entry, Journal, JournalError, read_boot_id
from zeus_agent.leases import SavedLimit

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
    assert len(problems) == 2
    assert (saved / "GPU-2.unreadable").exists()
    assert not (saved / "GPU-1.json.tmp").exists()


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


def test_a_uuid_can_not_name_a_file_elsewhere(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "boot-1")
    with pytest.raises(OSError, match="not a GPU UUID"):
        journal.save(SavedLimit("../escape", 1, ()), None, durable=True)
    journal.close()


def test_fences_grow_over_starts(tmp_path: Path) -> None:
    first = Journal(tmp_path, "boot-1")
    one = first.first_fence()
    first.close()
    second = Journal(tmp_path, "boot-1")
    assert second.first_fence() > one + 1000
    second.close()


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
