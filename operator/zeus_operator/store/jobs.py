"""Jobs and their incarnations, and requests to run."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from zeus_operator.records import (
    AttemptState,
    JobFacts,
    JobOverview,
    JobRecord,
    RecurrenceState,
)
from zeus_operator.store.connection import StoreError
from zeus_operator.store.models import (
    attempts,
    jobs,
    learned_states,
    recurrences,
    request_is_open,
    run_requests,
)
from zeus_operator.store.reading import (
    job_facts,
    job_record,
    select_incarnations,
    select_jobs,
)
from zeus_operator.store.requests import cancel_all, erase_history, want_runs
from zeus_runtime.protocol import Outcome

CLOCKS_AGREE = timedelta(hours=1)


def find_job(connection: Connection, namespace: str, name: str) -> JobRecord | None:
    """Return the living job of that name."""
    # Of a namespace that was deleted and made anew there may be two for a while.
    query = select_jobs().where(_is_named(namespace, name)).order_by(jobs.c.id.desc())
    row = connection.execute(query).mappings().first()
    return None if row is None else job_record(row)


def facts_of_name(connection: Connection, namespace: str, name: str) -> JobFacts | None:
    """Return what `plan` decides on for the job that `find_job` finds."""
    return job_facts(connection, _is_named(namespace, name) & jobs.c.deleted_at.is_(None))


def _is_named(namespace: str, name: str) -> ColumnElement[bool]:
    return and_(learned_states.c.namespace == namespace, learned_states.c.name == name)


def job_by_uid(connection: Connection, uid: str) -> JobRecord | None:
    """Return the living job of that incarnation."""
    row = connection.execute(select_jobs().where(jobs.c.uid == uid)).mappings().first()
    return None if row is None else job_record(row)


def _living(connection: Connection, learned_state_id: int) -> JobRecord | None:
    query = select_jobs().where(jobs.c.learned_state_id == learned_state_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else job_record(row)


def latest_job(connection: Connection, namespace: str, name: str) -> JobRecord | None:
    """Return the living job of that name, else the one that was deleted last."""
    query = (
        select_incarnations()
        .where(learned_states.c.namespace == namespace, learned_states.c.name == name)
        .order_by(jobs.c.deleted_at.desc().nulls_first(), jobs.c.id.desc())
    )
    row = connection.execute(query.limit(1)).mappings().first()
    return None if row is None else job_record(row)


def incarnation_uids(connection: Connection, job_id: int) -> tuple[str, ...]:
    """Return the uids of all incarnations of the job's name, the oldest first."""
    learned = select(jobs.c.learned_state_id).where(jobs.c.id == job_id).scalar_subquery()
    query = select(jobs.c.uid).where(jobs.c.learned_state_id == learned).order_by(jobs.c.id)
    return tuple(connection.execute(query).scalars())


def all_jobs(connection: Connection) -> tuple[JobRecord, ...]:
    """Return the living jobs by name."""
    return tuple(job_record(row) for row in connection.execute(select_jobs()).mappings())


def apply_job(
    connection: Connection,
    namespace: str,
    name: str,
    spec: dict[str, Any],
    *,
    uid: str,
    is_same_incarnation: bool,
    manifest_path: str,
    policy: str,
    seed: int,
    now: datetime,
    namespace_uid: str = "",
    wants_runs: bool = False,
) -> JobRecord:
    """Insert the job, or bring the living one up to date.

    Args:
        uid: of the incarnation.
        is_same_incarnation: whether a living job of another uid is to be kept
            (one machine, where nobody hands out uids) or replaced (Kubernetes).
    """
    document = json.loads(json.dumps(spec, allow_nan=False))
    connection.execute(
        insert(learned_states)
        .values(namespace=namespace, namespace_uid=namespace_uid, name=name, created_at=now)
        .on_conflict_do_nothing()
    )
    # Locked: two that apply the same name at once come one after the other.
    learned_state_id = connection.execute(
        select(learned_states.c.id)
        .where(
            learned_states.c.namespace == namespace,
            learned_states.c.namespace_uid == namespace_uid,
            learned_states.c.name == name,
        )
        .with_for_update()
    ).scalar_one()
    found = _living(connection, learned_state_id)
    if found is not None and found.uid != uid and not is_same_incarnation:
        delete_job(connection, found.id, now)
        if found.spec.get("deletionPolicy") == "Delete":
            erase_history(connection, learned_state_id)
        found = None
    if found is None:
        connection.execute(
            insert(jobs).values(
                learned_state_id=learned_state_id,
                uid=uid,
                generation=1,
                spec=document,
                policy=policy,
                seed=seed,
                manifest_path=manifest_path,
                suspended=bool(document.get("suspend", False)),
                created_at=now,
                resumed_at=now,
            )
        )
    else:
        changed: dict[str, Any] = {}
        if document != found.spec:
            changed |= {
                "spec": document,
                "generation": found.generation + 1,
                "resumed_at": now,  # the change may be the repair
            }
            if document.get("suspend") != found.spec.get("suspend"):
                changed["suspended"] = bool(document.get("suspend", False))
        connection.execute(
            update(jobs)
            .where(jobs.c.id == found.id)
            .values(policy=policy, seed=seed, manifest_path=manifest_path, **changed)
        )
    applied = _living(connection, learned_state_id)
    if applied is None:
        raise StoreError(f"{namespace}/{name} was deleted while it was applied")
    if wants_runs and (found is None or document.get("runs") != found.spec.get("runs")):
        want_runs(connection, applied.id, document.get("runs"), now)
    return applied


def set_suspended(connection: Connection, job_id: int, suspended: bool, now: datetime) -> None:
    """Suspend or resume; resuming also ends a pause after failures."""
    values: dict[str, Any] = {"suspended": suspended}
    if not suspended:
        values["resumed_at"] = now
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def delete_job(connection: Connection, job_id: int, now: datetime, *, erase: bool = False) -> None:
    """End the incarnation: what is open is cancelled, what was learned stays unless `erase`."""
    connection.execute(
        update(jobs).where(jobs.c.id == job_id, jobs.c.deleted_at.is_(None)).values(deleted_at=now)
    )
    # Recurrences first: their locks keep out whoever decides an attempt, so none is missed.
    connection.execute(
        update(recurrences)
        .where(recurrences.c.job_id == job_id, recurrences.c.ended_at.is_(None))
        .values(state=RecurrenceState.CANCELLED.value, reason="the job was deleted", ended_at=now)
    )
    mine = select(recurrences.c.id).where(recurrences.c.job_id == job_id)
    connection.execute(
        update(attempts)
        .where(attempts.c.recurrence_id.in_(mine), attempts.c.ended_at.is_(None))
        .values(
            state=AttemptState.ENDED.value,
            child_uid="",
            outcome=Outcome.CANCELLED.value,
            detail="the job was deleted",
            ended_at=now,
        )
    )
    cancel_all(connection, job_id, now)
    if erase:
        _erase_unless_alive(connection, job_id)


def _erase_unless_alive(connection: Connection, job_id: int) -> None:
    """Erase what was learned under the job's name, unless another incarnation lives."""
    learned_state_id = connection.execute(
        select(jobs.c.learned_state_id).where(jobs.c.id == job_id)
    ).scalar_one()
    connection.execute(
        delete(learned_states).where(
            learned_states.c.id == learned_state_id,
            ~select(jobs.c.id)
            .where(jobs.c.learned_state_id == learned_state_id, jobs.c.deleted_at.is_(None))
            .exists(),
        )
    )


def purge_learned_states(connection: Connection, deleted_before: datetime, now: datetime) -> int:
    """Erase what was learned under names whose last incarnation was deleted before that.

    Nothing is erased where the database's clock does not agree that it is `now`: a clock that is
    wrong by a month must not erase what is to be kept for one.

    Returns:
        How many names.
    """
    theirs = connection.execute(select(func.now())).scalar_one()
    if abs(theirs - now) > CLOCKS_AGREE:
        return 0
    last = (
        select(func.max(jobs.c.deleted_at))
        .where(jobs.c.learned_state_id == learned_states.c.id)
        .scalar_subquery()
    )
    alive = (
        select(jobs.c.id)
        .where(jobs.c.learned_state_id == learned_states.c.id, jobs.c.deleted_at.is_(None))
        .exists()
    )
    done = connection.execute(delete(learned_states).where(last < deleted_before, ~alive))
    return done.rowcount


def overview(connection: Connection) -> tuple[JobOverview, ...]:
    """Return what tells which living jobs need a look, in one statement."""
    opened = (
        select(recurrences.c.id)
        .where(recurrences.c.job_id == jobs.c.id, recurrences.c.state == RecurrenceState.OPEN.value)
        .exists()
    )
    asked = (
        select(run_requests.c.id)
        .where(run_requests.c.job_id == jobs.c.id, request_is_open)
        .exists()
    )
    query = (
        select(
            jobs.c.id,
            jobs.c.uid,
            learned_states.c.namespace,
            learned_states.c.name,
            opened.label("has_open"),
            asked.label("has_requests"),
        )
        .join(learned_states, learned_states.c.id == jobs.c.learned_state_id)
        .where(jobs.c.deleted_at.is_(None))
        .order_by(jobs.c.id)
    )
    return tuple(JobOverview(**row) for row in connection.execute(query).mappings())
