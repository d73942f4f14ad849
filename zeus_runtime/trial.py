"""When to begin and end the measurement of one power limit, in steps.  Pure.

A trial settles for a few steps after the limit was applied and then measures over
whole steps for a few ticks of the energy counter.  Where epochs are too short for
that, it measures whole cycles instead (epoch and what follows it, evaluation
included), from the beginning of one epoch to that of a later one; and where steps are
interrupted within epochs all the time, from one such pause to a later one.  On the
step path nothing happens but `steps >= wake_at`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

NEVER = 1 << 62
WARM_UP_STEPS = 3
SURE_STEPS = 20
SURE_PERIODS = 10.0
LONG_PERIODS = 40.0  # so long is enough whatever the number of steps


@dataclass(frozen=True)
class Span:
    """A measured stretch: whole steps between two moments."""

    start_seconds: float
    end_seconds: float
    steps: int
    whole_cycles: bool


@dataclass(frozen=True)
class TrialRules:
    """How much is enough.

    Args:
        settle_steps, settle_seconds: both must pass after the limit was applied.
        measure_steps, measure_seconds: both must pass while measuring.
        steps_per_epoch: None: not known.
        partial_last_step: the last batch of an epoch is smaller and is left out.
    """

    settle_steps: int = 1
    settle_seconds: float = 0.1
    measure_steps: int = 5
    measure_seconds: float = 0.5
    steps_per_epoch: Optional[int] = None
    partial_last_step: bool = False

    @classmethod
    def for_period(
        cls, period_seconds: float, steps_per_epoch: Optional[int], partial_last_step: bool
    ) -> TrialRules:
        """Return the rules for a counter of that period."""
        steps = 5
        if steps_per_epoch is not None:
            steps = max(1, min(steps, steps_per_epoch - 1 - int(partial_last_step)))
        return cls(
            settle_seconds=period_seconds,
            measure_steps=steps,
            measure_seconds=5.0 * period_seconds,
            steps_per_epoch=steps_per_epoch,
            partial_last_step=partial_last_step,
        )

    def certainty(self, span: Span) -> float:
        """Share of a measurement that tells close limits apart, up to 1."""
        periods = 5.0 * (span.end_seconds - span.start_seconds) / self.measure_seconds
        both = min(span.steps / SURE_STEPS, periods / SURE_PERIODS)
        return min(1.0, max(both, periods / LONG_PERIODS))

    @property
    def usable_steps(self) -> Optional[int]:
        """Steps of an epoch that are alike."""
        if self.steps_per_epoch is None:
            return None
        return self.steps_per_epoch - int(self.partial_last_step)


class Trial:
    """The measurement of one limit; made when the limit has been applied.

    Args:
        rules: how much is enough.
        now_seconds, steps: the moment, and the steps of the run so far.
        whole_cycles: measure whole cycles from the start (an earlier trial had to).
        in_epoch: whether a training epoch is going on.
        epoch_start_steps: the steps of the run when that epoch began.
    """

    def __init__(
        self,
        rules: TrialRules,
        now_seconds: float,
        steps: int,
        *,
        whole_cycles: bool = False,
        in_epoch: bool = True,
        epoch_start_steps: int = 0,
    ) -> None:
        self._rules = rules
        self.whole_cycles = whole_cycles
        self._in_epoch = in_epoch
        self._epoch_start = epoch_start_steps
        self._applied = (now_seconds, steps)
        self._start: Optional[float] = None
        self._start_steps = 0
        self._cut_short = 0
        self._cycle_in_middle = False  # whether whole cycles are those from pause to pause
        self.span: Optional[Span] = None
        self.wake_at = NEVER
        if in_epoch and not whole_cycles:
            self.wake_at = steps + rules.settle_steps

    @property
    def start_seconds(self) -> Optional[float]:
        """When measuring began; None: settling."""
        return self._start

    def on_step(self, now_seconds: float, steps: int) -> None:
        """A step ended and `steps >= wake_at`."""
        if self.whole_cycles or self.span is not None or not self._in_epoch:
            self.wake_at = NEVER
        elif self._start is None:
            self._settle(now_seconds, steps)
        else:
            self._measure(now_seconds, steps)

    def on_epoch_end(self, now_seconds: float, steps: int) -> None:
        """The training part of an epoch ended."""
        self._in_epoch = False
        self.wake_at = NEVER
        if self.span is not None or self.whole_cycles:
            return
        if self._start is not None and not self._rules.partial_last_step:
            taken = steps - self._start_steps
            long_enough = now_seconds - self._start >= 0.6 * self._rules.measure_seconds
            if long_enough and taken >= self._rules.measure_steps:
                self.span = Span(self._start, now_seconds, taken, whole_cycles=False)
                return
        self._start = None
        self._cut_short += 1
        if self._cut_short > 1:
            self.whole_cycles = True  # it had a whole epoch and that was not enough

    def on_epoch_begin(self, now_seconds: float, steps: int) -> None:
        """The next epoch begins."""
        self._epoch_start = steps
        self._begin_steps(now_seconds, steps, in_middle=False)

    def go_on(self, now_seconds: float, steps: int) -> None:
        """Within an epoch steps go on after a pause."""
        self._begin_steps(now_seconds, steps, in_middle=True)

    def _begin_steps(self, now_seconds: float, steps: int, *, in_middle: bool) -> None:
        self._in_epoch = True
        if self.span is not None:
            return
        if not self.whole_cycles:
            self._applied = (self._applied[0], steps)  # steps after a pause settle again
            self.wake_at = steps + self._rules.settle_steps
            return
        if self._start is None:
            # The ticks at both ends of the span should see no other limit.
            if now_seconds - self._applied[0] >= self._rules.settle_seconds:
                self._start, self._start_steps = now_seconds, steps
                self._cycle_in_middle = in_middle
            return
        if in_middle != self._cycle_in_middle:
            return  # what comes between two epochs is not what comes within one
        taken = steps - self._start_steps
        if now_seconds - self._start >= self._rules.measure_seconds and taken > 0:
            self.span = Span(self._start, now_seconds, taken, whole_cycles=True)

    def _settle(self, now: float, steps: int) -> None:
        applied_at, applied_steps = self._applied
        done = steps - applied_steps
        missing_seconds = self._rules.settle_seconds - (now - applied_at)
        if missing_seconds > 0.0 or done < self._rules.settle_steps:
            per_step = (now - applied_at) / done if done > 0 else 0.0
            missing = math.ceil(missing_seconds / per_step) if per_step > 0.0 else 1
            self.wake_at = self._last_usable(steps, steps + max(missing, 1))
            return
        self._start, self._start_steps = now, steps
        self.wake_at = self._last_usable(steps, steps + self._rules.measure_steps)

    def _measure(self, now: float, steps: int) -> None:
        assert self._start is not None
        taken, elapsed = steps - self._start_steps, now - self._start
        if taken >= self._rules.measure_steps and elapsed >= self._rules.measure_seconds:
            self.span = Span(self._start, now, taken, whole_cycles=False)
            self.wake_at = NEVER
            return
        end = self._end_of_epoch()
        if self._rules.partial_last_step and end is not None and steps >= end:
            # The last like step: what there is now is all that this epoch gives.
            if elapsed >= 0.6 * self._rules.measure_seconds and taken >= self._rules.measure_steps:
                self.span = Span(self._start, now, taken, whole_cycles=False)
            self.wake_at = NEVER
            return
        per_step = elapsed / taken if taken else 0.0
        missing_seconds = max(self._rules.measure_seconds - elapsed, 0.0)
        missing = math.ceil(missing_seconds / per_step) if per_step > 0.0 else 1
        missing = max(missing, self._rules.measure_steps - taken, 1)
        self.wake_at = self._last_usable(steps, steps + missing)

    def _last_usable(self, steps: int, wake_at: int) -> int:
        """Return `wake_at`, or the last like step of the epoch if that comes before."""
        end = self._end_of_epoch()
        return wake_at if end is None or end <= steps else min(wake_at, end)

    def _end_of_epoch(self) -> Optional[int]:
        usable = self._rules.usable_steps
        return None if usable is None else self._epoch_start + usable
