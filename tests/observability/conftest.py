"""Prometheus for all, and one scene for a file: starting it takes longer than asking it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import (
    api,
    binaries,
    cluster,
    make_node,
    make_operator,
    namespace,
    service_account,
    stored,
    zeusjobs,
)
from tests.observability.support.programs import (
    Programs,
    PrometheusUnavailable,
    find_programs,
)
from tests.observability.support.scene import Scene, scene
from tests.support.postgres import TestServer, database, postgres_server

__all__ = [
    "api",
    "binaries",
    "cluster",
    "database",
    "make_node",
    "make_operator",
    "namespace",
    "postgres_server",
    "service_account",
    "stored",
    "zeusjobs",
]


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Prometheus and promtool; where they can't be had, tests are skipped, in CI they fail."""
    try:
        return find_programs()
    except PrometheusUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")  # it is much work, which no other test should run beside
def live(
    programs: Programs, postgres_server: TestServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """A Prometheus that scrapes a healthy node, a sick node and an operator."""
    with scene(programs, tmp_path_factory.mktemp("prometheus"), postgres_server) as made:
        yield made
