"""Which power limits to measure, and which one to hold.  Pure; all limits in watts.

From the highest limit down, since every lower one is slower: the cost per step
`(eta * power + (1 - eta) * max_power) * seconds` (NSDI'23, equation 7) falls and
then rises again, so that measuring can end once it clearly rises.  One quick look at
each limit comes first; those close to the best, in cost or as its neighbours, are then
looked at again, so that the noise of single steps is averaged out, half as many times
at most.  Last come limits that the noise does not let tell from the best though they lie
further away, where costs are nearly the same over many limits: looking at them costs
nearly nothing, and they are looked at until they can be told.  What is still unsure then
goes on in the next run: points carry their certainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import List, Optional, Sequence, Tuple

from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import PowerProfilePoint
from zeus_runtime.trial import SURE_STEPS

STEP_WATTS = 25.0
SAME_WATTS = 1.0  # limits closer than this are one
CLEAR_RISE = 0.05
RISES_TO_STOP = 3  # in a row: a busy host can slow two windows down by chance
NEAR_BEST = 0.03  # limits that cost so little more than the best are measured until sure
STEP_NOISE = 0.02  # what the time or energy of one step may vary by, relative
TOLD_APART = 2.5  # standard errors between two costs that are told apart
SAME_COST = 0.01  # what the limit held may cost more than the one beside it
MOST_STEPS = 3000.0  # at one limit: what they do not tell apart is the same
LEAST_CERTAINTY = 0.01  # so that a point of none has a weight
TELLING_LOOKS = 60  # in one run, per limit, to tell limits apart


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


@dataclass(frozen=True)
class _Seen:
    """A point, and how many steps it is the mean of; of an earlier run at least so many."""

    point: PowerProfilePoint
    steps: float


def never_faster(seconds: Sequence[float], weights: Sequence[float]) -> List[float]:
    """Return the closest times of a step that do not fall as the limit falls.

    A lower limit never makes a step faster: where it seems to, noise did it, and both times are
    better known by their mean.  A time that is clearly longer than one at a lower limit is not
    noise but a host that was busy; it is left as it is and takes no part.

    Args:
        seconds: by descending limit.
        weights: how well each is known.
    """
    fastest, disturbed = math.inf, set()
    for index in reversed(range(len(seconds))):
        if seconds[index] > fastest * (1.0 + CLEAR_RISE):
            disturbed.add(index)
        fastest = min(fastest, seconds[index])
    blocks: List[Tuple[float, float, List[int]]] = []  # mean, weight, members
    for index, (value, weight) in enumerate(zip(seconds, weights)):
        if index in disturbed:
            continue
        members = [index]
        while blocks and blocks[-1][0] > value:
            other, other_weight, others = blocks.pop()
            value = (value * weight + other * other_weight) / (weight + other_weight)
            weight, members = weight + other_weight, others + members
        blocks.append((value, weight, members))
    means = list(seconds)
    for value, _, members in blocks:
        for index in members:
            means[index] = value
    return means


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
        self._seen: List[_Seen] = []  # by descending limit
        self._costs: List[float] = []  # of those
        self._todo = list(candidates)
        self._second_looks = len(self._todo) // 2
        self._telling_looks = len(self._todo) * TELLING_LOOKS
        self._last_watts = 0.0
        low, high = min(candidates) - SAME_WATTS, max(candidates) + SAME_WATTS
        for point in known:
            if not low <= point.power_limit_watts <= high:
                continue
            self._keep(_Seen(point, point.certainty * SURE_STEPS))
            self._todo = [
                limit for limit in self._todo if abs(limit - point.power_limit_watts) > SAME_WATTS
            ]
        self._stop_if_rising()

    @property
    def candidate(self) -> Optional[float]:
        """The limit to measure next; None: the profile is complete."""
        if self._todo:
            return self._todo[0]
        unsure = self._unsure()
        return self._untold() if unsure is None else unsure

    @property
    def settled(self) -> bool:
        """Whether the best limit is known, but for those that cost nearly the same."""
        return not self._todo and self._unsure() is None

    @property
    def points(self) -> Tuple[PowerProfilePoint, ...]:
        """What was measured, by descending limit."""
        return tuple(seen.point for seen in self._seen)

    @property
    def best(self) -> Optional[PowerProfilePoint]:
        """The point of least cost per step; None before the first."""
        return self._seen[self._best_place].point if self._seen else None

    def measured(self, point: PowerProfilePoint, steps: int = 1 << 20) -> None:
        """Take the measurement of `candidate`.

        Args:
            point: names the limit really applied.
            steps: steps measured, for how much the noise of single steps may matter.
        """
        self._count_look()
        self._last_watts = point.power_limit_watts
        self._keep(self._merged(_Seen(point, float(steps))))
        self._stop_if_rising(STEP_NOISE / math.sqrt(max(steps, 1)))

    def skip(self) -> None:
        """Leave `candidate` out: what was applied in its place is measured already."""
        self._count_look()

    def _count_look(self) -> None:
        if self._todo:
            self._todo.pop(0)
        elif self._unsure() is not None:
            self._second_looks -= 1
        else:
            self._telling_looks -= 1

    def clamped(self, candidate: float, applied_watts: float) -> bool:
        """Whether another limit than `candidate` was applied, one that is measured already."""
        return abs(candidate - applied_watts) > SAME_WATTS and any(
            abs(p.power_limit_watts - applied_watts) <= SAME_WATTS for p in self.points
        )

    @property
    def _best_place(self) -> int:
        return min(range(len(self._costs)), key=self._costs.__getitem__)

    def _unsure(self) -> Optional[float]:
        """The limit near the best that is known least well; None: all are known well enough.

        Neighbours of the best count as near whatever they seem to cost: a window that a
        busy host slowed down may hide the real best.
        """
        if not self._seen or self._second_looks <= 0:
            return None
        best = self._best_place
        near = self._costs[best] * (1.0 + NEAR_BEST)
        unsure = [
            (self._seen[place].point.certainty, cost, place)
            for place, cost in enumerate(self._costs)
            if cost <= near or abs(place - best) <= 1
        ]
        certainty, _, place = min(unsure)
        return self._seen[place].point.power_limit_watts if certainty < 1.0 else None

    def _untold(self) -> Optional[float]:
        """A limit that noise does not let tell from the best; None: all can be told.

        It goes on with the last one where it can: each change of the limit takes time.
        """
        if not self._seen or self._telling_looks <= 0:
            return None
        best = self._best_place
        rivals = [place for place in range(len(self._seen)) if self._rivals(best, place)]
        if not rivals:
            return None
        places = [place for place in (best, *rivals) if self._seen[place].steps < MOST_STEPS]
        if not places:
            return None
        least = min(places, key=lambda place: self._seen[place].steps)
        for place in places:
            seen = self._seen[place]
            known_less = seen.steps < 2.0 * self._seen[least].steps
            if known_less and seen.point.power_limit_watts == self._last_watts:
                return self._last_watts
        return self._seen[least].point.power_limit_watts

    def _rivals(self, best: int, place: int) -> bool:
        """Whether the limit at `place` may really be the one to hold.

        One beside the best is as good as the best, unless it costs clearly less.
        """
        if place == best:
            return False
        steps = (max(self._seen[best].steps, 1.0), max(self._seen[place].steps, 1.0))
        noise = TOLD_APART * STEP_NOISE * math.sqrt(1.0 / steps[0] + 1.0 / steps[1])
        slack = SAME_COST if abs(place - best) == 1 else 0.0
        return self._costs[place] * (1.0 + slack) < self._costs[best] * (1.0 + noise)

    def _merged(self, new: _Seen) -> _Seen:
        """Average with what was measured at that limit before.

        Where the two clearly differ the faster one is believed: a host can make a step
        longer than it is, and nothing makes it shorter.
        """
        for old in self._seen:
            if abs(old.point.power_limit_watts - new.point.power_limit_watts) > SAME_WATTS:
                continue
            faster, slower = sorted((old, new), key=lambda seen: seen.point.seconds_per_step)
            clear = faster.point.seconds_per_step * (1.0 + CLEAR_RISE)
            if slower.point.seconds_per_step > clear:
                return faster
            return _Seen(_mean(old.point, new.point), old.steps + new.steps)
        return new

    def _keep(self, seen: _Seen) -> None:
        watts = seen.point.power_limit_watts
        others = [s for s in self._seen if abs(s.point.power_limit_watts - watts) > SAME_WATTS]
        self._seen = sorted((*others, seen), key=lambda s: -s.point.power_limit_watts)
        seconds = never_faster(
            [s.point.seconds_per_step for s in self._seen],
            [max(s.point.certainty, LEAST_CERTAINTY) for s in self._seen],
        )
        self._costs = [
            step_cost_joules(
                replace(s.point, seconds_per_step=each), self._eta, self._max_power_watts
            )
            for s, each in zip(self._seen, seconds)
        ]

    def _stop_if_rising(self, relative_error: float = 0.0) -> None:
        """Drop what is left once the last points cost clearly more than the best, and rise."""
        if len(self._seen) <= RISES_TO_STOP or not self._todo:
            return
        if self._todo[0] > self._seen[-1].point.power_limit_watts:
            return  # a gap above the lowest point is left: its cost is not known to rise
        clear = min(self._costs) * (1.0 + max(CLEAR_RISE, 3.0 * relative_error))
        tail = self._costs[-RISES_TO_STOP:]
        if min(tail) > clear and tail == sorted(tail):
            self._todo = []


def _mean(old: PowerProfilePoint, new: PowerProfilePoint) -> PowerProfilePoint:
    """Return the mean of two measurements at one limit, weighed by certainty."""
    certainty = old.certainty + new.certainty
    share = new.certainty / certainty if certainty > 0.0 else 0.5
    energy = (1.0 - share) * old.average_power_watts * old.seconds_per_step
    energy += share * new.average_power_watts * new.seconds_per_step
    seconds = (1.0 - share) * old.seconds_per_step + share * new.seconds_per_step
    return replace(
        new, average_power_watts=energy / seconds, seconds_per_step=seconds, certainty=certainty
    )
