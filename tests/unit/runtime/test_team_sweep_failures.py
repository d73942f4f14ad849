"""Where somebody can't serve a sweep of a team, training goes on.

The other process is a script, as in `test_team_sweep`.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    STEPS,
    SWEEPS,
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


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": None}, "the loader of rank 1 on b can't serve any"),
        (
            {"data": TrainingData(SAMPLES, 500, shares=2)},
            "the loader of rank 1 on b has other data than that of rank 0",
        ),
        (
            {"data": TrainingData(SAMPLES, SAMPLES, largest_batch=64, shares=2)},
            "rank 1 on b has another largest_micro_batch than rank 0",
        ),
        ({"swept": True}, "rank 1 on b goes on from a checkpoint that is after a sweep"),
    ],
)
def test_where_one_loader_can_not_serve_them_none_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channel: LeadChannel,
    changes: dict[str, Any],
    why: str,
) -> None:
    def otherwise(own: Facts) -> Facts:
        told = other_rank(own)
        return replace(told, hello=told.hello and replace(told.hello, **changes))

    channel.reply = otherwise
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    assert swept.sizes() == [8]
    assert swept_orders(channel) == []
    assert f"no other batch size was measured: {why}" in read(tmp_path).note


def test_where_several_processes_work_on_one_share_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """The samples that a sweep draws for each would not be the same for all of them."""
    whole = DistributedSampler(NUMBERS, num_replicas=1, rank=0)
    decision = replace(SWEEPS, batch_size=OWN // 2, sweep_batch_sizes=(16, 32))
    swept = loader_of(monkeypatch, channel, tmp_path, decision, sampler=whole)
    for _ in range(2):
        assert swept.loader.run.next_epoch()
        assert {len(batch) for batch in swept.loader} == {8}
    assert swept_orders(channel) == []
    why = "each share of a batch needs one process, and there are 2 for 1"
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
    assert follows.told[0].hello.swept


@pytest.mark.parametrize("kind", ["plain", "own"])
def test_a_loader_whose_sampler_is_not_known_to_share_the_data_serves_no_other_sizes(
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


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("ValueError", "x" * 999, f"its batches can't be made (ValueError: {'x' * 200})"),
        ("E" * 999, "", f"its batches can't be made ({'E' * 999}"[:300]),
    ],
    ids=["text", "kind"],
)
def test_of_a_long_problem_as_much_is_told_as_a_message_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    def fails(samples: list[int]) -> Any:
        if len(samples) == 16:
            raise type(name, (Exception,), {})(text)
        return torch.tensor(samples)

    follows = FollowerChannel(*[Orders(NEVER, sweep=each) for each in (*BEFORE, SweepOrders(32))])
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS, collate_fn=fails)
    for _ in range(2):
        assert swept.loader.run.next_epoch()
        assert {len(batch) for batch in swept.loader} == {8}
    problems = [facts.sweep.problem for facts in follows.told if facts.sweep is not None]
    assert problems[-1] == told
