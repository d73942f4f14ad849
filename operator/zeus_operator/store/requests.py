"""What people ask of a job: runs, going on after a pause, forgetting.  Each once, by its token."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from zeus_operator import names
from zeus_operator.records import RecurrenceKind, RecurrenceState, RunRequestRecord
from zeus_operator.store.connection import StoreError
from zeus_operator.store.models import (
    jobs,
    learned_states,
    observations,
    power_profiles,
    recurrences,
    request_is_open,
    run_requests,
)
from zeus_operator.store.reading import request_records

SPEC_RUNS = "(spec.runs)"
"""Token of the request that `spec.runs` is; no annotation's id has brackets."""


def request_runs(
    connection: Connection,
    job_id: int,
    kind: RecurrenceKind,
    count: int,
    now: datetime,
    token: str = "",
) -> RunRequestRecord:
    """Return the request, made if it is new.

    Without a token there is one open request of a kind: asking again is what the user does
    after a crash, so it must not ask for more; it also says "go on", so it ends a pause after
    failures.  With a token it is made once for ever, and several queue up.
    """
    if token:
        return _tokened(connection, job_id, kind, count, now, token)
    connection.execute(
        insert(run_requests)
        .values(job_id=job_id, kind=kind.value, recurrences=count, requested_at=now)
        .on_conflict_do_nothing(
            index_elements=["job_id", "kind"], index_where=run_requests.c.closed_at.is_(None)
        )
    )
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(resumed_at=now))
    where = (
        (run_requests.c.job_id == job_id)
        & (run_requests.c.kind == kind.value)
        & run_requests.c.closed_at.is_(None)
    )
    return request_records(connection, where)[0]


def _tokened(
    connection: Connection, job_id: int, kind: RecurrenceKind, count: int, now: datetime, token: str
) -> RunRequestRecord:
    made = connection.execute(
        insert(run_requests)
        .values(
            job_id=job_id,
            kind=kind.value,
            recurrences=count,
            requested_at=now,
            closed_at=now,  # for the release before, which knows no tokens
            token=token,
        )
        .on_conflict_do_nothing()
        .returning(run_requests.c.id)
    ).scalar_one_or_none()
    if made is not None:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(resumed_at=now))
    where = (run_requests.c.job_id == job_id) & (run_requests.c.token == token)
    return request_records(connection, where)[0]


def want_runs(connection: Connection, job_id: int, count: int | None, now: datetime) -> None:
    """Let the request of `spec.runs` follow the spec; None: the spec asks for none (any more)."""
    where = (run_requests.c.job_id == job_id) & (run_requests.c.token == SPEC_RUNS)
    if count is None:
        connection.execute(
            update(run_requests).where(where, run_requests.c.done_at.is_(None)).values(done_at=now)
        )
        return
    _tokened(connection, job_id, RecurrenceKind.LEARNED, count, now, SPEC_RUNS)
    connection.execute(update(run_requests).where(where).values(recurrences=count, done_at=None))
    request_id = connection.execute(select(run_requests.c.id).where(where)).scalar_one()
    close_if_complete(connection, request_id, now)


def cancel_request(connection: Connection, request_id: int, now: datetime) -> None:
    """Let a request make no further recurrence; one that is open goes on to its end."""
    connection.execute(
        update(run_requests)
        .where(run_requests.c.id == request_id, request_is_open)
        .values(_closed(now))
    )


def cancel_all(connection: Connection, job_id: int, now: datetime) -> None:
    """Let no request of a job make any further recurrence."""
    connection.execute(
        update(run_requests)
        .where(run_requests.c.job_id == job_id, request_is_open)
        .values(_closed(now))
    )


def close_if_complete(connection: Connection, request_id: int, now: datetime) -> None:
    """Close the request if every recurrence asked for has ended."""
    wanted = connection.execute(
        select(run_requests.c.recurrences).where(run_requests.c.id == request_id).with_for_update()
    ).scalar_one()
    finished = connection.execute(
        select(func.count(recurrences.c.ended_at)).where(recurrences.c.request_id == request_id)
    ).scalar_one()
    if finished >= wanted:
        cancel_request(connection, request_id, now)


def _closed(now: datetime) -> dict[Any, Any]:
    return {
        run_requests.c.closed_at: func.coalesce(run_requests.c.closed_at, now),
        run_requests.c.done_at: now,
    }


def resume_job(connection: Connection, job_id: int, token: str, now: datetime) -> bool:
    """End a pause after failures, once per token; returns whether it was new."""
    return _handle_once(connection, job_id, names.ANNOTATION_RESUME, token, {"resumed_at": now})


def _handle_once(
    connection: Connection, job_id: int, name: str, token: str, values: dict[str, Any]
) -> bool:
    handled = connection.execute(
        select(jobs.c.handled).where(jobs.c.id == job_id).with_for_update()
    ).scalar_one_or_none()
    if handled is None:
        raise StoreError(f"there is no job {job_id}")
    if handled.get(name) == token:
        return False
    connection.execute(
        update(jobs).where(jobs.c.id == job_id).values(handled={**handled, name: token}, **values)
    )
    return True


def reset_job(connection: Connection, job_id: int, now: datetime, token: str = "") -> bool:
    """Erase history and learned state of every incarnation; a living job itself stays.

    The last tick stays as well, so that a reset never makes a tick run twice.  With a token it is
    done once for it, and only while nothing is open.

    Returns:
        Whether it was done.

    Raises:
        StoreError: there is no such job, it was deleted and lives again, or it runs (with a token).
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
    if token and not _reset_is_new(connection, job_id, learned_state_id, token):
        return False
    erase_history(connection, learned_state_id)
    connection.execute(
        delete(jobs).where(
            jobs.c.learned_state_id == learned_state_id, jobs.c.deleted_at.is_not(None)
        )
    )
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(resumed_at=now))
    return True


def _reset_is_new(connection: Connection, job_id: int, learned_state_id: int, token: str) -> bool:
    if not _handle_once(connection, job_id, names.ANNOTATION_RESET, token, {}):
        return False
    opened = connection.execute(
        select(func.count())
        .select_from(recurrences)
        .where(
            recurrences.c.learned_state_id == learned_state_id,
            recurrences.c.state == RecurrenceState.OPEN.value,
        )
    ).scalar_one()
    if opened:
        raise StoreError(f"job {job_id} runs: it is reset once nothing of it is open")
    return True


def erase_history(connection: Connection, learned_state_id: int) -> None:
    """Erase everything that was learned and recorded under a name; requests by token stay done."""
    for table in (observations, power_profiles, recurrences):
        connection.execute(delete(table).where(table.c.learned_state_id == learned_state_id))
    incarnations = select(jobs.c.id).where(jobs.c.learned_state_id == learned_state_id)
    # Those with a token are remembered: the annotation that asked for them may still be there.
    connection.execute(
        update(run_requests)
        .where(run_requests.c.job_id.in_(incarnations), run_requests.c.token.is_not(None))
        .values(done_at=func.coalesce(run_requests.c.done_at, func.now()))
    )
    connection.execute(
        delete(run_requests).where(
            run_requests.c.job_id.in_(incarnations), run_requests.c.token.is_(None)
        )
    )
