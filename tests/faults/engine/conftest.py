"""Fixtures of the fault tests: a machine with a database of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_machine import Machine, machine
from tests.support.postgres import database, postgres_server, store

__all__ = ["database", "postgres_server", "store"]

MachineMaker = Callable[..., Machine]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket."""
    with tempfile.TemporaryDirectory(prefix="zeus-test-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def make_machine(folder: Path, database: str) -> MachineMaker:
    """Return what makes a machine on a fresh database of the session's server."""

    def make(**arguments: Any) -> Machine:
        return machine(folder, database, **arguments)

    return make
