"""Where somebody leaves a sweep of a team or dies in it, training goes on, or ends.

The other process is a script, as in `test_team_sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scripted_team import (
    FollowerChannel,
    LeadChannel,
    as_own_process,
    orders_with,
    read,
    told,
)
from tests.support.swept_team import (
    OWN,
    SERVED,
    SIZES,
    STEPS,
    SWEEPS,
    WATTS,
    Swept,
    in_sweep,
    loader_of,
    other_rank,
    seconds_of,
    swept_orders,
    train,
)
from zeus_runtime import current
from zeus_runtime.protocol import Outcome
from zeus_runtime.team_channel import ChannelBroken
from zeus_runtime.team_messages import (
    Facts,
    Occasion,
    Orders,
    SweepFacts,
    SweepOrders,
)
from zeus_runtime.trial import NEVER

pytestmark = pytest.mark.torch


BEFORE = (None, None, SweepOrders())
"""What is ordered before a size: an epoch, its end, and that a sweep is due."""


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with as_own_process(monkeypatch):
        yield


@pytest.fixture
def channel() -> LeadChannel:
    made = LeadChannel()
    made.reply = other_rank
    return made


def test_a_loop_that_all_leave_trains_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept, stop_at=16)
    result = read(tmp_path)
    assert [swept.sizes(epoch) for epoch in (1, 2)] == [[8, 4, 16], [8]]
    assert (result.sweeping, result.epochs) == (None, 3)
    assert "lost each other" not in result.note
    assert result.energy_joules == pytest.approx(sum(WATTS) * swept.clock.now, rel=1e-6)


def test_a_loop_that_all_begin_again_wakes_nobody_before_all_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    nobody = {"ZEUS_AGENT": "unix:///nowhere/agent.sock"}
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS, environ=nobody)
    train(swept, stop_at=16, again=True)
    assert swept.sizes() == [8, 4, 16, 8]
    occasions = [facts.occasion for facts in channel.told]
    last = max(n for n, occasion in enumerate(occasions) if occasion == "sweep")
    assert occasions[last + 1] == "end", "none at a step that only rank 0 knows of"
    assert "lost each other" not in read(tmp_path).note


def test_a_follower_whose_loop_is_left_serves_no_more_and_meets_at_the_end_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    first = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(first, stop_at=16)
    monkeypatch.setattr(current, "_CURRENT", current._Current())
    follows = FollowerChannel(*channel.sent)
    second = loader_of(monkeypatch, follows, tmp_path, SWEEPS)
    train(second, stop_at=16)
    assert second.counts() == first.counts()
    assert [facts.occasion for facts in follows.told] == [facts.occasion for facts in channel.told]


def leaves(told: Facts, sweep: SweepFacts) -> Facts:
    """Be at the end of the epoch, where the loop was left here alone."""
    return replace(told, occasion=Occasion.END.value) if sweep.steps > 12 else told


def is_elsewhere(told: Facts, sweep: SweepFacts) -> Facts:
    """Have served one batch more."""
    return replace(told, steps=told.steps + 1) if sweep.steps > 12 else told


def dies(channel: LeadChannel) -> Callable[[Facts, SweepFacts], Facts]:
    def reply(told: Facts, sweep: SweepFacts) -> Facts:
        if sweep.steps > 12:
            channel.breaks |= {"all_here", "broadcast"}
        return told

    return reply


@pytest.mark.parametrize("how", ["leaves", "is elsewhere", "dies"])
def test_who_is_lost_in_a_sweep_ends_it_and_the_team_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel, how: str
) -> None:
    changes = {"leaves": leaves, "is elsewhere": is_elsewhere, "dies": dies(channel)}
    channel.reply = in_sweep(changes[how])
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    result = read(tmp_path)
    assert len(swept.sizes()) < len(SERVED)
    assert swept.counts(2) == [(8, STEPS)]
    assert channel.closed
    assert bool(channel.orders[-1].disband) is (how != "dies"), "who still listens is told"
    assert "lost each other" in result.note
    assert (result.epochs, result.energy_joules, result.sweeping) == (3, None, None)


def test_until_training_goes_on_a_size_at_which_another_process_died_stays_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """The next collective fails: that was no failure at the run's own size."""
    channel.reply = in_sweep(dies(channel))
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    fail_without_the_others(swept, channel)
    result = read(tmp_path)
    assert result.sweeping in SIZES
    assert (result.outcome, result.epochs) == (None, 1)


def fail_without_the_others(swept: Swept, channel: LeadChannel) -> None:
    """Train until the team is lost, and fail as a process whose collective does."""
    for _ in swept.loader.epochs():
        for batch in swept.loader:
            if channel.closed:
                swept.loader.run.failed(RuntimeError("Connection closed by peer"))
                return
            swept.clock.now += 0.01 + 0.001 * len(batch)


@pytest.mark.parametrize("breaks", ["gather", "all_here", "broadcast"])
def test_a_follower_that_has_lost_rank_0_in_a_sweep_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    none, due = Orders(NEVER), Orders(NEVER, sweep=SweepOrders())
    served = [SweepOrders(32), SweepOrders(32, 5)]
    follows = FollowerChannel(none, none, due, *[Orders(NEVER, sweep=each) for each in served])
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS)
    sizes: list[int] = []
    for _ in swept.loader.epochs():
        for batch in swept.loader:
            sizes.append(len(batch))
            assert len(sizes) < 4 * STEPS, "the sweep does not end"
            if len(batch) == 16:
                follows.breaks.add(breaks)
        swept.loader.report_metric(0.1)
    assert sizes == [8] * STEPS + [16] * 5 + [8] * STEPS + [8] * STEPS
    assert swept.loader.run.epochs == 3
    assert follows.closed


class Unheard(LeadChannel):
    """Its orders of steps at the run's double batch size come to rank 1, and it never learns so."""

    def broadcast(self, mine: bytes | None) -> bytes:
        sent = super().broadcast(mine)
        sweep = self.orders[-1].sweep
        if sweep is not None and sweep.batch_size == 2 * OWN and sweep.steps:
            raise ChannelBroken("rank 1 is gone")
        return sent


class Deserted(FollowerChannel):
    """Nobody is there any more once the last orders have come."""

    def _check(self, call: str) -> None:
        if not self.orders:
            self.breaks |= {"gather", "broadcast", "all_here", "agree"}
        super()._check(call)


def test_orders_that_not_all_are_known_to_have_nobody_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a step that only some of them do they would wait for the others."""
    channel = Unheard()
    channel.reply = other_rank
    first = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(first)
    assert read(tmp_path).sweeping is None
    monkeypatch.setattr(current, "_CURRENT", current._Current())
    second = loader_of(monkeypatch, Deserted(*channel.sent), tmp_path, SWEEPS)
    train(second)
    assert second.counts() == first.counts()
    assert [size for size, _ in first.counts()] == [8, 4, 8]


def test_where_one_does_not_confirm_orders_rank_0_does_not_follow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    def is_lost(told: Facts, sweep: SweepFacts) -> Facts:
        if sweep.steps > 12:
            channel.breaks.add("agree")
        return told

    channel.reply = in_sweep(is_lost)
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    confirmed = [facts.sweep.steps for facts in channel.told if facts.sweep is not None][-1]
    assert sum(n for _, n in swept.counts()) == confirmed + STEPS
    assert swept_orders(channel)[-1][1] > 0, "these nobody has followed"
    assert "lost each other" in read(tmp_path).note


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def fail_at_own_size(swept: Swept, own: LeadChannel | FollowerChannel, steps: int) -> None:
    """Lose the others within a sweep, and run out of memory after so many own steps."""
    for _ in swept.loader.epochs():
        done = 0
        for batch in swept.loader:
            if own.closed and done == steps:
                swept.loader.run.failed(OutOfMemoryError("no room"))
                return
            done += own.closed
            swept.clock.now += seconds_of(len(batch))
            if len(batch) == 16:
                own.breaks.add("gather")


@pytest.mark.parametrize(("steps", "said"), [(0, False), (1, True)])
@pytest.mark.parametrize("rank", [0, 1])
def test_out_of_memory_after_the_first_own_step_without_the_others_is_none_of_a_size_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channel: LeadChannel,
    rank: int,
    steps: int,
    said: bool,
) -> None:
    """In that step it may be why the others were lost."""
    served = [SweepOrders(32), SweepOrders(32, 1)]
    follows = FollowerChannel(*[Orders(NEVER, sweep=each) for each in (*BEFORE, *served)])
    named = told(batch_size=OWN, sweeping=32)
    follows.orders[4] = replace(orders_with(named), sweep=served[-1])
    own = follows if rank else channel
    swept = loader_of(monkeypatch, own, tmp_path, SWEEPS)
    fail_at_own_size(swept, own, steps)
    result = read(tmp_path)
    assert (result.outcome == Outcome.OUT_OF_MEMORY.value) is said
    assert result.sweeping == (None if said else 32)


def test_once_the_first_own_step_is_done_the_result_names_no_size_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """A process that is killed writes none."""
    channel.reply = in_sweep(dies(channel))
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    named: list[int | None] = []
    for _ in swept.loader.epochs():
        for batch in swept.loader:
            swept.clock.now += seconds_of(len(batch))
            if channel.closed and swept.loader.run.epochs == 1:
                named.append(read(tmp_path).sweeping)
    assert named[0] in SIZES
    assert set(named[1:]) == {None}


@pytest.mark.parametrize(("size", "said"), [(OWN, True), (32, False)])
def test_out_of_memory_at_another_size_is_not_held_against_the_run_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, said: bool
) -> None:
    none, due = Orders(NEVER), Orders(NEVER, sweep=SweepOrders())
    served = [SweepOrders(size), SweepOrders(size, 5)]
    follows = FollowerChannel(none, none, due, *[Orders(NEVER, sweep=each) for each in served])
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS)
    for _ in range(2):
        assert swept.loader.run.next_epoch()
        for _batch in swept.loader:
            if follows.told[-1].sweep is not None:
                break
        else:
            continue
        break
    swept.loader.run.failed(OutOfMemoryError("no room"))
    assert (tmp_path / "result").exists() is said


@pytest.mark.parametrize("rank", [0, 1])
def test_an_iterator_that_is_kept_while_training_goes_on_meets_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel, rank: int
) -> None:
    served = [None, None, SweepOrders(), SweepOrders(32), SweepOrders(32, 1)]
    follows = FollowerChannel(*[Orders(NEVER, sweep=each) for each in served])
    own = follows if rank else channel
    swept = loader_of(monkeypatch, own, tmp_path, SWEEPS)
    run = swept.loader.run
    for _ in range(2):
        assert run.next_epoch()
        kept = iter(swept.loader)
        for batch in kept:
            swept.clock.now += 0.01 + 0.001 * len(batch)
            if run.epochs:
                break
            assert swept.clock.now < 60.0, "the sweep does not end"
    assert own.told[-1].sweep is not None
    run.end_epoch()
    meetings = len(own.told)
    assert len(next(kept)) == 8, "one of the run's own"
    assert len(own.told) == meetings
