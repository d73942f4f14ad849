"""What is shown of a job and needs its whole history.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zeus_operator.records import AttemptRecord, RecurrenceRecord
from zeus_operator.report.savings import Savings, measure
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import Result

SIMULATED_SUFFIX = "(simulated)"


@dataclass(frozen=True)
class CurvePoint:
    """One power limit of one batch size, per 1,000 samples."""

    power_limit_watts: float
    cost_joules: float
    energy_joules: float
    time_seconds: float


@dataclass(frozen=True)
class PowerCurve:
    """The measured power limits of one batch size, by ascending limit."""

    batch_size: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Environment:
    """Where the job ran.  Several entries where it ran on several kinds."""

    gpu_models: tuple[str, ...]
    gpu_drivers: tuple[str, ...]
    gpu_counts: tuple[int, ...]

    @property
    def simulated(self) -> bool:
        """Whether any run was on a simulated GPU."""
        return any(model.endswith(SIMULATED_SUFFIX) for model in self.gpu_models)


@dataclass(frozen=True)
class Findings:
    """What the whole history says.

    Args:
        curves: by ascending batch size.
    """

    savings: Savings
    curves: tuple[PowerCurve, ...]
    environment: Environment


def findings_of(recurrences: Sequence[RecurrenceRecord], eta: float) -> Findings:
    """Return what `recurrences` say: the whole history of a job, of both kinds.

    Args:
        eta: energy preference of the job.
    """
    return Findings(measure(recurrences), power_curves(recurrences, eta), environment(recurrences))


def last_result(attempt: AttemptRecord) -> Result | None:
    """Return the result of the attempt's last execution that has one."""
    return next((e.result for e in reversed(attempt.executions) if e.result is not None), None)


def power_curves(recurrences: Sequence[RecurrenceRecord], eta: float) -> tuple[PowerCurve, ...]:
    """Return the latest profile of each batch size that was profiled on the latest GPU model."""
    latest: dict[int, PowerCurve] = {}
    model = ""
    for result in reversed(list(_results(recurrences))):
        model = model or result.gpu_model
        points = [p for p in result.power_profile if p.power_limit_watts > 0]
        if result.gpu_model != model or len(points) < 2 or result.batch_size in latest:
            continue
        if result.batch_size < 1:  # a result holds whatever its file held
            continue
        per_thousand = 1000.0 / result.batch_size
        latest[result.batch_size] = PowerCurve(
            result.batch_size,
            tuple(
                CurvePoint(
                    power_limit_watts=point.power_limit_watts,
                    cost_joules=per_thousand
                    * cost_joules(
                        point.average_power_watts * point.seconds_per_step,
                        point.seconds_per_step,
                        result.max_power_watts,
                        eta,
                    ),
                    energy_joules=per_thousand * point.average_power_watts * point.seconds_per_step,
                    time_seconds=per_thousand * point.seconds_per_step,
                )
                for point in sorted(points, key=lambda p: p.power_limit_watts)
            ),
        )
    return tuple(latest[size] for size in sorted(latest))


def environment(recurrences: Sequence[RecurrenceRecord]) -> Environment:
    """Return the kinds of GPU that the results name, in the order they first appear."""
    results = list(_results(recurrences))
    return Environment(
        gpu_models=tuple(dict.fromkeys(r.gpu_model for r in results if r.gpu_model)),
        gpu_drivers=tuple(dict.fromkeys(r.gpu_driver for r in results if r.gpu_driver)),
        gpu_counts=tuple(dict.fromkeys(r.gpu_count for r in results if r.gpu_count)),
    )


def _results(recurrences: Sequence[RecurrenceRecord]) -> Iterator[Result]:
    for recurrence in sorted(recurrences, key=lambda r: r.id):
        for attempt in recurrence.attempts:
            result = last_result(attempt)
            if result is not None:
                yield result
