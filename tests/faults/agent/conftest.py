from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import Machine
from tests.support.api_server_double import Fault
from tests.support.cluster_node import ClusterNode, cluster_node, fresh
from tests.support.eventually import eventually
from zeus_runtime.protocol import SessionRequest

_hosts = itertools.count(1)
"""What attackers spend of the reviews that one address is granted is nobody else's."""


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


@pytest.fixture(scope="module")
def attacked_node() -> Iterator[ClusterNode]:
    """A node with an agent, for one attack after another."""
    with cluster_node() as made:
        made.start_agent()
        yield made


@pytest.fixture
def unharmed_node(attacked_node: ClusterNode) -> Iterator[ClusterNode]:
    """The same; after the attack nothing is changed or kept, and an honest pod is served."""
    node = attacked_node
    node.asks_from = f"127.0.1.{next(_hosts)}"
    yield node
    node.api.review_fault = Fault.NONE
    _end_pods(node)
    uuid = node.uuids[0]
    client = node.pod(fresh("honest"), uuid).client()
    client.open_session("run", SessionRequest(job="team/honest"))
    assert client.set_power_limit("run", uuid, 150.0).applied_watts == 150.0
    assert node.limit(uuid) == 150.0
    _end_pods(node)


def _end_pods(node: ClusterNode) -> None:
    tokens = [pod.token for pod in node.pods]
    node.delete_pods()
    for token in tokens:
        eventually(
            lambda token=token: node.ask("GET", "/v1/node", token)[0] == 401,  # type: ignore[misc]
            "the agent knows that the pod is gone",
        )
    node.wait_until_restored()
    eventually(lambda: node.metric("zeus_agent_sessions") == 0, "no session is left")
