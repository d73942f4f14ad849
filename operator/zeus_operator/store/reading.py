"""Records from rows: jobs, requests, recurrences with their attempts and executions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    RowMapping,
    Select,
    Table,
    Text,
    bindparam,
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


# Statements are made once: to make one anew costs about as much as to run it.
_INCARNATIONS = select(
    jobs,
    learned_states.c.namespace,
    learned_states.c.namespace_uid,
    learned_states.c.name,
    learned_states.c.last_tick,
).join(learned_states, learned_states.c.id == jobs.c.learned_state_id)
_LIVING = _INCARNATIONS.where(jobs.c.deleted_at.is_(None)).order_by(
    learned_states.c.namespace, learned_states.c.name
)


def _aware(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def select_incarnations() -> Select[Any]:
    """Return the query of jobs, living or deleted, with what belongs to their name."""
    return _INCARNATIONS


def select_jobs() -> Select[Any]:
    """Return the query of living jobs by namespace and name."""
    return _LIVING


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


def job_by_id(connection: Connection, job_id: int) -> tuple[JobRecord, int] | None:
    """Return a job, living or deleted, with its learned state's id."""
    row = connection.execute(select_incarnations().where(jobs.c.id == job_id)).mappings().first()
    return None if row is None else (job_record(row), row["learned_state_id"])


_SELECT_REQUESTS = (
    select(
        run_requests,
        func.count(recurrences.c.id).label("created"),
        func.count(recurrences.c.ended_at).label("finished"),
    )
    .outerjoin(recurrences, recurrences.c.request_id == run_requests.c.id)
    .group_by(run_requests.c.id)
    .order_by(run_requests.c.id)
)


def request_records(
    connection: Connection, where: ColumnElement[bool]
) -> tuple[RunRequestRecord, ...]:
    """Return requests in order, each with how many recurrences it has made."""
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
        for row in connection.execute(_SELECT_REQUESTS.where(where)).mappings()
    )


def _with_text(table: Table, name: str) -> tuple[ColumnElement[Any], ...]:
    """Return all columns, that of JSON as its text: `codec` reads it quicker."""
    others = [column for column in table.c if column.name != name]
    return (*others, cast(table.c[name], Text).label(name))


ATTEMPT_COLUMNS = _with_text(attempts, "decision")
"""What `attempt_record` needs of a row."""
SELECT_ATTEMPTS = select(*ATTEMPT_COLUMNS).order_by(attempts.c.recurrence_id, attempts.c.number)
_SELECT_EXECUTIONS = (
    select(*_with_text(executions, "result"))
    .where(executions.c.attempt_id.in_(bindparam("attempt_ids", expanding=True)))
    .order_by(executions.c.id)
)
_SELECT_PROFILES = select(power_profiles).order_by(
    power_profiles.c.measured_at, power_profiles.c.id
)
_SELECT_OBSERVATIONS = select(observations).order_by(observations.c.id)


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


def attempt_record(row: RowMapping, run: Sequence[ExecutionRecord] = ()) -> AttemptRecord:
    """Return an attempt with its executions."""
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
    return attempts_of_rows(
        connection, connection.execute(SELECT_ATTEMPTS.where(where)).mappings().all()
    )


def attempts_of_rows(
    connection: Connection, rows: Sequence[RowMapping]
) -> tuple[AttemptRecord, ...]:
    """Return the attempts of rows of `SELECT_ATTEMPTS` with their executions."""
    if not rows:
        return ()
    runs = _executions(connection, [row["id"] for row in rows])
    return tuple(attempt_record(row, runs[row["id"]]) for row in rows)


def executions_of(connection: Connection, attempt_id: int) -> tuple[ExecutionRecord, ...]:
    """Return the executions of an attempt, in order."""
    return tuple(_executions(connection, [attempt_id])[attempt_id])


def _executions(
    connection: Connection, attempt_ids: Sequence[int]
) -> defaultdict[int, list[ExecutionRecord]]:
    """Return the executions by attempt, in order."""
    runs: defaultdict[int, list[ExecutionRecord]] = defaultdict(list)
    found = connection.execute(_SELECT_EXECUTIONS, {"attempt_ids": attempt_ids})
    for row in found.mappings():
        runs[row["attempt_id"]].append(_execution_record(row))
    return runs


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
    return tuple(recurrence_record(row, by_recurrence[row["id"]]) for row in rows)


def recurrence_record(row: RowMapping, tries: Sequence[AttemptRecord] = ()) -> RecurrenceRecord:
    """Return a recurrence with its attempts."""
    return RecurrenceRecord(
        id=row["id"],
        job_id=row["job_id"],
        ordinal=row["ordinal"],
        kind=RecurrenceKind(row["kind"]),
        scheduled_time=_aware(row["scheduled_time"]),
        state=RecurrenceState(row["state"]),
        request_id=row["request_id"],
        attempts=tuple(tries),
        ended_at=utc(row["ended_at"]),
        reason=row["reason"],
    )


def stored_observations(
    connection: Connection, where: ColumnElement[bool]
) -> tuple[StoredObservation, ...]:
    """Return what was learned, in the order in which it was stored, as it was stored."""
    query = _SELECT_OBSERVATIONS.where(where)
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
    query = _SELECT_PROFILES.where(power_profiles.c.learned_state_id == learned_state_id)
    return tuple(profile_from_row(dict(row)) for row in connection.execute(query).mappings())


def _select_recurrences_of_facts() -> CompoundSelect[Any]:
    mine = select(recurrences).where(recurrences.c.job_id == bindparam("job_id"))
    state = recurrences.c.state
    passed_over = (RecurrenceState.OPEN.value, RecurrenceState.SKIPPED.value)
    ended = (
        mine.where(state.not_in(passed_over))
        .order_by(recurrences.c.id.desc())
        .limit(ENDED_IN_FACTS)
        .subquery()
    )
    return union_all(mine.where(state == RecurrenceState.OPEN.value), select(ended))


_SELECT_RECURRENCES_OF_FACTS = _select_recurrences_of_facts()
_HAS_REQUESTS = "has_requests"
_HAS_OBSERVATIONS = "has_observations"
_HAS_PROFILES = "has_profiles"
_RECORDED = "recorded"
_LAST_ORDINAL = "last_ordinal_"
_MOST_COUNTED = 2 * ENDED_IN_FACTS
"""More than facts ever carry: of a name with more recurrences nobody needs to know how many."""


def _select_job_of_facts() -> Select[Any]:
    """Return `select_incarnations` with what tells which further queries find something."""
    of_job = run_requests.c.job_id == jobs.c.id
    of_name = recurrences.c.learned_state_id == jobs.c.learned_state_id
    counted = select(recurrences.c.id).where(of_name).limit(_MOST_COUNTED).correlate(jobs)
    return _INCARNATIONS.add_columns(
        select(run_requests.c.id).where(of_job, request_is_open).exists().label(_HAS_REQUESTS),
        *(
            select(table.c.id)
            .where(table.c.learned_state_id == jobs.c.learned_state_id)
            .exists()
            .label(label)
            for label, table in ((_HAS_OBSERVATIONS, observations), (_HAS_PROFILES, power_profiles))
        ),
        select(func.count()).select_from(counted.subquery()).scalar_subquery().label(_RECORDED),
        *(
            select(func.max(recurrences.c.ordinal))
            # As the index has it, where the largest is found at once.
            .where(of_name, recurrences.c.kind == kind.value, recurrences.c.ordinal > 0)
            .scalar_subquery()
            .label(_LAST_ORDINAL + kind.value)
            for kind in RecurrenceKind
        ),
    )


_SELECT_JOB_OF_FACTS = _select_job_of_facts()


def _recurrences_of_facts(connection: Connection, job_id: int) -> tuple[RecurrenceRecord, ...]:
    """Return the open recurrences and the last `ENDED_IN_FACTS` that ended, ascending."""
    found = connection.execute(_SELECT_RECURRENCES_OF_FACTS, {"job_id": job_id})
    return _with_attempts(connection, sorted(found.mappings(), key=lambda row: int(row["id"])))


def job_facts(connection: Connection, where: ColumnElement[bool]) -> JobFacts | None:
    """Return what `plan` decides on, from one snapshot; None: no job, living or deleted, is so.

    Of several it is the last.
    """
    query = _SELECT_JOB_OF_FACTS.where(where).order_by(jobs.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    job, learned_state_id = job_record(row), row["learned_state_id"]
    is_asked = (run_requests.c.job_id == job.id) & request_is_open
    return JobFacts(
        job=job,
        recurrences=_recurrences_of_facts(connection, job.id) if row[_RECORDED] else (),
        observations=_observations(connection, job, learned_state_id)
        if row[_HAS_OBSERVATIONS]
        else (),
        requests=request_records(connection, is_asked) if row[_HAS_REQUESTS] else (),
        profiles=_profile_records(connection, learned_state_id) if row[_HAS_PROFILES] else (),
        last_ordinal={
            kind: last
            for kind in RecurrenceKind
            if (last := row[_LAST_ORDINAL + kind.value]) is not None
        },
        last_scheduled_time=utc(row["last_tick"]),
        recorded=row[_RECORDED],
    )
