from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A V100 and an A40, each capped by an admin, without an agent yet."""
    # Not under pytest's folder: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        Path(folder).chmod(0o755)
        made = Machine(Path(folder))
        yield made
        made.close()
