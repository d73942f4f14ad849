"""Peers are needed in CI; elsewhere a machine without Rust may do without zeusd."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import peers
from tests.support.peers import PeerUnavailable, find_zeusd


@pytest.fixture(scope="session")
def zeusd_program() -> Path:
    """The compiled daemon."""
    if shutil.which("cargo") is None and os.environ.get("CI") != "true":
        try:
            return find_zeusd()  # it may have been made before
        except PeerUnavailable as missing:
            pytest.skip(str(missing))
    return find_zeusd()


@pytest.fixture(scope="session")
def zeus_interpreter() -> Path:
    """A Python that has Zeus."""
    return peers.zeus_python()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="zeus-") as made:
        yield Path(made)
