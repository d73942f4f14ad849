"""Connections that break while nobody uses them."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, text

from zeus_operator.store import connection as connections
from zeus_operator.store.connection import Database, StoreUnavailable, open_engine

pytestmark = pytest.mark.postgres


def end_session(url: str, pid: int) -> None:
    """End the session `pid`, as a restart of the server would."""
    helper = open_engine(url)
    with helper.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    helper.dispose()


def session_of(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def test_one_that_was_idle_is_tried_before_it_is_used(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PROBED_AFTER_SECONDS", 0.0)
    used = Database(open_engine(database, pool_size=1), pauses_seconds=())
    broken = used.read(session_of)
    end_session(database, broken)
    assert used.once(session_of) != broken
    used.engine.dispose()


def test_one_that_breaks_in_a_burst_costs_a_retry(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PROBED_AFTER_SECONDS", 3600.0)
    used = Database(open_engine(database, pool_size=1), pauses_seconds=(0.0,))
    broken = used.read(session_of)
    end_session(database, broken)
    assert used.write(session_of) != broken

    broken = used.read(session_of)
    end_session(database, broken)
    with pytest.raises(StoreUnavailable):
        used.once(session_of)
    assert used.once(session_of) != broken
    used.engine.dispose()
