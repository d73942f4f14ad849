"""Where somebody can't serve a sweep of a team, leaves it or dies, training goes on, or ends.

The other process is a script, as in `test_team_sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler, SequentialSampler

from tests.support.scripted_team import (
    FollowerChannel,
    LeadChannel,
    as_own_process,
    read,
)
from tests.support.swept_team import (
    NUMBERS,
    OWN,
    SAMPLES,
    SERVED,
    SIZES,
    STEPS,
    SWEEPS,
    WATTS,
    Swept,
    in_sweep,
    loader_of,
    other_rank,
    sizes_in,
    swept_orders,
    train,
)
from zeus_runtime import current
from zeus_runtime.sweep import TrainingData
from zeus_runtime.team_messages import (
    Facts,
    Occasion,
    Orders,
    SweepFacts,
    SweepOrders,
)
from zeus_runtime.trial import NEVER

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with as_own_process(monkeypatch):
        yield


@pytest.fixture
def channel() -> LeadChannel:
    made = LeadChannel()
    made.reply = other_rank
    return made


# ---- loaders that can't -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "the loader of rank 1 on b can't serve any"),
        (TrainingData(SAMPLES, 500, shares=2), "the loader of rank 1 on b has other data"),
    ],
)
def test_where_one_loader_can_not_serve_them_none_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channel: LeadChannel,
    data: TrainingData | None,
    why: str,
) -> None:
    def otherwise(own: Facts) -> Facts:
        told = other_rank(own)
        return replace(told, hello=told.hello and replace(told.hello, data=data))

    channel.reply = otherwise
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    assert swept.sizes() == [8]
    assert swept_orders(channel) == []
    assert f"no other batch size was measured: {why}" in read(tmp_path).note


def test_one_that_went_on_from_a_checkpoint_after_a_sweep_serves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """Whatever became of rank 0's: one that is not there is waited for."""
    first = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(first)
    monkeypatch.setattr(current, "_CURRENT", current._Current())
    follows = FollowerChannel()
    second = loader_of(monkeypatch, follows, tmp_path, SWEEPS)
    assert second.loader.load_state_dict(first.loader.state_dict())
    assert second.loader.run.next_epoch()
    assert follows.told[0].hello is not None
    assert follows.told[0].hello.data is None


@pytest.mark.parametrize("kind", ["plain", "own"])
def test_only_a_sampler_of_shares_is_gone_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    class Own(DistributedSampler[int]):
        """Perhaps it leaves out samples on purpose."""

    plain = SequentialSampler(NUMBERS)
    sampler: Any = plain if kind == "plain" else Own(NUMBERS, num_replicas=2, rank=1)
    follows = FollowerChannel()
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS, sampler=sampler)
    assert swept.loader.run.next_epoch()
    assert follows.told[0].hello is not None
    assert follows.told[0].hello.data is None


def test_one_whose_gpu_torch_does_not_use_says_so_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    def says(told: Facts, sweep: SweepFacts) -> Facts:
        return replace(told, sweep=replace(sweep, problem="torch has nothing"))

    channel.reply = in_sweep(says)
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    assert (swept.sizes(), sizes_in(channel)) == ([8], [])
    note = "no other batch size was measured: torch has nothing (rank 1 on b)"
    assert note in read(tmp_path).note
    assert read(tmp_path).sweep_seconds is None


@pytest.mark.parametrize("when", ["before its first step", "later"])
def test_a_size_that_another_rank_can_not_serve_ends_the_sweep_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel, when: str
) -> None:
    def fails(told: Facts, sweep: SweepFacts) -> Facts:
        ordered = channel.orders[-1].sweep
        if ordered is None or ordered.batch_size != 32 or bool(ordered.steps) != (when == "later"):
            return told
        return replace(told, sweep=replace(sweep, problem="no such file"))

    channel.reply = in_sweep(fails)
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    result = read(tmp_path)
    assert swept.sizes() == ([8, 4, 8] if when != "later" else [8, 4, 16, 8])
    assert [each.batch_size for each in result.sweep] == [8]
    assert "ended at batch size 32: no such file (rank 1 on b)" in result.note
    assert (result.epochs, result.sweeping) == (3, None)
    assert result.energy_joules is not None


class Failing:
    """Makes batches of `share` samples only as often as it is told."""

    def __init__(self, share: int, times: int) -> None:
        self.share, self.left = share, times

    def __call__(self, samples: list[int]) -> Any:
        if len(samples) == self.share:
            if not self.left:
                raise ValueError("no such file")
            self.left -= 1
        return torch.tensor(samples)


def test_a_follower_tells_that_it_can_make_no_batch_before_any_step_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none, due = Orders(NEVER), Orders(NEVER, sweep=SweepOrders())
    follows = FollowerChannel(none, none, due, Orders(NEVER, sweep=SweepOrders(32)))
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS, collate_fn=Failing(16, 0))
    for _ in range(2):
        assert swept.loader.run.next_epoch()
        sizes = {len(batch) for batch in swept.loader}
    assert sizes == {8}
    problems = [facts.sweep.problem for facts in follows.told if facts.sweep is not None]
    assert problems == ["", "its batches can't be made (ValueError: no such file)"]
    assert [o for o, _ in follows.occasions[2:]] == ["begin", "sweep", "sweep", "end"]


def test_a_follower_that_can_make_no_more_serves_the_last_one_again_as_often_as_was_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever does fewer steps leaves the others waiting in the middle of one."""
    none, due = Orders(NEVER), Orders(NEVER, sweep=SweepOrders())
    served = [SweepOrders(32), SweepOrders(32, 1), SweepOrders(32, 5)]
    follows = FollowerChannel(none, none, due, *[Orders(NEVER, sweep=each) for each in served])
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS, collate_fn=Failing(16, 3))
    for _ in range(2):
        assert swept.loader.run.next_epoch()
        batches = [batch.tolist() for batch in swept.loader]
    others = batches[:6]
    assert [len(batch) for batch in others] == [16] * 6
    assert others[2] == others[3] == others[4] == others[5]
    assert others[1] != others[2]
    assert len(batches) == 6 + STEPS
    told = [(f.sweep.steps, bool(f.sweep.problem)) for f in follows.told if f.sweep is not None]
    assert told == [(0, False), (0, False), (1, False), (6, True)]
    assert follows.occasions[3:7] == [("sweep", STEPS + n) for n, _ in told]


# ---- processes that leave -----------------------------------------------------------------


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


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


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
