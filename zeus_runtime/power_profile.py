"""Which power limits to measure, and which one to hold.  Pure; all limits in watts.

From the highest limit down, since every lower one is slower: the cost per step
`(eta * power + (1 - eta) * max_power) * seconds` (NSDI'23, equation 7) falls and
then rises again, so that measuring can end once it clearly rises.  One quick look at
each limit comes first; those close to the best, in cost or as its neighbours, are then
looked at again, so that the noise of single steps is averaged out, half as many times
at most.  What is still unsure then goes on in the next run: points carry their certainty.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import List, Optional, Sequence, Tuple

from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import PowerProfilePoint

STEP_WATTS = 25.0
SAME_WATTS = 1.0  # limits closer than this are one
CLEAR_RISE = 0.05
RISES_TO_STOP = 3  # in a row: a busy host can slow two windows down by chance
NEAR_BEST = 0.03  # limits that cost so little more than the best are measured until sure
STEP_NOISE = 0.02  # what the time or energy of one step may vary by, relative


def candidate_limits(
    min_watts: float,
    max_watts: float,
    default_watts: float,
    min_percent: float = 0.0,
    max_percent: float = 100.0,
) -> Tuple[float, ...]:
    """Return the limits to measure, descending, both bounds included.

    Args:
        min_watts, max_watts: what the device accepts.
        default_watts: the device's default limit, of which the percentages are.
        min_percent, max_percent: bounds wished for; clamped to what the device accepts.
    """
    low = min(max(default_watts * min_percent / 100.0, min_watts), max_watts)
    high = max(min(default_watts * max_percent / 100.0, max_watts), low)
    limits: List[float] = [high]
    while limits[-1] - STEP_WATTS > low + SAME_WATTS:
        limits.append(limits[-1] - STEP_WATTS)
    if high - low > SAME_WATTS:
        limits.append(low)
    return tuple(limits)


def step_cost_joules(point: PowerProfilePoint, eta: float, max_power_watts: float) -> float:
    """Return the cost of one training step at the point."""
    energy = point.average_power_watts * point.seconds_per_step
    return cost_joules(energy, point.seconds_per_step, max_power_watts, eta)


class PowerProfile:
    """The points measured so far, and what to do next.

    Args:
        candidates: limits to measure, descending.
        eta: energy preference.
        max_power_watts: largest settable limit, for the cost.
        known: points measured before on the same kind of GPU; those outside of the
            candidates' range are left out, since no such limit may be held.
    """

    def __init__(
        self,
        candidates: Sequence[float],
        eta: float,
        max_power_watts: float,
        known: Sequence[PowerProfilePoint] = (),
    ) -> None:
        self._eta = eta
        self._max_power_watts = max_power_watts
        self._points: List[PowerProfilePoint] = []
        self._todo = list(candidates)
        self._second_looks = len(self._todo) // 2
        low, high = min(candidates) - SAME_WATTS, max(candidates) + SAME_WATTS
        for point in known:
            if not low <= point.power_limit_watts <= high:
                continue
            self._keep(point)
            self._todo = [
                limit for limit in self._todo if abs(limit - point.power_limit_watts) > SAME_WATTS
            ]
        self._stop_if_rising()

    @property
    def candidate(self) -> Optional[float]:
        """The limit to measure next; None: the profile is complete."""
        return self._todo[0] if self._todo else self._unsure()

    @property
    def points(self) -> Tuple[PowerProfilePoint, ...]:
        """What was measured, by descending limit."""
        return tuple(self._points)

    @property
    def best(self) -> Optional[PowerProfilePoint]:
        """The point of least cost per step; None before the first."""
        if not self._points:
            return None
        return min(self._points, key=self._cost)

    def measured(self, point: PowerProfilePoint, steps: int = 1 << 20) -> None:
        """Take the measurement of `candidate`.

        Args:
            point: names the limit really applied.
            steps: steps measured, for how much the noise of single steps may matter.
        """
        if self._todo:
            self._todo.pop(0)
        else:
            self._second_looks -= 1
        self._keep(self._merged(point))
        self._stop_if_rising(STEP_NOISE / math.sqrt(max(steps, 1)))

    def skip(self) -> None:
        """Leave `candidate` out: what was applied in its place is measured already."""
        if self._todo:
            self._todo.pop(0)
        else:
            self._second_looks -= 1

    def clamped(self, candidate: float, applied_watts: float) -> bool:
        """Whether another limit than `candidate` was applied, one that is measured already."""
        return abs(candidate - applied_watts) > SAME_WATTS and any(
            abs(p.power_limit_watts - applied_watts) <= SAME_WATTS for p in self._points
        )

    def _unsure(self) -> Optional[float]:
        """The limit near the best that is known least well; None: all are known well enough.

        Neighbours of the best count as near whatever they seem to cost: a window that a
        busy host slowed down may hide the real best.
        """
        best = self.best
        if best is None or self._second_looks <= 0:
            return None
        near = self._cost(best) * (1.0 + NEAR_BEST)
        place = self._points.index(best)
        neighbours = self._points[max(place - 1, 0) : place + 2]
        unsure = [p for p in self._points if p in neighbours or self._cost(p) <= near]
        least = min(unsure, key=lambda p: (p.certainty, self._cost(p)))
        return least.power_limit_watts if least.certainty < 1.0 else None

    def _merged(self, point: PowerProfilePoint) -> PowerProfilePoint:
        """Average with what was measured at that limit before, weighed by certainty.

        Where the two clearly differ the faster one is believed: a host can make a step
        longer than it is, and nothing makes it shorter.
        """
        for old in self._points:
            if abs(old.power_limit_watts - point.power_limit_watts) > SAME_WATTS:
                continue
            faster, slower = sorted((old, point), key=lambda p: p.seconds_per_step)
            if slower.seconds_per_step > faster.seconds_per_step * (1.0 + CLEAR_RISE):
                return faster
            certainty = old.certainty + point.certainty
            share = point.certainty / certainty if certainty > 0.0 else 0.5
            energy = (1.0 - share) * old.average_power_watts * old.seconds_per_step
            energy += share * point.average_power_watts * point.seconds_per_step
            seconds = (1.0 - share) * old.seconds_per_step + share * point.seconds_per_step
            return replace(
                point,
                average_power_watts=energy / seconds,
                seconds_per_step=seconds,
                certainty=certainty,
            )
        return point

    def _cost(self, point: PowerProfilePoint) -> float:
        return step_cost_joules(point, self._eta, self._max_power_watts)

    def _keep(self, point: PowerProfilePoint) -> None:
        self._points = [
            p
            for p in self._points
            if abs(p.power_limit_watts - point.power_limit_watts) > SAME_WATTS
        ]
        self._points.append(point)
        self._points.sort(key=lambda p: -p.power_limit_watts)

    def _stop_if_rising(self, relative_error: float = 0.0) -> None:
        """Drop what is left once the last points cost clearly more than the best, and rise."""
        best = self.best
        if best is None or len(self._points) <= RISES_TO_STOP or not self._todo:
            return
        if self._todo[0] > self._points[-1].power_limit_watts:
            return  # a gap above the lowest point is left: its cost is not known to rise
        costs = [self._cost(p) for p in self._points]
        clear = self._cost(best) * (1.0 + max(CLEAR_RISE, 3.0 * relative_error))
        tail = costs[-RISES_TO_STOP:]
        if min(tail) > clear and tail == sorted(tail):
            self._todo = []
