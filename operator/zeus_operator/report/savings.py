"""What a job saved against always running its default configuration.  Pure.

The figure, so far: 1 - (what the learned recurrences cost) / (finished models x
expected cost of one finished model of the default).  What was spent is known to the
joule: all attempts count, the unsuccessful ones and the profiling of power limits
included, and so do recurrences that delivered no model.  Only what the default would
have cost is estimated (`default_cost`), so that is all that the interval is about.

The last third of the recurrences shows where the job has got to.  That is a
question about the future, so there both sides are estimated: what a recurrence of
that kind is expected to cost, as well as the default.

No figure is given without its interval; until there is one, it says why.
Recurrences that can't be compared with the newest are left out (`comparable`).
`docs/explanation/savings.md` says what the figure is and how often it is right.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zeus_operator.records import RecurrenceRecord, RecurrenceState
from zeus_operator.report.comparable import LeftOut, comparable
from zeus_operator.report.default_cost import ArmRuns, DefaultRun, default_cost
from zeus_operator.report.estimate import CONFIDENCE, Estimate, ratio_interval
from zeus_operator.report.evidence import (
    Evidence,
    Sample,
    gather,
    recurrence_energy_joules,
    recurrence_time_seconds,
)

__all__ = [
    "Comparison",
    "Estimate",
    "NotKnown",
    "Saving",
    "Savings",
    "measure",
    "recurrence_energy_joules",
    "recurrence_time_seconds",
    "saved_so_far",
]

MIN_FOR_FUTURE = 3
"""Recurrences in the last third without which nothing is said of the future."""

Quantity = Callable[[Sample], float | None]


class NotKnown(enum.Enum):
    """Why a saving is not known yet."""

    NOTHING_LEARNED = "nothing learned"  # only the default has run
    NO_MODEL = "no model"  # no learned recurrence has reached its target
    NO_DEFAULT = "no default"  # no run of the default that counts
    DEFAULT_FAILED = "default failed"  # it has not reached the target
    NO_SPREAD = "no spread"  # too few repeated runs
    NOT_MEASURED = "not measured"  # on one of the sides
    FEW_RECURRENCES = "few recurrences"  # for a question about the future


@dataclass(frozen=True)
class Saving:
    """One quantity on both sides.  Fractions: 0.25 is a quarter saved, below 0 is lost.

    Args:
        low, high: bounds of the 95 % interval of `fraction`.
    """

    learned: Estimate
    default: Estimate
    fraction: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low * self.high > 0


@dataclass(frozen=True)
class Comparison:
    """Recurrences against the default; a quantity is None while it is not known.

    Args:
        not_known: why the cost is not known; None: it is.
    """

    cost: Saving | None
    energy: Saving | None
    time: Saving | None
    recurrences: int
    not_known: NotKnown | None = None


@dataclass(frozen=True)
class Savings:
    """The savings of a job.

    Args:
        overall: over all learned recurrences, exploration included.
        with_control: the same with the recurrences of the default, which save nothing.
        converged: over the last third of the learned ones: what to expect of the next.
        default_cost: of the default configuration per finished model; None: not known yet.
        default_runs: runs that tell what the default costs, before it is known as well.
        control: recurrences of the default: control runs, or under Observe or Recommend.
        learned_failed, control_failed: recurrences that reached no target.
        unmeasured: ended recurrences without a known cost; they are left out.
        left_out: measured, but not to be compared with the newest.
        compared: ids of the recurrences that are counted.
    """

    overall: Comparison
    with_control: Comparison
    converged: Comparison
    default_cost: Estimate | None
    default_runs: int
    control: int
    learned_failed: int
    control_failed: int
    unmeasured: int
    left_out: tuple[LeftOut, ...] = ()
    compared: frozenset[int] = frozenset()


def measure(recurrences: Sequence[RecurrenceRecord]) -> Savings:
    """Return the savings in a job's history.

    Args:
        recurrences: of both kinds.  Open, cancelled and skipped ones are passed over.
    """
    ended = [r for r in recurrences if r.state in (RecurrenceState.REACHED, RecurrenceState.FAILED)]
    measured = [r for r in ended if r.cost_joules is not None]
    counted, left_out = comparable(measured)
    evidence = gather(counted)
    learned, control = evidence.learned, evidence.control
    last_third = learned[-math.ceil(len(learned) / 3) :] if learned else ()
    return Savings(
        overall=_compare(evidence, learned, _spent),
        with_control=_compare(evidence, (*learned, *control), _spent),
        converged=_compare(evidence, last_third, _expected),
        default_cost=_default(evidence, _cost),
        default_runs=len(_default_runs(evidence, _cost)),
        control=len(control),
        learned_failed=sum(not sample.reached for sample in learned),
        control_failed=sum(not sample.reached for sample in control),
        unmeasured=len(ended) - len(measured),
        left_out=left_out,
        compared=frozenset(r.id for r in counted),
    )


def saved_so_far(
    spent: float,
    models: int,
    runs: Sequence[DefaultRun],
    arms: Sequence[ArmRuns],
    confidence: float = CONFIDENCE,
) -> Saving | None:
    """Return what was saved so far, from plain numbers; None: not known yet.

    Args:
        spent: what the recurrences took, together.
        models: how many of them ended with one.
        runs, arms: see `default_cost`.
    """
    default = default_cost(runs, arms)
    if default is None or models < 1 or spent <= 0.0:
        return None
    return _saving(Estimate.exactly(spent / models, models), default, confidence)


def _saving(ours: Estimate, default: Estimate, confidence: float = CONFIDENCE) -> Saving:
    low, high = ratio_interval(ours, default, confidence)
    return Saving(ours, default, 1.0 - ours.mean / default.mean, 1.0 - high, 1.0 - low)


def _cost(sample: Sample) -> float | None:
    return sample.cost


def _compare(
    evidence: Evidence,
    ours: Sequence[Sample],
    estimate: Callable[[Sequence[Sample], Quantity], Estimate | None],
) -> Comparison:
    def saving(quantity: Quantity) -> Saving | None:
        mine, default = estimate(ours, quantity), _default(evidence, quantity)
        return None if mine is None or default is None else _saving(mine, default)

    cost = saving(_cost) if evidence.learned else None
    return Comparison(
        cost=cost,
        energy=saving(lambda sample: sample.energy) if cost is not None else None,
        time=saving(lambda sample: sample.time) if cost is not None else None,
        recurrences=len(ours),
        not_known=None if cost is not None else _why(evidence, ours),
    )


def _why(evidence: Evidence, ours: Sequence[Sample]) -> NotKnown:
    """Return the first thing that is missing for the cost saved."""
    if not evidence.learned:
        return NotKnown.NOTHING_LEARNED
    if not any(sample.reached for sample in ours):
        return NotKnown.NO_MODEL
    runs = _default_runs(evidence, _cost)
    if not runs:
        return NotKnown.NO_DEFAULT
    if not any(run.reached for run in runs):
        return NotKnown.DEFAULT_FAILED
    if _default(evidence, _cost) is None:
        return NotKnown.NO_SPREAD
    return NotKnown.FEW_RECURRENCES if len(ours) < MIN_FOR_FUTURE else NotKnown.NOT_MEASURED


def _default_runs(evidence: Evidence, quantity: Quantity) -> list[DefaultRun]:
    return [
        DefaultRun(value, sample.reached)
        for sample in evidence.default
        if (value := quantity(sample)) is not None and value > 0.0
    ]


def _default(evidence: Evidence, quantity: Quantity) -> Estimate | None:
    return default_cost(_default_runs(evidence, quantity), evidence.arms)


def _amounts(samples: Sequence[Sample], quantity: Quantity) -> list[tuple[float, bool]] | None:
    """Return what each took and whether it delivered; None: nothing can be said of them."""
    values = [(value, s.reached) for s in samples if (value := quantity(s)) is not None]
    total = sum(value for value, _ in values)
    if len(values) != len(samples) or total <= 0.0 or not any(reached for _, reached in values):
        return None
    return values


def _spent(samples: Sequence[Sample], quantity: Quantity) -> Estimate | None:
    """Return what a finished model of these took: nothing to estimate."""
    values = _amounts(samples, quantity)
    if values is None:
        return None
    models = sum(reached for _, reached in values)
    return Estimate.exactly(sum(value for value, _ in values) / models, len(values))


def _expected(samples: Sequence[Sample], quantity: Quantity) -> Estimate | None:
    """Return what a finished model of such recurrences is expected to take.

    Its variance is that of a ratio estimator (Cochran, Sampling Techniques,
    section 6.4); where every recurrence reached its target that is the usual
    variance of a mean.
    """
    values = _amounts(samples, quantity)
    if values is None or len(values) < MIN_FOR_FUTURE:
        return None
    count, models = len(values), sum(reached for _, reached in values)
    mean = sum(value for value, _ in values) / models
    residuals = sum((value - mean * reached) ** 2 for value, reached in values)
    error = math.sqrt(residuals / (count * (count - 1))) / (models / count)
    return Estimate(mean, count, math.log(mean), error / mean, count - 1.0)
