"""How a run of several processes ends: memory that is too small, or a script that ends by itself.

The other processes are a script, as in `test_team_decisions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runtime_lab import decided
from tests.support.scripted_team import (
    FollowerChannel,
    LeadChannel,
    as_own_process,
    follower,
    lead,
    mirror,
    orders_with,
    read,
    told,
)
from zeus_runtime import hooks
from zeus_runtime.base_run import BaseRun
from zeus_runtime.protocol import Outcome, encode_result
from zeus_runtime.stop import Ending
from zeus_runtime.team_messages import Orders, ending_fields
from zeus_runtime.trial import NEVER

TOO_DEAR = Ending(Outcome.COST_EXCEEDED, "too dear", stops_script=True)
ENDS = Orders(NEVER, ending=ending_fields(TOO_DEAR))


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with as_own_process(monkeypatch):
        yield


# ---- memory that was too small ----------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_follower_out_of_memory_says_so_in_the_file_of_its_machine(
    tmp_path: Path, local_rank: int
) -> None:
    channel = FollowerChannel(orders_with(told(epochs=0)))
    run = follower(channel, tmp_path, decided(), local_rank=local_rank)
    assert run.next_epoch()
    run.failed(OutOfMemoryError("no room"))
    result = read(tmp_path)
    assert (result.outcome, result.batch_size) == (Outcome.OUT_OF_MEMORY.value, 16)
    assert (result.gpu_model, result.gpu_count) == ("V100", 2), "as rank 0 told them"
    assert result.sequence > told().sequence


def test_one_that_fails_otherwise_says_nothing_there(tmp_path: Path) -> None:
    run = follower(FollowerChannel(orders_with(told())), tmp_path, decided(), local_rank=1)
    assert run.next_epoch()
    run.failed(RuntimeError("no data"))
    assert not (tmp_path / "result").exists()


def test_what_was_said_of_the_end_before_stands(tmp_path: Path) -> None:
    ended = told(outcome=Outcome.REACHED.value)
    run = follower(FollowerChannel(orders_with(ended)), tmp_path, decided())
    assert run.next_epoch()
    run.failed(OutOfMemoryError("no room"))
    assert read(tmp_path) == ended


def test_it_says_so_before_the_others_can_see_that_it_is_gone(tmp_path: Path) -> None:
    class SeenChannel(FollowerChannel):
        found: list[str | None]

        def close(self) -> None:
            if not self.closed:
                self.found = [read(tmp_path).outcome]
            super().close()

    channel = SeenChannel(orders_with(told(epochs=0)))
    run = follower(channel, tmp_path, decided())
    assert run.next_epoch()
    run.failed(OutOfMemoryError("no room"))
    assert channel.found == [Outcome.OUT_OF_MEMORY.value]


@pytest.mark.parametrize("finishes", [True, False])
def test_one_whose_run_was_over_says_nothing_there(tmp_path: Path, finishes: bool) -> None:
    """As where it evaluates the model after the training, and rank 0 has written more since."""
    channel = FollowerChannel(orders_with(told()), Orders(NEVER), ENDS)
    run = follower(channel, tmp_path, decided())
    assert run.next_epoch()
    run.end_epoch()
    assert not run.next_epoch()
    if finishes:
        run.finish()
    ended = told(outcome=Outcome.REACHED.value, sequence=9)
    (tmp_path / "result").write_bytes(encode_result(ended))
    run.failed(OutOfMemoryError("no room"))
    assert read(tmp_path) == ended


@pytest.mark.parametrize("ends", ["by an error", "by a signal"])
@pytest.mark.parametrize(
    ("attempt", "outcome"), [(1, Outcome.OUT_OF_MEMORY.value), (2, None)], ids=["ours", "another's"]
)
def test_rank_0_keeps_the_last_words_of_another_process_of_its_machine(
    tmp_path: Path, ends: str, attempt: int, outcome: str | None
) -> None:
    run = lead(LeadChannel(), tmp_path, decided())
    assert run.next_epoch()
    said = told(attempt=attempt, outcome=Outcome.OUT_OF_MEMORY.value)
    (tmp_path / "result").write_bytes(encode_result(said))
    if ends == "by an error":
        run.failed(RuntimeError("connection closed by peer"))
    else:
        run.write_result_now()
    assert read(tmp_path).outcome == outcome


@pytest.mark.parametrize("does", ["ends the epoch", "reports"])
def test_rank_0_keeps_them_too_where_it_writes_before_it_fails(tmp_path: Path, does: str) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    assert run.next_epoch()
    channel.breaks.add("gather")
    said = told(outcome=Outcome.OUT_OF_MEMORY.value)
    (tmp_path / "result").write_bytes(encode_result(said))
    if does == "ends the epoch":
        run.end_epoch()
    else:
        run.report_metric(0.1)
    assert read(tmp_path).outcome == Outcome.OUT_OF_MEMORY.value
    run.failed(RuntimeError("connection closed by peer"))
    assert read(tmp_path).outcome == Outcome.OUT_OF_MEMORY.value


# ---- a script that ends by itself -------------------------------------------------------


def one_epoch(run: BaseRun) -> None:
    """Train one, and end the training at its end."""
    assert run.next_epoch()
    run.end_epoch()
    run.report_metric(0.1)
    run.end_here()


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize(
    ("asked", "outcome"), [(False, Outcome.MAX_EPOCHS), (True, Outcome.PREEMPTED)]
)
def test_that_another_process_was_asked_to_end_is_why_all_end(
    tmp_path: Path, leaves: bool, asked: bool, outcome: Outcome
) -> None:
    channel = LeadChannel()
    channel.reply = lambda own: replace(mirror(own), asked_to_end=asked)
    run = lead(channel, tmp_path, decided())
    one_epoch(run)
    assert leaves or not run.next_epoch()
    run.finish()
    assert run.ending is not None
    assert run.ending.outcome is outcome
    assert read(tmp_path).outcome == (None if asked else outcome.value)
    assert [facts.occasion for facts in channel.told[-2:]] == ["final", "settle"]
    assert channel.orders[-1].ends_by == run.ending
    assert read(tmp_path).energy_joules is not None


def test_it_is_one_for_good(tmp_path: Path) -> None:
    """It may be gone where all come to the end."""
    channel = LeadChannel()
    channel.reply = lambda own: replace(mirror(own), asked_to_end=own.occasion == "end")
    run = lead(channel, tmp_path, decided())
    one_epoch(run)
    assert not run.next_epoch()
    assert run.ending is not None
    assert run.ending.outcome is Outcome.PREEMPTED


@pytest.mark.parametrize("asked", [True, False])
def test_a_follower_tells_whether_it_was_asked_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    channel = FollowerChannel()
    run = follower(channel, tmp_path, decided())
    monkeypatch.setattr(hooks._WATCHER, "asked_to_end", asked)
    assert run.next_epoch()
    assert [facts.asked_to_end for facts in channel.told] == [asked]


def test_a_follower_that_leaves_its_epochs_ends_as_rank_0_says(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(NEVER), Orders(NEVER), ENDS)
    run = follower(channel, tmp_path, decided())
    one_epoch(run)
    run.finish()
    assert channel.occasions[-2:] == [("final", 0), ("settle", 0)]
    assert run.ending == TOO_DEAR


def test_who_leaves_in_the_middle_of_an_epoch_ends_it_with_the_others(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(NEVER), Orders(NEVER), ENDS)
    run = follower(channel, tmp_path, decided())
    assert run.next_epoch()
    run.end_step()
    run.end_here()
    run.finish()
    assert [occasion for occasion, _ in channel.occasions] == ["begin", "end", "final", "settle"]
    assert run.epochs == 1


def test_rank_0_does_not_complain_of_others_that_left_without_a_last_meeting(
    tmp_path: Path,
) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    one_epoch(run)
    channel.breaks.add("gather")
    run.finish()
    assert "lost each other" not in read(tmp_path).note
    assert read(tmp_path).outcome == Outcome.MAX_EPOCHS.value
