"""What `kubectl describe` says in each situation."""

from __future__ import annotations

import pytest

from tests.support.jobs import START, at, execution_of
from tests.support.plan_facts import attempt, recurrence
from tests.unit.status.situations import NOW, child, ended, never_valid, view
from zeus_operator.api.status import ConditionType
from zeus_operator.api.template import Problem
from zeus_operator.executors.pods import ChildPhase
from zeus_operator.status.conditions import REASONS, conditions
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Outcome

DECIDED = recurrence(1, attempt(1))
RUNNING = recurrence(1, attempt(1, executions=(execution_of(None, ended_at=None),)))
BAD = Problem("spec.batchSize.default", "48 is not among spec.batchSize.choices")
FAILURES = tuple(ended(n, Outcome.CRASHED, "exit code 1") for n in (1, 2, 3))
PAUSED = (
    "paused after 3 failed recurrences in a row (retry.pauseAfterFailures is 3); the last attempt "
    "ended as crashed: exit code 1. Repair the job and apply it again, or run it again."
)
REFUSED = ("ChildRefused", "exceeded quota: gpus, requested: 1, used: 4, limited: 4")


def said(seen: StatusView) -> dict[str, tuple[str, str, str]]:
    """Return status, reason and message of each condition."""
    return {c.type.value: (c.status.value, c.reason, c.message) for c in conditions(seen)}


SITUATIONS = [
    # a situation, a condition, what it says
    ("on demand, idle", view(), "Ready", "True", "Valid",
     "the spec is valid and the API server takes its child"),
    ("on demand, idle", view(), "Progressing", "False", "OnDemand",
     "nothing is asked for; run it with `kubectl zeus run NAME`"),
    ("on demand, idle", view(), "Suspended", "False", "NotSuspended", "recurrences may start"),
    ("on demand, idle", view(), "Degraded", "False", "AsExpected", "nothing needs a person"),
    ("between two ticks", view(next_tick=at(3600)), "Progressing", "False", "WaitingForSchedule",
     "the next run is due at 2026-03-02T13:00:00Z"),
    ("suspended", view(job={"suspended": True}), "Suspended", "True", "SpecSuspend",
     "spec.suspend is true: no new recurrence starts"),
    ("suspended", view(job={"suspended": True}), "Progressing", "False", "SpecSuspend",
     "spec.suspend is true: no new recurrence starts"),
    ("refused spec", never_valid(problems=(BAD,)), "Ready", "False", "Invalid",
     "spec.batchSize.default: 48 is not among spec.batchSize.choices"),
    ("refused spec", never_valid(problems=(BAD,)), "Degraded", "True", "Invalid",
     "spec.batchSize.default: 48 is not among spec.batchSize.choices"),
    ("refused spec", never_valid(problems=(BAD,)), "Progressing", "False", "NotReady",
     "nothing starts: spec.batchSize.default: 48 is not among spec.batchSize.choices"),
    ("refused child", view(DECIDED, refusal=REFUSED), "Ready", "False", *REFUSED),
    ("refused child", view(DECIDED, refusal=REFUSED), "Degraded", "True", *REFUSED),
    ("refused child", view(DECIDED, refusal=REFUSED), "Progressing", "False", "NotReady",
     f"the run that is due can't start: {REFUSED[1]}"),
    ("a stranger's Job", view(DECIDED, refusal=("ChildCollision", "digits-1 is not ours")),
     "Degraded", "True", "ChildCollision", "digits-1 is not ours"),
    ("store away", view(store_trouble="connection refused"), "Ready", "False",
     "StoreUnavailable", "connection refused"),
    ("before the first attempt", view(recurrence(1)), "Progressing", "True", "Deciding",
     "the next attempt is about to be created"),
    ("decided", view(DECIDED), "Progressing", "True", "Deciding",
     "attempt 1 with batch size 64 is about to be created"),
    ("suspended child", view(DECIDED, children={101: child(ChildPhase.QUEUED)}),
     "Progressing", "True", "Queued",
     "attempt 1 with batch size 64: its Job is suspended until somebody admits it"),
    ("no pod yet", view(DECIDED, children={101: child(ChildPhase.PENDING)}),
     "Progressing", "True", "Pending", "attempt 1 with batch size 64 waits for its pod"),
    ("no room", view(DECIDED, children={101: child(
        ChildPhase.PENDING, "Unschedulable", "0/3 nodes: 3 Insufficient nvidia.com/gpu")}),
     "Progressing", "True", "Unschedulable",
     "attempt 1 with batch size 64: 0/3 nodes: 3 Insufficient nvidia.com/gpu"),
    ("no room", view(DECIDED, children={101: child(
        ChildPhase.PENDING, "Unschedulable", "0/3 nodes: 3 Insufficient nvidia.com/gpu")}),
     "Degraded", "False", "AsExpected", "nothing needs a person"),
    ("no image", view(DECIDED, children={101: child(
        ChildPhase.PENDING, "ImagePullFailed", "container train: not found")}),
     "Degraded", "True", "ImagePullFailed", "container train: not found"),
    ("training", view(RUNNING, children={101: child(ChildPhase.RUNNING, node="gpu-7")}),
     "Progressing", "True", "Running", "attempt 1 with batch size 64 trains on gpu-7"),
    ("three failures", view(*FAILURES), "Progressing", "False", "PausedAfterFailures", PAUSED),
    ("three failures", view(*FAILURES), "Degraded", "True", "PausedAfterFailures", PAUSED),
    ("three failures, then resumed", view(*FAILURES, job={"resumed_at": at(200)}),
     "Degraded", "False", "AsExpected", "nothing needs a person"),
    ("another batch size trained",
     view(ended(1, Outcome.DECISION_NOT_APPLIED, "trained with 32, decided: 64")),
     "Degraded", "True", "DecisionNotApplied", "trained with 32, decided: 64"),
    ("no measurement", view(ended(1, Outcome.NO_TELEMETRY, "it reported no metric")),
     "Degraded", "True", "NoTelemetry", "it reported no metric"),
    ("repaired since", view(ended(1, Outcome.NO_TELEMETRY, "no metric"), ended(2)),
     "Degraded", "False", "AsExpected", "nothing needs a person"),
    ("an annotation that can't be read",
     view(request_problems=(Problem("metadata.annotations", "zeus.energy/run: runs=x"),)),
     "Degraded", "True", "InvalidRequest", "metadata.annotations: zeus.energy/run: runs=x"),
    ("a reset that waits", view(reset_waits=True), "Progressing", "True", "ResetWaits",
     "the history is about to be erased"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "condition", "expected"),
    [(row[1], row[2], tuple(row[3:])) for row in SITUATIONS],
    ids=[f"{row[0]}: {row[2]}" for row in SITUATIONS],
)
def test_each_situation_has_its_words(
    seen: StatusView, condition: str, expected: tuple[str, str, str]
) -> None:
    assert said(seen)[condition] == expected


def test_every_reason_that_is_said_is_explained_in_the_reference() -> None:
    for row in SITUATIONS:
        assert {reason for _, reason, _ in said(row[1]).values()} <= set(REASONS)


def test_all_five_conditions_are_always_there_and_name_their_generation() -> None:
    for row in SITUATIONS:
        assert [c.type for c in conditions(row[1])] == list(ConditionType)
    assert {c.observed_generation for c in conditions(view(generation=7))} == {7}


def test_the_time_of_a_change_is_kept_until_the_status_changes_not_the_words() -> None:
    before = [
        c.model_dump(mode="json", by_alias=True) for c in conditions(view(RUNNING, now=START))
    ]
    later = conditions(view(next_tick=at(3600), previous={"conditions": before}, now=NOW))
    times = {c.type.value: c.last_transition_time for c in later}
    assert times["Progressing"] == "2026-03-02T12:16:40Z"  # it ran, and does not any more
    assert times["Ready"] == times["Degraded"] == "2026-03-02T12:00:00Z"
