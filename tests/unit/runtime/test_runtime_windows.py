"""Windows over a counter with ticks are as good as the counter's edges."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import pytest

from zeus_runtime.windows import (
    EnergyCurve,
    MonotonicCounter,
    PowerIntegrator,
    Reading,
    TickTracker,
)


class TickingGpu:
    """A GPU of known energy whose counter moves at multiples of `tick` (plus `phase`)."""

    def __init__(self, true_joules: Callable[[float], float], tick: float, phase: float) -> None:
        self.true_joules, self._tick, self._phase = true_joules, tick, phase

    def counter_joules(self, time: float) -> float:
        edge = math.floor((time - self._phase) / self._tick) * self._tick + self._phase
        return self.true_joules(max(edge, 0.0))


def follow(gpu: TickingGpu, until: float, lateness: Iterator[float]) -> tuple[EnergyCurve, float]:
    """Read as the tracker wishes, each time late by the next of `lateness`."""
    tracker, curve, now = TickTracker(), EnergyCurve(capacity=4096), 0.5
    while now < until:
        for piece in tracker.observe(Reading(now, gpu.counter_joules(now))):
            curve.add(piece)
        now += tracker.delay_seconds(now) + next(lateness)
    assert tracker.period_seconds is not None
    return curve, tracker.period_seconds


def random_lateness(seed: int, usual: float, rare: float) -> Iterator[float]:
    chance = random.Random(seed)
    while True:
        yield rare if chance.random() < 0.02 else chance.uniform(0.0, usual)


@pytest.mark.parametrize("tick", [0.02, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_the_period_of_the_counter_is_found_although_readings_come_late(
    tick: float, seed: int
) -> None:
    gpu = TickingGpu(lambda t: 180.0 * t, tick, phase=0.0137)
    _, period = follow(gpu, until=4.0, lateness=random_lateness(seed, 0.002, 0.03))
    assert period == pytest.approx(tick, rel=0.005)


@pytest.mark.parametrize("tick", [0.02, 0.1])
@pytest.mark.parametrize("length_ticks", [1.65, 3.5, 9.55])
@pytest.mark.parametrize("seed", range(3))
def test_a_window_of_steady_power_is_right_within_one_percent(
    tick: float, length_ticks: float, seed: int
) -> None:
    gpu = TickingGpu(lambda t: 200.0 * t, tick, phase=0.3 * tick)
    curve, _ = follow(gpu, until=5.0, lateness=random_lateness(seed, 0.0005, 0.004))
    chance = random.Random(seed)
    for _ in range(20):
        start = chance.uniform(2.0, 3.5)
        first, last = curve.at(start), curve.at(start + length_ticks * tick)
        assert first is not None
        assert last is not None
        measured = last.joules - first.joules
        assert measured == pytest.approx(200.0 * length_ticks * tick, rel=0.01)


def test_reading_only_at_the_ends_would_be_wrong_by_far_more() -> None:
    gpu = TickingGpu(lambda t: 200.0 * t, 0.1, phase=0.03)
    errors = [
        abs(gpu.counter_joules(s + 0.165) - gpu.counter_joules(s) - 33.0) / 33.0
        for s in (1.0 + 0.017 * k for k in range(30))
    ]
    assert max(errors) > 0.3


@pytest.mark.parametrize("tick", [0.02, 0.1])
def test_error_bars_cover_the_error_where_the_power_is_steady(tick: float) -> None:
    gpu = TickingGpu(lambda t: 250.0 * t, tick, phase=0.4 * tick)
    curve, _ = follow(gpu, until=5.0, lateness=random_lateness(1, 0.002, 0.02))
    for k in range(100):
        time = 1.5 + 0.03 * k
        energy = curve.at(time)
        assert energy is not None
        assert abs(energy.joules - 250.0 * time) <= energy.error_joules + 1e-6 + 250.0 * 1e-3 * tick


def test_a_change_of_power_costs_at_most_one_tick_of_the_difference() -> None:
    gpu = TickingGpu(lambda t: 100.0 * t + 200.0 * max(t - 2.0, 0.0), 0.1, phase=0.05)
    curve, _ = follow(gpu, until=4.0, lateness=itertools.repeat(0.0002))
    for time in (1.0, 1.96, 2.0, 2.04, 3.0):
        energy = curve.at(time)
        assert energy is not None
        assert abs(energy.joules - gpu.true_joules(time)) <= 200.0 * 0.1 / 4 + 1.0


def test_nothing_is_claimed_about_a_moment_that_is_not_known_yet() -> None:
    gpu = TickingGpu(lambda t: 100.0 * t, 0.1, phase=0.0)
    curve, _ = follow(gpu, until=2.0, lateness=itertools.repeat(0.0))
    assert curve.at(2.5) is None
    later = curve.estimate(2.5)
    assert later is not None
    assert later.joules == pytest.approx(250.0, rel=0.01)
    assert later.error_joules > 10.0


def test_after_a_pause_the_next_edge_is_found_within_a_tick() -> None:
    gpu = TickingGpu(lambda t: 100.0 * t, 0.1, phase=0.0)
    tracker, now, reads = TickTracker(), 0.5, 0
    while now < 1.5:
        tracker.observe(Reading(now, gpu.counter_joules(now)))
        now += tracker.delay_seconds(now)
    now = 31.512  # nothing was asked for half a minute
    pieces = tracker.observe(Reading(now, gpu.counter_joules(now)))
    assert pieces == []  # how many ticks lie in the gap is not known
    while not pieces:
        now += tracker.delay_seconds(now)
        reads += 1
        pieces = tracker.observe(Reading(now, gpu.counter_joules(now)))
    assert now == pytest.approx(31.6, abs=0.003)
    assert reads < 60


def test_ticks_that_jitter_are_still_followed() -> None:
    chance = random.Random(3)
    edges = list(itertools.accumulate(0.1 + chance.uniform(-0.01, 0.01) for _ in range(60)))

    def counter(time: float) -> float:
        return 150.0 * max([0.0, *(edge for edge in edges if edge <= time)])

    tracker, curve, now = TickTracker(), EnergyCurve(), 0.5
    while now < 5.0:
        for piece in tracker.observe(Reading(now, counter(now))):
            curve.add(piece)
        now += tracker.delay_seconds(now)
    first, last = curve.at(2.0), curve.at(4.5)
    assert first is not None
    assert last is not None
    assert last.joules - first.joules == pytest.approx(150.0 * 2.5, rel=0.02)


def test_a_reset_of_the_counter_is_bridged_with_the_power_known_last() -> None:
    counter = MonotonicCounter()
    first, was_reset = counter.observe(Reading(1.0, 5000.0), None)
    assert (first.energy_joules, was_reset) == (5000.0, False)
    second, was_reset = counter.observe(Reading(3.0, 10.0), 100.0)
    assert was_reset
    assert second.energy_joules == pytest.approx(5200.0)
    third, was_reset = counter.observe(Reading(4.0, 110.0), 100.0)
    assert not was_reset
    assert third.energy_joules == pytest.approx(5300.0)
    assert (counter.resets, counter.bridged_joules) == (1, 200.0)


def test_without_an_energy_counter_power_is_integrated() -> None:
    integrator, curve = PowerIntegrator(), EnergyCurve()
    for k in range(101):
        time = 0.02 * k
        piece = integrator.observe(time, 100.0 + 50.0 * time)
        if piece is not None:
            curve.add(piece)
    energy = curve.at(2.0)
    assert energy is not None
    assert energy.joules == pytest.approx(300.0, rel=0.001)
    assert energy.error_joules > 0.0
