"""A PostgreSQL server of a test's own, that it may kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.postgres import UNSAFE_AND_FAST
from zeus_operator.store.connection import database_url
from zeus_operator.store.embedded import EmbeddedPostgres
from zeus_operator.store.postmaster import Layout, has_exited, running_postmaster
from zeus_operator.store.store import Store

# A crash of the server is no crash of the machine: what was written is there without fsync.
# But what was committed must have been written.
SETTINGS = {**UNSAFE_AND_FAST, "synchronous_commit": "on"}


class OwnPostgres:
    """One server under `home` with one migrated database; restarts do not change its address."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._server = EmbeddedPostgres(home, settings=SETTINGS, linger_seconds=0)
        self.url = database_url(self._server.start()).render_as_string(hide_password=False)
        Store.connect(self.url).close()

    def kill(self) -> None:
        """SIGKILL the postmaster: every connection breaks, and none is accepted until `start`."""
        found = running_postmaster(Layout(self._home).cluster)
        assert found is not None, "PostgreSQL does not run"
        os.kill(found.pid, signal.SIGKILL)
        eventually(lambda: has_exited(found.pid), "the postmaster dies")

    def start(self) -> None:
        """Bring it back; returns when it accepts connections."""
        self._server.start()

    def restart(self) -> None:
        """Kill it and bring it back."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it."""
        self._server.close()

    def __enter__(self) -> OwnPostgres:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
