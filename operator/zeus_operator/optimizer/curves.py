"""What complete runs of a job say of the way to the target: its learning curve.

The first complete run sets the levels: the values of the metric that it went
through.  A later complete run adds how far before its end it reached each of them,
as a ratio of epochs, ln(epochs to the target) - ln(epoch of the level - 0.5), so that
runs of different length can be compared.
"""

from __future__ import annotations

import math

import numpy as np

from zeus_operator.optimizer.gaussian import Array
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.types import Observation
from zeus_runtime.stopping import Level, first_epoch_at

MOST_LEVELS = 32  # they travel with the decision


class Curves:
    """The learning curves of one job, per arm."""

    def __init__(self, x: Array, parameters: Parameters) -> None:
        self._x = x
        self._parameters = parameters
        self._metrics: tuple[float, ...] = ()
        self._sums: dict[int, Array] = {}
        self._counts: dict[int, int] = {}
        self.rising = True

    def learn(self, arm: int, run: Observation) -> None:
        """Take in a run that reached the target."""
        if not run.milestones or run.epochs < 1:
            return
        if not all(math.isfinite(metric) for _, metric in run.milestones):
            return
        if not self._metrics:
            self._set_levels(run)
        if not self._metrics:
            return  # it reached the target at once: there is no way there to learn
        gaps = []
        for metric in self._metrics:
            epoch = first_epoch_at(metric, run.milestones, self.rising)
            if epoch is None:
                return  # part of its milestones is missing: it can't be compared
            gaps.append(math.log(run.epochs) - math.log(max(epoch, 1) - 0.5))
        self._sums[arm] = self._sums.get(arm, np.zeros(len(gaps))) + np.array(gaps)
        self._counts[arm] = self._counts.get(arm, 0) + 1

    def levels(self, arm: int) -> tuple[Level, ...]:
        """Return the levels as expected at `arm`: near arms count more; empty: none known."""
        if not self._counts or not self._metrics:
            return ()
        reach = self._parameters.curve_reach
        total, weight = np.zeros(len(self._metrics)), 0.0
        for other, count in self._counts.items():
            fading = math.exp(-abs(float(self._x[arm] - self._x[other])) / reach)
            total += fading * self._sums[other]
            weight += fading * count
        return tuple(
            Level(metric, float(gap), self._sd(float(gap)))
            for metric, gap in zip(self._metrics, total / weight, strict=True)
        )

    def _set_levels(self, run: Observation) -> None:
        metrics = [metric for _, metric in run.milestones]
        self.rising = metrics[-1] >= metrics[0]
        before_target = metrics[:-1]
        stride = math.ceil(len(before_target) / MOST_LEVELS) if before_target else 1
        self._metrics = tuple(before_target[::-stride][::-1])

    def _sd(self, gap: float) -> float:
        """The further from the target, the less a level tells of it."""
        p = self._parameters
        return p.gap_floor + p.gap_root * math.sqrt(max(gap, 0.0))
