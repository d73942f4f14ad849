"""All processes of a team serve one sweep: what rank 0 decides of it, and what may go wrong.

The other process is a script; loaders, runs and all that is between them and the channel are real.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DistributedSampler

from tests.support.scripted_team import (
    OTHER_GPU,
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
    TICK_SECONDS,
    WATTS,
    VirtualMeter,
    in_sweep,
    loader_of,
    other_rank,
    seconds_of,
    sizes_in,
    swept_orders,
    train,
)
from zeus_runtime import current
from zeus_runtime.protocol import decode_result
from zeus_runtime.sweep import Room
from zeus_runtime.team_messages import (
    Facts,
    Orders,
    SweepFacts,
    SweepOrders,
    decode_facts,
    encode,
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


# ---- what all serve -----------------------------------------------------------------------


def test_every_size_is_measured_on_all_gpus_and_is_none_of_the_epoch_s_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    result = read(tmp_path)
    assert [swept.sizes(epoch) for epoch in range(3)] == [[8], SERVED, [8]]
    assert swept.loader.run.steps == 3 * STEPS
    assert [each.batch_size for each in result.sweep] == list(SIZES)
    for each in result.sweep:
        seconds = SAMPLES / each.batch_size * (0.01 + 0.001 * each.batch_size / 2)
        assert each.epoch_seconds == pytest.approx(seconds, rel=1e-6)
        assert each.epoch_joules == pytest.approx(sum(WATTS) * seconds, rel=1e-6)
    assert result.sweep_seconds is not None
    steps = sum(n * (0.01 + 0.001 * size) for size, n in swept.counts())
    assert result.sweep_seconds == pytest.approx(steps - STEPS * 0.018, rel=1e-6)
    assert result.sweep_joules == pytest.approx(sum(WATTS) * result.sweep_seconds, rel=1e-6)
    assert result.energy_joules == pytest.approx(sum(WATTS) * swept.clock.now, rel=1e-6)
    assert (result.sweeping, result.epochs) == (None, 3)


def test_between_meetings_a_process_tells_nothing_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    done = [facts.sweep.steps for facts in channel.told if facts.sweep is not None]
    ordered = [steps for _, steps in swept_orders(channel)]
    assert done == list(itertools.accumulate(ordered)), "and nowhere else do they meet"
    at = [facts.steps for facts in channel.told if facts.sweep is not None]
    assert at == [STEPS + n for n in done], "who has served more or fewer is seen"
    assert max(ordered) > 1
    assert sum(n for _, n in swept.counts()) == STEPS + done[-1]


def test_what_rank_0_orders_all_serve_and_each_of_its_own_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    first = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(first)
    monkeypatch.setattr(current, "_CURRENT", current._Current())
    second = loader_of(monkeypatch, FollowerChannel(*channel.sent), tmp_path, SWEEPS)
    train(second)
    assert second.counts() == first.counts()
    assert second.loader.run.steps == first.loader.run.steps
    both = zip(first.epochs[1], second.epochs[1], strict=True)
    assert all(own != other for own, other in both)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_training_of_each_process_stays_what_it_would_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel, rank: int
) -> None:
    """Its order, and what it draws at random."""
    sent: list[bytes] = []
    drawn = []
    for decision in (SWEEPS, replace(SWEEPS, sweep_batch_sizes=())):
        for each in range(rank + 1):
            monkeypatch.setattr(current, "_CURRENT", current._Current())
            channel.sent, channel.closed = [], False
            own = channel if each == 0 else FollowerChannel(*sent)
            swept = loader_of(monkeypatch, own, tmp_path, decision)
            torch.manual_seed(5)
            train(swept)
            sent = channel.sent
        drawn.append(([swept.own(epoch) for epoch in range(3)], torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_the_result_names_a_size_on_every_machine_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    train(swept)
    told = [
        (orders.sweep.batch_size, result.sweeping)
        for orders in channel.orders
        if orders.sweep is not None
        and orders.sweep.batch_size
        and (result := decode_result(orders.result.encode())) is not None
    ]
    assert told == [(size, size) for size in (OWN, *SIZES)]


def test_rank_0_has_written_which_size_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS)
    written: list[tuple[int, int | None]] = []
    for _ in swept.loader.epochs():
        for batch in swept.loader:
            swept.clock.now += 0.01 + 0.001 * len(batch)
            if channel.orders[-1].sweep is not None:
                written.append((2 * len(batch), read(tmp_path).sweeping))
    assert set(written) == {(size, size) for size in (OWN, *SIZES)}


def test_power_limits_are_looked_for_once_the_sweep_is_over_where_all_know_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    nobody = {"ZEUS_AGENT": "unix:///nowhere/agent.sock"}
    swept = loader_of(monkeypatch, channel, tmp_path, SWEEPS, environ=nobody)
    train(swept)
    last = max(n for n, orders in enumerate(channel.orders) if orders.sweep is not None)
    assert {orders.wake_at for orders in channel.orders[: last + 1]} == {NEVER}
    assert channel.orders[last + 1].wake_at < NEVER
    limits = [orders.limits for orders in channel.orders]
    assert not any(limits[: last + 1])
    assert any(limits[last + 1 :])


def test_at_steps_after_the_sweep_nobody_is_told_its_result_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    nobody = {"ZEUS_AGENT": "unix:///nowhere/agent.sock"}
    train(loader_of(monkeypatch, channel, tmp_path, SWEEPS, environ=nobody))
    by_occasion: dict[str, list[bool]] = {"step": [], "sweep": []}
    for facts, orders in zip(channel.told, channel.orders, strict=False):
        by_occasion.setdefault(facts.occasion, []).append(bool(orders.result))
    assert by_occasion["step"]
    assert not any(by_occasion["step"])
    # With each size before it is served, and at last that none is any more.
    assert sum(by_occasion["sweep"]) == 1 + len(SIZES) + 1


def test_what_the_counter_sees_beyond_a_window_is_served_at_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """As many steps of the size as take one period of it."""
    train(loader_of(monkeypatch, channel, tmp_path, SWEEPS))
    tails: dict[int, int] = {}
    for size, steps in swept_orders(channel):
        if steps:
            tails[size] = steps
    assert tails == {
        size: math.ceil(TICK_SECONDS / seconds_of(size // 2)) for size in (OWN, *SIZES)
    }
    assert max(tails.values()) > 1


@pytest.mark.parametrize("rank", [0, 1])
def test_all_meet_when_the_gpu_has_done_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel, rank: int
) -> None:
    """Else a window would end before the work in it has."""
    train(loader_of(monkeypatch, channel, tmp_path, SWEEPS))
    monkeypatch.setattr(current, "_CURRENT", current._Current())
    own = FollowerChannel(*channel.sent) if rank else LeadChannel()
    if isinstance(own, LeadChannel):
        own.reply = other_rank
    idle = [True]
    seen: list[bool] = []
    gather = own.gather

    def look(mine: bytes) -> list[bytes]:
        if decode_facts(mine).sweep is not None:
            seen.append(idle[0])
        return gather(mine)

    monkeypatch.setattr(own, "gather", look)
    swept = loader_of(
        monkeypatch, own, tmp_path, SWEEPS, synchronize=lambda: idle.__setitem__(0, True)
    )
    for _ in swept.loader.epochs():
        for batch in swept.loader:
            swept.clock.now += seconds_of(len(batch))
            idle[0] = False
        swept.loader.report_metric(0.1)
    assert len(seen) > 2 * len(SIZES)
    assert all(seen)


# ---- which sizes --------------------------------------------------------------------------


def test_sizes_that_can_not_be_shared_evenly_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """And those of which each had one sample."""
    swept = loader_of(
        monkeypatch, channel, tmp_path, replace(SWEEPS, sweep_batch_sizes=(2, 9, 32, 63))
    )
    train(swept)
    assert sizes_in(channel) == [OWN, 32]


def test_without_any_that_can_there_is_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: LeadChannel
) -> None:
    """Then it is not said that none is worth its time."""
    train(loader_of(monkeypatch, channel, tmp_path, replace(SWEEPS, sweep_batch_sizes=(2, 9))))
    assert swept_orders(channel) == []
    one = "2: nothing can be normalized over a single sample"
    why = f"({one}; 9: not to be shared evenly by 2 loaders)"
    assert f"no other batch size was measured {why}" in read(tmp_path).note


@pytest.mark.parametrize(
    ("free_bytes", "reserved_bytes", "shares_a_gpu", "served"),
    [
        (20.0, 0.0, False, [24, 12]),
        (60.0, 0.0, False, [24, 12, 48]),
        (60.0, 0.0, True, [24, 12]),
        (20.0, 50.0, True, [24, 12, 48]),  # what it has reserved is not the others' to take
    ],
)
def test_a_larger_size_has_to_fit_into_the_least_room_by_the_most_that_was_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channel: LeadChannel,
    free_bytes: float,
    reserved_bytes: float,
    shares_a_gpu: bool,
    served: list[int],
) -> None:
    serving = [0]

    def tells(told: Facts, sweep: SweepFacts) -> Facts:
        ordered = channel.orders[-1].sweep
        serving[0] = serving[0] if ordered is None else ordered.batch_size
        memory = Room(free_bytes, reserved_bytes)
        return replace(told, sweep=replace(sweep, room=memory, peak_bytes=1.0 * serving[0]))

    reply = in_sweep(tells)

    def on_one_gpu(own: Facts) -> Facts:
        told = reply(own)
        return replace(told, hello=own.hello) if shares_a_gpu else told

    three = TeamOfThree()
    channel, three.reply = three, on_one_gpu
    thirds = DistributedSampler(NUMBERS, num_replicas=3, rank=0)
    decision = replace(SWEEPS, batch_size=24, sweep_batch_sizes=(12, 48))
    train(loader_of(monkeypatch, channel, tmp_path, decision, sampler=thirds))
    assert sizes_in(channel) == served


@pytest.mark.parametrize("used", [True, False])
def test_a_follower_tells_what_its_gpu_has_room_for_and_what_a_size_has_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    monkeypatch.setattr(VirtualMeter, "simulated", False)
    due, served = SweepOrders(), [SweepOrders(32), SweepOrders(32, 2)]
    orders = [Orders(NEVER, sweep=each) for each in (None, None, due, *(served if used else ()))]
    follows = FollowerChannel(*orders)
    swept = loader_of(monkeypatch, follows, tmp_path, SWEEPS)
    peaks = [90]  # that of the run's own batches is none of a smaller size
    monkeypatch.setattr(torch.cuda, "is_available", lambda: used)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", peaks.clear)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: max(peaks))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 20)
    for _ in range(2):
        assert swept.loader.run.next_epoch()
        sizes = set()
        for batch in swept.loader:
            sizes.add(len(batch))
            peaks.append(30 if len(batch) == 16 else 90)
    assert sizes == ({8, 16} if used else {8})
    told = [facts.sweep for facts in follows.told if facts.sweep is not None]
    first, last = told[0], told[-1]
    assert first.problem.startswith("" if used else "torch has nothing in the memory of a GPU")
    assert bool(first.problem) is not used
    room = Room(free_bytes=60.0, reserved_bytes=20.0)
    assert (first.room, last.peak_bytes) == ((room, 30.0) if used else (None, None))


class TeamOfThree(LeadChannel):
    """With a rank 2 that has all the room, and takes none."""

    def gather(self, mine: bytes) -> list[bytes]:
        heard = super().gather(mine)
        told = decode_facts(heard[1])
        gpu = replace(OTHER_GPU, uuid="GPU-2")
        sweep = told.sweep and replace(told.sweep, room=Room(1e9, 0.0), peak_bytes=1.0)
        hello = told.hello and replace(told.hello, gpu=gpu)
        return [*heard, encode(replace(told, sweep=sweep, hello=hello))]
