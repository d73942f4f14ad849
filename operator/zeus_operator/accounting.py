"""What an attempt cost, and what there is to learn from it.  Pure.

Two sums, because they answer different questions
(`docs/decisions/preempted-attempts.md`):

- *the bill*: energy, time and cost of every execution of the attempt, preempted
  ones included, each counted once.  It is what was spent, and what savings are
  computed from.
- *the observation*: the result of the last execution alone.  A preempted run starts
  again from scratch, or from its own checkpoint and then carries what came before
  it; either way its result is the whole run of this batch size.  What was lost to
  the preemption is not the batch size's fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zeus_operator.classify import SLACK, SLACK_SECONDS, RunIdentity, implausible
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
    found: list[Result] = []
    wall_seconds = 0.0
    for execution in executions:
        # Its own time may be carried, too: a script may start anew within one execution.
        if execution.ended_at is not None:
            wall_seconds += (execution.ended_at - execution.started_at).total_seconds()
        result = execution.result
        if result is None or implausible(execution, decision, spec, identity) is not None:
            continue
        if execution.ended_at is None or not _carries_too_much(result, wall_seconds):
            found.append(result)
    return tuple(found)


def _carries_too_much(result: Result, wall_seconds: float) -> bool:
    """Whether executions that took `wall_seconds` in all can't have used what a result says."""
    if result.time_seconds > wall_seconds * SLACK + SLACK_SECONDS:
        return True
    if result.carried_elsewhere or result.carried_energy_joules is None:
        return False  # of other GPUs nobody knows what they could take, and it is not counted
    longest = (result.carried_time_seconds or 0.0) * SLACK + SLACK_SECONDS
    return result.carried_energy_joules > result.max_power_watts * longest * SLACK


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
    return Bill(
        epochs=last.epochs,
        energy_joules=None
        if last.energy_joules is None
        else _once((r, r.energy_joules, r.carried_energy_joules) for r in results),
        time_seconds=_once((r, r.time_seconds, r.carried_time_seconds) for r in results),
        cost_joules=None
        if _cost(last, eta) is None
        else _once((r, _cost(r, eta), _carried_cost(r, eta)) for r in results),
        epoch_cost_joules=_epoch_cost(last, eta),
        power_limit_watts=last.power_limit_watts,
        best_metric=last.best_metric,
        gpu_model=last.gpu_model,
    )


def _once(uses: Iterable[tuple[Result, float | None, float | None]]) -> float:
    """Return the sum over executions of (result, total, carried part of it), nothing twice.

    What an execution carries was used by those before it.  Where the result of one of them is
    lost, it is all that is known of it.  What other GPUs used can't be told by this result.
    """
    billed = 0.0
    for result, total, carried in uses:
        if total is None:
            continue
        part = carried or 0.0
        before = billed if result.carried_elsewhere else max(billed, part)
        billed = before + max(total - part, 0.0)
    return billed


def lesson(execution_result: Result | None, decision: DecisionRecord, eta: float) -> Lesson | None:
    """Return what the last execution teaches; None where the cost of its whole run is unknown.

    As that of a run which went on on other GPUs: what it used is no batch size's on either.
    """
    if execution_result is None or execution_result.carried_elsewhere:
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


def _carried_cost(result: Result, eta: float) -> float | None:
    if result.carried_time_seconds is None:
        return None
    return cost_of(
        result.carried_energy_joules, result.carried_time_seconds, result.max_power_watts, eta
    )


def _epoch_cost(result: Result, eta: float) -> float | None:
    if result.epoch_time_seconds is None:
        return None
    return cost_of(
        result.epoch_energy_joules, result.epoch_time_seconds, result.max_power_watts, eta
    )
