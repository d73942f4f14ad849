"""The five conditions of a ZeusJob, in plain words.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zeus_operator.api.status import (
    MAX_CONDITIONS,
    MAX_MESSAGE,
    Condition,
    ConditionStatus,
    ConditionType,
)
from zeus_operator.executors.pods import ChildPhase, Trouble
from zeus_operator.plan import paused_reason
from zeus_operator.records import AttemptRecord, AttemptState
from zeus_operator.status.convergence import convergence
from zeus_operator.status.text import cut, moment
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Outcome

REASONS: dict[str, str] = {
    "AsExpected": "Degraded is False: nothing needs a person.",
    "ChildCollision": "A child of the run's name exists and belongs to somebody else.",
    "ChildRefused": "The API server does not take the child; its words are in the message.",
    "ContainerConfigError": "A container of the run can't be created; the kubelet says why.",
    "Converged": "The last recurrences agree on one batch size.",
    "DecisionNotApplied": "The script trained with another batch size than the one decided.",
    "Deciding": "A recurrence is open and its next attempt is about to be created.",
    "ImagePullFailed": "An image of the run can't be pulled; the kubelet says why.",
    "Invalid": "The spec is refused; the message names each field and what is allowed.",
    "InvalidRequest": "An annotation asks for something that can't be read.",
    "Learning": "Batch sizes are still compared; the message says what is missing.",
    "ModeLimited": "spec.mode asks for more than the operator allows in the namespace: nothing is "
    "chosen. status.mode is the mode that holds.",
    "NoTelemetry": "The last run ended without a measurement that can be believed.",
    "NoPod": "The child of the run has no pod, though it should; its events say why.",
    "NotOptimizing": "spec.mode is not Optimize: nothing is chosen.",
    "NotReady": "Nothing starts because Ready is False.",
    "NotSuspended": "Recurrences may start.",
    "OnDemand": "There is no schedule and nothing is asked for.",
    "OtherContainersRun": "The training has ended and other containers of the pod have not.",
    "PausedAfterFailures": "Too many recurrences in a row have failed; nothing starts.",
    "Pending": "The pod of the run does not run yet.",
    "Queued": "The child of the run is suspended, as Kueue does until it is admitted.",
    "ResetWaits": "The history is erased once what runs has ended; until then nothing starts.",
    "Running": "A run trains.",
    "SidecarCrashing": "A container beside the training one fails again and again.",
    "SpecSuspend": "spec.suspend is true: nothing starts.",
    "StoreUnavailable": "The operator's database does not answer; runs go on, none starts.",
    "Unschedulable": "No node takes the pod of the run; the scheduler says why.",
    "Valid": "The spec is valid and the API server takes the child.",
    "WaitingForSchedule": "Nothing runs until the next tick of the schedule.",
    "WorkloadNotAllowed": "The operator does not serve this kind of workload; the message says "
    "which it does. Runs that go on are left alone.",
    "WorkloadNotInstalled": "The cluster does not know this kind of workload; once it does, runs "
    "go on.",
}
"""Every reason that a condition may have, for programs and for the reference."""

_TROUBLES = frozenset({"ImagePullFailed", "ContainerConfigError"})


@dataclass(frozen=True)
class _Said:
    status: ConditionStatus
    reason: str
    message: str


def _true(reason: str, message: str) -> _Said:
    return _Said(ConditionStatus.TRUE, reason, message)


def _false(reason: str, message: str) -> _Said:
    return _Said(ConditionStatus.FALSE, reason, message)


def conditions(view: StatusView) -> tuple[Condition, ...]:
    """Return all conditions, with the time of their last change taken from before."""
    ready = _ready(view)
    said = {
        ConditionType.READY: ready,
        ConditionType.SUSPENDED: _suspended(view),
        ConditionType.PROGRESSING: _progressing(view, ready),
        ConditionType.CONVERGED: _converged(view),
        ConditionType.DEGRADED: _degraded(view, ready),
    }
    assert len(said) <= MAX_CONDITIONS
    return tuple(_condition(view, kind, each) for kind, each in said.items())


def _condition(view: StatusView, kind: ConditionType, said: _Said) -> Condition:
    before: Mapping[str, Any] = next(
        (each for each in view.previous.get("conditions") or () if each.get("type") == kind.value),
        {},
    )
    same = before.get("status") == said.status.value and before.get("lastTransitionTime")
    return Condition(
        type=kind,
        status=said.status,
        reason=said.reason,
        message=cut(said.message, MAX_MESSAGE),
        last_transition_time=before["lastTransitionTime"] if same else moment(view.now),
        observed_generation=view.generation,
    )


def _ready(view: StatusView) -> _Said:
    if view.problems:
        return _false("Invalid", "; ".join(map(str, view.problems)))
    if view.store_trouble:
        return _false("StoreUnavailable", view.store_trouble)
    if view.refusal is not None:
        return _false(*view.refusal)
    return _true("Valid", "the spec is valid and the API server takes its child")


def _suspended(view: StatusView) -> _Said:
    if view.facts is not None and view.facts.job.suspended:
        return _true("SpecSuspend", "spec.suspend is true: no new recurrence starts")
    return _false("NotSuspended", "recurrences may start")


def _progressing(view: StatusView, ready: _Said) -> _Said:
    opened = view.open_recurrences
    if opened:
        attempt = opened[-1].attempts[-1] if opened[-1].attempts else None
        has_child = attempt is not None and attempt.id in view.children
        if not has_child and ready.status is ConditionStatus.FALSE:
            return _false("NotReady", f"the run that is due can't start: {ready.message}")
        reason, words = _of_open(view, attempt)
        after = "; when it has ended, the history is erased" if view.reset_waits else ""
        return _true(reason, words + after)
    if view.reset_waits:
        return _true("ResetWaits", "the history is about to be erased")
    if ready.status is ConditionStatus.FALSE:
        return _false("NotReady", f"nothing starts: {ready.message}")
    if _paused(view):
        return _false("PausedAfterFailures", _paused(view))
    if view.facts is not None and view.facts.job.suspended:
        return _false("SpecSuspend", "spec.suspend is true: no new recurrence starts")
    if view.next_tick is not None:
        return _false("WaitingForSchedule", f"the next run is due at {moment(view.next_tick)}")
    return _false("OnDemand", "nothing is asked for; run it with `kubectl zeus run NAME`")


def _of_open(view: StatusView, attempt: AttemptRecord | None) -> tuple[str, str]:
    if attempt is None or attempt.state is AttemptState.ENDED:
        return "Deciding", "the next attempt is about to be created"
    child = view.children.get(attempt.id)
    what = f"attempt {attempt.number} with batch size {attempt.decision.batch_size}"
    if child is None:
        return "Deciding", f"{what} is about to be created"
    if child.trouble is not None and child.trouble.reason in REASONS:
        return child.trouble.reason, f"{what}: {child.trouble.message}"
    if child.phase is ChildPhase.QUEUED:
        kind = _kind(view)
        return "Queued", f"{what}: its {kind} is suspended until somebody admits it"
    if child.phase is ChildPhase.RUNNING:
        on = f" on {child.node}" if child.node else ""
        return "Running", f"{what} trains{on}"
    if child.phase is ChildPhase.PENDING:
        said = f": {child.trouble.message}" if child.trouble else ""
        return "Pending", f"{what} waits for its pod{said}"
    return "Deciding", f"{what} is ending"


def _kind(view: StatusView) -> str:
    """Return the kind of the children."""
    spec = {} if view.facts is None else view.facts.job.spec
    return str((spec.get("workload") or {}).get("kind") or "Job")


def _converged(view: StatusView) -> _Said:
    found = convergence(view)
    return _Said(
        ConditionStatus.TRUE if found.is_converged else ConditionStatus.FALSE,
        found.reason,
        found.message,
    )


def _degraded(view: StatusView, ready: _Said) -> _Said:
    if ready.status is ConditionStatus.FALSE:
        return _true(ready.reason, ready.message)
    if _paused(view):
        return _true("PausedAfterFailures", _paused(view))
    for trouble in _troubles(view):
        return _true(trouble.reason, trouble.message)
    last = next((each for each in reversed(view.attempts) if each.outcome is not None), None)
    if last is not None and last.outcome is Outcome.DECISION_NOT_APPLIED:
        return _true("DecisionNotApplied", last.detail)
    if last is not None and last.outcome is Outcome.NO_TELEMETRY:
        return _true("NoTelemetry", last.detail)
    if view.request_problems:
        return _true("InvalidRequest", "; ".join(map(str, view.request_problems)))
    return _false("AsExpected", "nothing needs a person")


def _paused(view: StatusView) -> str:
    if view.facts is None or view.spec is None:
        return ""
    return paused_reason(view.facts, view.spec)


def _troubles(view: StatusView) -> Iterator[Trouble]:
    for child in view.children.values():
        if child.trouble is not None and child.trouble.reason in _TROUBLES:
            yield child.trouble
