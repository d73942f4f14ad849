"""A PostgreSQL on this machine that pods of a cluster reach, as a company's database outside is."""

from __future__ import annotations

import os
import secrets
import signal
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests.support.eventually import eventually
from tests.support.postgres import UNSAFE_AND_FAST
from zeus_operator.store.connection import database_url
from zeus_operator.store.embedded import EmbeddedPostgres
from zeus_operator.store.postmaster import Layout, running_postmaster

_PORT = 5432
_USER = "zeus"


class DatabaseForPods:
    """A server that listens on one address of this machine, for one network, with a password.

    Args:
        home: its folder.
        address: where pods find it.
        network: who may come.

    Attributes:
        host: as `address`.
    """

    def __init__(self, home: Path, address: IPv4Address, network: IPv4Network) -> None:
        self.host = str(address)
        self._password = secrets.token_hex(16)
        settings = {**UNSAFE_AND_FAST, "listen_addresses": self.host, "port": str(_PORT)}
        self._server = EmbeddedPostgres(home, settings=settings, linger_seconds=0)
        local = database_url(self._server.start())
        self._admin = create_engine(local, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._execute(f"ALTER USER {_USER} PASSWORD '{self._password}'")
        cluster = Layout(home).cluster
        with (cluster / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all {_USER} {network} scram-sha-256\n")
        found = running_postmaster(cluster)
        assert found is not None, "PostgreSQL has ended"
        os.kill(found.pid, signal.SIGHUP)

    def create(self, name: str) -> str:
        """Make an empty database; return its URL for pods."""
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0")
        url = f"postgresql://{_USER}:{self._password}@{self.host}:{_PORT}/{name}"
        engine = create_engine(database_url(url), poolclass=NullPool)
        eventually(lambda: _answers(engine), f"PostgreSQL lets {_USER} in by way of {self.host}")
        return url

    def count(self, url: str, table: str) -> int:
        """Return the number of rows of a table in the database that pods know by `url`."""
        name = make_url(url).database
        engine = create_engine(self._admin.url.set(database=name), poolclass=NullPool)
        with engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    def close(self) -> None:
        """End the server."""
        self._server.close()

    def __enter__(self) -> DatabaseForPods:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _execute(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(text(statement))


def _answers(engine: Engine) -> bool:
    try:
        with engine.connect():
            return True
    except OperationalError:  # the rules are not read again yet
        return False
