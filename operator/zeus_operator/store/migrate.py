"""Brings the schema up to date, from inside the program: no extra command, no hook.

Within a minor version migrations only add, so that the release before still
runs on the schema of the one after.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text

MIGRATIONS = Path(__file__).with_name("migrations")
NEWEST_REVISION = "0003"
"""Of the newest file in `MIGRATIONS`, written down so that a schema that is up to date is known
as one without Alembic: to import that takes longer than all that most commands do."""

_LOCK_KEY = 0x7A657573_0001  # "zeus", 1: one migrator at a time, whoever it is


def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at; None: an empty one."""
    is_there = connection.execute(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    if not is_there.scalar_one():
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return revision


def migrate(connection: Connection) -> None:
    """Upgrade the schema inside the caller's transaction.

    A database that a newer release has upgraded is left alone.
    """
    if current_revision(connection) == NEWEST_REVISION:
        return
    # A transaction-level lock, because PgBouncer in transaction mode loses session-level ones.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    current = current_revision(connection)  # another program may have been quicker
    if current != NEWEST_REVISION:
        _upgrade(connection, current)


def _upgrade(connection: Connection, current: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    # ConfigParser reads %, so a path that holds one must double it.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is None or current in known:
        command.upgrade(config, "head")
