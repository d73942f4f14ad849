"""Who decides in a team, and what becomes of the training when the team falls apart.

The other processes are a script: the runs and all that is between them and the channel are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runtime_lab import decided
from tests.support.scripted_team import (
    GPU,
    FollowerChannel,
    LeadChannel,
    as_own_process,
    follower,
    lead,
    mirror,
    orders_with,
    read,
    told,
    train,
)
from zeus_runtime import current
from zeus_runtime.follower_run import FollowerRun
from zeus_runtime.protocol import Outcome, decode_result
from zeus_runtime.stop import Ending, StopTraining
from zeus_runtime.team_messages import Facts, Hello, Occasion, Orders, ending_fields
from zeus_runtime.trial import NEVER

TOO_DEAR = Ending(Outcome.COST_EXCEEDED, "too dear", stops_script=True)
ENDS = Orders(NEVER, ending=ending_fields(TOO_DEAR))


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with as_own_process(monkeypatch):
        yield


# ---- rank 0 -------------------------------------------------------------------------


def test_rank_0_judges_and_orders_all_to_end(tmp_path: Path) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    assert train(run, 0.1, 0.95) == 2
    ends = [orders.ends_by for orders in channel.orders if orders.ending is not None]
    assert {end.outcome for end in ends if end is not None} == {Outcome.REACHED}
    assert channel.orders[-1].ending is not None, "once ordered it stays ordered"
    assert (read(tmp_path).outcome, read(tmp_path).gpu_count) == (Outcome.REACHED.value, 2)
    assert channel.closed


def test_all_meet_at_each_end_of_an_epoch_and_where_it_is_judged(tmp_path: Path) -> None:
    channel = LeadChannel()
    train(lead(channel, tmp_path, max_epochs=2), 0.1)
    assert [facts.occasion for facts in channel.told] == [
        "begin", "end", "begin", "end", "begin", "final", "settle",
    ]  # fmt: skip
    assert len(channel.orders) == 6, "one for each meeting, and none for what settles the last"


def test_a_metric_of_rank_0_within_an_epoch_ends_it_for_all_where_they_meet(
    tmp_path: Path,
) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    assert run.next_epoch()
    run.report_metric(0.95)
    assert run.ending is None, "nobody may end where the others don't know of it"
    run.end_epoch()
    assert not run.next_epoch()
    assert channel.orders[-1].ends_by == run.ending


def test_the_metric_of_another_rank_decides_nothing(tmp_path: Path) -> None:
    channel = LeadChannel()
    channel.reply = lambda own: replace(mirror(own), metric=None if own.metric is None else 0.95)
    assert train(lead(channel, tmp_path, decided(max_epochs=2)), 0.1) == 2
    assert read(tmp_path).outcome == Outcome.MAX_EPOCHS.value
    assert "rank 1 reports a metric of 0.95 and rank 0 one of 0.1" in read(tmp_path).note


def test_a_script_that_ends_here_on_rank_0_ends_on_all(tmp_path: Path) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    assert run.next_epoch()
    run.end_epoch()
    run.report_metric(0.1)
    run.end_here()
    assert not run.next_epoch()
    told = channel.orders[-1].ends_by
    assert told is not None
    assert (told.outcome, told.stops_script) == (Outcome.MAX_EPOCHS, True)


def other_occasion(own: Facts) -> Facts:
    return replace(mirror(own), occasion=Occasion.STEP.value)


def other_steps(own: Facts) -> Facts:
    return replace(mirror(own), steps=own.steps + 1)


def newcomer(own: Facts) -> Facts:
    hello = None if own.occasion == Occasion.BEGIN.value else Hello("b", "", None, 16, True)
    return replace(mirror(own), hello=hello)


def unreadable(own: Facts) -> bytes:
    return b"{}"


@pytest.mark.parametrize("doubt", [other_occasion, other_steps, newcomer])
def test_who_is_elsewhere_is_told_that_there_is_no_team(
    tmp_path: Path, doubt: Callable[[Facts], Facts]
) -> None:
    channel = LeadChannel()
    channel.reply = doubt
    assert train(lead(channel, tmp_path), 0.1) == 3
    assert channel.orders[-1].disband
    assert channel.closed


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda channel: setattr(channel, "reply", other_occasion), id="occasion"),
        pytest.param(lambda channel: setattr(channel, "reply", other_steps), id="steps"),
        pytest.param(lambda channel: setattr(channel, "reply", unreadable), id="words"),
        pytest.param(lambda channel: channel.breaks.add("gather"), id="gather"),
        pytest.param(lambda channel: channel.breaks.add("all_here"), id="all here"),
        pytest.param(lambda channel: channel.breaks.add("broadcast"), id="broadcast"),
    ],
)
def test_any_doubt_ends_the_team_and_never_the_training(
    tmp_path: Path, break_it: Callable[[LeadChannel], None]
) -> None:
    """Nor does a threshold any more: only rank 0 could tell the others, and it can't."""
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided(cost_threshold_joules=1e-9, max_epochs=3))
    assert run.next_epoch()
    break_it(channel)
    assert train(run, 0.95, 0.1) == 2, "its first epoch was begun before"
    result = read(tmp_path)
    assert result.epochs == 3
    assert result.energy_joules is None
    assert "have lost each other" in result.note
    assert channel.closed
    # The target counts where all epochs are done, which every process knows by itself.
    assert result.outcome == Outcome.REACHED.value


def test_a_training_that_ends_here_without_a_team_ends_as_each_process_knows(
    tmp_path: Path,
) -> None:
    channel = LeadChannel()
    channel.reply = unreadable
    run = lead(channel, tmp_path, decided())
    assert run.next_epoch()
    run.end_epoch()
    run.report_metric(0.1)
    run.end_here()
    assert train(run, 0.1) == 0
    assert read(tmp_path).outcome == Outcome.MAX_EPOCHS.value


def test_who_leaves_after_the_end_takes_nothing_of_what_was_known(tmp_path: Path) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    assert run.next_epoch()
    run.end_epoch()
    run.report_metric(0.95)
    assert not run.next_epoch()
    channel.breaks.add("gather")
    run.finish()
    result = read(tmp_path)
    assert result.outcome == Outcome.REACHED.value
    assert result.energy_joules is not None
    assert "lost each other" not in result.note


def test_where_rank_0_fails_itself_nobody_waits_for_it(tmp_path: Path) -> None:
    channel = LeadChannel()
    run = lead(channel, tmp_path, decided())
    assert run.next_epoch()
    run.failed(RuntimeError("no data"))
    assert channel.closed
    assert [facts.occasion for facts in channel.told] == ["begin"], "no last meeting"
    assert read(tmp_path).outcome is None


def test_another_batch_size_on_another_rank_is_a_decision_that_was_not_applied(
    tmp_path: Path,
) -> None:
    channel = LeadChannel()

    def otherwise(own: Facts) -> Facts:
        told = mirror(own)
        return replace(told, hello=told.hello and replace(told.hello, batch_size=32))

    channel.reply = otherwise
    train(lead(channel, tmp_path, decided()), 0.95)
    assert read(tmp_path).outcome == Outcome.DECISION_NOT_APPLIED.value
    note = "rank 1 trains with a global batch size of 32, rank 0 with 16"
    assert note in read(tmp_path).note


def test_a_gpu_of_another_rank_that_cannot_be_read_leaves_the_energy_of_all_unknown(
    tmp_path: Path,
) -> None:
    channel = LeadChannel()

    def blind(own: Facts) -> Facts:
        hello = None if own.hello is None else Hello("b", "no NVML there", None, 16, True)
        return replace(mirror(own), hello=hello)

    channel.reply = blind
    assert train(lead(channel, tmp_path, decided()), 0.1, 0.95) == 2
    result = read(tmp_path)
    assert (result.energy_joules, result.outcome) == (None, Outcome.REACHED.value)
    assert "no NVML there (rank 1 on b)" in result.note


def test_a_gpu_that_another_rank_trains_on_as_well_counts_once(tmp_path: Path) -> None:
    channel = LeadChannel()

    def sharing(own: Facts) -> Facts:
        told = mirror(own)
        return replace(told, hello=told.hello and replace(told.hello, gpu=GPU))

    channel.reply = sharing
    train(lead(channel, tmp_path, decided()), 0.95)
    result = read(tmp_path)
    assert (result.gpu_count, result.max_power_watts) == (1, 250.0)
    assert "2 processes train on 1 GPUs, which count once" in result.note


def test_the_gpus_are_known_to_all_before_the_first_step(tmp_path: Path) -> None:
    channel = LeadChannel()
    assert lead(channel, tmp_path, decided()).next_epoch()
    result = decode_result(channel.orders[0].result.encode())
    assert result is not None
    assert (result.gpu_model, result.gpu_count, result.max_power_watts) == ("V100", 2, 500.0)


# ---- every other rank -----------------------------------------------------------------


def test_a_follower_meets_at_the_step_that_was_ordered(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(1), Orders(NEVER), ENDS)
    train(follower(channel, tmp_path), 0.1)
    assert channel.occasions[:3] == [("begin", 0), ("step", 1), ("end", 2)]


def test_a_follower_ends_when_it_is_told_and_as_it_is_told(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(NEVER), Orders(NEVER), ENDS)
    run = follower(channel, tmp_path, decided())
    assert train(run, 0.1) == 1
    assert run.ending == TOO_DEAR
    with pytest.raises(StopTraining):
        run.raise_if_stopped()
    assert [occasion for occasion, _ in channel.occasions[-2:]] == ["final", "settle"]
    assert channel.closed


def test_a_follower_does_not_end_by_what_it_knows_itself(tmp_path: Path) -> None:
    """Not by its metric, nor by its epochs, nor by its script: rank 0 sees them all."""
    channel = FollowerChannel(*[Orders(NEVER)] * 8, ENDS)
    run = follower(channel, tmp_path, decided(), max_epochs=2)
    for _ in range(4):
        assert run.next_epoch()
        run.end_epoch()
        run.report_metric(0.95)
        run.end_here()
    assert not run.next_epoch()
    assert run.ending == TOO_DEAR


class Agent:
    """Hears what is asked of the agent of rank 1."""

    status = None

    def __init__(self, run: FollowerRun) -> None:
        self.asked: list[tuple[str, float | None]] = []
        run._member._agent = self  # type: ignore[assignment]  # what a member needs of one

    def want_power_limit(self, uuid: str, watts: float) -> None:
        self.asked.append((uuid, watts))

    def release(self, uuid: str) -> None:
        self.asked.append((uuid, None))


def test_the_limit_of_its_rank_is_asked_for_and_given_back(tmp_path: Path) -> None:
    """What it holds is what was ordered last: no order is an order, too."""
    channel = FollowerChannel(Orders(NEVER, limits=(150.0, 175.0)), Orders(NEVER, limits=(150.0,)))
    run = follower(channel, tmp_path)
    agent = Agent(run)
    assert run.next_epoch()
    run.end_epoch()
    assert agent.asked == [("GPU-1", 175.0), ("GPU-1", None)]


def test_without_rank_0_the_limit_is_given_back(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(NEVER, limits=(150.0, 175.0)))
    run = follower(channel, tmp_path)
    agent = Agent(run)
    assert run.next_epoch()
    channel.breaks.add("gather")
    run.end_epoch()
    assert agent.asked == [("GPU-1", 175.0), ("GPU-1", None)]


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda c: c.orders.append(Orders(NEVER, disband="apart")), id="disbanded"),
        pytest.param(lambda c: c.orders.append(b"[]"), id="words"),
        pytest.param(lambda c: c.breaks.add("gather"), id="gather"),
        pytest.param(lambda c: c.breaks.add("all_here"), id="all here"),
        pytest.param(lambda c: c.breaks.add("broadcast"), id="broadcast"),
    ],
)
@pytest.mark.parametrize(
    ("metrics", "outcome"), [((0.95, 0.1), Outcome.REACHED), ((0.1,), Outcome.MAX_EPOCHS)]
)
def test_a_follower_without_rank_0_trains_all_epochs_and_ends_as_the_others_do(
    tmp_path: Path,
    break_it: Callable[[FollowerChannel], None],
    metrics: tuple[float, ...],
    outcome: Outcome,
) -> None:
    channel = FollowerChannel(Orders(NEVER))
    run = follower(channel, tmp_path, decided(max_epochs=3))
    assert run.next_epoch()
    break_it(channel)
    assert train(run, *metrics) == 2, "its first epoch was begun before"
    assert run.epochs == 3
    assert run.ending is not None
    assert run.ending.outcome is outcome
    assert (channel.closed, run.wake_at) == (True, NEVER)


def test_a_follower_without_rank_0_ends_where_its_script_does(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(NEVER))
    run = follower(channel, tmp_path, decided())
    assert run.next_epoch()
    channel.breaks.add("gather")
    run.end_epoch()
    run.report_metric(0.1)
    run.end_here()
    assert run.should_stop
    assert run.ending is not None
    assert run.ending.outcome is Outcome.MAX_EPOCHS


def test_a_follower_that_has_failed_meets_nobody_any_more(tmp_path: Path) -> None:
    channel = FollowerChannel(Orders(NEVER))
    run = follower(channel, tmp_path, decided())
    assert run.next_epoch()
    run.failed(RuntimeError("no data"))
    assert channel.closed, "and so nobody waits for it"
    assert channel.occasions == [("begin", 0)]


@pytest.mark.parametrize("local_rank", [0, 1])
def test_the_first_process_of_a_machine_keeps_what_rank_0_tells_of_the_run(
    tmp_path: Path, local_rank: int
) -> None:
    channel = FollowerChannel(Orders(NEVER), orders_with(told()))
    run = follower(channel, tmp_path, decided(), local_rank=local_rank)
    assert run.next_epoch()
    run.end_epoch()
    assert (tmp_path / "result").exists() is (local_rank == 0)
    assert run.state_dict()["epochs"] == 1


def test_what_rank_0_orders_is_what_a_follower_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orders of one run, given to the other: both train as much, and end alike."""
    channel = LeadChannel()
    first = lead(channel, tmp_path, decided())
    assert train(first, 0.1, 0.95) == 2
    monkeypatch.setattr(current, "_CURRENT", current._Current())
    (tmp_path / "result").unlink()
    second = follower(FollowerChannel(*channel.sent), tmp_path, decided())
    assert train(second, 0.1, 0.95) == 2
    assert second.ending == first.ending
    assert read(tmp_path).outcome == Outcome.REACHED.value
