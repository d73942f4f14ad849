"""What is stored of the executions of an attempt.

Functions of one transaction; `Store` gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from zeus_operator.records import AttemptRecord, AttemptState, ExecutionRecord
from zeus_operator.store.codec import clean_text, result_to_json
from zeus_operator.store.connection import StoreError
from zeus_operator.store.models import attempts, executions
from zeus_operator.store.reading import (
    SELECT_ATTEMPTS,
    attempt_records,
    attempts_of_rows,
    executions_of,
)

_INSERT_EXECUTION = insert(executions)
_LOCK_ATTEMPT = SELECT_ATTEMPTS.where(attempts.c.id == bindparam("attempt_id")).with_for_update()
_SET_CHILD = (
    update(attempts)
    .where(attempts.c.id == bindparam("this"))
    .values(child_uid=bindparam("child_uid"), state=bindparam("state"))
)


def locked_attempt(connection: Connection, attempt_id: int) -> AttemptRecord:
    """Return an attempt that nobody else changes until the transaction ends.

    Raises:
        StoreError: there is no such attempt.
    """
    rows = connection.execute(_LOCK_ATTEMPT, {"attempt_id": attempt_id}).mappings().all()
    found = attempts_of_rows(connection, rows)
    if not found:
        raise StoreError(f"there is no attempt {attempt_id}: was the job reset?")
    return found[0]


def record_execution(
    connection: Connection, attempt_id: int, execution: ExecutionRecord
) -> AttemptRecord:
    """Store what is newly known of an execution; older knowledge never replaces newer."""
    attempt = locked_attempt(connection, attempt_id)
    _merge_execution(connection, attempt, execution)
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
    attempt = locked_attempt(connection, attempt_id)
    if attempt.state is AttemptState.ENDED:
        return attempt
    for execution in found:
        _merge_execution(connection, attempt, execution)
    running = replace(attempt, child_uid=child_uid, state=AttemptState.RUNNING)
    if running != attempt:
        connection.execute(
            _SET_CHILD,
            {"this": attempt_id, "child_uid": child_uid, "state": AttemptState.RUNNING.value},
        )
    if not found:
        return running
    return replace(running, executions=executions_of(connection, attempt_id))


def _merge_execution(
    connection: Connection, attempt: AttemptRecord, execution: ExecutionRecord
) -> None:
    """Store what is newly known of an execution of `attempt`, which is locked."""
    if all(each.uid != execution.uid for each in attempt.executions):
        values = _merged(None, execution)
        connection.execute(
            _INSERT_EXECUTION, {"attempt_id": attempt.id, "uid": execution.uid, **values}
        )
        return
    this = (executions.c.attempt_id == attempt.id) & (executions.c.uid == execution.uid)
    stored = connection.execute(select(executions).where(this)).mappings().one()
    values = _merged(stored, execution)
    connection.execute(update(executions).where(executions.c.id == stored["id"]).values(**values))


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
