"""One whole cluster for the session; a namespace for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.support.api import Api
from tests.cluster.support.namespaces import create_namespace, remove_namespace
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.programs import Programs, find_programs


@pytest.fixture(scope="session")
def programs() -> Programs:
    """The programs of a cluster, built if they are not there yet (minutes, once).

    A machine that can't build or run them fails every test here and says why: none is skipped.
    """
    return find_programs()


@pytest.fixture(scope="session")
def full_cluster(programs: Programs) -> Iterator[FullCluster]:
    """Two nodes, each with two simulated GPUs."""
    with FullCluster(programs) as cluster:
        yield cluster


@pytest.fixture
def api(full_cluster: FullCluster) -> Iterator[Api]:
    """An administrator's client."""
    client = full_cluster.api()
    yield client
    client.close()


@pytest.fixture
def namespace(full_cluster: FullCluster) -> Iterator[str]:
    """Name of a fresh namespace; its deletion is not waited for."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    create_namespace(full_cluster.plane, name)
    yield name
    remove_namespace(full_cluster.plane, name)
