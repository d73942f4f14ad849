"""What an attempt cost, and what there is to learn from it.  Pure.

Two sums, because they answer different questions
(`docs/decisions/preempted-attempts.md`):

- *the bill*: energy, time and cost of every execution of the attempt, preempted
  ones included.  It is what was spent, and what savings are computed from.
- *the observation*: the last execution alone.  A preempted run starts again
  from scratch, so the last one is the whole run of this batch size; what was
  lost to the preemption is not the batch size's fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from zeus_operator.classify import RunIdentity, implausible
from zeus_operator.optimizer.types import SweepPoint
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import DecisionRecord, ExecutionRecord
from zeus_operator.sweeps import (
    believable_full_power,
    believable_sweep,
    believable_sweep_use,
    is_positive,
)
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import PowerProfilePoint, Result


@dataclass(frozen=True)
class Bill:
    """What all executions of an attempt took.

    Energy and cost are None where nothing that was measured is believable.
    """

    epochs: int = 0
    energy_joules: float | None = None
    time_seconds: float | None = None
    cost_joules: float | None = None
    epoch_cost_joules: float | None = None
    power_limit_watts: float | None = None
    best_metric: float | None = None
    gpu_model: str = ""


@dataclass(frozen=True)
class Lesson:
    """What one whole run of a batch size cost."""

    epochs: int
    cost_joules: float
    epoch_cost_joules: float | None
    energy_joules: float | None
    time_seconds: float
    max_power_watts: float
    gpu_model: str
    gpu_count: int
    milestones: tuple[tuple[int, float], ...]
    full_power_epoch_cost_joules: float | None = None
    sweep: tuple[SweepPoint, ...] = ()
    sweep_cost_joules: float = 0.0


@dataclass(frozen=True)
class MeasuredProfile:
    """A power profile that a run brought home."""

    gpu_model: str
    gpu_driver: str
    gpu_count: int
    points: tuple[PowerProfilePoint, ...]


def believable_results(
    executions: tuple[ExecutionRecord, ...],
    decision: DecisionRecord,
    spec: JobPlanSpec,
    identity: RunIdentity,
) -> tuple[Result, ...]:
    """Return the results that may be counted, in the order of the executions."""
    return tuple(
        execution.result
        for execution in executions
        if execution.result is not None and implausible(execution, decision, spec, identity) is None
    )


def cost_of(
    energy_joules: float | None, time_seconds: float, max_power_watts: float, eta: float
) -> float | None:
    """Return the cost in joules; None where a part of it that counts is unknown.

    Args:
        energy_joules: None: not measurable there.  It is not needed where `eta` is 0.
        max_power_watts: 0: no GPU is known.  It is not needed where `eta` is 1.
    """
    if energy_joules is None and eta > 0.0:
        return None
    if max_power_watts <= 0.0 and eta < 1.0:
        return None
    return cost_joules(energy_joules or 0.0, time_seconds, max_power_watts, eta)


def bill(results: tuple[Result, ...], eta: float) -> Bill:
    """Sum what was measured over the executions.

    An execution that ended before it had measured anything adds nothing: the
    sum is what is known, never a guess.
    """
    if not results:
        return Bill()
    last = results[-1]
    energies = [result.energy_joules for result in results if result.energy_joules is not None]
    costs = [
        cost
        for result in results
        if (cost := cost_of(result.energy_joules, result.time_seconds, result.max_power_watts, eta))
        is not None
    ]
    return Bill(
        epochs=last.epochs,
        energy_joules=sum(energies) if last.energy_joules is not None else None,
        time_seconds=sum(result.time_seconds for result in results),
        cost_joules=sum(costs) if _cost(last, eta) is not None else None,
        epoch_cost_joules=_epoch_cost(last, eta),
        power_limit_watts=last.power_limit_watts,
        best_metric=last.best_metric,
        gpu_model=last.gpu_model,
    )


def lesson(execution_result: Result | None, decision: DecisionRecord, eta: float) -> Lesson | None:
    """Return what the last execution teaches; None where its cost is unknown."""
    if execution_result is None:
        return None
    result = execution_result
    cost = _cost(result, eta)
    if cost is None:
        return None

    def cost_of_part(part: tuple[float | None, float] | None) -> float | None:
        return None if part is None else cost_of(*part, result.max_power_watts, eta)

    sweep = tuple(
        SweepPoint(each.batch_size, epoch_cost)
        for each in believable_sweep(result, decision)
        if (epoch_cost := cost_of_part((each.epoch_joules, each.epoch_seconds))) is not None
    )
    return Lesson(
        epochs=result.epochs,
        cost_joules=cost,
        epoch_cost_joules=_epoch_cost(result, eta),
        energy_joules=result.energy_joules,
        time_seconds=result.time_seconds,
        max_power_watts=result.max_power_watts,
        gpu_model=result.gpu_model,
        gpu_count=result.gpu_count,
        milestones=result.milestones,
        full_power_epoch_cost_joules=cost_of_part(believable_full_power(result)),
        sweep=sweep,
        sweep_cost_joules=cost_of_part(believable_sweep_use(result, decision)) or 0.0,
    )


def measured_profile(result: Result | None) -> MeasuredProfile | None:
    """Return the profile in `result`, if it holds one that later runs can use."""
    if result is None or not result.power_profile or not result.gpu_model:
        return None
    if any(
        not (
            is_positive(point.power_limit_watts)
            and is_positive(point.average_power_watts)
            and is_positive(point.seconds_per_step)
        )
        for point in result.power_profile
    ):
        return None
    return MeasuredProfile(
        result.gpu_model, result.gpu_driver, result.gpu_count, result.power_profile
    )


def _cost(result: Result, eta: float) -> float | None:
    return cost_of(result.energy_joules, result.time_seconds, result.max_power_watts, eta)


def _epoch_cost(result: Result, eta: float) -> float | None:
    if result.epoch_time_seconds is None:
        return None
    return cost_of(
        result.epoch_energy_joules, result.epoch_time_seconds, result.max_power_watts, eta
    )
