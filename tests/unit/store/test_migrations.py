"""The schema: made by migrations, from inside the program, by one at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from tests.support.eventually import eventually
from tests.support.jobs import apply
from tests.support.postgres import TestServer
from zeus_operator.store.connection import (
    StoreError,
    StoreUnavailable,
    database_url,
    open_engine,
)
from zeus_operator.store.migrate import MIGRATIONS, NEWEST_REVISION, current_revision
from zeus_operator.store.models import metadata
from zeus_operator.store.store import Store

pytestmark = pytest.mark.postgres


def test_the_migrations_make_exactly_the_tables_of_the_models(database: str) -> None:
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert current_revision(connection) == NEWEST_REVISION


def test_the_revision_written_down_is_that_of_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == NEWEST_REVISION


def test_a_schema_that_is_up_to_date_is_opened_without_alembic(
    database: str, postgres_server: TestServer
) -> None:
    program = (
        "import sys; from zeus_operator.store.store import Store; "
        "Store.connect(sys.argv[1]).close(); print('alembic' in sys.modules)"
    )

    def imports_alembic(url: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, url], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert imports_alembic(database) == "False"
    with postgres_server.database(empty=True) as url:
        assert imports_alembic(url) == "True"


def test_a_user_who_may_not_make_tables_is_told_so_and_no_session_stays_open(
    postgres_server: TestServer,
) -> None:
    with postgres_server.database(empty=True) as url:
        owner = create_engine(url, poolclass=NullPool)
        role = f"nobody_{uuid.uuid4().hex[:12]}"
        with owner.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        try:
            limited = make_url(url).set(username=role).render_as_string(hide_password=False)
            with pytest.raises(StoreError, match="can't be brought up to date: permission denied"):
                Store.connect(limited)
            with owner.connect() as connection:
                sessions = text("SELECT count(*) FROM pg_stat_activity WHERE usename = :role")
                eventually(
                    lambda: connection.execute(sessions, {"role": role}).scalar() == 0,
                    "the session of the refused user ends",
                )
        finally:
            with owner.begin() as connection:
                connection.execute(text(f"DROP ROLE {role}"))


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


def be_at(database: str, revision: str) -> None:
    """Let the database say that it has another schema."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def revision_of(database: str) -> str | None:
    with create_engine(database, poolclass=NullPool).connect() as connection:
        return current_revision(connection)


def test_a_schema_of_the_release_after_this_one_is_left_alone_and_run_on(database: str) -> None:
    after = f"{int(NEWEST_REVISION) + 1:04}"
    be_at(database, after)

    store = Store.connect(database)
    assert apply(store).generation == 1
    assert store.migrate() == after
    store.ping()
    store.close()

    assert revision_of(database) == after


@pytest.mark.parametrize(
    "revision", [f"{int(NEWEST_REVISION) + 2:04}", "9999", "0000", "4f1c2a9be0d3"]
)
def test_a_schema_that_this_release_does_not_know_is_refused_and_left_alone(
    database: str, revision: str
) -> None:
    running = Store.connect(database)
    be_at(database, revision)
    words = (
        f"the schema of the database is {revision}, and this release runs on {NEWEST_REVISION} and "
        f"{int(NEWEST_REVISION) + 1:04} alone: install the newer release again"
    )

    for asked in (running.ping, running.migrate, lambda: Store.connect(database)):
        with pytest.raises(StoreError) as raised:
            asked()
        assert str(raised.value).startswith(words)
        assert not isinstance(raised.value, StoreUnavailable)
    running.close()

    assert revision_of(database) == revision


def test_an_older_schema_is_no_fault_of_a_replica_that_does_not_lead(
    postgres_server: TestServer,
) -> None:
    with postgres_server.database(empty=True) as url:
        store = Store(open_engine(url))
        store.ping()
        with create_engine(url, poolclass=NullPool).begin() as connection:
            upgrade(connection, "0001")
        store.ping()
        assert store.migrate() == NEWEST_REVISION
        store.close()


def test_rows_of_the_release_before_are_read_whether_older_or_newer_than_the_schema(
    postgres_server: TestServer,
) -> None:
    with postgres_server.database(empty=True) as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            upgrade(connection, "0001")
            state = add_job(connection)
            add_observation(connection, state, 1)
        store = Store.connect(url)  # this release migrates
        with engine.begin() as connection:
            add_observation(connection, state, 2)  # and the one before still runs
            assert current_revision(connection) == NEWEST_REVISION
        (job,) = store.jobs()
        observed = store.facts(job.id).observations
        store.close()
    assert [(each.recurrence, each.cost_joules) for each in observed] == [(1, 1500.0), (2, 1500.0)]
    for each in observed:
        assert (each.sweep, each.sweep_cost_joules) == ((), 0.0)
        assert each.full_power_epoch_cost_joules is None


def upgrade(connection: Connection, revision: str) -> None:
    """Bring an empty database to the schema of an earlier release."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def add_job(connection: Connection) -> int:
    """Insert a job as the first release does; return its learned state."""
    state = connection.execute(
        text(
            "INSERT INTO learned_states (namespace, name, created_at) "
            "VALUES ('default', 'digits', now()) RETURNING id"
        )
    ).scalar_one()
    connection.execute(
        text(
            "INSERT INTO jobs (learned_state_id, uid, generation, spec, policy, seed, "
            "manifest_path, suspended, created_at, resumed_at) VALUES (:state, 'u', 1, '{}', "
            "'structured', 1, '', false, now(), now())"
        ),
        {"state": state},
    )
    return int(state)


def add_observation(connection: Connection, state: int, ordinal: int) -> None:
    """Insert a recurrence with its observation as the first release does."""
    recurrence = connection.execute(
        text(
            "INSERT INTO recurrences (learned_state_id, job_id, kind, ordinal, scheduled_time, "
            "state, created_at) SELECT :state, id, 'learned', :ordinal, now() + :ordinal * "
            "interval '1 s', 'reached', now() FROM jobs RETURNING id"
        ),
        {"state": state, "ordinal": ordinal},
    ).scalar_one()
    attempt = connection.execute(
        text(
            "INSERT INTO attempts (recurrence_id, number, state, child_name, decision, decided_at) "
            "VALUES (:recurrence, 1, 'ended', :name, :decision, now()) RETURNING id"
        ),
        {
            "recurrence": recurrence,
            "name": f"digits-{ordinal}",
            "decision": '{"batch_size": 64, "cost_threshold_joules": null, "learning_rate": null, '
            '"seed": 1, "policy": "structured", "sentence": "because"}',
        },
    ).scalar_one()
    connection.execute(
        text(
            "INSERT INTO observations (learned_state_id, attempt_id, recurrence, attempt, "
            "batch_size, outcome, epochs, cost_joules, epoch_cost_joules, energy_joules, "
            "time_seconds, max_power_watts, eta, generation, gpu_model, gpu_count, milestones, "
            "observed_at) VALUES (:state, :attempt, :ordinal, 1, 64, 'reached', 4, 1500, 300, "
            "1000, 8, 250, 0.5, 1, 'V100', 1, '[[1, 0.5]]', now())"
        ),
        {"state": state, "attempt": attempt, "ordinal": ordinal},
    )


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_usual_forms_of_a_url_are_accepted(scheme: str) -> None:
    assert database_url(f"{scheme}://u:p@h/d").drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["mysql://h/d", "nonsense", "sqlite:///x"])
def test_another_database_is_refused_with_the_form_that_is_wanted(url: str) -> None:
    with pytest.raises(StoreError, match="postgresql://user:password@host"):
        database_url(url)
