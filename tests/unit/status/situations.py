"""Views for tests of what is shown: `view(recurrence(1, attempt(1, ...)), next_tick=...)`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from tests.support.jobs import START, at, decision, spec_document
from tests.support.optimizer_histories import SyntheticJob
from tests.support.plan_facts import attempt, facts, recurrence
from zeus_operator.executors.pods import ChildPhase, ChildView, Trouble
from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    DecisionRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.status.history import summarize
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Outcome

NOW = at(1000)


def view(
    *recurrences: RecurrenceRecord,
    now: datetime = NOW,
    job: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    fact_changes: dict[str, Any] | None = None,
    history: tuple[RecurrenceRecord, ...] | None = None,
    **changes: Any,
) -> StatusView:
    """Return the view of a valid job on demand with these recurrences.

    Args:
        job, spec, fact_changes: what is other than usual there.
        history: of the whole job; None: `recurrences`.
        changes: fields of the view.
    """
    kept = tuple(r for r in recurrences if r.state is not RecurrenceState.SKIPPED)
    plain = StatusView(
        generation=1,
        previous={},
        facts=facts(*kept, job=job or {}, **(fact_changes or {})),
        spec=JobPlanSpec.from_document(spec_document(**(spec or {}))),
        history=summarize(recurrences if history is None else history),
        children={},
        next_tick=None,
        problems=(),
        request_problems=(),
        refusal=None,
        store_trouble="",
        reset_waits=False,
        now=now,
    )
    return replace(plain, **changes)


def never_valid(**changes: Any) -> StatusView:
    """Return the view of an object whose spec was refused from the start."""
    return replace(view(**changes), facts=None, spec=None, name="digits", uid="0a1b2c3d-4e5f")


def child(phase: ChildPhase, reason: str = "", message: str = "", node: str = "") -> ChildView:
    """Return how the child of an attempt stands."""
    trouble = Trouble(reason, message) if reason else None
    return ChildView("child-uid", phase, trouble=trouble, node=node)


def ended(
    ordinal: int,
    outcome: Outcome = Outcome.REACHED,
    detail: str = "reached 0.9",
    *,
    batch_size: int = 64,
    cost_joules: float | None = 900.0,
    kind: RecurrenceKind = RecurrenceKind.LEARNED,
    **decided: Any,
) -> RecurrenceRecord:
    """Return a recurrence that ended with its one attempt."""
    reached = outcome is Outcome.REACHED
    one = attempt(
        1,
        outcome,
        id=100 * ordinal + 1,
        recurrence_id=10 * ordinal,
        child_name=f"digits-{ordinal}-1",
        decision=decision(batch_size, **decided),
        decided_at=at(ordinal),
        ended_at=at(100 + ordinal),
        detail=detail,
        epochs=5,
        cost_joules=cost_joules,
        energy_joules=cost_joules,
        time_seconds=8.0,
    )
    state = RecurrenceState.REACHED if reached else RecurrenceState.FAILED
    return recurrence(ordinal, one, state=state, kind=kind)


def by_policy(
    policy: FoldingPolicy, job: SyntheticJob, recurrences: int, changed: SyntheticJob | None = None
) -> tuple[tuple[RecurrenceRecord, ...], JobPlanSpec]:
    """Return what `policy` did to a job, as the store would hold it, and the job's spec.

    Args:
        changed: what the job becomes in the middle of it.
    """
    problem = job.problem
    seen: tuple[Observation, ...] = ()
    records = []
    for ordinal in range(1, recurrences + 1):
        truth = changed if changed is not None and ordinal > recurrences // 2 else job
        attempts: tuple[AttemptRecord, ...] = ()
        while len(attempts) < problem.max_attempts:
            failed = tuple(each.decision.batch_size for each in attempts)
            situation = Situation(ordinal, failed, gpu_model="SimGPU-A")
            choice = policy.choose(problem, seen, situation, 7)
            observed = truth._attempt(situation, choice, len(seen) + 1, 0.0, 1.0)
            seen += (observed,)
            attempts += (_ended_attempt(ordinal, observed, _decided(choice, problem, situation)),)
            if observed.outcome is Outcome.REACHED:
                break
        records.append(recurrence(ordinal, *attempts, state=RecurrenceState.REACHED))
    document = spec_document(
        batchSize={"default": problem.default_batch_size, "choices": list(problem.batch_sizes)}
    )
    return tuple(records), JobPlanSpec.from_document(document)


def _decided(choice: Choice, problem: Problem, situation: Situation) -> DecisionRecord:
    return decision(
        choice.batch_size,
        candidates=choice.candidates,
        policy=choice.policy,
        sentence=choice.sentence,
        problem=problem,
        situation=situation,
        target=0.9,
        eta=0.5,
    )


def _ended_attempt(ordinal: int, seen: Observation, decided: DecisionRecord) -> AttemptRecord:
    return attempt(
        seen.attempt,
        seen.outcome,
        id=seen.attempt_id,
        recurrence_id=10 * ordinal,
        decision=decided,
        decided_at=START,
        ended_at=at(ordinal),
        epochs=seen.epochs,
        cost_joules=seen.cost_joules,
        energy_joules=seen.cost_joules,
        time_seconds=1.0,
    )
