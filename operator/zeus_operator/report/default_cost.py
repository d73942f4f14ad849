"""What one recurrence of the default is expected to cost, from runs that nobody chose.  Pure.

Only runs of the default count that took place whatever had been measured before:
the job's first run, control runs, and what ran under Observe or Recommend.  A
policy runs the default again when it looks good and leaves it when it looks bad,
and it stops the runs that last; the mean over such runs is off in either direction
(`docs/explanation/savings.md`).

The cost of a run is taken to be lognormal: epochs to the target times a cost per
epoch that hardly varies.  So ln E = mu + s^2/2, with the variance of Cox's method
(Zhou and Gao, Statistics in Medicine 16, 1997).  The spread s of so few runs is
moderated: that of the default's own runs and that of the job's other batch sizes,
the latter counted as `POOL_FREEDOM` more runs, with Student's t at the degrees of
freedom of both (Smyth, Statistical Applications in Genetics 3, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zeus_operator.report.estimate import Estimate

MIN_REPEATS = 3
"""Runs of a batch size that had run before, over all of them; with fewer no spread is known."""
POOL_FREEDOM = 3.0
"""What other batch sizes say of the default's spread counts as so many runs: they differ."""
ARM_FREEDOM = 3.0
"""Most that one batch size may count in the pool: the one that is run most is not typical."""
PRIOR_SD, PRIOR_FREEDOM = 0.15, 2.0
"""Spread of ln(epochs) between runs before any was repeated, worth so many runs in the pool."""
LEAST_SD = 0.03
"""No spread is believed to be less: epochs are whole numbers, and measurements have noise."""
MOST_SD = 13.0
"""With more, runs that should take the same differ by ten powers of ten: there is no figure, and
its bounds would be beyond any number."""
MAX_STOPPED_SHARE = 0.1
"""A batch size with more of its runs stopped says nothing of the spread: the long ones miss."""


@dataclass(frozen=True)
class DefaultRun:
    """One run of the default: what it took, and whether it reached the target."""

    amount: float
    reached: bool = True


@dataclass(frozen=True)
class ArmRuns:
    """Runs at one batch size.

    Args:
        epochs: of those that reached the target.
        stopped: how many were stopped before they did.
    """

    epochs: tuple[int, ...]
    stopped: int = 0


def default_cost(runs: Sequence[DefaultRun], arms: Sequence[ArmRuns]) -> Estimate | None:
    """Return what a finished model of the default takes; None: not known yet.

    Args:
        runs: of the default, with positive amounts; none of them chosen for what had
            been measured, none of them stopped.
        arms: the other runs of the job, for their spread alone; the default's that a
            policy chose are one of them.
    """
    values = [math.log(run.amount) for run in runs if run.reached]
    failed = [run.amount for run in runs if not run.reached]
    spread = _spread(values, arms)
    if not values or spread is None or spread[0] > MOST_SD**2:
        return None
    variance, freedom = spread
    reached = len(values)
    of_success = math.exp(sum(values) / reached + 0.5 * variance)
    error = of_success**2 * (variance / reached + variance**2 / (2.0 * freedom))
    expected = of_success
    if failed:  # for each model so many failures are paid as well
        each, odds = sum(failed) / len(failed), len(failed) / reached
        expected += odds * each
        error += (odds * each) ** 2 * (1.0 / len(failed) + 1.0 / reached)
    return Estimate(
        mean=sum(run.amount for run in runs) / reached,
        runs=len(runs),
        log_centre=math.log(expected),
        log_error=math.sqrt(error) / expected,
        freedom=freedom,
    )


def _spread(values: Sequence[float], arms: Sequence[ArmRuns]) -> tuple[float, float] | None:
    """Return variance and degrees of freedom of ln(cost) between runs of the default."""
    own_freedom = max(len(values) - 1, 0)
    squares, weight = PRIOR_FREEDOM * PRIOR_SD**2, PRIOR_FREEDOM
    seen = own_freedom
    for arm in arms:
        if not _tells(arm):
            continue
        freedom = len(arm.epochs) - 1
        counted = min(freedom, ARM_FREEDOM)
        squares += counted * _squares([math.log(epochs) for epochs in arm.epochs]) / freedom
        weight += counted
        seen += freedom
    if seen < MIN_REPEATS:
        return None
    total = POOL_FREEDOM + own_freedom
    variance = (POOL_FREEDOM * squares / weight + _squares(values)) / total
    return max(variance, LEAST_SD**2), total


def _tells(arm: ArmRuns) -> bool:
    runs = len(arm.epochs) + arm.stopped
    return len(arm.epochs) > 1 and arm.stopped <= MAX_STOPPED_SHARE * runs


def _squares(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)
