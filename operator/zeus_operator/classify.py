"""How an execution ended, judged from everything that is known of it.

The result is written by code of the user, so it is evidence and not a verdict:
it must be plausible before it counts.  The exit code alone never decides that
a run reached its target.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from typing import TypeGuard

from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import DecisionRecord, ExecutionRecord
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import FINAL_BY_RUNTIME, STOP_EXIT_CODE, Outcome, Result

SLACK = 1.05
"""A counter ticks coarsely and a GPU overshoots its limit for a moment."""
SLACK_SECONDS = 1.0
MAX_WATTS_PER_GPU = 2500.0
"""More than any GPU takes: a result that claims more is wrong."""
ROUNDING = 1e-6
"""A result carries 7 significant digits."""

_ENDED_FROM_OUTSIDE = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True)
class RunIdentity:
    """What the result of an attempt must carry.

    Args:
        job: `namespace/name`.
        recurrence: id of the recurrence, as text.
        attempt: number of the attempt in its recurrence.
    """

    job: str
    recurrence: str
    attempt: int


def classify(
    execution: ExecutionRecord,
    decision: DecisionRecord,
    spec: JobPlanSpec,
    identity: RunIdentity | None = None,
) -> tuple[Outcome, str]:
    """Return how an ended execution ended, and one sentence that says why.

    `execution.outcome` is what the executor knows better than anybody: that it
    stopped the run, that the run was orphaned or evicted (`PREEMPTED`), that its child was
    deleted (`CANCELLED`), why it crashed (`CRASHED`), or that it can't be found (`LOST`).  The
    result outweighs it, but for a run that reached its target and was ended before the script
    could keep the model.

    Raises:
        ValueError: the execution still goes on.
    """
    if execution.ended_at is None:
        raise ValueError(f"execution {execution.uid} has not ended")
    if execution.outcome is Outcome.CANCELLED:
        return Outcome.CANCELLED, execution.reason or "its child was deleted"
    result = execution.result
    ended_from_outside = _ended_from_outside(execution)
    if result is not None:
        wrong = implausible(execution, decision, spec, identity)
        if wrong is not None:
            return _without_result(execution, f"its result is not believed: {wrong}")
        claimed = _claimed(result)
        if _trained_otherwise(result, decision):
            claimed = Outcome.DECISION_NOT_APPLIED
        if claimed is Outcome.REACHED or (claimed is None and _has_reached(result, spec)):
            return _reached(execution, result, spec)
        if claimed is not None:
            return claimed, _describe(claimed, result, decision, spec)
    if ended_from_outside is not None:
        return Outcome.PREEMPTED, ended_from_outside
    if result is not None and execution.exit_code == 0:
        return _ended_by_itself(result, spec)
    outcome, detail = _without_result(execution, "")
    if outcome is Outcome.CRASHED and result is not None and result.sweeping in decision.sweep:
        detail += f"; it was measuring a few steps of batch size {result.sweeping}"
    return outcome, detail


def implausible(
    execution: ExecutionRecord,
    decision: DecisionRecord,
    spec: JobPlanSpec,
    identity: RunIdentity | None = None,
) -> str | None:
    """Return what is wrong with the result of `execution`; None if it may be believed.

    Types are checked as well: the JSON comes from a file that anybody may write.
    """
    result = execution.result
    if result is None:
        return "there is none"
    return (
        malformed(result)
        or _wrong_identity(result, identity)
        or _wrong_number(result, execution)
        or _wrong_claim(result, decision, spec)
    )


def is_signal_death(execution: ExecutionRecord) -> bool:
    """Whether the run was killed, and the executor does not know by whom."""
    return execution.outcome is None and _signal_of(execution.exit_code) in _ENDED_FROM_OUTSIDE


def _claimed(result: Result) -> Outcome | None:
    try:
        outcome = Outcome(result.outcome)
    except ValueError:
        return None
    return outcome if outcome in FINAL_BY_RUNTIME else None


def _trained_otherwise(result: Result, decision: DecisionRecord) -> bool:
    return result.batch_size not in (0, decision.batch_size)


def _has_reached(result: Result, spec: JobPlanSpec) -> bool:
    if result.best_metric is None:
        return False
    slack = ROUNDING * abs(spec.target)
    return any(
        spec.metric_mode.is_reached(result.best_metric + shift, spec.target)
        for shift in (-slack, 0.0, slack)
    )


def _reached(execution: ExecutionRecord, result: Result, spec: JobPlanSpec) -> tuple[Outcome, str]:
    what = f"reached {result.best_metric:g} (target {spec.target:g}) in {result.epochs} epochs"
    if execution.outcome is Outcome.PREEMPTED or is_signal_death(execution):
        return Outcome.PREEMPTED, f"{what}, but was ended before the script could finish"
    if execution.exit_code != 0:
        return (
            Outcome.CRASHED,
            f"{what}, then failed ({_exit_text(execution.exit_code)}): "
            "the model may not have been saved",
        )
    return Outcome.REACHED, what


def _describe(outcome: Outcome, result: Result, decision: DecisionRecord, spec: JobPlanSpec) -> str:
    epochs = f"{result.epochs} of {spec.max_epochs} epochs"
    best = "no metric" if result.best_metric is None else f"best metric {result.best_metric:g}"
    words = {
        Outcome.COST_EXCEEDED: f"stopped after {epochs} ({best}): "
        f"{_too_dear(result, decision, spec)}",
        Outcome.MAX_EPOCHS: f"{result.epochs} epochs without reaching {spec.target:g} ({best})",
        Outcome.DIVERGED: f"the metric or loss was not finite after {epochs}",
        Outcome.OUT_OF_MEMORY: f"batch size {decision.batch_size} does not fit into "
        f"{result.gpu_model or 'the GPU'}",
        Outcome.DECISION_NOT_APPLIED: f"trained with batch size {result.batch_size} instead of "
        f"{decision.batch_size}: pass $(ZEUS_BATCH_SIZE) to the script",
        Outcome.NO_TELEMETRY: "nothing that could be measured",
    }[outcome]
    return f"{words}; {result.note}" if result.note else words


def _too_dear(result: Result, decision: DecisionRecord, spec: JobPlanSpec) -> str:
    """Say whether it was the threshold or the stop rule that ended the run."""
    threshold = decision.cost_threshold_joules
    at_threshold = f"one more would have cost more than {threshold or 0.0:.6g} J"
    if decision.stop_rule is None:
        return at_threshold
    by_rule = "it was not expected to reach the target at a cost that pays"
    energies, times = result.epoch_energy_joules, result.epoch_time_seconds
    if threshold is None or result.energy_joules is None or energies is None or times is None:
        return by_rule
    joules, seconds = result.energy_joules + energies, result.time_seconds + times
    after_one_more = cost_joules(joules, seconds, result.max_power_watts, spec.eta)
    return at_threshold if after_one_more > threshold else by_rule


def _ended_by_itself(result: Result, spec: JobPlanSpec) -> tuple[Outcome, str]:
    """The script ended well, and its runtime had not said that it was over."""
    if result.best_metric is None and result.last_metric is None:
        return (
            Outcome.NO_TELEMETRY,
            f"the script ended after {result.epochs} epochs without reporting a metric: "
            "call loader.report_metric(value) after each evaluation",
        )
    if result.epochs >= spec.max_epochs:
        return Outcome.MAX_EPOCHS, f"{result.epochs} epochs without reaching {spec.target:g}"
    return (
        Outcome.CRASHED,
        f"the script ended by itself after {result.epochs} of {spec.max_epochs} epochs "
        f"without reaching {spec.target:g}: either it did not say that it gives up "
        "(run.end_here()), or it was asked to end (SIGTERM) and left with exit code 0",
    )


def _without_result(execution: ExecutionRecord, why: str) -> tuple[Outcome, str]:
    """Judge by the end of the process alone."""
    outside = _ended_from_outside(execution)
    tail = f"; {why}" if why else ""
    if outside is not None:
        return Outcome.PREEMPTED, outside + tail
    if execution.outcome is Outcome.CRASHED:
        return Outcome.CRASHED, f"{execution.reason}{_last_line(execution)}{tail}"
    code = execution.exit_code
    if execution.outcome is Outcome.LOST or code is None:
        said = f": {execution.reason}" if execution.reason else ""
        return Outcome.LOST, f"the run ended and nobody saw how{said}{tail}"
    if code == STOP_EXIT_CODE:
        if why:
            return Outcome.NO_TELEMETRY, f"stopped by the runtime{tail}"
        return Outcome.LOST, "stopped by the runtime, whose result was not found"
    if code == 0:
        if why:
            return Outcome.NO_TELEMETRY, why
        return (
            Outcome.NO_TELEMETRY,
            "the script ended without a result: it must iterate a ZeusDataLoader and call "
            "report_metric",
        )
    return Outcome.CRASHED, f"{_exit_text(code)}{_last_line(execution)}{tail}"


def _ended_from_outside(execution: ExecutionRecord) -> str | None:
    if execution.outcome is Outcome.PREEMPTED:
        return execution.reason or "ended from outside before it was done"
    if execution.outcome is None and is_signal_death(execution):
        return f"{_exit_text(execution.exit_code)} from outside"
    return None


def _signal_of(code: int | None) -> signal.Signals | None:
    """Return the signal that ended a process: -9 as Python says it, 137 as a container does."""
    if code is None:
        return None
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _exit_text(code: int | None) -> str:
    if code is None:
        return "end unknown"
    found = _signal_of(code)
    return f"killed by {found.name}" if found is not None else f"exit code {code}"


def _last_line(execution: ExecutionRecord) -> str:
    lines = [line.strip() for line in execution.output_tail.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer larger than any float
        return False


def malformed(result: Result) -> str | None:
    """Return which field of `result` is of a wrong type or out of all bounds; None: none is."""
    optional = (
        "energy_joules",
        "carried_energy_joules",
        "carried_time_seconds",
        "epoch_energy_joules",
        "epoch_time_seconds",
        "power_limit_watts",
        "best_metric",
        "last_metric",
    )
    for name in ("time_seconds", "max_power_watts", *optional):
        value = getattr(result, name)
        if value is None and name in optional:
            continue
        if not _is_number(value) or not _is_finite(value):
            # A metric that is not finite is how a divergence looks.
            if name in ("best_metric", "last_metric") and isinstance(value, float):
                continue
            return f"{name} is {value!r}"
    for name in ("attempt", "sequence", "batch_size", "epochs", "gpu_count"):
        value = getattr(result, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            return f"{name} is {value!r}"
    for epoch, metric in result.milestones:
        if not isinstance(epoch, int) or not _is_number(metric) or not _is_finite(metric):
            return f"milestone {epoch!r}, {metric!r}"
    for name in ("job", "recurrence", "gpu_model", "gpu_driver", "note"):
        if not isinstance(getattr(result, name), str):
            return f"{name} is {getattr(result, name)!r}"
    return _wrong_carried(result)


def _wrong_carried(result: Result) -> str | None:
    """Return what is wrong with the part of the totals that earlier executions did."""
    epochs, seconds = result.carried_epochs, result.carried_time_seconds
    joules, elsewhere = result.carried_energy_joules, result.carried_elsewhere
    if epochs is None and seconds is None and joules is None:
        return None
    if not isinstance(epochs, int) or isinstance(epochs, bool) or not 0 <= epochs <= result.epochs:
        return f"carried_epochs is {epochs!r} of {result.epochs}"
    if seconds is None or not 0 <= seconds <= result.time_seconds:
        return f"carried_time_seconds is {seconds!r} of {result.time_seconds:g}"
    if result.energy_joules is not None and (
        joules is None or not 0 <= joules <= result.energy_joules
    ):
        return f"carried_energy_joules is {joules!r} of {result.energy_joules:g}"
    if elsewhere not in (None, True, False):
        return f"carried_elsewhere is {elsewhere!r}"
    return None


def _wrong_identity(result: Result, identity: RunIdentity | None) -> str | None:
    if identity is None:
        return None
    theirs = RunIdentity(result.job, result.recurrence, result.attempt)
    if theirs == identity:
        return None
    return (
        f"it is of {theirs.job or 'no job'}, recurrence {theirs.recurrence or '?'}, "
        f"attempt {theirs.attempt}, not of {identity.job}, {identity.recurrence}, "
        f"{identity.attempt}"
    )


def _wrong_number(result: Result, execution: ExecutionRecord) -> str | None:
    if execution.ended_at is None:
        return None
    wall = (execution.ended_at - execution.started_at).total_seconds()
    longest = wall * SLACK + SLACK_SECONDS
    seconds = result.time_seconds - (result.carried_time_seconds or 0.0)
    if not 0 <= seconds <= longest:
        return f"{seconds:g} s measured in a run of {wall:g} s"
    if not 0 <= result.max_power_watts <= MAX_WATTS_PER_GPU * max(result.gpu_count, 1):
        return f"largest power limit {result.max_power_watts:g} W of {result.gpu_count} GPUs"
    energy = result.energy_joules
    if energy is not None:
        energy -= result.carried_energy_joules or 0.0
    if energy is not None and not 0 <= energy <= result.max_power_watts * longest * SLACK:
        return f"{energy:g} J in {wall:g} s on {result.max_power_watts:g} W at most"
    for name in ("epoch_energy_joules", "epoch_time_seconds", "power_limit_watts"):
        value = getattr(result, name)
        if value is not None and value < 0:
            return f"{name} is {value:g}"
    return None


def _wrong_claim(result: Result, decision: DecisionRecord, spec: JobPlanSpec) -> str | None:
    if result.epochs > spec.max_epochs:
        return f"{result.epochs} epochs where {spec.max_epochs} are the most"
    claimed = _claimed(result)
    if claimed is Outcome.REACHED and not _has_reached(result, spec):
        return f"target {spec.target:g} claimed with best metric {result.best_metric}"
    ends_for_cost = decision.cost_threshold_joules is not None or decision.stop_rule is not None
    if claimed is Outcome.COST_EXCEEDED and not ends_for_cost:
        return "stopped at a cost threshold where none was given"
    epochs_seen = [epoch for epoch, _ in result.milestones]
    if any(not 0 <= epoch <= result.epochs + 1 for epoch in epochs_seen):
        return "a metric after the last epoch"
    return None
