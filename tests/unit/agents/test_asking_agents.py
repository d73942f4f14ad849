"""Agents are asked over TLS with the operator's token; what goes wrong is bounded, and said."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_reports import Answer, DrippingServer, ReportServer, report
from zeus_operator.agents.bounded_http import Limits
from zeus_operator.agents.client import LIMITS, AgentClient, AgentUnreachable
from zeus_operator.agents.endpoints import AgentEndpoint
from zeus_operator.agents.progress import KEPT_FOR, ProgressBook
from zeus_operator.agents.reader import PATIENCE_SECONDS, SEEN_FOR_SECONDS, ReportReader
from zeus_operator.agents.silence import REMEMBERED_SECONDS
from zeus_operator.executors.base import ResultNotYet
from zeus_operator.kube import KubeUnavailable
from zeus_operator.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_RECURRENCE
from zeus_operator.trust.certificates import issue, key_pem_of, make_authority, pem_of
from zeus_operator.world import Key, Resource, World

HOST = "zeus-agent.zeus-system.svc"
NODE = "gpu-1"
DAY = timedelta(days=1)


@dataclass
class Site:
    """An agent, whom the operator trusts, and its token."""

    folder: Path
    server: ReportServer
    bundle: str
    nodes: dict[str, AgentEndpoint] = field(default_factory=dict)
    monotonic: float = 0.0
    api_is_away: bool = False

    @property
    def agent(self) -> AgentEndpoint:
        return AgentEndpoint(NODE, "127.0.0.1", self.server.port)

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def client(self, host: str = HOST, limits: Limits = LIMITS) -> AgentClient:
        return AgentClient(host, self.token_file, lambda: self.bundle, limits)

    def reader(
        self, book: ProgressBook | None = None, client: AgentClient | None = None, **more: Any
    ) -> ReportReader:
        return ReportReader(
            self.find,
            client or self.client(),
            book or ProgressBook(),
            lambda: datetime(2026, 3, 2, 12, tzinfo=UTC),
            lambda: self.monotonic,
            **more,
        )

    def find(self) -> dict[str, AgentEndpoint]:
        if self.api_is_away:
            raise KubeUnavailable(0, "", "the API server does not answer")
        return self.nodes


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    authority = make_authority(datetime.now(UTC), 10 * DAY)
    leaf = issue(authority, [HOST], datetime.now(UTC), DAY)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text(pem_of(leaf.certificate))
    key.write_text(key_pem_of(leaf.key))
    (tmp_path / "token").write_text("the-token\n")
    with ReportServer(certificate, key, "the-token") as server:
        made = Site(tmp_path, server, authority.pem)
        made.nodes = {NODE: made.agent}
        yield made


def pod(uid: str, node: str = NODE, *, job: str = "digits", phase: str = "Running") -> Any:
    return {
        "metadata": {
            "namespace": "default",
            "name": f"pod-{uid}",
            "uid": uid,
            "labels": {LABEL_JOB: job, LABEL_RECURRENCE: "7", LABEL_ATTEMPT: "1"},
        },
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": phase},
    }


def world_of(*pods: Any) -> World:
    world = World()
    for each in pods:
        world.apply(Resource.PODS, "ADDED", each)
    return world


# One agent -------------------------------------------------------------------------


def test_reports_are_read_with_the_token_of_the_file(site: Site) -> None:
    site.server.reports = {"a": report("a", epochs=3), "b": report("b", epochs=5)}
    assert {each.pod_uid for each in site.client().reports(site.agent)} == {"a", "b"}
    found = site.client().report(site.agent, "b")
    assert found is not None
    assert found.result.epochs == 5
    assert site.client().report(site.agent, "c") is None


def test_a_token_that_was_renewed_is_used(site: Site) -> None:
    client = site.client()
    client.reports(site.agent)
    site.server.token = "another"
    with pytest.raises(AgentUnreachable, match="answers 401"):
        client.reports(site.agent)
    site.token_file.write_text("another")
    client.reports(site.agent)


def test_an_authority_that_was_replaced_is_used(site: Site) -> None:
    client, right = site.client(), site.bundle
    site.bundle = make_authority(datetime.now(UTC), DAY).pem
    with pytest.raises(AgentUnreachable, match="certificate verify failed"):
        client.reports(site.agent)
    site.bundle += right
    client.reports(site.agent)


def test_without_an_authority_nobody_is_trusted(site: Site) -> None:
    site.bundle = ""
    with pytest.raises(AgentUnreachable, match="is not known yet"):
        site.client().reports(site.agent)
    assert site.server.asked == []


def test_a_certificate_for_another_name_is_refused(site: Site) -> None:
    with pytest.raises(AgentUnreachable, match="Hostname mismatch"):
        site.client("zeus-agent.elsewhere.svc").reports(site.agent)
    assert site.server.asked == [], "the token was shown to nobody"


@pytest.mark.parametrize("text", ["", "  \n", "two\nlines", "\x00", "caf\u00e9"])
def test_a_file_without_a_token_is_said(site: Site, text: str) -> None:
    site.token_file.write_text(text)
    with pytest.raises(AgentUnreachable, match="holds no token"):
        site.client().reports(site.agent)


def test_a_file_that_is_not_there_is_said(site: Site) -> None:
    site.token_file.unlink()
    with pytest.raises(AgentUnreachable, match="No such file"):
        site.client().reports(site.agent)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b"oops"), "answers 500: oops"),
        ((302, b""), "answers 302"),
        ((200, b"no json"), "sends no JSON"),
        ((200, b"[" * 100_000), "sends no JSON"),
    ],
)
def test_a_strange_answer_is_no_answer(site: Site, answer: Answer, said: str) -> None:
    site.server.answer = lambda: answer
    with pytest.raises(AgentUnreachable, match=said):
        site.client().reports(site.agent)


def test_an_answer_without_end_is_cut(site: Site) -> None:
    site.server.answer = lambda: (200, b" " * 1001)
    with pytest.raises(AgentUnreachable, match="longer than 1000 bytes"):
        site.client(limits=replace(LIMITS, body_bytes=1000)).reports(site.agent)


def test_who_says_nothing_is_not_waited_for(site: Site) -> None:
    release = threading.Event()
    site.server.answer = lambda: (200 if release.wait(30) else 500, b"{}")
    with pytest.raises(AgentUnreachable, match=r"nothing has come for 0\.1 s"):
        site.client(limits=replace(LIMITS, silence_seconds=0.1)).reports(site.agent)
    release.set()


BEFORE_THE_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(BEFORE_THE_BODY, b" ", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="header"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="one continue after the other"),
    ],
)
def test_who_drips_is_left_while_it_still_drips(site: Site, start: bytes, drop: bytes) -> None:
    """No pause is long enough to be silence, and the answer is never whole."""
    with DrippingServer(site.folder / "tls.crt", site.folder / "tls.key", start, drop) as server:
        agent = AgentEndpoint(NODE, "127.0.0.1", server.port)
        limits = replace(LIMITS, silence_seconds=20.0, total_seconds=0.5)
        with pytest.raises(AgentUnreachable, match=r"takes longer than 0\.5 s"):
            site.client(limits=limits).reports(agent)
        assert server.drops > 1
        assert not server.has_given_up, "it was not the server that ended it"


def test_what_is_no_http_is_said_without_its_words(site: Site) -> None:
    with DrippingServer(
        site.folder / "tls.crt", site.folder / "tls.key", b"SSH-2.0-secret\r\n", b"x"
    ) as server:
        agent = AgentEndpoint(NODE, "127.0.0.1", server.port)
        with pytest.raises(AgentUnreachable, match="it sends no HTTP") as raised:
            site.client().reports(agent)
        assert "secret" not in str(raised.value)


def test_what_goes_wrong_is_said_in_the_same_words_each_time(site: Site) -> None:
    """So that a log says it once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = AgentEndpoint(NODE, "127.0.0.1", free.getsockname()[1])
        said = set()
        for _ in range(2):
            with pytest.raises(AgentUnreachable) as raised:
                site.client().reports(nobody)
            said.add(str(raised.value))
    assert len(said) == 1


# Progress of all -------------------------------------------------------------------


def test_only_nodes_where_runs_run_are_asked(site: Site) -> None:
    site.server.reports = {"a": report("a", epochs=3)}
    reader = site.reader()
    assert reader.poll(world_of()) == (set(), ())
    assert reader.poll(world_of(pod("a", phase="Pending"))) == (set(), ())
    assert reader.poll(world_of(pod("a", phase="Succeeded"))) == (set(), ())
    assert reader.poll(world_of(pod("a", node="without-agent"))) == (set(), ())
    assert site.server.asked == []
    assert reader.poll(world_of(pod("a"))) == ({Key("default", "digits")}, ())
    assert site.server.asked == ["/v1/reports"]


def test_one_question_serves_all_runs_of_a_node_and_strangers_are_left_out(site: Site) -> None:
    book = ProgressBook()
    site.server.reports = {uid: report(uid, epochs=2) for uid in ("a", "b", "old", "foreign")}
    news, _ = site.reader(book).poll(world_of(pod("a"), pod("b", job="other")))
    assert news == {Key("default", "digits"), Key("default", "other")}
    assert site.server.asked == ["/v1/reports"]
    assert book.shown("foreign") is None


def test_an_agent_that_does_not_answer_keeps_nobody_from_the_others(site: Site) -> None:
    site.server.reports = {"a": report("a")}
    site.nodes["gpu-2"] = AgentEndpoint("gpu-2", "127.0.0.1", 1)
    news, problems = site.reader().poll(world_of(pod("a"), pod("b", "gpu-2")))
    assert news == {Key("default", "digits")}
    assert len(problems) == 1
    assert "the agent of gpu-2" in problems[0]


def test_an_agent_that_is_not_ready_is_not_asked_for_progress(site: Site) -> None:
    site.nodes[NODE] = AgentEndpoint(NODE, "127.0.0.1", site.server.port, is_ready=False)
    assert site.reader().poll(world_of(pod("a"))) == (set(), ())
    assert site.server.asked == []


# The result of a run that left none --------------------------------------------------


def test_a_result_is_found_where_the_pod_ran(site: Site) -> None:
    site.server.reports = {"a": report("a", epochs=9, outcome="reached")}
    result = site.reader().result_of("a", NODE)
    assert result is not None
    assert (result.epochs, result.outcome) == (9, "reached")


def test_a_pod_that_never_reported_has_none(site: Site) -> None:
    assert site.reader().result_of("a", NODE) is None
    assert site.reader().result_of("a", "node-without-agent") is None


def test_where_the_node_is_not_known_all_agents_are_asked(site: Site) -> None:
    site.nodes = {f"n{number}": site.agent for number in range(20)}
    assert site.reader().result_of("a", "") is None
    assert len(site.server.asked) == 20
    site.server.reports = {"a": report("a", epochs=9)}
    result = site.reader().result_of("a", "")
    assert result is not None
    assert result.epochs == 9


def test_where_all_are_asked_one_that_is_not_ready_is_not(site: Site) -> None:
    """In a large cluster one always is; the end of a run must not wait for it."""
    site.nodes = {
        "ready": site.agent,
        "away": AgentEndpoint("away", "127.0.0.1", 1, is_ready=False),
    }
    assert site.reader().result_of("a", "") is None


def test_to_ask_all_takes_a_bounded_time(site: Site) -> None:
    release = threading.Event()
    site.server.answer = lambda: (404 if release.wait(30) else 500, b"{}")
    site.nodes = {f"n{number}": site.agent for number in range(20)}
    reader = site.reader(everywhere_seconds=0.2)
    try:
        with pytest.raises(ResultNotYet, match="20 agents were not asked in time"):
            reader.result_of("a", "")
        assert not release.is_set(), "no agent has answered"
    finally:
        release.set()
        reader.close()


def test_an_agent_that_has_just_not_answered_is_not_asked_again_for_each_pod(site: Site) -> None:
    site.server.answer = lambda: (500, b"oops")
    reader = site.reader()
    for uid in ("a", "b", "c"):
        with pytest.raises(ResultNotYet, match="answers 500: oops"):
            reader.result_of(uid, NODE)
    assert reader.poll(world_of(pod("d")))[1], "it is said there, too"
    assert len(site.server.asked) == 1

    site.server.answer = None
    site.server.reports = {"a": report("a", epochs=9)}
    site.monotonic = REMEMBERED_SECONDS
    result = reader.result_of("a", NODE)
    assert result is not None
    assert reader.result_of("b", NODE) is None
    assert len(site.server.asked) == 3


def test_when_it_is_time_to_ask_again_one_asks_and_the_others_do_not_wait(site: Site) -> None:
    site.server.answer = lambda: (500, b"oops")
    reader = site.reader()
    with pytest.raises(ResultNotYet):
        reader.result_of("a", NODE)
    site.monotonic = REMEMBERED_SECONDS
    asked, release = threading.Event(), threading.Event()

    def hang() -> Answer:
        asked.set()
        release.wait(30)
        return 404, b""

    site.server.answer = hang
    first = threading.Thread(target=reader.result_of, args=("a", NODE))
    first.start()
    try:
        assert asked.wait(30)
        with pytest.raises(ResultNotYet, match="answers 500: oops"):
            reader.result_of("b", NODE)
        assert first.is_alive(), "the other still asks"
    finally:
        release.set()
        first.join()


def test_an_agent_that_is_away_is_waited_for_but_not_for_ever(site: Site) -> None:
    site.nodes = {NODE: AgentEndpoint(NODE, "127.0.0.1", 1)}
    reader = site.reader()
    with pytest.raises(ResultNotYet, match="pod a has left no result, and the agent of gpu-1"):
        reader.result_of("a", NODE)
    site.monotonic = PATIENCE_SECONDS - 1
    with pytest.raises(ResultNotYet):
        reader.result_of("a", NODE)
    site.monotonic = PATIENCE_SECONDS
    assert reader.result_of("a", NODE) is None


def test_an_agent_that_comes_back_in_time_tells(site: Site) -> None:
    site.server.reports = {"a": report("a", epochs=9)}
    site.nodes = {NODE: AgentEndpoint(NODE, "127.0.0.1", 1)}
    reader = site.reader()
    with pytest.raises(ResultNotYet):
        reader.result_of("a", NODE)
    site.nodes = {NODE: site.agent}
    result = reader.result_of("a", NODE)
    assert result is not None
    assert result.epochs == 9


def test_an_api_server_that_does_not_say_where_agents_are_is_waited_for(site: Site) -> None:
    site.api_is_away = True
    reader = site.reader()
    with pytest.raises(ResultNotYet, match="the agents can't be found"):
        reader.result_of("a", NODE)
    site.monotonic = PATIENCE_SECONDS
    assert reader.result_of("a", NODE) is None


def test_of_a_node_that_is_gone_what_was_heard_before_counts(site: Site) -> None:
    book = ProgressBook()
    reader = site.reader(book)
    site.server.reports = {"a": report("a", epochs=4, sequence=4)}
    reader.poll(world_of(pod("a")))
    site.nodes = {}
    with pytest.raises(ResultNotYet, match="the agent of gpu-1 is not there just now"):
        reader.result_of("a", NODE)
    site.monotonic = PATIENCE_SECONDS
    result = reader.result_of("a", NODE)
    assert result is not None
    assert result.epochs == 4


def test_an_agent_whose_pod_is_being_replaced_is_waited_for(site: Site) -> None:
    """Between two pods of a DaemonSet no EndpointSlice names its node."""
    site.server.reports = {"a": report("a", epochs=9)}
    reader = site.reader()
    reader.result_of("of another run", NODE)
    site.nodes = {}
    with pytest.raises(ResultNotYet) as raised:
        reader.result_of("a", NODE)
    assert raised.value.waits_for == "the agent of node gpu-1"
    site.nodes = {NODE: site.agent}
    result = reader.result_of("a", NODE)
    assert result is not None
    assert result.epochs == 9


def test_a_node_whose_agent_has_long_been_gone_is_not_waited_for(site: Site) -> None:
    reader = site.reader()
    reader.result_of("of another run", NODE)
    site.nodes = {}
    site.monotonic = SEEN_FOR_SECONDS
    assert reader.result_of("a", NODE) is None


def test_what_was_heard_of_pods_that_have_long_ended_is_forgotten(site: Site) -> None:
    book = ProgressBook()
    reader = site.reader(book)
    site.server.reports = {"a": report("a")}
    reader.poll(world_of(pod("a")))
    start = datetime(2026, 3, 2, 12, tzinfo=UTC)
    book.keep({"a"}, start + KEPT_FOR)
    reader.poll(world_of())
    assert book.latest("a") is not None, "its end may not be seen to yet"
    book.keep((), start + KEPT_FOR)
    assert book.latest("a") is None


def test_of_what_was_heard_and_what_is_found_the_newer_counts(site: Site) -> None:
    book = ProgressBook()
    reader = site.reader(book)
    site.server.reports = {"a": report("a", epochs=4, sequence=4)}
    reader.poll(world_of(pod("a")))
    for sequence, epochs in ((9, 9), (2, 4)):
        site.server.reports = {"a": report("a", epochs=sequence, sequence=sequence)}
        result = reader.result_of("a", NODE)
        assert result is not None
        assert result.epochs == epochs
