"""Facts for tests of `plan`, built in memory: `facts(recurrence(1, attempt(1, ...)))`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from tests.support.jobs import START, at, decision, spec_document
from zeus_operator.actions import Action, Wait
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.plan import plan
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobFacts,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
    RunRequestRecord,
)
from zeus_runtime.protocol import Outcome

JOB = JobRecord(
    id=1,
    namespace="default",
    name="digits",
    uid="0a1b2c3d-4e5f",
    generation=1,
    spec={},
    policy="scripted",
    seed=7,
    manifest_path="",
    created_at=START,
    resumed_at=START,
)


class ScriptedPolicy:
    """Answers with one batch size and threshold, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, batch_size: int = 32, threshold_joules: float | None = 500.0) -> None:
        self.answer = Choice(batch_size, threshold_joules, "because", policy=self.name)
        self.asked: list[tuple[Problem, tuple[Observation, ...], Situation, int]] = []

    def choose(
        self,
        problem: Problem,
        observations: tuple[Observation, ...],
        situation: Situation,
        seed: int,
    ) -> Choice:
        self.asked.append((problem, observations, situation, seed))
        return self.answer


def attempt(number: int, outcome: Outcome | None = None, **changes: Any) -> AttemptRecord:
    """Return an attempt: ended with `outcome`, else decided or, with executions, running."""
    executions: tuple[ExecutionRecord, ...] = changes.pop("executions", ())
    state = AttemptState.RUNNING if executions else AttemptState.DECIDED
    plain = AttemptRecord(
        id=100 + number,
        recurrence_id=10,
        number=number,
        state=state if outcome is None else AttemptState.ENDED,
        child_name=f"child-{number}",
        decision=decision(),
        decided_at=START,
        outcome=outcome,
        executions=executions,
    )
    return replace(plain, **changes)


def recurrence(
    ordinal: int,
    *attempts: AttemptRecord,
    state: RecurrenceState = RecurrenceState.OPEN,
    **changes: Any,
) -> RecurrenceRecord:
    """Return a recurrence with the id `10 * ordinal`."""
    plain = RecurrenceRecord(
        id=10 * ordinal,
        job_id=1,
        ordinal=ordinal,
        kind=RecurrenceKind.LEARNED,
        scheduled_time=at(ordinal),
        state=state,
        attempts=attempts,
        ended_at=None if state is RecurrenceState.OPEN else at(100 + ordinal),
    )
    return replace(plain, **changes)


def request(recurrences: int, created: int = 0, finished: int = 0, **changes: Any) -> Any:
    """Return a request for learned recurrences."""
    plain = RunRequestRecord(5, 1, RecurrenceKind.LEARNED, recurrences, created, finished, START)
    return replace(plain, **changes)


def facts(*recurrences: RecurrenceRecord, **changes: Any) -> JobFacts:
    """Return the facts of `JOB`."""
    job_changes = changes.pop("job", {})
    last = {
        kind: max((item.ordinal for item in recurrences if item.kind is kind), default=0)
        for kind in RecurrenceKind
    }
    plain = JobFacts(replace(JOB, **job_changes), recurrences, last_ordinal=last)
    return replace(plain, **changes)


def planned(
    known: JobFacts,
    now: datetime = START,
    *,
    policy: ScriptedPolicy | None = None,
    max_parallel: int = 1,
    **spec_changes: Any,
) -> list[Action]:
    """Return what `plan` says, without the final `Wait`."""
    *actions, last = planned_with_wait(
        known, now, policy=policy, max_parallel=max_parallel, **spec_changes
    )
    assert isinstance(last, Wait)
    return actions


def planned_with_wait(
    known: JobFacts,
    now: datetime = START,
    *,
    policy: ScriptedPolicy | None = None,
    max_parallel: int = 1,
    **spec_changes: Any,
) -> list[Action]:
    """Return all that `plan` says."""
    spec = JobPlanSpec.from_document(spec_document(**spec_changes))
    return plan(known, spec, policy or ScriptedPolicy(), now, max_parallel=max_parallel)
