"""Energy at any moment, from a counter that only moves at its ticks.  Pure.

A GPU's energy counter is brought up to date every 20 to 100 ms.  Reading it at
the two ends of a window is wrong by up to a tick at each end: 165 ms windows on
a 100 ms tick are off by 31 %.  What is exact are the edges, the moments at which
the counter moves.  `TickTracker` finds them in a stream of readings and learns
their period; `EnergyCurve` keeps the pieces of energy over time between edges and
says what any moment in or near them is worth, with an error bar.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Deque, List, Optional, Tuple

CALIBRATION_EDGES = 4
POLL_UNKNOWN_SECONDS = 0.001
POLL_LONGEST_SECONDS = 0.002
POLL_SHORTEST_SECONDS = 0.0002
GUARD_LEAST = 0.02
GUARD_MOST = 0.25


@dataclass(frozen=True)
class Reading:
    """What the counter showed at a moment of the monotonic clock."""

    time_seconds: float
    energy_joules: float


@dataclass(frozen=True)
class Piece:
    """Energy used between two moments, with constant power assumed in between.

    Args:
        error_seconds: how far off the two moments may be, each.
    """

    start_seconds: float
    end_seconds: float
    start_joules: float
    end_joules: float
    error_seconds: float = 0.0

    @property
    def power_watts(self) -> float:
        """Mean power."""
        length = self.end_seconds - self.start_seconds
        return (self.end_joules - self.start_joules) / length if length > 0.0 else 0.0


@dataclass(frozen=True)
class Energy:
    """An energy with its error bar (one bound on each side), joules."""

    joules: float
    error_joules: float


class TickTracker:
    """Finds the moments at which a counter moves, from readings in order of time.

    A single late reading (the process was not scheduled) makes an edge uncertain;
    knowing the period, later edges narrow it down again.
    """

    def __init__(self) -> None:
        self._last: Optional[Reading] = None
        self._calibration: List[Tuple[float, float, float, float]] = []
        self._period: Optional[float] = None
        self._period_error = 0.0
        self._guard = GUARD_LEAST  # how early to look for an edge, share of the period
        self._origin: Optional[Tuple[float, float]] = None  # first edge: time, error
        self._anchor: Optional[Tuple[float, float]] = None  # last edge: time, error

    @property
    def period_seconds(self) -> Optional[float]:
        """Period of the ticks; None until enough edges were seen."""
        return self._period

    def observe(self, reading: Reading) -> List[Piece]:
        """Take the next reading; return the pieces that it completes, usually none."""
        last, self._last = self._last, reading
        if last is None or reading.energy_joules == last.energy_joules:
            return []
        low, high = last.time_seconds, reading.time_seconds
        if self._period is None:
            return self._calibrate(low, high, last.energy_joules, reading.energy_joules)
        if high - low > 0.5 * self._period:
            # Several ticks may lie in this gap; the next edge will do.  If it was only one,
            # it came before it was looked for: look earlier from now on.
            if high - low < 1.5 * self._period:
                self._look_earlier()
            return []
        time, error = self._place(low, high)
        self._anchor = (time, error)
        self._refine(time, error)
        start = time - self._period
        return [Piece(start, time, last.energy_joules, reading.energy_joules, error)]

    def delay_seconds(self, now_seconds: float) -> float:
        """Return how long to wait before the next reading, to catch the next edge."""
        if self._period is None or self._anchor is None:
            return POLL_UNKNOWN_SECONDS
        poll = min(max(self._period / 50.0, POLL_SHORTEST_SECONDS), POLL_LONGEST_SECONDS)
        anchor, error = self._anchor
        ticks = max(1.0, (now_seconds - anchor) / self._period)
        uncertainty = error + ticks * self._period_error + self._guard * self._period
        if uncertainty > GUARD_MOST * self._period:
            return poll
        # The next edge not yet behind us, uncertainty included.
        behind = (now_seconds - uncertainty - anchor) // self._period
        until = anchor + (behind + 1.0) * self._period - uncertainty - now_seconds
        return max(until, poll)

    def reset(self) -> None:
        """Forget the last reading, e.g. because the counter itself was reset."""
        self._last = None
        self._calibration = []

    def _calibrate(self, low: float, high: float, before: float, after: float) -> List[Piece]:
        """Collect consecutive edges until their distance is known."""
        self._calibration.append((low, high, before, after))
        if len(self._calibration) < CALIBRATION_EDGES:
            return []
        middles = [(low + high) / 2.0 for low, high, _, _ in self._calibration]
        errors = [(high - low) / 2.0 for low, high, _, _ in self._calibration]
        gaps = [b - a for a, b in zip(middles, middles[1:])]
        period = statistics.median(gaps)
        if max(errors) > 0.25 * period or any(abs(gap - period) > 0.5 * period for gap in gaps):
            self._calibration.pop(0)  # an edge was missed: slide on
            return []
        self._period = period
        self._period_error = (errors[0] + errors[-1]) / len(gaps)
        self._origin = (middles[0], errors[0])
        self._anchor = (middles[-1], errors[-1])
        pieces = [
            Piece(middle - period, middle, before, after, error)
            for middle, error, (_, _, before, after) in zip(middles, errors, self._calibration)
        ]
        self._calibration = []
        return pieces

    def _place(self, low: float, high: float) -> Tuple[float, float]:
        """Return when the edge in (low, high] was, using the period, and how sure that is."""
        assert self._period is not None
        assert self._anchor is not None
        anchor, anchor_error = self._anchor
        middle, half = (low + high) / 2.0, (high - low) / 2.0
        ticks = round((middle - anchor) / self._period)
        predicted = anchor + ticks * self._period
        spread = anchor_error + ticks * self._period_error
        lowest, highest = max(low, predicted - spread), min(high, predicted + spread)
        if lowest > highest:
            self._look_earlier()  # ticks are not that regular here: believe what was seen
            return middle, half
        return (lowest + highest) / 2.0, (highest - lowest) / 2.0

    def _look_earlier(self) -> None:
        self._guard = min(2.0 * self._guard, GUARD_MOST)

    def _refine(self, time: float, error: float) -> None:
        """Learn the period better from the first edge to this one."""
        assert self._period is not None
        assert self._origin is not None
        first, first_error = self._origin
        ticks = round((time - first) / self._period)
        if ticks < 1 or ticks * self._period_error > 0.25 * self._period:
            self._origin = (time, error)  # too long ago to count the ticks in between
            return
        period_error = (first_error + error) / ticks
        if period_error < self._period_error:
            self._period, self._period_error = (time - first) / ticks, period_error


class EnergyCurve:
    """The known pieces of energy over time, the newest `capacity` of them."""

    def __init__(self, capacity: int = 256) -> None:
        self._pieces: Deque[Piece] = deque(maxlen=capacity)

    def add(self, piece: Piece) -> None:
        """Add the next piece; its end is later than that of those before."""
        self._pieces.append(piece)

    @property
    def end_seconds(self) -> Optional[float]:
        """The last moment that is known."""
        return self._pieces[-1].end_seconds if self._pieces else None

    @property
    def power_watts(self) -> Optional[float]:
        """Mean power over the newest piece."""
        return self._pieces[-1].power_watts if self._pieces else None

    def at(self, time_seconds: float) -> Optional[Energy]:
        """Return the energy counted until then; None if nothing is known so late.

        Outside every piece it goes on with the power of the nearest one, and the
        error bar grows with half of what was assumed.
        """
        end = self.end_seconds
        if end is None or time_seconds > end:
            return None
        return self.estimate(time_seconds)

    def estimate(self, time_seconds: float) -> Optional[Energy]:
        """Like `at`, but goes on after the last piece; None only if nothing is known at all."""
        nearest: Optional[Piece] = None
        distance = 0.0
        for piece in reversed(self._pieces):
            apart = max(piece.start_seconds - time_seconds, time_seconds - piece.end_seconds, 0.0)
            if nearest is None or apart < distance:
                nearest, distance = piece, apart
            elif apart > distance:
                break  # pieces are in order: it only gets worse from here
        if nearest is None:
            return None
        power = nearest.power_watts
        joules = nearest.start_joules + power * (time_seconds - nearest.start_seconds)
        return Energy(joules, abs(power) * (nearest.error_seconds + 0.5 * distance))


class PowerIntegrator:
    """Makes a curve from samples of power, for GPUs that count no energy (trapezoids)."""

    def __init__(self) -> None:
        self._last: Optional[Tuple[float, float]] = None
        self._joules = 0.0

    def observe(self, time_seconds: float, power_watts: float) -> Optional[Piece]:
        """Take the next sample; return the piece since the one before."""
        last, self._last = self._last, (time_seconds, power_watts)
        if last is None or time_seconds <= last[0]:
            return None
        start = self._joules
        length = time_seconds - last[0]
        self._joules += 0.5 * (last[1] + power_watts) * length
        mean = (self._joules - start) / length
        # Between two samples the power may have been either of them all of the time.
        spread = 0.5 * abs(power_watts - last[1]) / mean * length if mean > 0.0 else 0.0
        return Piece(last[0], time_seconds, start, self._joules, 0.5 * spread)


class MonotonicCounter:
    """Makes a counter that may be reset (driver reload) one that only grows.

    What was used between the last reading and the reset is lost; it is filled in
    with the power known last, and counted in `bridged_joules`.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._last: Optional[Reading] = None
        self.resets = 0
        self.bridged_joules = 0.0

    def observe(self, raw: Reading, power_watts: Optional[float]) -> Tuple[Reading, bool]:
        """Return the reading in joules that only grow, and whether the counter was reset."""
        last, self._last = self._last, raw
        reset = last is not None and raw.energy_joules < last.energy_joules
        if last is not None and reset:
            bridge = (power_watts or 0.0) * (raw.time_seconds - last.time_seconds)
            self._offset += last.energy_joules + bridge - raw.energy_joules
            self.bridged_joules += bridge
            self.resets += 1
        return Reading(raw.time_seconds, raw.energy_joules + self._offset), reset
