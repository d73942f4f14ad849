"""Brings the schema up to date, from inside the program: no extra command, no hook.

Within a minor version migrations only add, so that the release before still
runs on the schema of the one after.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK_KEY = 0x7A657573_0001  # "zeus", 1: one migrator at a time, whoever it is


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # ConfigParser reads %, so a path that holds one must double it.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def newest_revision() -> str:
    """Return the revision that this release makes."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError(f"{MIGRATIONS} holds no migrations: the installation is broken")
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at; None: an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(connection: Connection) -> None:
    """Upgrade the schema inside the caller's transaction.

    A database that a newer release has upgraded is left alone.
    """
    # A transaction-level lock, because PgBouncer in transaction mode loses session-level ones.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    current = current_revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current is not None and current not in known:
        return
    if current != newest_revision():
        command.upgrade(_config(connection), "head")
