"""Records from rows: jobs, requests, recurrences with their attempts and executions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    Text,
    cast,
    func,
    select,
    union_all,
)

from zeus_operator.optimizer.types import Observation
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobFacts,
    JobRecord,
    ProfileRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
    RunRequestRecord,
)
from zeus_operator.relearning import StoredObservation, Terms, observations_under
from zeus_operator.store.codec import (
    decision_from_text,
    profile_from_row,
    result_from_text,
    stored_observation_from_row,
    utc,
)
from zeus_operator.store.models import (
    attempts,
    executions,
    jobs,
    learned_states,
    observations,
    power_profiles,
    recurrences,
    request_is_open,
    run_requests,
)
from zeus_runtime.protocol import Outcome

ENDED_IN_FACTS = 100
"""Ended recurrences that facts carry: as many as `pauseAfterFailures` may ask to look back."""


def _aware(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def select_incarnations() -> Select[Any]:
    """Return the query of jobs, living or deleted, with what belongs to their name."""
    return select(
        jobs,
        learned_states.c.namespace,
        learned_states.c.namespace_uid,
        learned_states.c.name,
        learned_states.c.last_tick,
    ).join(learned_states, learned_states.c.id == jobs.c.learned_state_id)


def select_jobs() -> Select[Any]:
    """Return the query of living jobs by namespace and name."""
    return (
        select_incarnations()
        .where(jobs.c.deleted_at.is_(None))
        .order_by(learned_states.c.namespace, learned_states.c.name)
    )


def job_record(row: RowMapping) -> JobRecord:
    """Return a row of `select_incarnations`."""
    return JobRecord(
        id=row["id"],
        namespace=row["namespace"],
        name=row["name"],
        uid=row["uid"],
        generation=row["generation"],
        spec=row["spec"],
        policy=row["policy"],
        seed=row["seed"],
        manifest_path=row["manifest_path"],
        created_at=_aware(row["created_at"]),
        suspended=row["suspended"],
        resumed_at=_aware(row["resumed_at"]),
        namespace_uid=row["namespace_uid"],
        handled=dict(row["handled"]),
    )


def job_by_id(connection: Connection, job_id: int) -> tuple[JobRecord, int, datetime | None] | None:
    """Return a job, living or deleted, with its learned state's id and last tick."""
    row = connection.execute(select_incarnations().where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        return None
    return job_record(row), row["learned_state_id"], utc(row["last_tick"])


def request_records(
    connection: Connection, where: ColumnElement[bool]
) -> tuple[RunRequestRecord, ...]:
    """Return requests in order, each with how many recurrences it has made."""
    query = (
        select(
            run_requests,
            func.count(recurrences.c.id).label("created"),
            func.count(recurrences.c.ended_at).label("finished"),
        )
        .outerjoin(recurrences, recurrences.c.request_id == run_requests.c.id)
        .where(where)
        .group_by(run_requests.c.id)
        .order_by(run_requests.c.id)
    )
    return tuple(
        RunRequestRecord(
            id=row["id"],
            job_id=row["job_id"],
            kind=RecurrenceKind(row["kind"]),
            recurrences=row["recurrences"],
            created=row["created"],
            finished=row["finished"],
            requested_at=_aware(row["requested_at"]),
            token=row["token"] or "",
        )
        for row in connection.execute(query).mappings()
    )


def _select_with_text(table: Table, name: str) -> Select[Any]:
    """Return the query of all columns, that of JSON as its text: `codec` reads it quicker."""
    others = [column for column in table.c if column.name != name]
    return select(*others, cast(table.c[name], Text).label(name))


def _execution_record(row: RowMapping) -> ExecutionRecord:
    return ExecutionRecord(
        uid=row["uid"],
        started_at=_aware(row["started_at"]),
        ended_at=utc(row["ended_at"]),
        exit_code=row["exit_code"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        result=result_from_text(row["result"]),
        output_path=row["output_path"],
        output_tail=row["output_tail"],
        reason=row["reason"],
    )


def _attempt_record(row: RowMapping, run: Sequence[ExecutionRecord]) -> AttemptRecord:
    return AttemptRecord(
        id=row["id"],
        recurrence_id=row["recurrence_id"],
        number=row["number"],
        state=AttemptState(row["state"]),
        child_name=row["child_name"],
        decision=decision_from_text(row["decision"]),
        decided_at=_aware(row["decided_at"]),
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        detail=row["detail"],
        executions=tuple(run),
        epochs=row["epochs"],
        energy_joules=row["energy_joules"],
        time_seconds=row["time_seconds"],
        cost_joules=row["cost_joules"],
        epoch_cost_joules=row["epoch_cost_joules"],
        power_limit_watts=row["power_limit_watts"],
        best_metric=row["best_metric"],
        gpu_model=row["gpu_model"],
        ended_at=utc(row["ended_at"]),
        child_uid=row["child_uid"],
    )


def attempt_records(
    connection: Connection, where: ColumnElement[bool]
) -> tuple[AttemptRecord, ...]:
    """Return attempts with their executions, in order."""
    rows = (
        connection.execute(
            _select_with_text(attempts, "decision")
            .where(where)
            .order_by(attempts.c.recurrence_id, attempts.c.number)
        )
        .mappings()
        .all()
    )
    if not rows:
        return ()
    runs: dict[int, list[ExecutionRecord]] = defaultdict(list)
    for row in connection.execute(
        _select_with_text(executions, "result")
        .where(executions.c.attempt_id.in_([row["id"] for row in rows]))
        .order_by(executions.c.id)
    ).mappings():
        runs[row["attempt_id"]].append(_execution_record(row))
    return tuple(_attempt_record(row, runs[row["id"]]) for row in rows)


def recurrence_records(
    connection: Connection, where: ColumnElement[bool], limit: int | None = None
) -> tuple[RecurrenceRecord, ...]:
    """Return recurrences with their attempts, ascending; with `limit` the latest ones."""
    query = select(recurrences).where(where).order_by(recurrences.c.id.desc()).limit(limit)
    return _with_attempts(connection, connection.execute(query).mappings().all()[::-1])


def _with_attempts(
    connection: Connection, rows: Sequence[RowMapping]
) -> tuple[RecurrenceRecord, ...]:
    if not rows:
        return ()
    by_recurrence: dict[int, list[AttemptRecord]] = defaultdict(list)
    for attempt in attempt_records(
        connection, attempts.c.recurrence_id.in_([row["id"] for row in rows])
    ):
        by_recurrence[attempt.recurrence_id].append(attempt)
    return tuple(
        RecurrenceRecord(
            id=row["id"],
            job_id=row["job_id"],
            ordinal=row["ordinal"],
            kind=RecurrenceKind(row["kind"]),
            scheduled_time=_aware(row["scheduled_time"]),
            state=RecurrenceState(row["state"]),
            request_id=row["request_id"],
            attempts=tuple(by_recurrence[row["id"]]),
            ended_at=utc(row["ended_at"]),
            reason=row["reason"],
        )
        for row in rows
    )


def stored_observations(
    connection: Connection, where: ColumnElement[bool]
) -> tuple[StoredObservation, ...]:
    """Return what was learned, in the order in which it was stored, as it was stored."""
    query = select(observations).where(where).order_by(observations.c.id)
    return tuple(
        stored_observation_from_row(dict(row)) for row in connection.execute(query).mappings()
    )


def _observations(
    connection: Connection, job: JobRecord, learned_state_id: int
) -> tuple[Observation, ...]:
    """Return what was learned, as it reads under the job's present spec."""
    stored = stored_observations(connection, observations.c.learned_state_id == learned_state_id)
    if all(each.terms is None for each in stored):
        return observations_under(stored, None)
    return observations_under(stored, Terms.of_spec(JobPlanSpec.from_document(job.spec)))


def _profile_records(connection: Connection, learned_state_id: int) -> tuple[ProfileRecord, ...]:
    return tuple(
        profile_from_row(dict(row))
        for row in connection.execute(
            select(power_profiles)
            .where(power_profiles.c.learned_state_id == learned_state_id)
            .order_by(power_profiles.c.measured_at, power_profiles.c.id)
        ).mappings()
    )


def _recurrences_of_facts(connection: Connection, job_id: int) -> tuple[RecurrenceRecord, ...]:
    """Return the open recurrences and the last `ENDED_IN_FACTS` that ended, ascending."""
    mine = select(recurrences).where(recurrences.c.job_id == job_id)
    state = recurrences.c.state
    passed_over = (RecurrenceState.OPEN.value, RecurrenceState.SKIPPED.value)
    ended = (
        mine.where(state.not_in(passed_over))
        .order_by(recurrences.c.id.desc())
        .limit(ENDED_IN_FACTS)
        .subquery()
    )
    both = union_all(mine.where(state == RecurrenceState.OPEN.value), select(ended))
    rows = connection.execute(both).mappings().all()
    return _with_attempts(connection, sorted(rows, key=lambda row: int(row["id"])))


def _last_ordinals(connection: Connection, learned_state_id: int) -> dict[RecurrenceKind, int]:
    query = (
        select(recurrences.c.kind, func.max(recurrences.c.ordinal))
        .where(recurrences.c.learned_state_id == learned_state_id)
        .group_by(recurrences.c.kind)
    )
    return {RecurrenceKind(kind): ordinal for kind, ordinal in connection.execute(query)}


def job_facts(connection: Connection, job_id: int) -> JobFacts | None:
    """Return what `plan` decides on, from one snapshot; None: no such job."""
    found = job_by_id(connection, job_id)
    if found is None:
        return None
    job, learned_state_id, last_tick = found
    return JobFacts(
        job=job,
        recurrences=_recurrences_of_facts(connection, job_id),
        observations=_observations(connection, job, learned_state_id),
        requests=request_records(connection, (run_requests.c.job_id == job_id) & request_is_open),
        profiles=_profile_records(connection, learned_state_id),
        last_ordinal=_last_ordinals(connection, learned_state_id),
        last_scheduled_time=last_tick,
    )
