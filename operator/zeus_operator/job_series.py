"""What Prometheus is shown of one job, and under which names.

About 35 series a job: its sums, what it saved with the bounds of that, its last run and its
conditions.  None of them is of one run, so their number follows the number of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

# Not "job": Prometheus keeps that label for the name of the scrape.
_JOB = ("namespace", "zeusjob")

JobKey = tuple[str, str]
"""Namespace and name of a ZeusJob."""


@dataclass(frozen=True)
class Saved:
    """One quantity against the default, over the recurrences that can be compared.

    Attributes:
        compared: what the learned recurrences took together; joules, or seconds of the time.
        default: what as many finished models of the default are expected to take.
        low, high: bounds of the 95 % interval of the fraction saved.
    """

    compared: float
    default: float
    low: float
    high: float


@dataclass(frozen=True)
class LastRun:
    """The recurrence that ended last, with or without a model; what is not known is None."""

    ended_at_seconds: float
    energy_joules: float | None = None
    time_seconds: float | None = None
    cost_joules: float | None = None


@dataclass(frozen=True)
class JobSeries:
    """One job's sums, as the store has them.

    Attributes:
        decisions: number of decisions by policy.
        attempts: number of ended attempts by outcome.
        recurrences: number of ended recurrences by state.
        energy_joules: of all its runs.
        time_seconds: of all its runs.
        cost_joules: of all its runs whose cost is known; None: of none.
        saved_ratios: fraction saved of "cost", "energy" and "time" against the default; what is
            not known is left out.
        saved: what these fractions are made of.
        failures_in_row: recurrences that failed since one last reached its target.
        last_run: None: none has ended yet.
        batch_size: last decided; None: none yet.
        converged: whether the batch size is settled; None: not known.
        conditions: whether each condition holds, and its reason.
    """

    decisions: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    recurrences: Mapping[str, int] = field(default_factory=dict)
    energy_joules: float = 0.0
    time_seconds: float = 0.0
    cost_joules: float | None = None
    saved_ratios: Mapping[str, float] = field(default_factory=dict)
    saved: Mapping[str, Saved] = field(default_factory=dict)
    failures_in_row: int | None = None
    last_run: LastRun | None = None
    batch_size: int | None = None
    converged: bool | None = None
    conditions: Mapping[str, tuple[bool, str]] = field(default_factory=dict)


Jobs = Sequence[tuple[JobKey, JobSeries]]

_Value = Callable[[JobSeries], float | None]


def families(jobs: Jobs) -> Iterator[Metric]:
    """Yield the metrics of `jobs`; what is not known of a job has no series."""
    yield from _counts(jobs)
    for name, text, value in _COUNTERS:
        yield _filled(CounterMetricFamily(name, text, labels=_JOB), jobs, value)
    for name, text, value in _GAUGES:
        yield _filled(GaugeMetricFamily(name, text, labels=_JOB), jobs, value)
    yield from _savings(jobs)
    condition = GaugeMetricFamily(
        "zeus_job_condition",
        "1: the condition holds, 0: it does not; the reason is the one that the status gives",
        labels=(*_JOB, "condition", "reason"),
    )
    for key, job in jobs:
        for kind, (holds, reason) in job.conditions.items():
            condition.add_metric((*key, kind, reason), float(holds))
    yield condition


def _filled(family: Metric, jobs: Jobs, value: _Value) -> Metric:
    for key, job in jobs:
        known = value(job)
        if known is not None:
            family.add_metric(key, known)  # type: ignore[attr-defined]  # of both families
    return family


def _counts(jobs: Jobs) -> Iterator[Metric]:
    by_label: tuple[tuple[str, str, str, Callable[[JobSeries], Mapping[str, int]]], ...] = (
        ("zeus_operator_decisions", "Decisions", "policy", lambda job: job.decisions),
        ("zeus_operator_attempts", "Ended attempts", "outcome", lambda job: job.attempts),
        ("zeus_operator_recurrences", "Recurrences", "state", lambda job: job.recurrences),
    )
    for name, text, label, counts_of in by_label:
        family = CounterMetricFamily(name, text, labels=(*_JOB, label))
        for key, job in jobs:
            for value, count in counts_of(job).items():
                family.add_metric((*key, value), count)
        yield family


def _savings(jobs: Jobs) -> Iterator[Metric]:
    labels = (*_JOB, "of")
    ratio = GaugeMetricFamily(
        "zeus_job_saved_ratio", "Fraction saved against the default", labels=labels
    )
    low = GaugeMetricFamily(
        "zeus_job_saved_ratio_low", "Lower bound of its 95 % interval", labels=labels
    )
    high = GaugeMetricFamily(
        "zeus_job_saved_ratio_high", "Upper bound of its 95 % interval", labels=labels
    )
    for key, job in jobs:
        for of, fraction in job.saved_ratios.items():
            ratio.add_metric((*key, of), fraction)
        for of, saved in job.saved.items():
            low.add_metric((*key, of), saved.low)
            high.add_metric((*key, of), saved.high)
    yield from (ratio, low, high)


def _saved(of: str, side: Callable[[Saved], float]) -> _Value:
    return lambda job: side(job.saved[of]) if of in job.saved else None


def _of_last_run(value: Callable[[LastRun], float | None]) -> _Value:
    return lambda job: None if job.last_run is None else value(job.last_run)


_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    ("zeus_job_energy_joules", "Energy of all runs", lambda job: job.energy_joules),
    ("zeus_job_time_seconds", "Time of all runs", lambda job: job.time_seconds),
    (
        "zeus_job_cost_joules",
        "Cost of all runs whose cost is known, in joules as energyPreference weighs them",
        lambda job: job.cost_joules,
    ),
)

_GAUGES: tuple[tuple[str, str, _Value], ...] = (
    ("zeus_job_batch_size", "Batch size last decided", lambda job: job.batch_size),
    (
        "zeus_job_converged",
        "1: the batch size is settled",
        lambda job: None if job.converged is None else float(job.converged),
    ),
    (
        "zeus_job_failures_in_row",
        "Recurrences that have failed since one last reached its target",
        lambda job: job.failures_in_row,
    ),
    (
        "zeus_job_compared_energy_joules",
        "Energy of the learned recurrences that can be compared with the default",
        _saved("energy", lambda saved: saved.compared),
    ),
    (
        "zeus_job_default_energy_joules",
        "Energy that as many models of the default are expected to take",
        _saved("energy", lambda saved: saved.default),
    ),
    (
        "zeus_job_compared_cost_joules",
        "Cost of the learned recurrences that can be compared with the default",
        _saved("cost", lambda saved: saved.compared),
    ),
    (
        "zeus_job_default_cost_joules",
        "Cost that as many models of the default are expected to have",
        _saved("cost", lambda saved: saved.default),
    ),
    (
        "zeus_job_last_run_end_timestamp_seconds",
        "When the last recurrence ended, seconds since 1970",
        _of_last_run(lambda run: run.ended_at_seconds),
    ),
    (
        "zeus_job_last_run_energy_joules",
        "Energy of the last recurrence, all its attempts",
        _of_last_run(lambda run: run.energy_joules),
    ),
    (
        "zeus_job_last_run_time_seconds",
        "Time of the last recurrence, all its attempts",
        _of_last_run(lambda run: run.time_seconds),
    ),
    (
        "zeus_job_last_run_cost_joules",
        "Cost of the last recurrence, all its attempts",
        _of_last_run(lambda run: run.cost_joules),
    ),
)
