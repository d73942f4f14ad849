"""Appliers of `plan`'s actions.  Each may be repeated: what is done already stays as it is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from zeus_operator.accounting import (
    Lesson,
    MeasuredProfile,
    believable_results,
    bill,
    lesson,
    measured_profile,
)
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.classify import RunIdentity
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    JobRecord,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.schedule import CLOCK_TOLERANCE
from zeus_operator.store.codec import clean_text, decision_to_json
from zeus_operator.store.connection import StoreError
from zeus_operator.store.execution_steps import locked_attempt
from zeus_operator.store.models import (
    attempts,
    jobs,
    learned_states,
    observations,
    power_profiles,
    recurrences,
)
from zeus_operator.store.reading import (
    ATTEMPT_COLUMNS,
    attempt_record,
    attempt_records,
    job_by_id,
    recurrence_record,
    recurrence_records,
)
from zeus_operator.store.requests import close_if_complete
from zeus_runtime.protocol import Outcome

_INSERT_RECURRENCE = insert(recurrences).on_conflict_do_nothing().returning(*recurrences.c)
_INSERT_ATTEMPT = insert(attempts).on_conflict_do_nothing().returning(*ATTEMPT_COLUMNS)

_LOCK_JOB = (
    select(jobs.c.learned_state_id, jobs.c.deleted_at)
    .where(jobs.c.id == bindparam("job_id"))
    .with_for_update()
)
_LOCK_RECURRENCE = (
    select(recurrences.c.state)
    .where(recurrences.c.id == bindparam("recurrence_id"))
    .with_for_update()
)
_UNTRUSTED = {Outcome.NO_TELEMETRY, Outcome.DECISION_NOT_APPLIED, Outcome.CANCELLED, Outcome.LOST}
"""Outcomes whose power profile is not worth keeping."""


def create_recurrence(
    connection: Connection, action: CreateRecurrence, now: datetime
) -> RecurrenceRecord:
    """Insert the recurrence, or return the one that is there.

    A tick has one recurrence, of whatever kind: it may come again where the clock was set back.

    Raises:
        StoreError: the job is gone, or another recurrence holds the time or ordinal.
    """
    job = connection.execute(_LOCK_JOB, {"job_id": action.job_id}).one_or_none()
    if job is None or job.deleted_at is not None:
        raise StoreError(f"job {action.job_id} was deleted")
    same_time = (recurrences.c.job_id == action.job_id) & (
        recurrences.c.scheduled_time == action.scheduled_time
    )
    if action.request_id is not None:
        found = _inserted(connection, action, job.learned_state_id, now, same_time)
    else:
        is_tick = same_time & recurrences.c.request_id.is_(None)
        found = recurrence_records(connection, is_tick) or _inserted(
            connection, action, job.learned_state_id, now, is_tick
        )
        _move_last_tick(connection, job.learned_state_id, action.scheduled_time, now)
    return found[0]


def _inserted(
    connection: Connection,
    action: CreateRecurrence,
    learned_state_id: int,
    now: datetime,
    this: ColumnElement[bool],
) -> tuple[RecurrenceRecord, ...]:
    is_open = action.state is RecurrenceState.OPEN
    made = connection.execute(
        _INSERT_RECURRENCE,
        {
            "learned_state_id": learned_state_id,
            "job_id": action.job_id,
            "request_id": action.request_id,
            "kind": action.kind.value,
            "ordinal": action.ordinal,
            "scheduled_time": action.scheduled_time,
            "state": action.state.value,
            "reason": action.reason,
            "created_at": now,
            "ended_at": None if is_open else now,
        },
    )
    if (row := made.mappings().one_or_none()) is not None:
        return (recurrence_record(row),)
    found = recurrence_records(connection, this & (recurrences.c.kind == action.kind.value))
    if not found or found[0].ordinal != action.ordinal:
        raise StoreError(
            f"recurrence {action.ordinal} of job {action.job_id} can't be created for "
            f"{action.scheduled_time}: another one has its time or number; plan again"
        )
    return found


def _move_last_tick(
    connection: Connection, learned_state_id: int, tick: datetime, now: datetime
) -> None:
    last = learned_states.c.last_tick
    # What a clock that was ahead has stored would else stay until that time has come.
    is_old = last.is_(None) | (last < tick) | (last > now + CLOCK_TOLERANCE)
    connection.execute(
        update(learned_states)
        .where((learned_states.c.id == learned_state_id) & is_old)
        .values(last_tick=tick)
    )


def decide_attempt(connection: Connection, action: DecideAttempt, now: datetime) -> AttemptRecord:
    """Insert the attempt with its decision; the decision of one that is there stays.

    Raises:
        StoreError: its recurrence has ended, or another attempt has its name.
    """
    state = connection.execute(
        _LOCK_RECURRENCE, {"recurrence_id": action.recurrence_id}
    ).scalar_one_or_none()
    this = (attempts.c.recurrence_id == action.recurrence_id) & (attempts.c.number == action.number)
    found = attempt_records(connection, this)
    if found:
        return found[0]
    if state != RecurrenceState.OPEN.value:
        raise StoreError(f"recurrence {action.recurrence_id} is not open (it is {state})")
    made = connection.execute(
        _INSERT_ATTEMPT,
        {
            "recurrence_id": action.recurrence_id,
            "number": action.number,
            "state": AttemptState.DECIDED.value,
            "child_name": action.child_name,
            "decision": decision_to_json(action.decision),
            "decided_at": now,
        },
    )
    row = made.mappings().one_or_none()
    if row is None:  # its recurrence is locked: it can't be this one, made meanwhile
        raise StoreError(f"the name {action.child_name} belongs to another attempt")
    return attempt_record(row)


def close_attempt(connection: Connection, action: CloseAttempt, now: datetime) -> AttemptRecord:
    """Store outcome, bill, observation and power profile of an attempt, in one transaction."""
    attempt = locked_attempt(connection, action.attempt_id)
    if attempt.state is AttemptState.ENDED:
        return attempt
    recurrence = recurrence_records(connection, recurrences.c.id == attempt.recurrence_id)[0]
    found = job_by_id(connection, recurrence.job_id)
    if found is None:
        raise StoreError(f"the job of attempt {action.attempt_id} is gone")
    job, learned_state_id = found
    spec = JobPlanSpec.from_document(job.spec).as_decided(attempt.decision)
    identity = RunIdentity(job.key, str(recurrence.id), attempt.number)
    results = believable_results(attempt.executions, attempt.decision, spec, identity)
    total = bill(results, spec.eta)
    last = attempt.executions[-1].result if attempt.executions else None
    # The very object: the last execution may repeat what an earlier one has rightly claimed.
    trusted = last if results and results[-1] is last else None
    detail = action.detail
    learned = lesson(trusted, attempt.decision, spec.eta) if action.learn else None
    if action.learn and learned is None:
        moved = trusted is not None and trusted.carried_elsewhere
        why = "it went on on other GPUs" if moved else "its energy or power is unknown"
        detail += f"; not learned from: {why}"
    if learned is not None:
        _insert_observation(
            connection,
            learned_state_id,
            job,
            recurrence,
            attempt,
            action.outcome,
            learned,
            spec,
            now,
        )
    profile = measured_profile(trusted)
    if profile is not None and action.outcome not in _UNTRUSTED:
        _store_profile(connection, learned_state_id, attempt.decision.batch_size, profile, now)
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt.id)
        .values(
            state=AttemptState.ENDED.value,
            child_uid="",
            outcome=action.outcome.value,
            detail=clean_text(detail),
            ended_at=now,
            **_finite(asdict(total)),
        )
    )
    return attempt_records(connection, attempts.c.id == attempt.id)[0]


def _insert_observation(
    connection: Connection,
    learned_state_id: int,
    job: JobRecord,
    recurrence: RecurrenceRecord,
    attempt: AttemptRecord,
    outcome: Outcome,
    learned: Lesson,
    terms: JobPlanSpec,
    now: datetime,
) -> None:
    connection.execute(
        insert(observations)
        .values(
            learned_state_id=learned_state_id,
            attempt_id=attempt.id,
            recurrence=recurrence.ordinal,
            attempt=attempt.number,
            batch_size=attempt.decision.batch_size,
            outcome=outcome.value,
            eta=terms.eta,
            generation=job.generation,
            overlapping=_overlapped(attempt),
            target=terms.target,
            metric_mode=terms.metric_mode.value,
            max_epochs=terms.max_epochs,
            observed_at=now,
            **{**asdict(learned), "milestones": [list(item) for item in learned.milestones]},
        )
        .on_conflict_do_nothing(index_elements=["attempt_id"])
    )


def _overlapped(attempt: AttemptRecord) -> bool:
    """Whether another run of the job was under way when this one was decided."""
    situation = attempt.decision.situation
    return situation is not None and bool(situation.in_flight)


def _store_profile(
    connection: Connection,
    learned_state_id: int,
    batch_size: int,
    profile: MeasuredProfile,
    now: datetime,
) -> None:
    points = [asdict(point) for point in profile.points]
    statement = insert(power_profiles).values(
        learned_state_id=learned_state_id,
        batch_size=batch_size,
        gpu_model=clean_text(profile.gpu_model),
        gpu_driver=clean_text(profile.gpu_driver),
        gpu_count=profile.gpu_count,
        points=points,
        measured_at=now,
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[
                "learned_state_id",
                "batch_size",
                "gpu_model",
                "gpu_driver",
                "gpu_count",
            ],
            set_={"points": statement.excluded.points, "measured_at": now},
            # A run that was handed the profile brings the same one back: it is no younger for it.
            where=cast(power_profiles.c.points, Text) != cast(statement.excluded.points, Text),
        )
    )


def close_recurrence(
    connection: Connection, action: CloseRecurrence, now: datetime
) -> RecurrenceRecord:
    """Store how the recurrence ended, and complete its request with the last one."""
    connection.execute(
        update(recurrences)
        .where(recurrences.c.id == action.recurrence_id, recurrences.c.ended_at.is_(None))
        .values(state=action.state.value, ended_at=now)
    )
    found = recurrence_records(connection, recurrences.c.id == action.recurrence_id)
    if not found:
        raise StoreError(f"there is no recurrence {action.recurrence_id}")
    request_id = found[0].request_id
    if request_id is not None:
        close_if_complete(connection, request_id, now)
    return found[0]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what is not finite: a best metric of NaN is kept in the result only."""
    return {
        key: None if isinstance(value, float) and value - value != 0 else value
        for key, value in values.items()
    }
