"""What a job saved against its default configuration, measured the same way.  Pure.

A recurrence costs what all of its attempts cost, the unsuccessful ones and the
profiling of power limits included.  The default configuration is measured by
control recurrences: default batch size, power limit as found, same script, same
machine.  The figure compared is the cost of one finished model,
(cost of all recurrences) / (recurrences that reached the target), so that a
recurrence that spent energy and delivered nothing counts against its side.

The interval is for the ratio of two such figures: on the logarithm, by the
delta method, with Student's t at Welch and Satterthwaite's degrees of freedom.
With fewer than three recurrences on a side no interval is given.  Recurrences
that can't be compared with the newest are left out (`comparable`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zeus_operator.records import AttemptRecord, RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.report.comparable import LeftOut, comparable
from zeus_operator.report.statistics import student_t_quantile
from zeus_runtime.protocol import Outcome

CONFIDENCE = 0.95
MIN_FOR_INTERVAL = 3

NO_CONTROL = (
    "Savings are not known yet: no recurrence of the default configuration was measured. "
    "Run with --control 5 to measure it the same way."
)
NO_LEARNED = "Savings are not known yet: no recurrence has reached its target."


@dataclass(frozen=True)
class Estimate:
    """What one finished model took, with its standard error (None with one recurrence)."""

    mean: float
    standard_error: float | None
    recurrences: int

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean; None where it is not known yet."""
        if self.standard_error is None or self.recurrences < MIN_FOR_INTERVAL:
            return None
        quantile = student_t_quantile(0.5 + 0.5 * CONFIDENCE, self.recurrences - 1)
        spread = quantile * self.standard_error
        return self.mean - spread, self.mean + spread


@dataclass(frozen=True)
class Saving:
    """One quantity on both sides.  Fractions: 0.25 is a quarter saved, below 0 is lost.

    Args:
        low, high: bounds of the 95 % interval of `fraction`; None: not known yet.
    """

    learned: Estimate
    control: Estimate
    fraction: float
    low: float | None = None
    high: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass(frozen=True)
class Comparison:
    """Learned recurrences against control recurrences; None where it is not known."""

    cost: Saving | None
    energy: Saving | None
    time: Saving | None
    recurrences: int


@dataclass(frozen=True)
class Savings:
    """The measured savings of a job.

    Args:
        overall: over all learned recurrences, exploration included.
        converged: over the last third of them: what the job has converged to.
        control: the default configuration per finished model.
        learned_failed, control_failed: recurrences that reached no target.
        unmeasured: ended recurrences without a known cost; they are left out.
        left_out: measured, but not to be compared with the newest.
        compared: ids of the recurrences that are counted.
        note: why savings are not known; "": they are.
    """

    overall: Comparison
    converged: Comparison
    control_cost: Estimate | None
    learned_failed: int
    control_failed: int
    unmeasured: int
    left_out: tuple[LeftOut, ...] = ()
    compared: frozenset[int] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class _Sample:
    """One recurrence: joules of cost and energy, seconds, and whether it reached the target."""

    cost: float
    energy: float | None
    time: float | None
    reached: bool


def recurrence_energy_joules(recurrence: RecurrenceRecord) -> float | None:
    """Return the energy of all attempts; None while one of them has none."""
    return _summed(recurrence, lambda attempt: attempt.energy_joules)


def recurrence_time_seconds(recurrence: RecurrenceRecord) -> float | None:
    """Return the seconds of all attempts; None while one of them has none."""
    return _summed(recurrence, lambda attempt: attempt.time_seconds)


def _summed(
    recurrence: RecurrenceRecord, quantity: Callable[[AttemptRecord], float | None]
) -> float | None:
    attempts = [a for a in recurrence.attempts if a.outcome is not Outcome.CANCELLED]
    values = [value for a in attempts if (value := quantity(a)) is not None]
    return sum(values) if values and len(values) == len(attempts) else None


def measure(recurrences: Sequence[RecurrenceRecord]) -> Savings:
    """Return the savings in a job's history.

    Args:
        recurrences: of both kinds, each kind in ascending order.  Open, cancelled
            and skipped ones are passed over.
    """
    ended = [r for r in recurrences if r.state in (RecurrenceState.REACHED, RecurrenceState.FAILED)]
    measured = [r for r in ended if r.cost_joules is not None]
    counted, left_out = comparable(measured)
    learned = _samples(counted, RecurrenceKind.LEARNED)
    control = _samples(counted, RecurrenceKind.CONTROL)
    last_third = learned[-math.ceil(len(learned) / 3) :] if learned else []
    note = ""
    if not any(sample.reached for sample in control):
        note = NO_CONTROL
    elif not any(sample.reached for sample in learned):
        note = NO_LEARNED
    return Savings(
        overall=_compare(learned, control),
        converged=_compare(last_third, control),
        control_cost=_estimate(control, lambda sample: sample.cost),
        learned_failed=sum(not sample.reached for sample in learned),
        control_failed=sum(not sample.reached for sample in control),
        unmeasured=len(ended) - len(measured),
        left_out=left_out,
        compared=frozenset(r.id for r in counted),
        note=note,
    )


def _samples(recurrences: Sequence[RecurrenceRecord], kind: RecurrenceKind) -> list[_Sample]:
    return [
        _Sample(
            cost=r.cost_joules,
            energy=recurrence_energy_joules(r),
            time=recurrence_time_seconds(r),
            reached=r.state is RecurrenceState.REACHED,
        )
        for r in recurrences
        if r.kind is kind and r.cost_joules is not None
    ]


def _compare(learned: Sequence[_Sample], control: Sequence[_Sample]) -> Comparison:
    return Comparison(
        cost=_saving(learned, control, lambda sample: sample.cost),
        energy=_saving(learned, control, lambda sample: sample.energy),
        time=_saving(learned, control, lambda sample: sample.time),
        recurrences=len(learned),
    )


def _estimate(
    samples: Sequence[_Sample], quantity: Callable[[_Sample], float | None]
) -> Estimate | None:
    """Return the quantity of one finished model, a ratio of sums.

    Its variance is that of a ratio estimator (Cochran, Sampling Techniques,
    section 6.4); where every recurrence reached its target that is the usual
    variance of a mean.
    """
    values = [(value, s.reached) for s in samples if (value := quantity(s)) is not None]
    count, reached = len(values), sum(success for _, success in values)
    if not reached or len(values) != len(samples):
        return None
    mean = sum(value for value, _ in values) / reached
    if count < 2:
        return Estimate(mean, None, count)
    residuals = sum((value - mean * success) ** 2 for value, success in values)
    error = math.sqrt(residuals / (count * (count - 1))) / (reached / count)
    return Estimate(mean, error, count)


def _saving(
    learned: Sequence[_Sample],
    control: Sequence[_Sample],
    quantity: Callable[[_Sample], float | None],
) -> Saving | None:
    ours, theirs = _estimate(learned, quantity), _estimate(control, quantity)
    if ours is None or theirs is None or theirs.mean <= 0 or ours.mean <= 0:
        return None
    fraction = 1.0 - ours.mean / theirs.mean
    bounds = _interval(ours, theirs)
    if bounds is None:
        return Saving(ours, theirs, fraction)
    return Saving(ours, theirs, fraction, *bounds)


def _interval(ours: Estimate, theirs: Estimate) -> tuple[float, float] | None:
    if min(ours.recurrences, theirs.recurrences) < MIN_FOR_INTERVAL:
        return None
    if ours.standard_error is None or theirs.standard_error is None:
        return None
    ratio = ours.mean / theirs.mean
    a = (ours.standard_error / ours.mean) ** 2
    b = (theirs.standard_error / theirs.mean) ** 2
    if a + b == 0.0:
        return 1.0 - ratio, 1.0 - ratio
    freedom = (a + b) ** 2 / (a * a / (ours.recurrences - 1) + b * b / (theirs.recurrences - 1))
    spread = student_t_quantile(0.5 + 0.5 * CONFIDENCE, freedom) * math.sqrt(a + b)
    return 1.0 - ratio * math.exp(spread), 1.0 - ratio * math.exp(-spread)
