"""A real PostgreSQL for tests: one server, a fresh database for each test.

With `DATABASE_URL` set, databases are made on that server (the user must be
allowed to); else an embedded one is started.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from zeus_operator.store.connection import database_url
from zeus_operator.store.embedded import EmbeddedPostgres
from zeus_operator.store.store import Store

# Nothing in a test outlives a crash of the machine.
UNSAFE_AND_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class TestServer:
    """A server and the migrated database that fresh ones are copied from."""

    __test__ = False

    url: URL
    template: str

    def _execute(self, statement: str) -> None:
        engine = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[str]:
        """Yield the URL of a new database, dropped afterwards."""
        name = f"zeus_test_{uuid.uuid4().hex[:12]}"
        template = "template0" if empty else self.template
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def test_server(home: Path) -> Iterator[TestServer]:
    """Yield the server that `DATABASE_URL` names, else an embedded one under `home`."""
    given = os.environ.get("DATABASE_URL")
    embedded = None if given else EmbeddedPostgres(home, settings=UNSAFE_AND_FAST, linger_seconds=0)
    try:
        url = database_url(embedded.start() if embedded else str(given))
        template = f"zeus_template_{uuid.uuid4().hex[:12]}"
        server = TestServer(url, template)
        server._execute(f"CREATE DATABASE {template} TEMPLATE template0")
        try:
            Store.connect(url.set(database=template).render_as_string(hide_password=False)).close()
            yield server
        finally:
            server._execute(f"DROP DATABASE {template} WITH (FORCE)")
    finally:
        if embedded:
            embedded.close()


test_server.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """One PostgreSQL server for the session."""
    with test_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def database(postgres_server: TestServer) -> Iterator[str]:
    """URL of a fresh, migrated database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A store on a fresh database."""
    opened = Store.connect(database)
    yield opened
    opened.close()
