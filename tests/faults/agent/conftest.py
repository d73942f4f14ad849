from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import Machine


@contextlib.contextmanager
def _machine() -> Iterator[Machine]:
    # Not under pytest's folder: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        Path(folder).chmod(0o755)
        made = Machine(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A V100 and an A40, each capped by an admin, without an agent yet."""
    with _machine() as made:
        yield made


@pytest.fixture(scope="module")
def shared_machine() -> Iterator[Machine]:
    """The same with an agent, for tests that leave it as they found it."""
    with _machine() as made:
        made.start_agent()
        yield made
