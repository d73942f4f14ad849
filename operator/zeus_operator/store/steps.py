"""Appliers of `plan`'s actions.  Each may be repeated: what is done already stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Text, cast, select, update
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
    ExecutionRecord,
    JobRecord,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.schedule import CLOCK_TOLERANCE
from zeus_operator.store.codec import clean_text, decision_to_json, result_to_json
from zeus_operator.store.connection import StoreError
from zeus_operator.store.models import (
    attempts,
    executions,
    jobs,
    learned_states,
    observations,
    power_profiles,
    recurrences,
)
from zeus_operator.store.reading import attempt_records, job_by_id, recurrence_records
from zeus_operator.store.requests import close_if_complete
from zeus_runtime.protocol import Outcome

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
    job = connection.execute(
        select(jobs.c.learned_state_id, jobs.c.deleted_at)
        .where(jobs.c.id == action.job_id)
        .with_for_update()
    ).one_or_none()
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
    connection.execute(
        insert(recurrences)
        .values(
            learned_state_id=learned_state_id,
            job_id=action.job_id,
            request_id=action.request_id,
            kind=action.kind.value,
            ordinal=action.ordinal,
            scheduled_time=action.scheduled_time,
            state=action.state.value,
            reason=action.reason,
            created_at=now,
            ended_at=None if is_open else now,
        )
        .on_conflict_do_nothing()
    )
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
        select(recurrences.c.state)
        .where(recurrences.c.id == action.recurrence_id)
        .with_for_update()
    ).scalar_one_or_none()
    this = (attempts.c.recurrence_id == action.recurrence_id) & (attempts.c.number == action.number)
    found = attempt_records(connection, this)
    if found:
        return found[0]
    if state != RecurrenceState.OPEN.value:
        raise StoreError(f"recurrence {action.recurrence_id} is not open (it is {state})")
    connection.execute(
        insert(attempts)
        .values(
            recurrence_id=action.recurrence_id,
            number=action.number,
            state=AttemptState.DECIDED.value,
            child_name=action.child_name,
            decision=decision_to_json(action.decision),
            decided_at=now,
        )
        .on_conflict_do_nothing()
    )
    found = attempt_records(connection, this)
    if not found:
        raise StoreError(f"the name {action.child_name} belongs to another attempt")
    return found[0]


def record_execution(
    connection: Connection, attempt_id: int, execution: ExecutionRecord
) -> AttemptRecord:
    """Store what is newly known of an execution; older knowledge never replaces newer."""
    _lock_attempt(connection, attempt_id)
    _merge_execution(connection, attempt_id, execution)
    _is_running(connection, attempt_id)
    return attempt_records(connection, attempts.c.id == attempt_id)[0]


def record_child(
    connection: Connection,
    attempt_id: int,
    child_uid: str,
    found: Sequence[ExecutionRecord],
) -> AttemptRecord:
    """Store whether the child lives, and what is newly known of its executions, at once.

    Args:
        child_uid: of the child; "": it has ended, or is gone.
    """
    _lock_attempt(connection, attempt_id)
    attempt = attempt_records(connection, attempts.c.id == attempt_id)[0]
    if attempt.state is AttemptState.ENDED:
        return attempt
    for execution in found:
        _merge_execution(connection, attempt_id, execution)
    connection.execute(
        update(attempts).where(attempts.c.id == attempt_id).values(child_uid=child_uid)
    )
    _is_running(connection, attempt_id)
    return attempt_records(connection, attempts.c.id == attempt_id)[0]


def _merge_execution(connection: Connection, attempt_id: int, execution: ExecutionRecord) -> None:
    stored = (
        connection.execute(
            select(executions).where(
                executions.c.attempt_id == attempt_id, executions.c.uid == execution.uid
            )
        )
        .mappings()
        .one_or_none()
    )
    values = _merged(stored, execution)
    if stored is None:
        connection.execute(
            insert(executions).values(attempt_id=attempt_id, uid=execution.uid, **values)
        )
    else:
        connection.execute(
            update(executions).where(executions.c.id == stored["id"]).values(**values)
        )


def _is_running(connection: Connection, attempt_id: int) -> None:
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id, attempts.c.state == AttemptState.DECIDED.value)
        .values(state=AttemptState.RUNNING.value)
    )


def _merged(stored: RowMapping | None, execution: ExecutionRecord) -> dict[str, Any]:
    values: dict[str, Any] = {"started_at": execution.started_at}
    if execution.output_path or stored is None:
        values["output_path"] = clean_text(execution.output_path)
    if execution.output_tail or stored is None:
        values["output_tail"] = clean_text(execution.output_tail)
    if execution.ended_at is not None and (stored is None or stored["ended_at"] is None):
        values |= {
            "ended_at": execution.ended_at,
            "exit_code": execution.exit_code,
            "outcome": None if execution.outcome is None else execution.outcome.value,
            "reason": clean_text(execution.reason),
        }
    result = execution.result
    known = None if stored is None else stored["sequence"]
    if result is not None:
        sequence = result.sequence if isinstance(result.sequence, int) else 0
        sequence = max(0, min(sequence, 2**62))  # anybody may have written it
        if known is None or sequence > known:
            values |= {"result": result_to_json(result), "sequence": sequence}
    return values


def close_attempt(connection: Connection, action: CloseAttempt, now: datetime) -> AttemptRecord:
    """Store outcome, bill, observation and power profile of an attempt, in one transaction."""
    _lock_attempt(connection, action.attempt_id)
    attempt = attempt_records(connection, attempts.c.id == action.attempt_id)[0]
    if attempt.state is AttemptState.ENDED:
        return attempt
    recurrence = recurrence_records(connection, recurrences.c.id == attempt.recurrence_id)[0]
    found = job_by_id(connection, recurrence.job_id)
    if found is None:
        raise StoreError(f"the job of attempt {action.attempt_id} is gone")
    job, learned_state_id, _ = found
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
        detail += "; not learned from: its energy or power is unknown"
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


def _lock_attempt(connection: Connection, attempt_id: int) -> None:
    found = connection.execute(
        select(attempts.c.id).where(attempts.c.id == attempt_id).with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise StoreError(f"there is no attempt {attempt_id}: was the job reset?")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what is not finite: a best metric of NaN is kept in the result only."""
    return {
        key: None if isinstance(value, float) and value - value != 0 else value
        for key, value in values.items()
    }
