"""What the validation metric says about a run.  Pure."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

from zeus_runtime.protocol import Decision, MetricMode


class MetricRecord:
    """The metric so far: best, last, and each time it improved.

    Args:
        mode: which direction is better.
        target: the value that is good enough; None outside a ZeusJob.
    """

    def __init__(self, mode: MetricMode = MetricMode.MAX, target: Optional[float] = None) -> None:
        self._mode = mode
        self._target = target
        self._milestones: List[Tuple[int, float]] = []
        self.last: Optional[float] = None
        self.reports = 0
        self.last_epoch = 0
        self.reached = False
        self.diverged = False

    def report(self, epoch: int, value: float) -> None:
        """Take the metric after `epoch` complete epochs.  Not finite: the run has diverged."""
        self.reports += 1
        self.last_epoch = epoch
        if not math.isfinite(value):
            self.diverged = True
            return
        self.last = value
        best = self.best
        if best is None or self._mode.is_better(value, best):
            self._milestones.append((epoch, value))
        if self._target is not None and self._mode.is_reached(value, self._target):
            self.reached = True

    def restore(
        self,
        milestones: Tuple[Tuple[int, float], ...],
        last: Optional[float],
        last_epoch: int,
        *,
        diverged: bool = False,
    ) -> None:
        """Go on after the reports of an earlier part of the run; `last` None: none was finite."""
        self._milestones = list(milestones)
        self.last, self.last_epoch, self.diverged = last, last_epoch, diverged
        self.reports = int(last is not None or diverged)
        best = self.best
        if best is not None and self._target is not None:
            self.reached = self._mode.is_reached(best, self._target)

    @classmethod
    def of(cls, decision: Optional[Decision]) -> MetricRecord:
        """Return the record of a run that has begun; None: outside a ZeusJob."""
        if decision is None:
            return cls()
        return cls(MetricMode(decision.metric_mode), decision.target)

    @property
    def best(self) -> Optional[float]:
        """Best metric so far."""
        return self._milestones[-1][1] if self._milestones else None

    @property
    def milestones(self) -> Tuple[Tuple[int, float], ...]:
        """(epoch, metric) each time the best metric improved."""
        return tuple(self._milestones)
