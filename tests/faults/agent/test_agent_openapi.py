"""Whatever a generator makes of the OpenAPI document: the agent keeps to it, on both listeners.

The generator also sends what the document forbids; the agent must refuse it, and stay up.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import urllib3
from hypothesis import HealthCheck, settings
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.cluster_node import ClusterNode, cluster_node
from zeus_agent import openapi

EXAMPLES = 8

CONFIG = schemathesis.Config.from_dict(
    # Of bodies with a wrong field, those that are also too long get 413.
    {"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}}
)
schema = schemathesis.openapi.from_dict(openapi.document(), config=CONFIG)


class UnixAdapter(HTTPAdapter):
    """Sends every request to a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        path = self._path

        class Connection(HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(60)
                self.sock.connect(str(path))

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        return Pool("localhost", timeout=urllib3.Timeout(60))


@pytest.fixture(scope="module")
def node() -> Iterator[ClusterNode]:
    with cluster_node() as made:
        made.start_agent()
        yield made
        assert "a request failed" not in made.log()


@pytest.fixture(scope="module")
def on_unix(node: ClusterNode) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount("http://", UnixAdapter(node.socket))
        yield session


@pytest.fixture(scope="module")
def over_tls(node: ClusterNode) -> Iterator[requests.Session]:
    pod = node.pod("train", node.uuids[0])
    trust = node.folder / "ca.crt"
    trust.write_text(node.ca)
    with requests.Session() as session:
        session.verify = str(trust)
        session.headers["Authorization"] = f"Bearer {pod.token}"
        yield session


def aimed(case: schemathesis.Case, node: ClusterNode) -> schemathesis.Case:
    """Let half of the requests meet a session and a GPU that are there."""
    parameters = case.path_parameters
    if parameters and len(str(parameters.get("session", ""))) % 2:
        for name, value in (("session", "run"), ("gpu", node.uuids[0])):
            if name in parameters:
                parameters[name] = value
    return case


BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@schema.parametrize()
@BOUNDED
def test_on_the_unix_socket(
    case: schemathesis.Case, node: ClusterNode, on_unix: requests.Session
) -> None:
    aimed(case, node).call_and_validate(base_url="http://localhost", session=on_unix)


@schema.parametrize()
@BOUNDED
def test_over_tls(case: schemathesis.Case, node: ClusterNode, over_tls: requests.Session) -> None:
    aimed(case, node).call_and_validate(base_url=node.url, session=over_tls, verify=over_tls.verify)


def test_nothing_of_it_is_left(node: ClusterNode) -> None:
    node.stop_agent()
    assert {node.limit(uuid) for uuid in node.uuids} == {ADMIN_CAP_WATTS}
