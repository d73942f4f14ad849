"""Facts as the store holds them: what `plan` decides on and what the program shows.

Frozen and free of SQL.  Times are aware datetimes in UTC, energies joules.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zeus_operator.optimizer.types import Candidate, Observation, Problem, Situation
from zeus_runtime.protocol import Outcome, PowerProfilePoint, Result
from zeus_runtime.stopping import StopRule


class RecurrenceKind(enum.StrEnum):
    """Why a recurrence exists."""

    LEARNED = "learned"  # the policy decides
    CONTROL = "control"  # the default batch size at the power limit found, to measure savings


class RecurrenceState(enum.StrEnum):
    """Where a recurrence stands."""

    OPEN = "open"
    REACHED = "reached"
    FAILED = "failed"  # out of attempts
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # a tick that passed its starting deadline


class AttemptState(enum.StrEnum):
    """Where an attempt stands."""

    DECIDED = "decided"  # stored before anything was created
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class JobRecord:
    """A ZeusJob and its incarnation.  `spec` is the validated manifest's spec as JSON.

    Args:
        namespace_uid: uid of the namespace; "": on one machine.
        handled: by name of an annotation, the last value of it that was acted on.
    """

    id: int
    namespace: str
    name: str
    uid: str
    generation: int
    spec: dict[str, Any]
    policy: str
    seed: int
    manifest_path: str
    created_at: datetime
    suspended: bool = False
    resumed_at: datetime | None = None  # failures before this do not count towards the pause
    namespace_uid: str = ""
    handled: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class RunRequestRecord:
    """'Run N recurrences back to back', remembered so that a crash can't lose or repeat any.

    Args:
        token: by which it was asked for; "": it is the one that is gone on with.
    """

    id: int
    job_id: int
    kind: RecurrenceKind
    recurrences: int
    created: int  # recurrences created so far
    finished: int  # recurrences ended so far
    requested_at: datetime
    token: str = ""

    @property
    def complete(self) -> bool:
        """Whether every recurrence asked for has ended."""
        return self.finished >= self.recurrences


@dataclass(frozen=True)
class DecisionRecord:
    """What was decided for an attempt, and why.

    `problem`, `situation`, `seed` and the first `observations_seen` observations
    of the job are all that the policy saw: they decide the same again.
    """

    batch_size: int
    cost_threshold_joules: float | None
    learning_rate: float | None
    seed: int
    policy: str
    sentence: str
    candidates: tuple[Candidate, ...] = ()
    stop_rule: StopRule | None = None  # asked after each epoch, besides the threshold
    sweep: tuple[int, ...] = ()  # batch sizes of which the run measures a few steps
    optimize_power: bool = True
    observations_seen: int = 0
    last_observation_id: int | None = None  # attempt id of the last observation seen
    problem: Problem | None = None
    situation: Situation | None = None
    # The terms it was decided under: an attempt is run and judged by them, even if the
    # spec has changed since.  None in what an earlier release has stored.
    target: float | None = None
    eta: float | None = None
    metric_mode: str | None = None  # `MetricMode` value


@dataclass(frozen=True)
class ExecutionRecord:
    """One process (or pod) that executed an attempt.

    Args:
        outcome: what the executor knows better than anybody: PREEMPTED, LOST, CANCELLED or
            CRASHED; None: the end of the process and its result say it.
        reason: the executor's words about the end, e.g. "evicted: The node was low on memory".
    """

    uid: str
    started_at: datetime
    ended_at: datetime | None = None
    exit_code: int | None = None
    outcome: Outcome | None = None
    result: Result | None = None
    output_path: str = ""
    output_tail: str = ""
    reason: str = ""


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt of a recurrence.  Energy, time and cost are summed over its executions.

    Args:
        child_uid: of the child workload while it lives; while it is set the attempt goes on,
            with or without a running execution.  "": none yet, it ended, or on one machine.
    """

    id: int
    recurrence_id: int
    number: int
    state: AttemptState
    child_name: str
    decision: DecisionRecord
    decided_at: datetime
    outcome: Outcome | None = None
    detail: str = ""
    executions: tuple[ExecutionRecord, ...] = ()
    epochs: int = 0
    energy_joules: float | None = None
    time_seconds: float | None = None
    cost_joules: float | None = None
    epoch_cost_joules: float | None = None
    power_limit_watts: float | None = None
    best_metric: float | None = None
    gpu_model: str = ""
    ended_at: datetime | None = None
    child_uid: str = ""


@dataclass(frozen=True)
class RecurrenceRecord:
    """One scheduled need for a trained model.  UNIQUE on (job, scheduled time, kind)."""

    id: int
    job_id: int
    ordinal: int  # from 1, per kind, over all incarnations of the job; 0: a skipped tick
    kind: RecurrenceKind
    scheduled_time: datetime
    state: RecurrenceState
    request_id: int | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    ended_at: datetime | None = None
    reason: str = ""  # why it was skipped, or what is special about it

    @property
    def number(self) -> int | None:
        """By which people call it, among those of its kind; None: a skipped tick has none."""
        return self.ordinal or None

    @property
    def cost_joules(self) -> float | None:
        """Cost of all attempts; None while one of them has none."""
        costs = [a.cost_joules for a in self.attempts if a.outcome is not Outcome.CANCELLED]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known and len(known) == len(costs) else None


@dataclass(frozen=True)
class ProfileRecord:
    """The power profile of one batch size on one kind of GPU."""

    batch_size: int
    gpu_model: str
    gpu_driver: str
    gpu_count: int
    points: tuple[PowerProfilePoint, ...]
    measured_at: datetime


@dataclass(frozen=True)
class JobFacts:
    """All that `plan` needs to know about one job.

    Args:
        recorded: how many recurrences its name has in all, those of earlier incarnations and
            skipped ticks included, not counted further than facts can carry; None: not counted.
    """

    job: JobRecord
    recurrences: tuple[RecurrenceRecord, ...] = ()  # open ones, and the last ended
    observations: tuple[Observation, ...] = ()
    requests: tuple[RunRequestRecord, ...] = ()  # incomplete ones
    profiles: tuple[ProfileRecord, ...] = ()
    last_ordinal: dict[RecurrenceKind, int] = field(default_factory=dict)
    last_scheduled_time: datetime | None = None
    recorded: int | None = None

    @property
    def whole_history(self) -> tuple[RecurrenceRecord, ...] | None:
        """All recurrences of the name, ascending; None: there are more than those in here."""
        return self.recurrences if self.recorded == len(self.recurrences) else None


@dataclass(frozen=True)
class JobOverview:
    """What tells whether a living job needs a look, without its facts.

    Args:
        has_open: whether a recurrence is open.
        has_requests: whether a request may still make recurrences.
    """

    id: int
    uid: str
    namespace: str
    name: str
    has_open: bool
    has_requests: bool
