"""The schema: made by migrations, from inside the program, by one at a time."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from zeus_operator.store.connection import StoreError, database_url
from zeus_operator.store.migrate import current_revision, newest_revision
from zeus_operator.store.models import metadata
from zeus_operator.store.store import Store

from tests.support.jobs import apply
from tests.support.postgres import TestServer

pytestmark = pytest.mark.postgres


def test_the_migrations_make_exactly_the_tables_of_the_models(database: str) -> None:
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert current_revision(connection) == newest_revision()


def test_stores_that_connect_at_once_migrate_once(postgres_server: TestServer) -> None:
    failures: list[BaseException] = []

    def connect(url: str) -> None:
        try:
            Store.connect(url).close()
        except BaseException as error:
            failures.append(error)

    with postgres_server.database(empty=True) as url:
        threads = [threading.Thread(target=connect, args=(url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        store = Store.connect(url)
        assert apply(store).generation == 1
        store.close()


def test_a_schema_of_a_newer_release_is_left_alone(database: str) -> None:
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store = Store.connect(database)
    assert apply(store).generation == 1
    store.close()
    with engine.connect() as connection:
        assert current_revision(connection) == "9999"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_usual_forms_of_a_url_are_accepted(scheme: str) -> None:
    assert database_url(f"{scheme}://u:p@h/d").drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["mysql://h/d", "nonsense", "sqlite:///x"])
def test_another_database_is_refused_with_the_form_that_is_wanted(url: str) -> None:
    with pytest.raises(StoreError, match="postgresql://user:password@host"):
        database_url(url)
