"""How the store reaches PostgreSQL, and what it does while that is away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

RETRY_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
CONNECT_TIMEOUT_SECONDS = 5
PROBED_AFTER_SECONDS = 1.0
"""A connection that was idle for longer is tried before it is used."""

_IDLE_SINCE = "idle_since"

# SQLSTATE classes and codes after which the same transaction may succeed:
# connection lost, server shutting down or starting, serialization, deadlock, too many sessions.
_TRANSIENT = ("08", "57P01", "57P02", "57P03", "40001", "40P01", "53300")


class StoreError(RuntimeError):
    """The store can't do what was asked; the text says why."""


class StoreUnavailable(StoreError):  # noqa: N818 - a state, as ConnectionRefused is
    """PostgreSQL does not answer, after every retry."""


def database_url(text: str) -> URL:
    """Return `text` as a URL of the psycopg driver.

    `postgres://` and `postgresql://`, as most services hand them out, are
    accepted as well as `postgresql+psycopg://`.

    Raises:
        StoreError: it is not a PostgreSQL URL.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise StoreError(
            "DATABASE_URL must look like postgresql://user:password@host:5432/database"
        )
    return url.set(drivername="postgresql+psycopg")


def open_engine(url: str, *, pool_size: int = 4) -> Engine:
    """Return an engine for `url`; nothing is connected yet."""
    engine = create_engine(
        database_url(url),
        # What comes after a lock must see what its last holder did, whatever the server's default.
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=4,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            # A host that is gone without a word is noticed in seconds, not in hours.
            "keepalives_idle": 5,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "application_name": f"zeus-operator pid {os.getpid()}",
            # Server-side prepared statements do not survive PgBouncer's transaction mode.
            "prepare_threshold": None,
        },
    )
    _probe_idle_connections(engine)
    return engine


def _probe_idle_connections(engine: Engine) -> None:
    """Replace connections that broke while nobody used them.

    As `pool_pre_ping` does, but not before each transaction: in a burst one follows the other, and
    what breaks in between is noticed, and repeated, all the same; but for `once`, which fails.
    """

    def note(_dbapi_connection: object, entry: ConnectionPoolEntry) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    def probe(dbapi_connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
        since = entry.info.pop(_IDLE_SINCE, None)
        if since is None or time.monotonic() - since < PROBED_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(dbapi_connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", probe)


def is_transient(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed a little later."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # the connection broke, or none could be made
        return isinstance(error, (OperationalError, InterfaceError))
    return str(state).startswith(_TRANSIENT)


class Database:
    """Runs transactions, again if the server went away in the middle.

    Only idempotent work may be given to it: a connection that breaks at the
    commit leaves open whether it was done.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        pauses_seconds: tuple[float, ...] = RETRY_PAUSES_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        recover: Callable[[], object] | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            pauses_seconds: before each retry; there are as many retries.
            recover: called before a retry, e.g. to start an embedded server that was killed.
        """
        self.engine = engine
        self._pauses_seconds = pauses_seconds
        self._sleep = sleep
        self._recover = recover

    @property
    def address(self) -> str:
        """Where the database is, for messages: nothing that is secret, in whatever form."""
        url = self.engine.url
        host = url.host or url.query.get("host") or "its socket"
        return f"{host}{f':{url.port}' if url.port else ''}/{url.database}"

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction.

        Raises:
            StoreUnavailable: the server stayed away.
            StoreError: it is there but can't do it, e.g. for want of disk space.
        """
        return self._retried(lambda: self._transaction(work, isolation=None))

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot."""
        return self._retried(lambda: self._transaction(work, isolation="REPEATABLE READ"))

    def once(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, without trying again.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        try:
            return self._transaction(work, isolation=None)
        except DBAPIError as error:
            raise StoreUnavailable(
                f"PostgreSQL at {self.address} does not answer: {str(error.orig).strip()}"
            ) from error

    def session(self, begin: Callable[[Connection], object]) -> Connection:
        """Return a connection of the caller's own, on which `begin` has been done.

        The caller closes it.  Where `begin` raises, its session is ended.

        Raises:
            StoreUnavailable: the server stayed away.
        """

        def opened() -> Connection:
            connection = self.engine.connect()
            try:
                begin(connection)
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
            return connection

        return self._retried(opened)

    def _transaction(self, work: Callable[[Connection], T], isolation: str | None) -> T:
        with self.engine.connect() as connection:
            if isolation is not None:
                connection = connection.execution_options(isolation_level=isolation)
            with connection.begin():
                return work(connection)

    def _retried(self, work: Callable[[], T]) -> T:
        for pause_seconds in (*self._pauses_seconds, None):
            try:
                return work()
            except DBAPIError as error:
                if not is_transient(error):
                    if isinstance(error, OperationalError):  # disk full, out of memory, shut out
                        raise StoreError(
                            f"PostgreSQL at {self.address} refuses: {str(error.orig).strip()}"
                        ) from error
                    raise
                if pause_seconds is None:
                    raise StoreUnavailable(
                        f"PostgreSQL at {self.address} does not answer: {str(error.orig).strip()}"
                    ) from error
            self._sleep(pause_seconds)
            if self._recover is not None:
                self._recover()
        raise AssertionError("unreachable: the last round returns or raises")
