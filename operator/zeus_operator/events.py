"""What the engine tells its listener, for progress on a terminal and for logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from zeus_operator.records import AttemptRecord, JobRecord, RecurrenceRecord, RunRequestRecord
from zeus_runtime.protocol import Result


@dataclass(frozen=True)
class RequestResumed:
    """A back-to-back request that an earlier process left unfinished goes on."""

    job: JobRecord
    request: RunRequestRecord


@dataclass(frozen=True)
class RecurrenceStarted:
    """A recurrence was created."""

    job: JobRecord
    recurrence: RecurrenceRecord


@dataclass(frozen=True)
class AttemptDecided:
    """A batch size was chosen; the reason is in the decision."""

    recurrence: RecurrenceRecord
    attempt: AttemptRecord


@dataclass(frozen=True)
class AttemptStarted:
    """The child runs; `adopted` if an earlier process had started it."""

    recurrence: RecurrenceRecord
    attempt: AttemptRecord
    adopted: bool


@dataclass(frozen=True)
class AttemptProgress:
    """The child has written a newer result."""

    recurrence: RecurrenceRecord
    attempt: AttemptRecord
    result: Result


@dataclass(frozen=True)
class AttemptEnded:
    """The outcome of an attempt is stored."""

    recurrence: RecurrenceRecord
    attempt: AttemptRecord


@dataclass(frozen=True)
class RecurrenceEnded:
    """A recurrence is closed."""

    recurrence: RecurrenceRecord


@dataclass(frozen=True)
class Waiting:
    """Nothing is due before `until`."""

    until: datetime | None


@dataclass(frozen=True)
class Notice:
    """One sentence for people, e.g. that the GPU is simulated."""

    text: str


Event = (
    RequestResumed
    | RecurrenceStarted
    | AttemptDecided
    | AttemptStarted
    | AttemptProgress
    | AttemptEnded
    | RecurrenceEnded
    | Waiting
    | Notice
)
Listener = Callable[[Event], None]
