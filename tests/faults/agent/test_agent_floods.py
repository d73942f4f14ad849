"""What wears a server out or is none of its protocol: given up or refused, others are served."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api_server_double import Fault
from tests.support.cluster_node import SERVER_NAME, ClusterNode, fresh
from zeus_runtime.protocol import ErrorCode, SessionRequest

BOUND = SessionRequest(job="team/job", ttl_seconds=600.0, ends_with_connection=True)
EXAMPLES = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def node(unharmed_node: ClusterNode) -> ClusterNode:
    return unharmed_node


def connect_plainly(node: ClusterNode) -> socket.socket:
    port = int(node.url.rpartition(":")[2])
    return socket.create_connection((SERVER_NAME, port), timeout=60)


def connect(node: ClusterNode) -> ssl.SSLSocket:
    """Return a connection past its handshake."""
    context = ssl.create_default_context(cadata=node.ca)
    return context.wrap_socket(connect_plainly(node), server_hostname=SERVER_NAME)


def said_by(connection: socket.socket) -> bytes:
    """Return what the agent says, nothing if it ends the connection."""
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def put(token: str, length: int) -> bytes:
    """Return the head of a request."""
    return (
        "PUT /v1/sessions/run HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(node: ClusterNode, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=node.ca)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    port = int(node.url.rpartition(":")[2])
    with (
        socket.create_connection(("localhost", port), timeout=60) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_who_speaks_no_tls_gets_nothing_and_disturbs_nobody(node: ClusterNode) -> None:
    port = int(node.url.rpartition(":")[2])
    with socket.create_connection(("localhost", port), timeout=60) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096)
    node.pod(fresh("train"), node.uuids[0]).client().node()
    assert "ERROR" not in node.log()


def test_a_thousand_connections_lock_nobody_out(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    client = node.pod(fresh("train"), uuid).client()
    client.open_session("run", BOUND)
    client.set_power_limit("run", uuid, 150.0)
    port = int(node.url.rpartition(":")[2])
    context = ssl.create_default_context(cadata=node.ca)
    connections = []
    for number in range(1000):
        plain = socket.create_connection(("localhost", port), timeout=60)
        if number % 4 == 0:  # the rest never begins its TLS
            connections.append(context.wrap_socket(plain, server_hostname="localhost"))
            if number % 8 == 0:
                connections[-1].sendall(b"PUT /v1/sessions/slow HTTP/1.1\r\nHost: x\r\n")
        else:
            connections.append(plain)  # type: ignore[arg-type]
    client.renew("run")
    late = node.pod(fresh("late"), node.uuids[1]).client()
    late.open_session("run", SessionRequest())
    late.set_power_limit("run", node.uuids[1], 150.0)
    assert node.probe("/healthz")[0] == 200
    assert node.memory_mib() < 128, "the container's limit is not reached"
    assert (node.limit(uuid), node.limit(node.uuids[1])) == (150.0, 150.0)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 30_000, 400),
        (b'{"ttl_seconds": 1e999}', 400),
        (b'{"ends_with_connection": "yes"}', 400),
        (b" " * 65_537, 413),
    ],
)
def test_bodies_that_are_none_are_refused(node: ClusterNode, body: bytes, status: int) -> None:
    token = node.pod(fresh("train"), node.uuids[0]).token
    got, answer = node.ask("PUT", "/v1/sessions/run", token, body)
    assert (got, answer["code"]) == (status, ErrorCode.BAD_REQUEST)
    assert node.metric("zeus_agent_sessions") == 0


def test_a_flood_of_forged_tokens_does_not_delay_who_is_known(node: ClusterNode) -> None:
    pod = node.pod(fresh("train"), node.uuids[0])
    client = pod.client()
    client.open_session("run", SessionRequest())
    node.api.review_fault = Fault.HANG
    forged = [node.api.forged(pod.manifest) for _ in range(40)]
    connections = []
    for token in forged:
        connection = node.connect()
        connection.request("GET", "/v1/node", headers={"Authorization": f"Bearer {token}"})
        connections.append(connection)
    client.renew("run")
    node.api.review_fault = Fault.NONE
    statuses = {connection.getresponse().status for connection in connections}
    assert statuses <= {401, 429, 503}
    for connection in connections:
        connection.close()


def test_heads_and_bodies_that_trickle_are_given_up(node: ClusterNode) -> None:
    pod = node.pod(fresh("train"), node.uuids[0])
    starts = [put(pod.token, 9)[:40], put(pod.token, 1000) + b"{"]
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(connect(node)) for _ in range(40)]
        for number, connection in enumerate(slow):
            connection.sendall(starts[number % 2])
        pod.client().node()
        answers = [said_by(connection) for connection in slow]
    assert set(answers[0::2]) == {b""}
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[1::2])


@pytest.mark.parametrize("length", [65 * 1024, 8 << 20])
def test_a_huge_body_is_refused_before_it_is_sent(node: ClusterNode, length: int) -> None:
    token = node.pod(fresh("train"), node.uuids[0]).token
    with connect(node) as connection:
        connection.sendall(put(token, length))
        assert said_by(connection).startswith(b"HTTP/1.1 413 ")


def test_a_huge_body_in_chunks_is_refused_while_it_comes(node: ClusterNode) -> None:
    with connect(node) as connection:
        connection.sendall(
            b"PUT /v1/sessions/run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            for _ in range(20):
                connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        assert said_by(connection).startswith(b"HTTP/1.1 413 ")


def test_a_huge_header_is_refused(node: ClusterNode) -> None:
    with connect(node) as connection:
        connection.sendall(b"GET /v1/node HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert said_by(connection).startswith(b"HTTP/1.1 431 ")


@EXAMPLES
@given(body=st.binary(max_size=300) | st.text(max_size=80).map(str.encode))
def test_whatever_the_body_is_the_answer_is_a_refusal(node: ClusterNode, body: bytes) -> None:
    token = node.pods[0].token if node.pods else node.pod(fresh("train"), node.uuids[0]).token
    for path in ("report", f"gpus/{node.uuids[0]}/power-limit"):
        status, answer = node.ask("PUT", f"/v1/sessions/odd/{path}", token, body)
        assert (status, answer["code"]) in (
            (400, ErrorCode.BAD_REQUEST),
            (404, ErrorCode.NOT_FOUND),
        )


@EXAMPLES
@given(line=st.binary(min_size=1, max_size=120), rest=st.binary(max_size=200))
def test_what_is_no_http_is_refused(node: ClusterNode, line: bytes, rest: bytes) -> None:
    with connect(node) as connection:
        connection.sendall(b"." + line + b"\r\n" + rest + b"\r\n\r\n")
        assert said_by(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("start", [os.urandom(512), b"\x16\x03\x01"], ids=["noise", "half"])
def test_what_is_no_tls_gets_no_http(node: ClusterNode, start: bytes) -> None:
    with connect_plainly(node) as plain:
        plain.sendall(start)
        with contextlib.suppress(OSError):  # it may have hung up by then
            plain.shutdown(socket.SHUT_WR)
        assert not said_by(plain).startswith(b"HTTP")
