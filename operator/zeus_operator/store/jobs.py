"""Jobs and their incarnations, and requests to run."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from zeus_operator.records import (
    AttemptState,
    JobRecord,
    RecurrenceKind,
    RecurrenceState,
    RunRequestRecord,
)
from zeus_operator.store.connection import StoreError
from zeus_operator.store.models import (
    attempts,
    jobs,
    learned_states,
    observations,
    power_profiles,
    recurrences,
    run_requests,
)
from zeus_operator.store.reading import (
    job_record,
    request_record,
    select_incarnations,
    select_jobs,
)
from zeus_runtime.protocol import Outcome


def find_job(connection: Connection, namespace: str, name: str) -> JobRecord | None:
    """Return the living job of that name."""
    query = select_jobs().where(
        learned_states.c.namespace == namespace, learned_states.c.name == name
    )
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
        .values(namespace=namespace, name=name, created_at=now)
        .on_conflict_do_nothing()
    )
    # Locked: two that apply the same name at once come one after the other.
    learned_state_id = connection.execute(
        select(learned_states.c.id)
        .where(learned_states.c.namespace == namespace, learned_states.c.name == name)
        .with_for_update()
    ).scalar_one()
    found = find_job(connection, namespace, name)
    if found is not None and found.uid != uid and not is_same_incarnation:
        delete_job(connection, found.id, now)
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
    applied = find_job(connection, namespace, name)
    if applied is None:
        raise StoreError(f"{namespace}/{name} was deleted while it was applied")
    return applied


def set_suspended(connection: Connection, job_id: int, suspended: bool, now: datetime) -> None:
    """Suspend or resume; resuming also ends a pause after failures."""
    values: dict[str, Any] = {"suspended": suspended}
    if not suspended:
        values["resumed_at"] = now
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def delete_job(connection: Connection, job_id: int, now: datetime) -> None:
    """End the incarnation: what is open is cancelled, what was learned stays."""
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
            outcome=Outcome.CANCELLED.value,
            detail="the job was deleted",
            ended_at=now,
        )
    )
    connection.execute(
        update(run_requests)
        .where(run_requests.c.job_id == job_id, run_requests.c.closed_at.is_(None))
        .values(closed_at=now)
    )


def reset_job(connection: Connection, job_id: int, now: datetime) -> None:
    """Erase history and learned state of every incarnation; a living job itself stays.

    The last tick stays as well, so that a reset never makes a tick run twice.

    Raises:
        StoreError: there is no such job, or it was deleted and lives again.
    """
    learned_state_id = connection.execute(
        select(jobs.c.learned_state_id).where(jobs.c.id == job_id)
    ).scalar_one_or_none()
    if learned_state_id is None:
        raise StoreError(f"there is no job {job_id}")
    # `apply_job` locks this as well: no incarnation comes to life meanwhile.
    connection.execute(
        select(learned_states.c.id).where(learned_states.c.id == learned_state_id).with_for_update()
    )
    living_id = connection.execute(
        select(jobs.c.id).where(
            jobs.c.learned_state_id == learned_state_id, jobs.c.deleted_at.is_(None)
        )
    ).scalar_one_or_none()
    if living_id not in (None, job_id):
        # The caller holds the lock of the deleted one, so the living one may be at work.
        raise StoreError(f"job {job_id} was deleted and has been run again since: try again")
    for table in (observations, power_profiles, recurrences):
        connection.execute(delete(table).where(table.c.learned_state_id == learned_state_id))
    incarnations = select(jobs.c.id).where(jobs.c.learned_state_id == learned_state_id)
    connection.execute(delete(run_requests).where(run_requests.c.job_id.in_(incarnations)))
    connection.execute(
        delete(jobs).where(
            jobs.c.learned_state_id == learned_state_id, jobs.c.deleted_at.is_not(None)
        )
    )
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(resumed_at=now))


def request_runs(
    connection: Connection, job_id: int, kind: RecurrenceKind, count: int, now: datetime
) -> RunRequestRecord:
    """Return the open request of that kind, made if there is none.

    Asking again is what the user does after a crash, so it must not ask for
    more; it also says "go on", so it ends a pause after failures.
    """
    connection.execute(
        insert(run_requests)
        .values(job_id=job_id, kind=kind.value, recurrences=count, requested_at=now)
        .on_conflict_do_nothing(
            index_elements=["job_id", "kind"], index_where=run_requests.c.closed_at.is_(None)
        )
    )
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(resumed_at=now))
    row = (
        connection.execute(
            select(run_requests).where(
                run_requests.c.job_id == job_id,
                run_requests.c.kind == kind.value,
                run_requests.c.closed_at.is_(None),
            )
        )
        .mappings()
        .one()
    )
    return request_record(connection, row)


def cancel_request(connection: Connection, request_id: int, now: datetime) -> None:
    """Let a request make no further recurrence; one that is open goes on to its end."""
    connection.execute(
        update(run_requests)
        .where(run_requests.c.id == request_id, run_requests.c.closed_at.is_(None))
        .values(closed_at=now)
    )
