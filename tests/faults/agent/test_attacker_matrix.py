"""What a hostile pod tries: refused with the right status, nothing changed, others served.

One agent meets all of it.  After each attempt an honest pod takes a limit and gives it back.  What
an attacker on the same machine tries over the Unix socket (a reused pid, another user) is in
`tests/unit/agent/test_agent_peers.py` and `test_agent_refusals.py`; the API's document against
random requests in `tests/unit/agent/test_agent_openapi.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.agent_node import AgentNode, Pod
from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.api_server_double import jwt, pod_manifest
from tests.support.eventually import eventually
from zeus_runtime.protocol import SessionRequest

WANTED_WATTS = 150.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentNode]:
    made = AgentNode(tmp_path_factory.mktemp("node"), ("V100", "A40", "V100"))
    try:
        made.start_agent()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def victim(node: AgentNode) -> Pod:
    """Owns the first GPU and holds nothing."""
    return node.pod("victim", node.uuids[0])


@pytest.fixture(scope="module")
def attacker(node: AgentNode) -> Pod:
    """Owns the second GPU; its token is good."""
    return node.pod("attacker", node.uuids[1])


@pytest.fixture(autouse=True)
def unharmed(node: AgentNode, victim: Pod) -> Iterator[None]:
    """After each attempt nothing is changed, and an honest pod is served."""
    yield
    for uuid in node.uuids:
        assert node.limit(uuid) == ADMIN_CAP_WATTS
    assert node.saved() == []
    assert node.agent.poll() is None, node.log()
    with contextlib.closing(node.client(victim)) as client:
        client.open_session("honest", SessionRequest(job="team/honest"))
        lease = client.set_power_limit("honest", node.uuids[0], WANTED_WATTS)
        assert lease.applied_watts == WANTED_WATTS
        client.close_session("honest")
    eventually(lambda: not node.saved(), "the honest limit is given back")


class Caller:
    """Speaks to the agent with any token, byte by byte if need be."""

    def __init__(self, node: AgentNode) -> None:
        self.node = node
        self._context = ssl.create_default_context(cafile=str(node.ca_file))

    def connect(self) -> ssl.SSLSocket:
        """Return a connection past its handshake."""
        raw = socket.create_connection(("127.0.0.1", self.node.port), 60)
        return self._context.wrap_socket(raw, server_hostname="localhost")

    def ask(
        self, method: str, path: str, token: str | None, body: bytes | None = None, **more: str
    ) -> tuple[int, str]:
        """Return the status and the code of the answer."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = self.connect()
        headers = dict(more)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            return response.status, ""
        return response.status, answer.get("code", "") if isinstance(answer, dict) else ""

    def take(self, uuid: str, token: str | None, session: str = "mine") -> tuple[int, str]:
        """Try to open a session and to set a limit; return the last answer."""
        opened = self.ask("PUT", f"/v1/sessions/{session}", token, b"{}")
        if opened[0] != 200:
            return opened
        return self.set(uuid, token, session)

    def set(self, uuid: str, token: str | None, session: str = "mine") -> tuple[int, str]:
        """Try to set a limit."""
        body = json.dumps({"power_limit_watts": WANTED_WATTS}).encode()
        return self.ask("PUT", f"/v1/sessions/{session}/gpus/{uuid}/power-limit", token, body)


@pytest.fixture(scope="module")
def caller(node: AgentNode) -> Caller:
    return Caller(node)


# ---- tokens ------------------------------------------------------------------------


def forged(node: AgentNode, victim: Pod) -> str:
    return node.api.forged(victim.manifest)


def altered(node: AgentNode, victim: Pod) -> str:
    head, _, signature = victim.token.split(".")
    claims = jwt({"aud": ["zeus-agent"], "exp": 4102444800, "sub": "system:masters"}).split(".")[1]
    return f"{head}.{claims}.{signature}"


def expired(node: AgentNode, victim: Pod) -> str:
    return node.api.issue(victim.manifest, lifetime_seconds=-1.0)


def for_another_audience(node: AgentNode, victim: Pod) -> str:
    return node.api.issue(victim.manifest, audience="https://kubernetes.default.svc")


def of_no_pod(node: AgentNode, victim: Pod) -> str:
    return node.api.issue(None)


def of_another_node(node: AgentNode, victim: Pod) -> str:
    return node.pod("elsewhere", node.uuids[0], node="node-2").token


def of_a_deleted_pod(node: AgentNode, victim: Pod) -> str:
    pod = node.pod("gone", node.uuids[2])
    node.delete(pod)
    return pod.token


def of_a_pod_whose_name_another_has_now(node: AgentNode, victim: Pod) -> str:
    former = node.pod("reused", node.uuids[2])
    node.delete(former)
    node.run(node.api.add(pod_manifest("team", "reused")))
    return former.token


def enormous(node: AgentNode, victim: Pod) -> str:
    return jwt({"aud": ["zeus-agent"], "padding": "x" * 9000})


def no_token_at_all(node: AgentNode, victim: Pod) -> str:
    return "victim"


Make = Callable[[AgentNode, Pod], str]


@pytest.mark.parametrize(
    "make",
    [
        forged,
        altered,
        expired,
        for_another_audience,
        of_no_pod,
        of_another_node,
        of_a_deleted_pod,
        of_a_pod_whose_name_another_has_now,
        enormous,
        no_token_at_all,
    ],
    ids=lambda make: make.__name__,
)
def test_a_token_that_proves_nothing_here(
    node: AgentNode, caller: Caller, victim: Pod, make: Make
) -> None:
    token = make(node, victim)
    assert caller.take(node.uuids[0], token) == (401, "unauthenticated")
    assert caller.ask("GET", "/v1/node", token) == (401, "unauthenticated")
    assert token not in node.log()


@pytest.mark.parametrize("path", ["/v1/node", "/v1/leases", "/v1/reports", "/metrics"])
def test_no_token(caller: Caller, path: str) -> None:
    assert caller.ask("GET", path, None) == (401, "unauthenticated")


def test_a_token_replayed_after_its_pod_has_gone(node: AgentNode, caller: Caller) -> None:
    pod = node.pod("replayed", node.uuids[2])
    assert caller.take(node.uuids[2], pod.token)[0] == 200
    node.delete(pod)
    eventually(lambda: node.limit(node.uuids[2]) == ADMIN_CAP_WATTS, "its limit is back")
    assert caller.take(node.uuids[2], pod.token) == (401, "unauthenticated")


def test_a_flood_of_forged_tokens_reviews_few_and_stops_nobody(
    node: AgentNode, caller: Caller, victim: Pod
) -> None:
    before = len(node.api.reviewed)
    answers = {caller.ask("GET", "/v1/node", forged(node, victim))[0] for _ in range(150)}
    assert answers <= {401, 429, 503}
    assert len(node.api.reviewed) - before < 150


# ---- what belongs to others ----------------------------------------------------------


def test_another_pods_gpu(node: AgentNode, caller: Caller, attacker: Pod) -> None:
    assert caller.take(node.uuids[0], attacker.token) == (403, "not_owner")


def test_a_gpu_that_nobody_has(node: AgentNode, caller: Caller, attacker: Pod) -> None:
    assert caller.take(node.uuids[2], attacker.token) == (403, "not_owner")


def test_nvidia_visible_devices_all_in_the_caller(node: AgentNode, attacker: Pod) -> None:
    program = (
        "import sys\n"
        "from zeus_runtime.agent_client import AgentClient, AgentError, find_agent\n"
        "from zeus_runtime.protocol import SessionRequest\n"
        "client = AgentClient(find_agent(), timeout_seconds=60)\n"
        "client.open_session('mine', SessionRequest())\n"
        "try:\n"
        "    client.set_power_limit('mine', sys.argv[1], 150.0)\n"
        "except AgentError as error:\n"
        "    print(error.status, error.code)\n"
    )
    environment = {**attacker.environment, "NVIDIA_VISIBLE_DEVICES": "all"}
    command = [sys.executable, "-c", program, node.uuids[0]]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "403 not_owner\n"


def test_a_replica_of_a_board_that_others_use_too(node: AgentNode, caller: Caller) -> None:
    pod = node.pod("slice", f"{node.uuids[2]}::1")
    try:
        assert caller.take(node.uuids[2], pod.token) == (403, "gpu_shared")
    finally:
        node.delete(pod)


@pytest.mark.parametrize(
    ("method", "rest", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/renew", None),
        ("PUT", "/report", b'{"version": 1}'),
        ("PUT", "/gpus/GPU-0/power-limit", b'{"power_limit_watts": 150}'),
        ("DELETE", "/gpus/GPU-0/power-limit", None),
    ],
)
def test_another_pods_session_does_not_exist_for_it(
    node: AgentNode,
    caller: Caller,
    victim: Pod,
    attacker: Pod,
    method: str,
    rest: str,
    body: bytes | None,
) -> None:
    assert caller.ask("PUT", "/v1/sessions/theirs", victim.token, b"{}")[0] == 200
    rest = rest.replace("GPU-0", node.uuids[1])
    assert caller.ask(method, f"/v1/sessions/theirs{rest}", attacker.token, body) == (
        404,
        "not_found",
    )
    assert caller.ask("GET", "/v1/sessions/theirs", victim.token)[0] == 200


def test_a_pod_reads_no_reports(caller: Caller, victim: Pod, attacker: Pod) -> None:
    for path in ("/v1/reports", f"/v1/reports/{victim.uid}"):
        assert caller.ask("GET", path, attacker.token) == (403, "forbidden")


def test_more_sessions_than_a_pod_may_have(caller: Caller, attacker: Pod) -> None:
    names = [f"many-{number}" for number in range(65)]
    answers = [caller.ask("PUT", f"/v1/sessions/{n}", attacker.token, b"{}") for n in names]
    assert (429, "too_many_sessions") in answers
    for name in names:
        caller.ask("DELETE", f"/v1/sessions/{name}", attacker.token)


# ---- what wears a server out -----------------------------------------------------------


def test_a_thousand_connections(node: AgentNode, caller: Caller, victim: Pod) -> None:
    with contextlib.ExitStack() as cleanup:
        for _ in range(1000):
            raw = socket.create_connection(("127.0.0.1", node.port), 60)
            cleanup.callback(raw.close)
        assert caller.ask("GET", "/v1/node", victim.token)[0] == 200


def test_bodies_and_headers_that_trickle(caller: Caller, victim: Pod, attacker: Pod) -> None:
    starts = [
        b"PUT /v1/sessions/slow HTTP/1.1\r\nHost: agent\r\n",
        f"PUT /v1/sessions/slow HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {attacker.token}"
        "\r\nContent-Length: 1000\r\n\r\n{".encode(),
    ]
    with contextlib.ExitStack() as cleanup:
        slow = [cleanup.enter_context(caller.connect()) for _ in starts * 20]
        for number, connection in enumerate(slow):
            connection.sendall(starts[number % len(starts)])
        assert caller.ask("GET", "/v1/node", victim.token)[0] == 200
        for connection in slow:
            # Answered with a refusal or closed without one: never waited for without end.
            said = connection.recv(4096)
            assert said == b"" or b" 408 " in said.splitlines()[0]


@pytest.mark.parametrize("size", [65 * 1024, 8 << 20])
def test_a_body_that_is_huge(caller: Caller, attacker: Pod, size: int) -> None:
    head = (
        "PUT /v1/sessions/huge HTTP/1.1\r\nHost: agent\r\n"
        f"Authorization: Bearer {attacker.token}\r\nContent-Length: {size}\r\n\r\n"
    )
    with caller.connect() as connection:
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096).splitlines()[0]


def test_headers_that_are_huge(caller: Caller, attacker: Pod) -> None:
    with caller.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /v1/node HTTP/1.1\r\nX: " + b"x" * (1 << 20))
        said = b""
        with contextlib.suppress(OSError):
            said = connection.recv(4096)
        assert said == b"" or said.split(b" ")[1] in (b"400", b"431")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300) | st.text(max_size=80).map(str.encode))
def test_a_body_that_is_not_what_is_asked_for(caller: Caller, attacker: Pod, body: bytes) -> None:
    for path in ("/v1/sessions/odd/report", f"/v1/sessions/odd/gpus/{'GPU-x'}/power-limit"):
        status, _ = caller.ask("PUT", path, attacker.token, body)
        assert status in (400, 403, 404)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=st.binary(min_size=1, max_size=120),
    rest=st.binary(max_size=200),
)
def test_what_is_no_http(caller: Caller, line: bytes, rest: bytes) -> None:
    with caller.connect() as connection:
        connection.sendall(line + b"\r\n" + rest + b"\r\n\r\n")
        connection.settimeout(60)
        said = b""
        with contextlib.suppress(OSError):
            said = connection.recv(4096)
        assert said == b"" or said.startswith(b"HTTP/1.1 4") or said.startswith(b"HTTP/1.1 5")


def test_what_is_no_tls(node: AgentNode) -> None:
    for start in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(512), b"\x16\x03\x01"):
        with socket.create_connection(("127.0.0.1", node.port), 60) as raw:
            raw.sendall(start)
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                assert not raw.recv(4096).startswith(b"HTTP")
