"""The `.status` of a ZeusJob: what the operator says about it.  One source of its schema.

Written by the operator alone, and never read back as truth: it is a projection of the
store (`zeus_operator.status`).  There are no floats: joules, seconds and watts are whole
numbers, percentages and metrics decimals in quotes.  What is not known is left out.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt

from zeus_operator.api.base import ApiModel
from zeus_operator.api.fields import DECIMAL_PATTERN, BatchSizeValue
from zeus_operator.api.types import Mode

MAX_CONDITIONS = 8
MAX_ACTIVE = 10
MAX_RUNS = 10
MAX_REQUESTED = 10
MAX_MESSAGE = 1024
MAX_SENTENCE = 512
MAX_DETAIL = 256

SIGNED_PERCENT_PATTERN = r"^-?[0-9]+\.[0-9]$"
TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"

_NUMBER = (
    "Number of the recurrence among those of its kind, from 1, by which `kubectl zeus` history and "
    "explain call it."
)
_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_MOST = 10**15

Time = Annotated[
    str, Field(max_length=20, pattern=TIME_PATTERN, json_schema_extra={"format": "date-time"})
]
"""RFC 3339 in UTC, whole seconds, as `metav1.Time` is written."""
Count = Annotated[StrictInt, Field(ge=0, le=_MOST)]
Signed = Annotated[StrictInt, Field(ge=-_MOST, le=_MOST)]
SignedPercent = Annotated[str, Field(max_length=16, pattern=SIGNED_PERCENT_PATTERN)]
MetricValue = Annotated[str, Field(max_length=32, pattern=DECIMAL_PATTERN)]
ChildName = Annotated[str, Field(min_length=1, max_length=63)]
Sentence = Annotated[str, Field(max_length=MAX_SENTENCE)]
Detail = Annotated[str, Field(max_length=MAX_DETAIL)]


class StatusModel(ApiModel):
    """Base of the parts of a status: made by us, so by the names of the fields."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)


class ConditionType(enum.StrEnum):
    """What is said of a ZeusJob as a whole."""

    READY = "Ready"
    SUSPENDED = "Suspended"
    PROGRESSING = "Progressing"
    CONVERGED = "Converged"
    DEGRADED = "Degraded"


class ConditionStatus(enum.StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class RunKind(enum.StrEnum):
    """Why a recurrence ran."""

    LEARNED = "Learned"
    CONTROL = "Control"


class ActiveState(enum.StrEnum):
    """Where an open recurrence stands."""

    DECIDED = "Decided"
    QUEUED = "Queued"
    PENDING = "Pending"
    RUNNING = "Running"
    ENDING = "Ending"


class RunOutcome(enum.StrEnum):
    """How a recurrence ended: how its last attempt did, where there was one."""

    REACHED = "Reached"
    COST_EXCEEDED = "CostExceeded"
    MAX_EPOCHS = "MaxEpochs"
    DIVERGED = "Diverged"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASHED = "Crashed"
    PREEMPTED = "Preempted"
    NO_TELEMETRY = "NoTelemetry"
    DECISION_NOT_APPLIED = "DecisionNotApplied"
    LOST = "Lost"
    CANCELLED = "Cancelled"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class Condition(StatusModel):
    """One condition, as every Kubernetes API has them (`metav1.Condition`)."""

    type: ConditionType = Field(
        description=(
            "Ready: the job is valid and its runs can be created. Suspended: no new recurrence "
            "starts because spec.suspend says so. Progressing: a recurrence is open. Converged: "
            "the batch size has settled. Degraded: something needs a person."
        )
    )
    status: ConditionStatus = Field(description="Whether it holds: True, False or Unknown.")
    reason: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Z][A-Za-z0-9]*$",
        description="Why, in one word for programs.",
    )
    message: str = Field(max_length=MAX_MESSAGE, description="Why, in plain words.")
    last_transition_time: Time = Field(description="When `status` last changed.")
    observed_generation: Count = Field(
        description="The generation of the spec that this was said of."
    )


class ActiveRun(StatusModel):
    """A recurrence that is open, and its newest attempt."""

    recurrence: Count = Field(description="Id of the recurrence, as in the children's labels.")
    number: Count | None = Field(default=None, description=_NUMBER)
    kind: RunKind = Field(
        description=(
            "Learned: the policy decides. Control: the default batch size at the power limit "
            "found, to measure savings against."
        )
    )
    state: ActiveState = Field(
        description=(
            "Decided: not created yet. Queued: its child is suspended, as Kueue does until it is "
            "admitted. Pending: its pod does not run yet. Running. Ending: it has ended or is "
            "being stopped, and what comes next is not decided yet."
        )
    )
    scheduled_time: Time = Field(description="The tick, or the time of the request.")
    attempt: Count = Field(description="Number of the attempt, from 1; 0: none is decided yet.")
    max_attempts: Count = Field(description="Most attempts that the recurrence may take.")
    batch_size: BatchSizeValue | None = Field(
        default=None, description="Batch size of the attempt, in samples."
    )
    child_name: ChildName | None = Field(default=None, description="Name of the child workload.")
    started_at: Time | None = Field(
        default=None, description="When the first pod of the attempt was seen to start."
    )
    node: str | None = Field(
        default=None, min_length=1, max_length=253, description="Node of the attempt's pod."
    )
    epochs: Count | None = Field(default=None, description="Complete epochs so far.")
    energy_joules: Count | None = Field(
        default=None, description="Energy of the running pod so far; left out if not measured."
    )
    last_metric: MetricValue | None = Field(
        default=None, description="Newest validation metric, a decimal in quotes."
    )
    best_metric: MetricValue | None = Field(
        default=None, description="Best validation metric so far, a decimal in quotes."
    )
    reported_at: Time | None = Field(
        default=None,
        description=(
            "When the agent of the node heard this progress; it is shown every half a minute at "
            "most. Left out where no agent has heard any."
        ),
    )
    message: Detail | None = Field(
        default=None, description="What keeps it from going on, or why this batch size was chosen."
    )


class EndedRun(StatusModel):
    """A recurrence that has ended."""

    recurrence: Count = Field(description="Id of the recurrence, as in the children's labels.")
    number: Count | None = Field(
        default=None, description=f"{_NUMBER} Left out where it was skipped."
    )
    kind: RunKind = Field(description="Learned or Control, as for an active one.")
    outcome: RunOutcome = Field(
        description=(
            "Reached: it ended with a model at the target. Skipped: it could not start in time. "
            "Cancelled: replaced, or its child was deleted. Otherwise how the last attempt ended."
        )
    )
    scheduled_time: Time = Field(description="The tick, or the time of the request.")
    ended_at: Time | None = Field(default=None, description="When it ended.")
    attempts: Count = Field(description="Attempts that it took.")
    batch_size: BatchSizeValue | None = Field(
        default=None, description="Batch size of the last attempt, in samples."
    )
    epochs: Count | None = Field(
        default=None, description="Complete epochs of all attempts together."
    )
    energy_joules: Count | None = Field(
        default=None, description="Energy of all attempts together; left out if not measured."
    )
    time_seconds: Count | None = Field(
        default=None, description="Running time of all attempts together."
    )
    power_limit_watts: Count | None = Field(
        default=None, description="Power limit that the last attempt held, per GPU."
    )
    child_name: ChildName | None = Field(
        default=None,
        description=(
            "Child of the attempt that reached the target: the one whose model counts. Left out "
            "where no attempt did."
        ),
    )
    detail: Detail | None = Field(default=None, description="What happened, in plain words.")


class Best(StatusModel):
    """The best configuration known."""

    batch_size: BatchSizeValue = Field(
        description="Batch size that is expected to cost least, of those that reached the target."
    )
    power_limit_watts: Count | None = Field(
        default=None, description="Power limit that its newest run held, per GPU."
    )
    energy_joules: Count | None = Field(
        default=None, description="Mean energy of its runs that reached the target."
    )
    time_seconds: Count | None = Field(
        default=None, description="Mean time of its runs that reached the target."
    )
    runs: Count = Field(description="How many runs these means are of.")
    sentence: Sentence = Field(description="The same in plain words.")


class SavingsStatus(StatusModel):
    """What was saved so far against always running the default, exploration paid for.

    The bounds are those of the 95 % interval.  Below 0: it cost more.
    """

    cost_percent: SignedPercent | None = Field(
        default=None,
        description=(
            "Cost of a finished model saved, in percent, a decimal in quotes. Cost weighs energy "
            "and time by spec.objective.energyPreference."
        ),
    )
    cost_percent_low: SignedPercent | None = Field(default=None, description="Lower bound of it.")
    cost_percent_high: SignedPercent | None = Field(default=None, description="Upper bound of it.")
    energy_percent: SignedPercent | None = Field(
        default=None, description="Energy of a finished model saved, in percent."
    )
    energy_percent_low: SignedPercent | None = Field(default=None, description="Lower bound of it.")
    energy_percent_high: SignedPercent | None = Field(
        default=None, description="Upper bound of it."
    )
    time_percent: SignedPercent | None = Field(
        default=None, description="Time of a finished model saved, in percent."
    )
    time_percent_low: SignedPercent | None = Field(default=None, description="Lower bound of it.")
    time_percent_high: SignedPercent | None = Field(default=None, description="Upper bound of it.")
    energy_joules: Signed | None = Field(
        default=None,
        description="Energy saved by the recurrences that are counted, together.",
    )
    energy_joules_low: Signed | None = Field(default=None, description="Lower bound of it.")
    energy_joules_high: Signed | None = Field(default=None, description="Upper bound of it.")
    recurrences: Count = Field(description="Learned recurrences that are counted.")
    not_known: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Z][A-Za-z]*$",
        description="Why savings are not known yet, in one word for programs; left out: they are.",
    )
    sentence: Sentence = Field(description="The result with its interval, in plain words.")


class Recommendation(StatusModel):
    """What the policy would do, in the mode Recommend."""

    batch_size: BatchSizeValue = Field(description="Batch size that the policy would take.")
    sentence: Sentence = Field(description="Why.")


class Totals(StatusModel):
    """Everything that this job has done, over all its incarnations."""

    recurrences: Count = Field(description="Recurrences that ended, skipped ones left out.")
    failed: Count = Field(description="Of these, those that ended without a model.")
    attempts: Count = Field(description="Attempts of all of them.")
    energy_joules: Count | None = Field(
        default=None, description="Energy of all attempts; left out if none was measured."
    )
    time_seconds: Count | None = Field(default=None, description="Running time of all attempts.")


class RequestedRuns(StatusModel):
    """Runs that were asked for and have not all ended."""

    id: str = Field(
        min_length=1,
        max_length=63,
        description="Id of the request: that of the annotation zeus.energy/run, where it has one.",
    )
    kind: RunKind = Field(description="Learned or Control.")
    runs: Count = Field(description="Recurrences that were asked for.")
    finished: Count = Field(description="Recurrences of them that have ended.")


class ZeusJobStatus(StatusModel):
    """What the operator has seen and done.  Everything in it can be lost: the store knows."""

    observed_generation: Count | None = Field(
        default=None, description="The generation of the spec that all of this was said of."
    )
    mode: Mode | None = Field(
        default=None,
        description=(
            "The mode in which the next attempt is decided: spec.mode, or less where the operator "
            "allows no more in this namespace."
        ),
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=MAX_CONDITIONS,
        description="Ready, Suspended, Progressing, Converged and Degraded.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    last_schedule_time: Time | None = Field(
        default=None, description="The latest time that a recurrence was created for."
    )
    next_schedule_time: Time | None = Field(
        default=None, description="The next tick; left out where none comes."
    )
    active: tuple[ActiveRun, ...] = Field(
        default=(),
        max_length=MAX_ACTIVE,
        description="Recurrences that are open, oldest first.",
        json_schema_extra=_ATOMIC,
    )
    runs: tuple[EndedRun, ...] = Field(
        default=(),
        max_length=MAX_RUNS,
        description="The last recurrences that have ended, newest first.",
        json_schema_extra=_ATOMIC,
    )
    last_outcome: RunOutcome | None = Field(
        default=None, description="Outcome of the newest of `runs` that was not skipped."
    )
    best: Best | None = Field(default=None, description="The best configuration known.")
    savings: SavingsStatus | None = Field(
        default=None, description="What was saved so far against always running the default."
    )
    recommendation: Recommendation | None = Field(
        default=None, description="What the policy would do, in the mode Recommend."
    )
    totals: Totals | None = Field(default=None, description="Sums over the whole history.")
    requested: tuple[RequestedRuns, ...] = Field(
        default=(),
        max_length=MAX_REQUESTED,
        description="Runs asked for that have not all ended, oldest first.",
        json_schema_extra=_ATOMIC,
    )
    history_kibibytes: Count | None = Field(
        default=None,
        description=(
            "Most KiB that the ConfigMap with the history may take. 0: the operator is set to "
            "write none, and the history is in its database alone."
        ),
    )
