"""One program at a time works on a job: a lock that PostgreSQL drops when its holder dies."""

from __future__ import annotations

import os
import socket
from types import TracebackType

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from zeus_operator.store.connection import Database, StoreError, is_transient

_CLASS = 0x7A65_7573  # "zeus": the upper half of the key, so that other programs' locks differ


class JobBusy(StoreError):  # noqa: N818 - a state, as ConnectionRefused is
    """Another program works on the job; `holder` says which, as far as it is known."""

    def __init__(self, job_id: int, holder: str) -> None:
        super().__init__(f"another program works on this job ({holder})")
        self.job_id = job_id
        self.holder = holder


class JobLock:
    """A session-level advisory lock on a connection of its own.

    It must outlive transactions, so it is not for PgBouncer in transaction
    mode; the operator in a cluster has its leader Lease instead.
    """

    def __init__(self, database: Database, job_id: int) -> None:
        self._database = database
        self._job_id = job_id
        self._connection: Connection | None = None

    def __enter__(self) -> JobLock:
        self.ensure()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop()

    def ensure(self) -> None:
        """Take the lock, again if the server lost it with the session.

        Raises:
            JobBusy: somebody else holds it.
            StoreUnavailable: the server stayed away.
        """
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
                self._connection.commit()
                return
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                self._drop()
        self._connection = self._database.session(self._take)

    def _take(self, connection: Connection) -> None:
        holder = self._try(connection)
        if holder is not None:
            raise JobBusy(self._job_id, holder)

    def _try(self, connection: Connection) -> str | None:
        """Return None if we have the lock now, else who has it."""
        key = (_CLASS << 32) | (self._job_id & 0xFFFF_FFFF)
        connection.execute(
            text("SELECT set_config('application_name', :name, false)"),
            {"name": f"zeus pid {os.getpid()} on {socket.gethostname()}"[:63]},
        )
        got = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
        holder = None
        if not got:
            holder = connection.execute(
                text(
                    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
                    "WHERE locktype = 'advisory' AND classid = :class AND objid = :object "
                    # The same key in another database of the server is another lock.
                    "AND database = (SELECT oid FROM pg_database "
                    "WHERE datname = current_database()) AND granted"
                ),
                {"class": _CLASS, "object": self._job_id & 0xFFFF_FFFF},
            ).scalar()
            holder = str(holder or "which has just ended: try again")
        connection.commit()
        return holder

    def _drop(self) -> None:
        if self._connection is not None:
            # The session ends with it, and so does the lock: never back into the pool.
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
