"""The client over TLS, against a real server: whom it trusts, what it shows, what it does again."""

from __future__ import annotations

import json
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.tls_server import (
    Answer,
    Request,
    TlsServer,
    certificate_for,
    error,
    new_authority,
)
from zeus_runtime.agent_client import AgentClient, AgentError, AgentUnavailable
from zeus_runtime.agent_transport import (
    TOKEN_FRESH_SECONDS,
    TokenFile,
    TokenUnusable,
    open_transport,
)
from zeus_runtime.protocol import Result

AUTHORITY = new_authority()
NODE = json.dumps({"node": "n", "agent_version": "1"}).encode()


class Pod:
    """What a pod has to call with, and the server that it calls."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "agent-token"
        self.token_file.write_text("token-1\n")
        self.tokens = {"token-1", "token-2"}
        self.server = TlsServer(certificate_for(AUTHORITY), self.respond)
        self.environ = {
            "ZEUS_AGENT_CA": AUTHORITY.pem,
            "ZEUS_AGENT_TOKEN_FILE": str(self.token_file),
        }

    def respond(self, request: Request) -> Answer:
        if request.token not in self.tokens:
            return error(401, "unauthenticated")
        return Answer(200, NODE) if request.method == "GET" else Answer(204)

    def client(self, **changes: str) -> AgentClient:
        return AgentClient(self.server.address, 30.0, {**self.environ, **changes})


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    made.server.close()


# ---- whom it trusts -------------------------------------------------------------


@pytest.mark.parametrize("how", ["text", "file", "bundle"])
def test_an_agent_with_a_certificate_of_the_authority_is_called(
    pod: Pod, tmp_path: Path, how: str
) -> None:
    (tmp_path / "ca.crt").write_text(AUTHORITY.pem)
    ca = {
        "text": AUTHORITY.pem,
        "file": str(tmp_path / "ca.crt"),
        "bundle": new_authority().pem + AUTHORITY.pem,
    }[how]
    assert pod.client(ZEUS_AGENT_CA=ca).node().node == "n"
    assert pod.server.requests[0].token == "token-1"


@pytest.mark.parametrize("how", ["text", "file"])
def test_what_people_write_around_certificates_does_not_matter(
    pod: Pod, tmp_path: Path, how: str
) -> None:
    bundle = f"# Autorité n° 1 – gültig\n{AUTHORITY.pem}\n# 終わり"
    (tmp_path / "ca.crt").write_text(bundle, "utf-8")
    ca = bundle if how == "text" else str(tmp_path / "ca.crt")
    assert pod.client(ZEUS_AGENT_CA=ca).node().node == "n"


@pytest.mark.parametrize("whose", ["another authority's", "nobody's", "for another name"])
def test_an_agent_that_is_not_trusted_gets_no_token(pod: Pod, whose: str) -> None:
    if whose == "another authority's":
        pod.server.show(certificate_for(new_authority()))
    elif whose == "nobody's":
        pod.environ["ZEUS_AGENT_CA"] = ""  # the system's certificates have not signed it
    else:
        pod.server.show(certificate_for(AUTHORITY, "zeus-agent.zeus-system.svc"))
    with pytest.raises(AgentUnavailable, match=r"not trusted.*ZEUS_AGENT_CA"):
        pod.client().node()
    assert pod.server.requests == []


def test_an_authority_that_is_replaced_in_its_file_counts_with_the_next_connection(
    pod: Pod, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text(AUTHORITY.pem)
    client = pod.client(ZEUS_AGENT_CA=str(ca))
    client.node()
    successor = new_authority()
    ca.write_text(AUTHORITY.pem + successor.pem)
    pod.server.show(certificate_for(successor))
    pod.server.drop_connections()
    assert client.node().node == "n"


@pytest.mark.parametrize(
    ("ca", "reason"),
    [
        ("/nowhere/ca.crt", "ZEUS_AGENT_CA=/nowhere/ca.crt: No such file"),
        ("-----BEGIN PRIVATE KEY-----", "no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "no certificates"),
        ("-----BEGIN CERTIFICATE-----\nÄÄÄÄ\n-----END CERTIFICATE-----", "no certificates"),
        ("-----BEGIN CERTIFICATE-----\nAAAA", "no certificate"),
        ("/no\0where", "null"),
    ],
)
def test_certificates_that_are_none_are_named(pod: Pod, ca: str, reason: str) -> None:
    with pytest.raises(AgentUnavailable, match=reason):
        pod.client(ZEUS_AGENT_CA=ca).node()


def test_a_server_that_speaks_no_tls_is_unavailable_and_gets_no_token(pod: Pod) -> None:
    seen = []
    with socket.create_server(("localhost", 0)) as listener:

        def answer_plainly() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer_plainly)
        thread.start()
        client = AgentClient(f"https://localhost:{listener.getsockname()[1]}", 30.0, pod.environ)
        with pytest.raises(AgentUnavailable):
            client.node()
        thread.join(60)
    assert b"token-1" not in seen[0]


def test_a_redirect_is_not_followed_and_no_success(pod: Pod) -> None:
    pod.server.respond = lambda request: Answer(307, location="https://elsewhere.example/")
    with pytest.raises(AgentError, match="307"):
        pod.client().release("a", "GPU-1")


def test_a_proxy_of_the_environment_does_not_see_the_token(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert pod.client().node().node == "n"


def test_a_host_may_be_written_in_any_alphabet(pod: Pod) -> None:
    port = pod.server.address.rpartition(":")[2]
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "localhost")
    assert AgentClient(f"https://{wide}:{port}", 30.0, pod.environ).node().node == "n"


@pytest.mark.parametrize(
    "address",
    [
        "https://",
        "https://h:x",
        "https://h:1/path",
        "https://user@h:1",
        "https://h?q",
        "h:8443",
        "https://.h:1",
        f"https://{'h' * 64}:1",
        "https://\udcff:1",
    ],
)
def test_an_address_that_is_more_or_less_than_host_and_port_is_named(address: str) -> None:
    with pytest.raises(ValueError, match="https://host:port"):
        open_transport(address, {})


# ---- what it shows --------------------------------------------------------------


def test_a_token_that_was_replaced_is_read_again_when_the_old_one_is_refused(pod: Pod) -> None:
    client = pod.client()
    client.node()
    pod.tokens = {"token-2"}
    pod.token_file.write_text("token-2")
    client.node()
    assert [request.token for request in pod.server.requests] == ["token-1", "token-1", "token-2"]
    assert pod.server.connections == 1


def test_a_token_that_is_refused_and_not_replaced_is_shown_once(pod: Pod) -> None:
    pod.tokens = set()
    with pytest.raises(AgentError) as refused:
        pod.client().node()
    assert (refused.value.code, refused.value.status) == ("unauthenticated", 401)
    assert len(pod.server.requests) == 1


def test_each_new_connection_shows_the_token_of_the_moment(pod: Pod) -> None:
    client = pod.client()
    client.node()
    pod.token_file.write_text("token-2")
    pod.server.drop_connections()
    client.node()
    assert pod.server.requests[-1].token == "token-2"


@pytest.mark.parametrize("content", [None, "", "two\nlines", "sp ace", "ü", "x" * 20_000])
def test_without_a_usable_token_nothing_is_sent_and_nothing_of_it_is_told(
    pod: Pod, content: str | None
) -> None:
    pod.token_file.unlink()
    if content is not None:
        pod.token_file.write_text(content)
    with pytest.raises(AgentError) as refused:
        pod.client().node()
    assert refused.value.code == "unauthenticated"
    assert str(pod.token_file) in refused.value.message
    assert not content or content not in refused.value.message
    assert pod.server.connections == 0


def test_a_token_is_read_again_after_a_minute_and_kept_if_the_file_is_gone(tmp_path: Path) -> None:
    now = 100.0
    path = tmp_path / "token"
    path.write_text("a")
    token = TokenFile(str(path), clock=lambda: now)
    assert token.read() == "a"
    path.write_text("b")
    assert token.read() == "a"
    now += TOKEN_FRESH_SECONDS
    assert token.read() == "b"
    path.unlink()
    now += TOKEN_FRESH_SECONDS
    assert token.read() == "b"
    with pytest.raises(TokenUnusable, match="audience zeus-agent"):
        TokenFile(str(path)).read()


# ---- connections ----------------------------------------------------------------


def test_a_kept_connection_that_was_closed_is_replaced_without_an_error(pod: Pod) -> None:
    client = pod.client()
    for _ in range(3):
        client.node()
        pod.server.drop_connections()
    assert client.node().node == "n"
    assert pod.server.connections == 4


def test_the_end_of_an_idle_connection_is_told_from_what_else_tls_sends(pod: Pod) -> None:
    client = pod.client()
    assert client.has_ended()
    client.node()
    assert not client.has_ended()
    assert client.node().node == "n"
    assert pod.server.connections == 1
    pod.server.drop_connections()
    assert eventually(client.has_ended, "the end is seen")
    assert client.fileno() is None


def _wait(go_on: object) -> None:
    go_on.wait(60)  # type: ignore[attr-defined]


def test_a_forked_child_does_not_hold_the_connection_of_its_parent_open(pod: Pod) -> None:
    client = pod.client()
    client.node()
    context = multiprocessing.get_context("fork")
    go_on = context.Event()
    child = context.Process(target=_wait, args=(go_on,))
    child.start()
    try:
        client.close()
        eventually(lambda: pod.server.open_connections == 0, "the agent sees the end", 30)
        assert child.is_alive()
    finally:
        go_on.set()
        child.join(60)


def test_a_report_with_very_many_milestones_stays_within_what_the_agent_takes(pod: Pod) -> None:
    milestones = tuple((epoch, 1.0 / (epoch + 7)) for epoch in range(20_000))
    pod.client().report("a", Result(sequence=1, milestones=milestones))
    body = pod.server.requests[0].body
    assert len(body) <= 64 * 1024
    kept = [tuple(each) for each in json.loads(body)["milestones"]]
    assert kept[-1] == milestones[-1]
    assert len(kept) > 500
