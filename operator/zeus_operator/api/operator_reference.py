"""The reference page of the operator's process, made from its settings and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields

from zeus_operator import names
from zeus_operator.api.requests import MAX_RUNS, RunRequest
from zeus_operator.api.status import Condition
from zeus_operator.health import (
    LEASE_UNREAD_SECONDS,
    STORE_ANSWER_SECONDS,
    WATCH_SILENT_SECONDS,
    WORKER_STUCK_SECONDS,
)
from zeus_operator.history.config_map import SUFFIX
from zeus_operator.lease import LeaseTimes
from zeus_operator.records import RecurrenceKind
from zeus_operator.settings import VARIABLES, OperatorSettings, Variable
from zeus_operator.status.conditions import REASONS
from zeus_operator.trust.objects import CONFIG_MAP

_HEAD = """\
<!-- Generated from what operator/zeus_operator sets, says and counts, by `make docs`. -->
# The operator

`zeus-operator` is the process that makes ZeusJobs run in a cluster. How it is started:
[run in a cluster](../how-to/run-in-a-cluster.md). How it works:
[the operator](../explanation/operator.md). Every field of a ZeusJob: [ZeusJob](zeusjob.md).

## Settings

Each is an option of `zeus-operator` or an environment variable; the option wins, and an empty text
counts as not given. All that is wrong with them is said at the start, in one go.
`--kubeconfig FILE` (an option only) says how to reach the API server; inside a pod its
ServiceAccount is used.
"""

_EXIT_CODES = """\
## Exit codes

| code | meaning |
| --- | --- |
| 0 | it was told to end by SIGTERM or SIGINT; the Lease is released |
| 1 | it can't go on and is to be started again: the Lease was lost, another replica leads, a \
watch has stalled or ended, the port is taken, the schema of the database is too new, no way to \
the API server is configured |
| 2 | a setting is wrong |
"""

_CONDITIONS = """\
## Conditions

`kubectl get zj NAME -o yaml` and `kubectl describe zj NAME` show them. {types}

| reason | meaning |
| --- | --- |
"""

_ANNOTATIONS = f"""\
## What a person may ask for

Annotations of the ZeusJob. Each is idempotent by its value: the same value asks for nothing new,
however often it is applied. An id has 1 to 63 letters, digits, `.`, `_`, `:` or `-`. One that can't
be read is said in the condition `Degraded`, reason `InvalidRequest`.

| annotation | value | effect |
| --- | --- | --- |
| `{names.ANNOTATION_RUN}` | `{RunRequest("ID")}`, `{RunRequest("ID", 3)}` (at most {MAX_RUNS:,}), \
`{RunRequest("ID", 3, RecurrenceKind.CONTROL)}` | so many recurrences, one after the other; with \
`control` at the default batch size, to measure savings against |
| `{names.ANNOTATION_RESUME}` | `ID` | ends a pause after failures in a row |
| `{names.ANNOTATION_RESET}` | `ID` | erases the history and what was learned once nothing of the \
job runs; until then nothing starts |

## Labels

On each child and its pods:

| label | value |
| --- | --- |
| `{names.LABEL_JOB}` | name of the ZeusJob |
| `{names.LABEL_JOB_UID}` | its UID |
| `{names.LABEL_RECURRENCE}` | id of the recurrence, as in `status.active[]` and `status.runs[]` |
| `{names.LABEL_ATTEMPT}` | number of the attempt, from 1 |
| `{names.LABEL_POD_GROUP}` | on pods, where a child has several templates: which of them; 0 has \
rank 0 |
| `{names.LABEL_EXECUTION}` | on a JobSet or a TrainJob and its pods: how many executions of the \
attempt were stored before |

On the TrainingRuntime that is made for a TrainJob; the labels above as well:

| annotation | value |
| --- | --- |
| `{names.ANNOTATION_COPY}` | a digest of its contents |

On the ConfigMap `NAME{SUFFIX}`, which holds what `kubectl zeus history`, `explain` and `report`
show of the ZeusJob NAME; the first two labels above as well:

| label or annotation | value |
| --- | --- |
| `{names.LABEL_MANAGED_BY}` | `{names.FIELD_MANAGER}` |
| `{names.ANNOTATION_HISTORY}` | a digest of what the history was made of, by which the operator \
knows that it need not be written again |

On a namespace, by its owner:

| label | value |
| --- | --- |
| `{names.LABEL_AGENT_ACCESS}` | `{names.AGENT_ACCESS_ENABLED}`: it gets the ConfigMap \
`{CONFIG_MAP}`, which says whom to trust as an agent |
"""

EVENTS: Mapping[str, tuple[str, str]] = {
    "RunStarted": ("Normal", "An attempt trains; why it has its batch size."),
    "RunReached": ("Normal", "A recurrence has reached the target."),
    "RunFailed": ("Warning", "A recurrence has used up its attempts, or could not try again."),
    "RunCancelled": ("Normal", "A recurrence was replaced, or its child was deleted."),
    "Skipped": ("Warning", "A tick could not start within startingDeadlineSeconds."),
    "MissedSchedule": ("Warning", "A recurrence makes up for ticks that were missed."),
    "Preempted": ("Warning", "A pod was ended from outside; the attempt goes on."),
    "AttemptFailed": ("Warning", "An attempt has ended without a model; how."),
    "OutOfMemory": ("Warning", "The batch size does not fit into the GPU's memory."),
    "DecisionNotApplied": ("Warning", REASONS["DecisionNotApplied"]),
    "NoTelemetry": ("Warning", "An attempt has ended without a measurement to believe."),
    "Invalid": ("Warning", REASONS["Invalid"]),
    "InvalidRequest": ("Warning", REASONS["InvalidRequest"]),
    "ChildRefused": ("Warning", REASONS["ChildRefused"]),
    "ChildCollision": ("Warning", REASONS["ChildCollision"]),
    "WorkloadNotAllowed": ("Warning", REASONS["WorkloadNotAllowed"]),
    "WorkloadNotInstalled": ("Warning", REASONS["WorkloadNotInstalled"]),
    "ImagePullFailed": ("Warning", REASONS["ImagePullFailed"]),
    "ContainerConfigError": ("Warning", REASONS["ContainerConfigError"]),
    "PausedAfterFailures": ("Warning", REASONS["PausedAfterFailures"]),
    "ModeLimited": ("Warning", REASONS["ModeLimited"]),
    "HistoryCollision": (
        "Warning",
        "A ConfigMap of the name of the history belongs to somebody else; runs go on.",
    ),
    "HistoryRefused": (
        "Warning",
        "The API server does not take the ConfigMap of the history; runs go on.",
    ),
    "Converged": ("Normal", REASONS["Converged"]),
}
"""Each reason of an Event, with its type and what it says."""

_EVENTS_HEAD = """\
## Events

About the ZeusJob, by `zeus-operator`. The name of an Event is a function of what it is about, so
the same thing is said once, also by another replica. What is older than half an hour when it is
found is not said any more.

| reason | type | meaning |
| --- | --- | --- |
"""

_HEALTH = f"""\
## Health

Each answers 200 if all is well, else 503, with one line per check.

| path | fails when |
| --- | --- |
| `/healthz` | a worker has died, or has been on one job for over {WORKER_STUCK_SECONDS:.0f} s. \
That an answer comes shows that the loop turns. It depends on neither the database nor the API \
server |
| `/readyz` | `/healthz` would; the database does not answer within {STORE_ANSWER_SECONDS:.0f} s, \
or its schema is more than one step newer than this release's. \
On the leader also: the first list is not complete, or a watch was silent for over \
{WATCH_SILENT_SECONDS:.0f} s. On a standby also: the Lease could not be read for \
{LEASE_UNREAD_SECONDS:.0f} s |
"""

_METRICS = """\
## Metrics

`/metrics`, in Prometheus' text format: [all of them](metrics.md#operator).
`zeus_operator_store_up` is what the last look at the database, every few seconds, has found.
"""


def operator_reference() -> str:
    """Return the page as Markdown."""
    types = Condition.model_fields["type"].description
    reasons = "".join(f"| `{reason}` | {text} |\n" for reason, text in REASONS.items())
    events = "".join(
        f"| `{reason}` | {kind} | {text} |\n" for reason, (kind, text) in EVENTS.items()
    )
    return "\n".join(
        [
            _HEAD,
            _settings(),
            _EXIT_CODES,
            _CONDITIONS.format(types=types) + reasons,
            _ANNOTATIONS,
            _EVENTS_HEAD + events,
            _HEALTH,
            _METRICS,
        ]
    )


def _settings() -> str:
    defaults = _defaults()
    rows = "".join(
        f"| `--{variable.field.replace('_', '-')}` | `{variable.name}` | "
        f"{_default(variable, defaults)} | {variable.meaning} |\n"
        for variable in VARIABLES
    )
    return f"| option | variable | default | meaning |\n| --- | --- | --- | --- |\n{rows}"


def _defaults() -> dict[str, object]:
    known = (*fields(OperatorSettings), *fields(LeaseTimes))
    return {each.name: each.default for each in known if each.default is not MISSING}


def _default(variable: Variable, defaults: Mapping[str, object]) -> str:
    value = defaults.get(variable.field)
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
