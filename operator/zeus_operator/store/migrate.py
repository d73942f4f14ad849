"""Brings the schema up to date, from inside the program: no extra command, no hook.

Migrations only add, so that a release still runs on the schema that comes after its own.  Of later
ones it knows nothing, and refuses them.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text

from zeus_operator.store.connection import StoreError

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


class SchemaUnknown(StoreError):  # noqa: N818 - a state of the database
    """This release does not run on the schema; the text says what to do."""


def check_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, as `current_revision`.

    An older one is well: whoever leads next brings it up to date.

    Raises:
        SchemaUnknown: it is more than one step newer than this release's.
    """
    revision = current_revision(connection)
    newest = int(NEWEST_REVISION)
    if revision is None or (revision.isdecimal() and 1 <= int(revision) <= newest + 1):
        return revision
    raise SchemaUnknown(
        f"the schema of the database is {revision}, and this release runs on {NEWEST_REVISION} and "
        f"{newest + 1:04} alone: install the newer release again, or restore a backup from before"
    )


def migrate(connection: Connection) -> str:
    """Upgrade the schema inside the caller's transaction and return its revision.

    One that a newer release has upgraded by one step is left alone.

    Raises:
        SchemaUnknown: as `check_revision`.
    """
    if check_revision(connection) == NEWEST_REVISION:
        return NEWEST_REVISION
    # A transaction-level lock, because PgBouncer in transaction mode loses session-level ones.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    current = check_revision(connection)  # another program may have been quicker
    if current is not None and int(current) >= int(NEWEST_REVISION):
        return current
    _upgrade(connection)
    return NEWEST_REVISION


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # ConfigParser reads %, so a path that holds one must double it.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
