"""The client that holds limits from a thread, in a pod: TLS, a token, and refusals of a cluster."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.agent_process import Machine
from tests.support.cluster_node import cluster_node
from tests.support.eventually import eventually
from tests.support.tcp_relay import tcp_relay
from tests.support.tls_server import Answer, Front, Request, error, front
from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import Result, SessionRequest

PATIENCE_SECONDS = 60.0
LIMIT = "/power-limit"


@pytest.fixture
def node(machine: Machine) -> Iterator[Front]:
    """The agent behind TLS, as a pod of its node reaches it."""
    machine.start_agent()
    with front(machine.socket, machine.folder) as made:
        yield made


def background_of(node: Front, **request: float) -> BackgroundAgent:
    return BackgroundAgent(
        AgentClient(node.server.address, environ=node.environment),
        "run.1",
        SessionRequest(job="team/job", **request),  # type: ignore[arg-type]  # numbers only
        renewal_seconds=0.1,
    )


@pytest.fixture
def background(node: Front) -> Iterator[BackgroundAgent]:
    made = background_of(node)
    made.start()
    yield made
    made.close()


def holds(background: BackgroundAgent, uuid: str, watts: float) -> None:
    def held() -> bool:
        lease = background.status.leases.get(uuid)
        return lease is not None and lease.applied_watts == watts

    background.wait(lambda _: held(), PATIENCE_SECONDS)
    assert held(), background.status


def refuse(
    code: str, status: int, part: str, **details: object
) -> Callable[[Request], Answer | None]:
    """Return what refuses requests whose path has `part`."""

    def instead(request: Request) -> Answer | None:
        if request.method == "GET" or not request.path.endswith(part):
            return None
        return error(status, code, f"because {code}", **details)

    return instead


def goes_on_renewing(node: Front) -> None:
    """Wait until the thread has been at work a few times more."""
    renewals = len(node.asked("POST", "/renew"))
    eventually(lambda: len(node.asked("POST", "/renew")) > renewals + 3, "it goes on renewing")


def test_a_limit_is_held_over_tls_and_back_at_the_end(
    machine: Machine, node: Front, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    assert machine.limit(uuid) == 150.0
    background.close()
    machine.wait_until_restored()
    assert node.server.connections == 1


def test_a_rotated_token_costs_no_lease(
    machine: Machine, node: Front, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    node.token_file.write_text("token-2")
    node.tokens = {"token-2"}
    eventually(
        lambda: any(r.token == "token-2" for r in node.asked("POST", "/renew")), "it is renewed"
    )
    holds(background, uuid, 150.0)
    assert background.status.losses == 0


def test_a_dropped_connection_is_made_again_at_once_and_costs_no_lease() -> None:
    with cluster_node() as node:
        node.start_agent()
        uuid = node.uuids[0]
        pod = node.pod("train", uuid)
        with tcp_relay(int(node.url.rpartition(":")[2])) as relay:
            background = BackgroundAgent(
                AgentClient(f"https://localhost:{relay.port}", environ=pod.environment),
                "run.1",
                SessionRequest(ends_with_connection=True),  # and renews each 5 s, as in a pod
            )
            background.start()
            background.want_power_limit(uuid, 150.0)
            holds(background, uuid, 150.0)
            fence = background.status.leases[uuid].fence
            relay.cut()
            eventually(lambda: relay.connections == 2, "there is a new connection")
            background.want_power_limit(uuid, 140.0)  # which it does over the new one
            holds(background, uuid, 140.0)
            assert "session ended" not in node.log()
            assert background.status.leases[uuid].fence == fence
            assert background.status.losses == 0
            background.close(PATIENCE_SECONDS)
        node.wait_until_restored()


@pytest.mark.parametrize(
    ("code", "status"), [("identity_unavailable", 503), ("too_many_sessions", 429), ("", 502)]
)
def test_a_session_that_is_refused_now_is_opened_later(
    machine: Machine, node: Front, code: str, status: int
) -> None:
    node.instead = refuse(code, status, "run.1")
    background = background_of(node)
    background.start()
    background.want_power_limit(machine.uuids[0], 150.0)
    told = background.wait(lambda s: s.refusal is not None, PATIENCE_SECONDS)
    assert told.refusal is not None
    assert told.refusal.code == code
    assert not told.connected
    node.instead = lambda request: None
    holds(background, machine.uuids[0], 150.0)
    assert background.status.refusal is None
    background.close()


def test_a_token_that_is_mounted_late_is_found(machine: Machine, node: Front) -> None:
    node.token_file.unlink()
    background = background_of(node)
    background.start()
    told = background.wait(lambda s: s.refusal is not None, PATIENCE_SECONDS)
    assert told.refusal is not None
    assert told.refusal.code == "unauthenticated"
    node.token_file.write_text("token-1")
    assert background.wait(lambda s: s.connected, PATIENCE_SECONDS).connected
    background.close()


def test_while_nobody_can_check_the_token_the_lease_counts_as_held(
    machine: Machine, node: Front, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    node.instead = refuse("identity_unavailable", 503, "/renew")
    before = len(node.asked("POST", "/renew"))
    eventually(lambda: len(node.asked("POST", "/renew")) > before + 1, "it is tried again")
    holds(background, uuid, 150.0)
    node.instead = lambda request: None
    eventually(lambda: len(node.asked("POST", "/renew")) > before + 3, "it is renewed")
    assert background.status.losses == 0
    assert background.status.connected


def test_with_a_token_that_is_refused_nothing_counts_as_held_until_there_is_a_better_one(
    machine: Machine, node: Front, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    node.tokens = {"token-2"}
    status = background.wait(lambda s: s.refusal is not None, PATIENCE_SECONDS)
    assert (status.connected, status.leases, status.losses) == (False, {}, 1)
    node.token_file.write_text("token-2")
    holds(background, uuid, 150.0)


def test_a_session_that_could_not_be_renewed_for_its_whole_time_counts_as_lost(
    machine: Machine, node: Front
) -> None:
    background = background_of(node, ttl_seconds=1.0)
    background.start()
    background.want_power_limit(machine.uuids[0], 150.0)
    holds(background, machine.uuids[0], 150.0)
    node.instead = lambda request: error(503, "identity_unavailable")
    status = background.wait(lambda s: not s.connected, PATIENCE_SECONDS)
    assert status.leases == {}
    assert status.losses == 1
    machine.wait_until_restored()
    node.instead = lambda request: None
    holds(background, machine.uuids[0], 150.0)
    background.close()


@pytest.mark.parametrize("code", ["policy_denied", "gpu_shared", "not_owner"])
def test_a_limit_that_is_denied_is_told_and_asked_for_once_until_there_is_another_agent(
    machine: Machine, node: Front, background: BackgroundAgent, code: str
) -> None:
    uuid = machine.uuids[0]
    node.instead = refuse(code, 403, LIMIT, retry_after_seconds=0.1)  # which is for others
    background.want_power_limit(uuid, 150.0)
    status = background.wait(lambda s: uuid in s.problems, PATIENCE_SECONDS)
    assert status.problems[uuid].code == code
    assert status.connected
    goes_on_renewing(node)
    assert len(node.asked("PUT", LIMIT)) == 1
    machine.stop_agent(signal.SIGTERM)
    node.instead = lambda request: None
    machine.start_agent()
    holds(background, uuid, 150.0)


def test_what_comes_too_fast_is_asked_again_when_the_agent_says_and_then_for_the_newest_wish(
    machine: Machine, node: Front, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]

    def at_first(request: Request) -> Answer | None:
        if not request.path.endswith(LIMIT) or len(node.asked("PUT", LIMIT)) > 1:
            return None
        return error(429, "rate_limited", retry_after_seconds=0.5)

    node.instead = at_first
    background.want_power_limit(uuid, 150.0)
    background.wait(lambda s: uuid in s.problems, PATIENCE_SECONDS)
    for watts in (140.0, 130.0, 125.0):
        background.want_power_limit(uuid, watts)
    holds(background, uuid, 125.0)


def test_a_newer_wish_is_no_way_around_the_pause_and_giving_back_needs_none(
    machine: Machine, node: Front, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    node.instead = lambda request: (
        error(429, "rate_limited", retry_after_seconds=300)
        if request.method == "PUT" and request.path.endswith(LIMIT)
        else None
    )
    for watts in (140.0, 130.0):
        background.want_power_limit(uuid, watts)
        background.wait(lambda s: uuid in s.problems, PATIENCE_SECONDS)
        goes_on_renewing(node)
    assert len(node.asked("PUT", LIMIT)) == 2
    background.release(uuid)
    machine.wait_until_restored()


def test_the_last_report_arrives_though_the_connection_was_just_lost(
    machine: Machine, node: Front
) -> None:
    background = background_of(node)
    background.start()
    background.wait(lambda s: s.connected, PATIENCE_SECONDS)
    node.instead = lambda request: error(500, "internal")
    background.wait(lambda s: not s.connected, PATIENCE_SECONDS)
    background.report(Result(sequence=9, epochs=9))
    node.instead = lambda request: None
    background.close(PATIENCE_SECONDS)
    assert [json.loads(r.body)["epochs"] for r in node.asked("PUT", "/report")] == [9]
    eventually(lambda: "session ended" in machine.log(), "the session has ended")


def test_of_the_reports_of_one_second_the_newest_is_sent(machine: Machine, node: Front) -> None:
    now = 1000.0
    background = BackgroundAgent(
        AgentClient(node.server.address, environ=node.environment),
        "run.1",
        SessionRequest(),
        clock=lambda: now,
    )

    def sent() -> list[int]:
        return [json.loads(request.body)["epochs"] for request in node.asked("PUT", "/report")]

    background.start()
    background.report(Result(sequence=1, epochs=1))
    eventually(lambda: sent() == [1], "the first one is sent at once")
    for epoch in range(2, 1001):
        background.report(Result(sequence=epoch, epochs=epoch))
    for watts in (150.0, 140.0):  # so that the thread has been at work since
        background.want_power_limit(machine.uuids[0], watts)
        holds(background, machine.uuids[0], watts)
    assert sent() == [1]
    now += 1.0
    background.want_power_limit(machine.uuids[0], 130.0)
    eventually(lambda: sent() == [1, 1000], "the newest one is sent")
    background.report(Result(sequence=1001, epochs=1001))
    background.close(PATIENCE_SECONDS)
    assert sent() == [1, 1000, 1001]


def test_a_report_alone_does_not_renew_out_of_turn(node: Front) -> None:
    background = BackgroundAgent(
        AgentClient(node.server.address, environ=node.environment), "run.1", SessionRequest()
    )
    background.start()
    background.report(Result(sequence=1, epochs=1))
    eventually(lambda: node.asked("PUT", "/report"), "the report has come")
    background.close(PATIENCE_SECONDS)
    assert node.asked("POST", "/renew") == []


def test_an_agent_that_swallows_everything_holds_nobody_up(machine: Machine, node: Front) -> None:
    with socket.create_server(("localhost", 0)) as silent:  # accepts, and never says anything
        address = f"https://localhost:{silent.getsockname()[1]}"
        background = BackgroundAgent(
            AgentClient(address, environ=node.environment), "run.1", SessionRequest()
        )
        background.start()
        for step in range(1000):
            background.want_power_limit(machine.uuids[0], 150.0 + step % 7)
            background.report(Result(sequence=step))
            assert not background.status.connected
        background.close(0.0)
        assert background.status.error == "not connected yet"
