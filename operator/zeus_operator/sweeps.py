"""When a run measures other batch sizes in passing, and what of that is believed.  Pure."""

from __future__ import annotations

from typing import TypeGuard

from zeus_operator.classify import SLACK
from zeus_operator.records import AttemptRecord, DecisionRecord, JobFacts
from zeus_runtime.protocol import Outcome, Result, SweepMeasurement

ENDED_BADLY = frozenset({Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.LOST, Outcome.DIVERGED})
"""After these a sweep may be what was wrong with the run, and nobody asks for another one."""

_LARGEST = 1e9


def is_safe(facts: JobFacts, gpu_model: str) -> bool:
    """Whether no run of the job that was to sweep on such a GPU has ended badly.

    Args:
        gpu_model: where the next run is expected to be placed, as a run reports it or as the
            label of a node has it; "" if unknown.
    """
    label = as_label(gpu_model)
    return not any(
        attempt.decision.sweep
        and attempt.outcome in ENDED_BADLY
        and (not label or as_label(attempt.gpu_model) in ("", label))
        for recurrence in facts.recurrences
        for attempt in recurrence.attempts
    )


def as_label(gpu_model: str) -> str:
    """Return a model's name as the label `nvidia.com/gpu.product` writes it."""
    return "-".join(gpu_model.split())


def may_have_derailed(attempt: AttemptRecord, outcome: Outcome) -> bool:
    """Whether a run diverged after steps at other sizes than its learning rate is meant for.

    Then nobody knows whether it would have at its own alone.
    """
    result = attempt.executions[-1].result if attempt.executions else None
    return outcome is Outcome.DIVERGED and result is not None and result.sweep_seconds is not None


def sizes_for(attempt: AttemptRecord) -> tuple[int, ...]:
    """Return what the next execution of an attempt measures.

    Nothing, once one was killed in the middle of it: perhaps the machine ran out of memory.
    """
    cut_short = any(
        execution.result is not None and execution.result.sweeping is not None
        for execution in attempt.executions
    )
    return () if cut_short else attempt.decision.sweep


def believable_sweep(result: Result, decision: DecisionRecord) -> tuple[SweepMeasurement, ...]:
    """Return the sweep of a believable result; a part of it that is wrong leaves none of it."""
    sizes = [each.batch_size for each in result.sweep]
    if not all(isinstance(size, int) for size in sizes):
        return ()
    if not set(sizes) <= set(decision.sweep) or len(set(sizes)) < len(sizes):
        return ()
    if not all(
        _is_epoch(each.epoch_joules, each.epoch_seconds, result.max_power_watts)
        for each in result.sweep
    ):
        return ()
    return result.sweep


def believable_sweep_use(
    result: Result, decision: DecisionRecord
) -> tuple[float | None, float] | None:
    """Return the joules and seconds that a sweep took of the run; None: none that is believed."""
    joules, seconds = result.sweep_joules, result.sweep_seconds
    if not decision.sweep or not is_positive(seconds) or seconds > result.time_seconds * SLACK:
        return None
    if joules is None:
        return None, seconds
    if not is_positive(joules) or joules > (result.energy_joules or 0.0) * SLACK:
        return None
    return joules, seconds


def believable_full_power(result: Result) -> tuple[float | None, float] | None:
    """Return the joules and seconds of an epoch at the limit found; None: not known."""
    joules, seconds = result.full_power_epoch_joules, result.full_power_epoch_seconds
    if seconds is None or not _is_epoch(joules, seconds, result.max_power_watts):
        return None
    return joules, seconds


def is_positive(value: object) -> TypeGuard[float]:
    """Whether `value` is a positive, finite number; it comes from a file anybody may write."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LARGEST


def _is_epoch(joules: object, seconds: object, max_power_watts: float) -> bool:
    if not is_positive(seconds):
        return False
    return joules is None or (is_positive(joules) and joules <= max_power_watts * seconds * SLACK)
