"""Histories of a job as records, for tests of what is shown from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.deciding import decide
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.types import Candidate, Problem
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    DecisionRecord,
    ExecutionRecord,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.store.store import Store
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import LEARNED_FROM, Outcome, PowerProfilePoint, Result
from zeus_runtime.stopping import StopRule

START = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
MAX_POWER_WATTS = 250.0
GPU_MODEL = "Tesla V100-PCIE-32GB (simulated)"

SPEC: dict[str, Any] = {
    "objective": {"metric": {"target": "0.97", "mode": "Max"}, "maxEpochs": 30},
    "batchSize": {"default": 256, "choices": [32, 64, 128, 256, 512]},
    "workload": {
        "template": {
            "spec": {
                "template": {
                    "spec": {"containers": [{"name": "train", "command": ["python", "train.py"]}]}
                }
            }
        }
    },
}


@dataclass(frozen=True)
class Try:
    """One attempt of a synthetic history.  Its cost follows from energy and time at eta 0.5.

    Args:
        observations_seen: before it was decided; 0: nothing was known.
        full_power_epoch: joules and seconds of one epoch at the power limit found.
    """

    batch_size: int
    outcome: Outcome = Outcome.REACHED
    epochs: int = 10
    energy_joules: float | None = 1000.0
    time_seconds: float = 8.0
    power_limit_watts: float | None = 175.0
    sentence: str = "Because it is expected to cost least."
    gpu_model: str = GPU_MODEL
    gpu_count: int = 1
    target: float | None = None
    metric_mode: str | None = None
    eta: float | None = None
    default_batch_size: int | None = None
    policy: str = "structured"
    cost_threshold_joules: float | None = 4000.0
    observations_seen: int = 1
    full_power_epoch: tuple[float, float] | None = None
    stop_rule: StopRule | None = None

    @property
    def cost_joules(self) -> float | None:
        """Return the cost, or None where the energy is not known."""
        if self.energy_joules is None:
            return None
        return cost_joules(self.energy_joules, self.time_seconds, MAX_POWER_WATTS, 0.5)


def job_record(spec: dict[str, Any] | None = None) -> JobRecord:
    """Return the job that the histories belong to."""
    return JobRecord(
        id=1,
        namespace="default",
        name="digits",
        uid="0f3c5a62-6a1b-4c0e-9f0e-2b8c5d1e7a90",
        generation=1,
        spec=spec or SPEC,
        policy="structured",
        seed=7,
        manifest_path="zeusjob.yaml",
        created_at=START,
    )


def profile(batch_size: int) -> tuple[PowerProfilePoint, ...]:
    """Return a plausible power profile: slower and thriftier at a lower limit."""
    return tuple(
        PowerProfilePoint(
            power_limit_watts=float(limit),
            average_power_watts=0.92 * limit,
            seconds_per_step=0.001 * (4 + batch_size / 40) * (1 + (130.0 / limit) ** 3 / 2),
        )
        for limit in range(100, 251, 25)
    )


def recurrence(
    ordinal: int,
    tries: Sequence[Try],
    kind: RecurrenceKind = RecurrenceKind.LEARNED,
    state: RecurrenceState | None = None,
) -> RecurrenceRecord:
    """Return an ended recurrence; its state follows from the last attempt unless given."""
    offset = 0 if kind is RecurrenceKind.LEARNED else 10_000
    identity = offset + ordinal
    when = START + timedelta(days=ordinal, hours=offset)
    attempts = tuple(
        _attempt(identity, number, attempt, when, kind)
        for number, attempt in enumerate(tries, start=1)
    )
    if state is None:
        reached = bool(tries) and tries[-1].outcome is Outcome.REACHED
        state = RecurrenceState.REACHED if reached else RecurrenceState.FAILED
    return RecurrenceRecord(
        id=identity,
        job_id=1,
        ordinal=ordinal,
        kind=kind,
        scheduled_time=when,
        state=state,
        attempts=attempts,
        ended_at=None if state is RecurrenceState.OPEN else when + timedelta(minutes=1),
    )


def _attempt(
    recurrence_id: int, number: int, source: Try, when: datetime, kind: RecurrenceKind
) -> AttemptRecord:
    result = Result(
        job="default/digits",
        recurrence=str(recurrence_id),
        attempt=number,
        sequence=source.epochs,
        outcome=source.outcome.value,
        batch_size=source.batch_size,
        epochs=source.epochs,
        time_seconds=source.time_seconds,
        energy_joules=source.energy_joules,
        gpu_model=source.gpu_model,
        gpu_count=source.gpu_count,
        gpu_driver="560.35",
        power_limit_watts=source.power_limit_watts,
        max_power_watts=MAX_POWER_WATTS,
        best_metric=0.971,
        power_profile=profile(source.batch_size) if kind is RecurrenceKind.LEARNED else (),
        full_power_epoch_joules=source.full_power_epoch and source.full_power_epoch[0],
        full_power_epoch_seconds=source.full_power_epoch and source.full_power_epoch[1],
    )
    return AttemptRecord(
        id=100 * recurrence_id + number,
        recurrence_id=recurrence_id,
        number=number,
        state=AttemptState.ENDED,
        child_name=f"digits-{recurrence_id}-{number}",
        decision=DecisionRecord(
            batch_size=source.batch_size,
            cost_threshold_joules=source.cost_threshold_joules,
            learning_rate=None,
            seed=number,
            policy=source.policy,
            sentence=source.sentence,
            stop_rule=source.stop_rule,
            candidates=(
                Candidate(batch_size=128, runs=2, typical_cost_joules=1900.0),
                Candidate(batch_size=256, runs=1, typical_cost_joules=2100.0),
            ),
            observations_seen=source.observations_seen,
            target=source.target,
            metric_mode=source.metric_mode,
            eta=source.eta,
            problem=None
            if source.default_batch_size is None
            else Problem((32, 64, 128, 256, 512), source.default_batch_size, 30),
        ),
        decided_at=when,
        outcome=source.outcome,
        executions=(ExecutionRecord(uid=f"u{number}", started_at=when, result=result),),
        epochs=source.epochs,
        energy_joules=source.energy_joules,
        time_seconds=source.time_seconds,
        cost_joules=source.cost_joules,
        power_limit_watts=source.power_limit_watts,
        best_metric=0.971,
        gpu_model=source.gpu_model,
        ended_at=when + timedelta(minutes=1),
    )


def store_history(store: Store, recurrences: Sequence[RecurrenceRecord]) -> JobRecord:
    """Bring `recurrences` into the store by the engine's own actions, and return the job."""
    job = store.apply_job(
        "default",
        "digits",
        SPEC,
        manifest_path="zeusjob.yaml",
        policy="structured",
        seed=7,
        now=START,
    )
    for source in recurrences:
        action = CreateRecurrence(job.id, source.kind, source.ordinal, source.scheduled_time)
        stored = store.create_recurrence(action, source.scheduled_time)
        for attempt in source.attempts:
            _store_attempt(store, stored.id, attempt, source.kind)
        if source.state is not RecurrenceState.OPEN:
            assert source.ended_at is not None
            store.close_recurrence(CloseRecurrence(stored.id, source.state), source.ended_at)
    return job


def _store_attempt(
    store: Store, recurrence_id: int, source: AttemptRecord, kind: RecurrenceKind
) -> None:
    now = source.decided_at
    name = f"{source.child_name}-{recurrence_id}"
    attempt = store.decide_attempt(
        DecideAttempt(recurrence_id, source.number, name, source.decision), now
    )
    for execution in source.executions:
        store.record_execution(attempt.id, _ended(execution, recurrence_id, source), now)
    if source.outcome is not None:
        learn = kind is RecurrenceKind.LEARNED and source.outcome in LEARNED_FROM
        store.close_attempt(CloseAttempt(attempt.id, source.outcome, "", learn), now)


def _ended(
    execution: ExecutionRecord, recurrence_id: int, source: AttemptRecord
) -> ExecutionRecord:
    """Return the execution under the ids that the store has given."""
    assert execution.result is not None
    result = replace(execution.result, recurrence=str(recurrence_id))
    return replace(execution, result=result, ended_at=source.ended_at, exit_code=0)


def store_decisions(store: Store, recurrences: int, cost_of: Callable[[int], float]) -> JobRecord:
    """Run so many recurrences by the real policy on the store; every run reaches its target.

    Args:
        store: takes the history.
        recurrences: how many.
        cost_of: joules of energy that a batch size takes.
    """
    job = store_history(store, ())
    spec = JobPlanSpec.from_document(job.spec)
    for ordinal in range(1, recurrences + 1):
        now = START + timedelta(days=ordinal)
        action = CreateRecurrence(job.id, RecurrenceKind.LEARNED, ordinal, now)
        stored = store.create_recurrence(action, now)
        decided = decide(store.facts(job.id), stored, spec, policy(job.policy))
        attempt = store.decide_attempt(decided, now)
        size = decided.decision.batch_size
        source = recurrence(ordinal, [Try(size, energy_joules=cost_of(size))]).attempts[0]
        store.record_execution(attempt.id, _ended(source.executions[0], stored.id, source), now)
        store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "", learn=True), now)
        store.close_recurrence(CloseRecurrence(stored.id, RecurrenceState.REACHED), now)
    return job
