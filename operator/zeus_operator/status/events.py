"""The Events that a user sees of a ZeusJob.  Pure.

The name of an Event is a function of what it says, so that saying it again, after a crash or by
another replica, is refused by the API server as a name that is taken.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from zeus_operator import names
from zeus_operator.api.status import MAX_MESSAGE, RunOutcome
from zeus_operator.records import AttemptRecord, RecurrenceRecord, RecurrenceState
from zeus_operator.status.text import cut, moment
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Outcome


class EventType(enum.StrEnum):
    """How loud an Event is."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class EventNote:
    """One thing to say.

    Args:
        name: of the Event object.
        at: when it happened, not when it is said.
    """

    name: str
    type: EventType
    reason: str
    message: str
    at: datetime


_ATTEMPT_REASONS = {
    Outcome.OUT_OF_MEMORY: "OutOfMemory",
    Outcome.DECISION_NOT_APPLIED: "DecisionNotApplied",
    Outcome.NO_TELEMETRY: "NoTelemetry",
}
_QUIET_ENDS = frozenset({Outcome.REACHED, Outcome.COST_EXCEEDED, Outcome.CANCELLED})
_CONDITIONS = frozenset(
    {
        ("Degraded", "Invalid"),
        ("Degraded", "ChildRefused"),
        ("Degraded", "ChildCollision"),
        ("Degraded", "WorkloadNotAllowed"),
        ("Degraded", "WorkloadNotInstalled"),
        ("Degraded", "PausedAfterFailures"),
        ("Degraded", "ImagePullFailed"),
        ("Degraded", "ContainerConfigError"),
        ("Degraded", "InvalidRequest"),
        ("Converged", "Converged"),
        ("Converged", "ModeLimited"),
    }
)


def events_of(
    view: StatusView, status: Mapping[str, Any], *, newer_than: datetime
) -> tuple[EventNote, ...]:
    """Return what is to be said of the present facts.

    Args:
        status: projected from `view`.
        newer_than: older facts were said when they were new.
    """
    found = [*_of_runs(view), *_of_skipped(view), *_of_conditions(view, status)]
    return tuple(note for note in found if note.at > newer_than)


def event_manifest(note: EventNote, namespace: str, name: str, uid: str) -> dict[str, Any]:
    """Return the `v1` Event about a ZeusJob."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": note.name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": namespace,
            "name": name,
            "uid": uid,
        },
        "type": note.type.value,
        "reason": note.reason,
        "message": cut(note.message, MAX_MESSAGE),
        "firstTimestamp": moment(note.at),
        "lastTimestamp": moment(note.at),
        "count": 1,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": f"{names.GROUP}/{names.FIELD_MANAGER}",
        "reportingInstance": names.FIELD_MANAGER,
    }


def _of_runs(view: StatusView) -> Iterator[EventNote]:
    if view.facts is None:
        return
    for recurrence in view.facts.recurrences:
        for attempt in recurrence.attempts:
            yield from _of_attempt(view, attempt)
        yield from _of_recurrence(view, recurrence)


def _of_attempt(view: StatusView, attempt: AttemptRecord) -> Iterator[EventNote]:
    what = f"{attempt.child_name} (attempt {attempt.number}"
    if attempt.executions:
        first = attempt.executions[0]
        text = f"{what}) trains with batch size {attempt.decision.batch_size}"
        sentence = attempt.decision.sentence
        yield _note(view, "RunStarted", attempt.id, f"{text}. {sentence}", first.started_at)
    for execution in attempt.executions:
        if execution.outcome is Outcome.PREEMPTED and execution.ended_at is not None:
            text = f"{what}) was ended from outside and goes on: {execution.reason}"
            yield _warning(view, "Preempted", execution.uid, text, execution.ended_at)
    if attempt.outcome is None or attempt.ended_at is None or attempt.outcome in _QUIET_ENDS:
        return
    reason = _ATTEMPT_REASONS.get(attempt.outcome, "AttemptFailed")
    text = f"{what}, {attempt.outcome.value}): {attempt.detail}"
    yield _warning(view, reason, attempt.id, text, attempt.ended_at)


def _of_recurrence(view: StatusView, recurrence: RecurrenceRecord) -> Iterator[EventNote]:
    due = f"the recurrence of {moment(recurrence.scheduled_time)}"
    if recurrence.reason and recurrence.attempts:
        first = recurrence.attempts[0]
        text = f"{due} has started; {recurrence.reason}"
        yield _warning(view, "MissedSchedule", recurrence.id, text, first.decided_at)
    at = recurrence.ended_at
    if at is None:
        return
    last = recurrence.attempts[-1] if recurrence.attempts else None
    if recurrence.state is RecurrenceState.REACHED and last is not None:
        text = f"{last.child_name} {last.detail} with batch size {last.decision.batch_size}"
        yield _note(view, "RunReached", recurrence.id, text, at)
    elif recurrence.state is RecurrenceState.FAILED:
        how = f": {last.detail}" if last else ""
        tried = f"{due} has failed after {len(recurrence.attempts)} attempts{how}"
        yield _warning(view, "RunFailed", recurrence.id, tried, at)
    elif recurrence.state is RecurrenceState.CANCELLED:
        how = f": {last.detail}" if last else ""
        yield _note(view, "RunCancelled", recurrence.id, f"{due} was cancelled{how}", at)


def _of_skipped(view: StatusView) -> Iterator[EventNote]:
    """Facts hold no tick that was skipped: there is nothing to do about it any more."""
    for run in view.history.runs:
        if run.outcome is RunOutcome.SKIPPED and run.ended_at is not None:
            text = f"the recurrence of {run.scheduled_time} was skipped: it {run.detail}"
            at = datetime.fromisoformat(run.ended_at)
            yield _warning(view, "Skipped", run.recurrence, text, at)


def _of_conditions(view: StatusView, status: Mapping[str, Any]) -> Iterator[EventNote]:
    for condition in status.get("conditions") or ():
        kind, reason = condition["type"], condition["reason"]
        if (kind, reason) not in _CONDITIONS:
            continue
        # Not the message: what the kubelet or a quota says changes from try to try.
        subject = f"{view.generation}/{condition['lastTransitionTime']}"
        at = view.now if _is_news(view, condition) else _since(condition)
        say = _note if reason == "Converged" else _warning
        yield say(view, reason, subject, condition["message"], at)


def _is_news(view: StatusView, condition: Mapping[str, Any]) -> bool:
    """Whether `condition` was not said before, though it may have held for another reason."""
    before: Mapping[str, Any] = next(
        (c for c in view.previous.get("conditions") or () if c.get("type") == condition["type"]),
        {},
    )
    told = ["status", "reason"]
    if condition["type"] == "Degraded":
        told.append("observedGeneration")  # what was to repair it has not
    return any(before.get(key) != condition[key] for key in told)


def _since(condition: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(condition["lastTransitionTime"])


def _note(view: StatusView, reason: str, subject: object, message: str, at: datetime) -> EventNote:
    return EventNote(_name(view, reason, subject), EventType.NORMAL, reason, message, at)


def _warning(
    view: StatusView, reason: str, subject: object, message: str, at: datetime
) -> EventNote:
    return EventNote(_name(view, reason, subject), EventType.WARNING, reason, message, at)


def _name(view: StatusView, reason: str, subject: object) -> str:
    """Return a name that the same words of the same ZeusJob always have."""
    uid = view.facts.job.uid if view.facts else view.uid
    name = view.facts.job.name if view.facts else view.name
    digest = hashlib.sha256(f"{uid}/{reason}/{subject}".encode()).hexdigest()[:16]
    return f"{name or 'zeusjob'}.{digest}"
