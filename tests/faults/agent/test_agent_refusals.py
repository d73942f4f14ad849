"""What strangers and broken callers send: refused with the right status, nothing changed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS, Machine, raw_request
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentError
from zeus_runtime.protocol import ErrorCode, Result, SessionRequest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def code_of(body: bytes) -> str:
    raw = json.loads(body)
    assert raw["message"]
    return str(raw["code"])


@pytest.mark.parametrize(
    ("method", "url", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "not_found"),
        ("GET", "/v2/node", None, 404, "not_found"),
        ("POST", "/v1/node", b"{}", 405, "bad_request"),
        ("GET", "/v1/sessions/none", None, 404, "not_found"),
        ("DELETE", "/v1/sessions/none", None, 404, "not_found"),
        ("POST", "/v1/sessions/none/renew", None, 404, "not_found"),
        ("PUT", "/v1/sessions/a", b"{", 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b"\xff\xfe", 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b"[]", 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b"[" * 30000, 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b'{"ttl_seconds": 1e9}', 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b'{"ttl_seconds": NaN}', 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b'{"ttl_seconds": "30"}', 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b'{"attempt": true}', 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b'{"job": 7}', 400, "bad_request"),
        ("PUT", "/v1/sessions/" + "x" * 300, b"{}", 400, "bad_request"),
        ("PUT", "/v1/sessions/a%0Ab", b"{}", 400, "bad_request"),
        ("PUT", "/v1/sessions/a", b" " * 100_000 + b"{}", 413, "bad_request"),
        ("PUT", "/v1/sessions/open/report", b'{"version": 99}', 400, "bad_request"),
        ("PUT", "/v1/sessions/open/report", b'{"version":1,"epochs":-1}', 400, "bad_request"),
        *(
            ("PUT", "/v1/sessions/open/report", b'{"version":1,' + field + b"}", 400, "bad_request")
            for field in (
                b'"energy_joules":1e999',
                b'"time_seconds":1' + b"0" * 400,
                b'"milestones":[[1,1' + b"0" * 400 + b"]]",
                b'"outcome":"' + b"x" * 300 + b'"',
            )
        ),
        ("PUT", "/v1/sessions/open/gpus/0/power-limit", b"{}", 400, "bad_request"),
        (
            "PUT",
            "/v1/sessions/open/gpus/0/power-limit",
            b'{"power_limit_watts": 150}',
            400,
            "bad_request",
        ),
        (
            "PUT",
            "/v1/sessions/open/gpus/GPU-unknown/power-limit",
            b'{"power_limit_watts": 150}',
            404,
            "not_found",
        ),
        (
            "PUT",
            "/v1/sessions/open/gpus/GPU-unknown/power-limit",
            b'{"power_limit_watts": -1}',
            400,
            "bad_request",
        ),
        (
            "PUT",
            "/v1/sessions/open/gpus/GPU-unknown/power-limit",
            b'{"power_limit_watts": 150000}',
            400,
            "bad_request",
        ),
    ],
)
def test_a_malformed_request_gets_its_status_and_an_api_error(
    shared_machine: Machine, method: str, url: str, body: bytes | None, status: int, code: str
) -> None:
    client = shared_machine.client()
    client.open_session("open", SessionRequest())
    got_status, got_body = raw_request(shared_machine.socket, method, url, body)
    assert (got_status, code_of(got_body)) == (status, code)
    client.node()


def test_putting_the_same_twice_is_putting_it_once(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    first = client.open_session("a", SessionRequest())
    assert client.open_session("a", SessionRequest()) == first
    one = client.set_power_limit("a", uuid, 150.0, sequence=3)
    two = client.set_power_limit("a", uuid, 150.0, sequence=3)
    assert (one.fence, one.previous_watts) == (two.fence, two.previous_watts)
    with pytest.raises(AgentError) as stale:
        client.set_power_limit("a", uuid, 175.0, sequence=2)
    assert (stale.value.code, stale.value.status) == (ErrorCode.STALE_SEQUENCE, 409)
    assert machine.limit(uuid) == 150.0
    client.release("a", uuid)
    client.release("a", uuid)
    client.report("a", Result(sequence=2, epochs=1))
    with pytest.raises(AgentError):
        client.report("a", Result(sequence=1, epochs=1))


def test_a_gpu_held_by_one_session_is_refused_to_another(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    client.open_session("mine", SessionRequest())
    client.set_power_limit("mine", uuid, 150.0)
    with machine.caller("other", (uuid, 120.0)) as (_, said):
        assert isinstance(said, list)
        assert said[0] == ErrorCode.GPU_LEASED
        assert "mine" in said[1]
    assert machine.limit(uuid) == 150.0


def test_a_session_is_of_use_only_to_the_process_that_opened_it(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    with machine.caller("theirs", (uuid, 150.0)) as (_, said):
        assert said == "holding"
        client = machine.client()
        for call in (
            lambda: client.open_session("theirs", SessionRequest()),
            lambda: client.set_power_limit("theirs", uuid, 120.0),
            lambda: client.renew("theirs"),
            lambda: client.release("theirs", uuid),
        ):
            with pytest.raises(AgentError) as refused:
                call()
            assert (refused.value.code, refused.value.status) == (ErrorCode.FORBIDDEN, 403)
        assert machine.limit(uuid) == 150.0
        # The user that the agent runs as administers it, and may end what hangs.
        client.close_session("theirs")
        assert machine.limit(uuid) == ADMIN_CAP_WATTS


@needs_root
def test_another_user_is_refused_unless_allowed(machine: Machine) -> None:
    machine.start_agent("--allow-uid", "12345")  # so that others may connect at all
    with machine.caller("a", (machine.uuids[0], 150.0), uid=NOBODY) as (_, said):
        assert isinstance(said, list)
        assert said[0] == ErrorCode.FORBIDDEN
    assert machine.limit(machine.uuids[0]) == ADMIN_CAP_WATTS
    eventually(lambda: "caller refused" in machine.log(), "the log names the caller")
    assert f"uid={NOBODY}" in machine.log()


@needs_root
def test_an_allowed_user_may_set_limits_but_not_end_the_sessions_of_others(
    machine: Machine,
) -> None:
    machine.start_agent("--allow-uid", str(NOBODY))
    client = machine.client()
    client.open_session("root", SessionRequest())
    client.set_power_limit("root", machine.uuids[1], 150.0)
    with machine.caller("a", (machine.uuids[0], 150.0), uid=NOBODY) as (_, said):
        assert said == "holding"
        ending = subprocess.run(
            [
                *(sys.executable, "-c"),
                "import os, sys\nfrom zeus_runtime.agent_client import *\n"
                "os.setuid(int(sys.argv[2]))\n"
                "try: AgentClient(sys.argv[1]).close_session('root')\n"
                "except AgentError as error: print(error.code)",
                machine.address,
                str(NOBODY),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ending.stdout.strip() == ErrorCode.FORBIDDEN, ending.stderr
        assert machine.limit(machine.uuids[1]) == 150.0


@needs_root
def test_without_allowed_users_others_can_not_even_connect(machine: Machine) -> None:
    machine.start_agent()
    assert machine.socket.stat().st_mode & 0o777 == 0o600


def test_a_second_agent_with_the_same_state_folder_is_refused(machine: Machine) -> None:
    machine.start_agent()
    command = [part.replace("agent.sock", "other.sock") for part in machine.command()]
    second = subprocess.run(
        command, env=machine.environment, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 2
    assert "another agent is running" in second.stderr


def test_a_second_agent_at_the_same_socket_is_refused(machine: Machine) -> None:
    machine.start_agent()
    command = machine.command("--state-dir", str(machine.folder / "other"))
    second = subprocess.run(
        command, env=machine.environment, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 2
    assert "another agent is listening" in second.stderr
    machine.client().node()


def test_a_file_in_the_sockets_place_is_not_removed(machine: Machine) -> None:
    machine.socket.write_text("precious")
    attempt = subprocess.run(
        machine.command(), env=machine.environment, capture_output=True, text=True, timeout=60
    )
    assert attempt.returncode == 2
    assert "is no socket" in attempt.stderr
    assert machine.socket.read_text() == "precious"


def test_hundreds_of_connections_and_slow_senders_leave_the_agent_answering(
    shared_machine: Machine,
) -> None:
    def connect(number: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(shared_machine.socket))
        if number % 2:
            connection.sendall(
                b"PUT /v1/sessions/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            )
        return connection

    with ThreadPoolExecutor(8) as pool:
        connections = list(pool.map(connect, range(500)))
    shared_machine.client().node()
    for connection in connections:
        connection.close()


def test_a_body_that_never_comes_is_given_up(shared_machine: Machine) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(shared_machine.socket))
        connection.sendall(
            b"PUT /v1/sessions/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_caller_that_hangs_up_or_sends_no_http_is_no_fault_of_the_agent(
    machine: Machine,
) -> None:
    machine.start_agent()
    head = b"PUT /v1/sessions/a HTTP/1.1\r\nHost: x\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(machine.socket))
        connection.sendall(head + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n{")
        assert connection.recv(4096), "the agent waits for the body now"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(machine.socket))
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"no size\r\n")
        assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]
    eventually(lambda: machine.metric("zeus_agent_refusals_total") >= 1, "it is counted")
    machine.client().node()
    assert "a request failed" not in machine.log()
    assert "ERROR" not in machine.log()


def test_the_metrics_have_bounded_labels_and_count_refusals(machine: Machine) -> None:
    machine.start_agent()
    client = machine.client()
    client.open_session("a", SessionRequest(job="team/secret-job"))
    client.set_power_limit("a", machine.uuids[0], 150.0)
    for number in range(5):
        raw_request(machine.socket, "GET", f"/no/such/{number}")
    status, body = raw_request(machine.socket, "GET", "/metrics")
    text = body.decode()
    assert status == 200
    assert "secret-job" not in text
    assert "/no/such" not in text
    assert machine.metric("zeus_agent_refusals_total") == 5
    assert machine.metric("zeus_agent_leases") == 1
    assert machine.metric("zeus_agent_sessions") == 1
    assert machine.metric("zeus_agent_gpu_applied_power_limit_watts") == 150.0


def test_health_and_readiness_answer(shared_machine: Machine) -> None:
    assert raw_request(shared_machine.socket, "GET", "/healthz")[0] == 200
    status, body = raw_request(shared_machine.socket, "GET", "/readyz")
    assert status == 200
    assert json.loads(body) == {"status": "ready", "note": ""}


def test_the_log_names_the_caller_in_few_short_lines(machine: Machine) -> None:
    machine.start_agent("--log-format", "json")
    client = machine.client()
    client.open_session("a", SessionRequest(job="team/job\nforged line"))
    client.set_power_limit("a", machine.uuids[0], 150.0)
    for _ in range(50):
        client.renew("a")
    client.close_session("a")
    lines = [json.loads(line) for line in machine.log().splitlines()]
    opened = next(line for line in lines if line["message"] == "session opened")
    assert (opened["pid"], opened["uid"]) == (os.getpid(), os.getuid())
    assert opened["job"] == "team/job\nforged line"
    assert len(lines) < 12
