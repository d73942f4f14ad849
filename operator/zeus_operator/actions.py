"""What `plan` may ask for.  Each action is safe to repeat: the store's constraints decide."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from zeus_operator.records import DecisionRecord, RecurrenceKind, RecurrenceState
from zeus_runtime.protocol import Outcome


@dataclass(frozen=True)
class CreateRecurrence:
    """Insert a recurrence.

    UNIQUE (job, scheduled time, kind) and (learned state, kind, ordinal) make it once.
    A skipped tick has the ordinal 0.
    """

    job_id: int
    kind: RecurrenceKind
    ordinal: int
    scheduled_time: datetime
    request_id: int | None = None
    state: RecurrenceState = RecurrenceState.OPEN  # SKIPPED for a tick that may not start
    reason: str = ""


@dataclass(frozen=True)
class DecideAttempt:
    """Store the decision of an attempt, before anything is created."""

    recurrence_id: int
    number: int
    child_name: str
    decision: DecisionRecord


@dataclass(frozen=True)
class StartAttempt:
    """Make the child real: create it, or adopt the one of that name that is ours."""

    attempt_id: int


@dataclass(frozen=True)
class StopAttempt:
    """End the child cleanly; its result is taken as usual."""

    attempt_id: int
    reason: str


@dataclass(frozen=True)
class CloseAttempt:
    """Store the outcome and, if `learn`, the observation, in one transaction."""

    attempt_id: int
    outcome: Outcome
    detail: str
    learn: bool


@dataclass(frozen=True)
class CloseRecurrence:
    """Store how a recurrence ended."""

    recurrence_id: int
    state: RecurrenceState


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until`; None: until a child ends or the job changes.

    A `reason` is there where people have to act, e.g. after repeated failures.
    """

    until: datetime | None
    reason: str = ""


Action = (
    CreateRecurrence
    | DecideAttempt
    | StartAttempt
    | StopAttempt
    | CloseAttempt
    | CloseRecurrence
    | Wait
)
