"""The client against servers that misbehave."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zeus_runtime.agent_client import AgentClient, AgentError, AgentUnavailable, find_agent
from zeus_runtime.protocol import SessionRequest

NODE = json.dumps({"node": "n", "agent_version": "1", "a_newer_field": 1}).encode()


def answer(body: bytes, status: str = "200 OK", extra: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


@contextmanager
def server(*behaviours: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection per behaviour, one after another."""
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        listener = socket.socket(socket.AF_UNIX)
        path = Path(folder) / "s"
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)

        def serve() -> None:
            for behave in behaviours:
                connection, _ = listener.accept()
                connection.settimeout(30)
                with connection:
                    behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"unix://{path}"
        thread.join(30)
        listener.close()


def once(response: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(response)

    return behave


def test_a_kept_connection_that_was_closed_is_replaced_without_an_error() -> None:
    with server(once(answer(NODE)), once(answer(NODE))) as address:
        client = AgentClient(address)
        assert client.node().node == "n"
        assert client.node().node == "n"
        client.close()


def test_a_first_connection_that_is_closed_at_once_is_unavailable() -> None:
    with server(lambda connection: None) as address, pytest.raises(AgentUnavailable):
        AgentClient(address).node()


def test_an_answer_that_never_comes_ends_after_the_timeout() -> None:
    waiting = threading.Event()
    with server(lambda connection: bool(waiting.wait(30)) and None) as address:
        client = AgentClient(address, timeout_seconds=0.05)
        with pytest.raises(AgentUnavailable, match="timed out"):
            client.node()
        waiting.set()


@pytest.mark.parametrize(
    "response",
    [
        b"garbage\r\n\r\n",
        answer(b"{"),
        answer(b"[]"),
        answer(b'{"node": "n"}'),
        answer(b'{"node": "n", "agent_version": "1", "gpus": 7}'),
        answer(b'{"node": "n", "agent_version": "1", "gpus": [7]}'),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
    ],
)
def test_an_answer_that_is_none_is_unavailable_and_not_a_crash(response: bytes) -> None:
    with server(once(response)) as address, pytest.raises(AgentUnavailable):
        AgentClient(address).node()


def test_half_an_answer_is_never_taken_for_the_next_one() -> None:
    late = threading.Event()

    def slow(connection: socket.socket) -> None:
        connection.recv(65536)
        late.wait(30)

    with server(slow, once(answer(NODE))) as address:
        client = AgentClient(address, timeout_seconds=0.1)
        with pytest.raises(AgentUnavailable):
            client.open_session("a", SessionRequest())
        late.set()
        assert client.node().node == "n"
        client.close()


def test_an_error_body_becomes_code_message_status_and_details() -> None:
    body = json.dumps({"code": "gpu_leased", "message": "held", "details": {"holder": "b"}})
    with (
        server(once(answer(body.encode(), "409 Conflict"))) as address,
        pytest.raises(AgentError) as refused,
    ):
        AgentClient(address).node()
    error = refused.value
    assert (error.code, error.message, error.status) == ("gpu_leased", "held", 409)
    assert error.details == {"holder": "b"}


def test_an_error_of_something_else_is_kept_as_text() -> None:
    with (
        server(once(answer(b"<html>no</html>", "502 Bad Gateway"))) as address,
        pytest.raises(AgentError) as refused,
    ):
        AgentClient(address).node()
    assert (refused.value.code, refused.value.status) == ("", 502)
    assert "no" in refused.value.message


def test_names_can_not_leave_their_place_in_the_path() -> None:
    seen = []

    def look(connection: socket.socket) -> None:
        seen.append(connection.recv(65536).split(b"\r\n")[0])
        connection.sendall(answer(b"{}"))

    with server(look) as address:
        AgentClient(address).release("a/../b c", "GPU-1/x")
    assert seen == [b"DELETE /v1/sessions/a%2F..%2Fb%20c/gpus/GPU-1%2Fx/power-limit HTTP/1.1"]


@pytest.mark.parametrize("address", ["", "unix://", "http://localhost", "/run/agent.sock"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ValueError, match="unix://"):
        AgentClient(address)


def test_the_configured_agent_comes_before_the_default_sockets(tmp_path: Path) -> None:
    assert find_agent({"ZEUS_AGENT": "unix:///x"}) == "unix:///x"
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        (Path(folder) / "zeus").mkdir()
        environ = {"XDG_RUNTIME_DIR": folder}
        assert find_agent(environ) in (None, "unix:///run/zeus/agent.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/zeus/agent.sock")
            assert find_agent(environ) == f"unix://{folder}/zeus/agent.sock"
