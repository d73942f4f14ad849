"""What attackers try over the network: refused with the right status, nothing changed.

One agent for all of it, so that what one attack leaves behind would be seen by the next.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.api_server_double import jwt
from tests.support.cluster_node import ClusterNode, fresh, refusal
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient, AgentError, AgentUnavailable
from zeus_runtime.protocol import ErrorCode, Result, SessionRequest


@pytest.fixture
def node(unharmed_node: ClusterNode) -> ClusterNode:
    return unharmed_node


def test_another_pods_gpu_is_refused_as_one_that_does_not_exist(node: ClusterNode) -> None:
    mine, theirs = node.uuids
    node.pod(fresh("other"), theirs)
    client = node.pod(fresh("train"), mine).client()
    client.open_session("run", SessionRequest())
    answers = []
    for uuid in (theirs, "GPU-00000000-0000-0000-0000-000000000000"):
        with pytest.raises(AgentError) as refused:
            client.set_power_limit("run", uuid, 150.0)
        answers.append(
            (refused.value.status, refused.value.code, refused.value.message.replace(uuid, ""))
        )
    assert answers[0] == answers[1]
    assert answers[0][:2] == (403, ErrorCode.NOT_OWNER)
    assert [gpu.uuid for gpu in client.node().gpus] == [mine]
    client.release("run", theirs)
    assert node.limit(theirs) == ADMIN_CAP_WATTS
    eventually(
        lambda: any("PowerLimitRefused" in json.dumps(body) for _, body in node.api.events),
        "an Event tells the pod's owner",
    )
    assert "caller refused" in node.log()


def test_what_the_caller_says_it_can_see_counts_for_nothing(node: ClusterNode) -> None:
    mine, theirs = node.uuids
    pod = node.pod(fresh("train"), mine)
    attempt = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys\nfrom zeus_runtime.agent_client import *\n"
            "from zeus_runtime.protocol import SessionRequest\n"
            "client = AgentClient(sys.argv[1], timeout_seconds=30)\n"
            "client.open_session('run', SessionRequest())\n"
            "try: client.set_power_limit('run', sys.argv[2], 150.0)\n"
            "except AgentError as error: print(error.code)",
            node.url,
            theirs,
        ],
        env={
            **node.environment,
            **pod.environment,
            "NVIDIA_VISIBLE_DEVICES": "all",
            "CUDA_VISIBLE_DEVICES": theirs,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert attempt.stdout.strip() == ErrorCode.NOT_OWNER, attempt.stderr
    token = pod.token
    status, body = node.ask(
        "PUT",
        f"/v1/sessions/run/gpus/{theirs}/power-limit",
        token,
        {"power_limit_watts": 150.0, "pod_uid": "x", "NVIDIA_VISIBLE_DEVICES": "all"},
        {"NVIDIA_VISIBLE_DEVICES": "all", "X-Forwarded-For": "127.0.0.1"},
    )
    assert (status, body["code"]) == (403, ErrorCode.NOT_OWNER)
    assert node.limit(theirs) == ADMIN_CAP_WATTS


def test_a_pods_session_can_be_neither_found_nor_taken_nor_squatted_by_another(
    node: ClusterNode,
) -> None:
    mine, theirs = node.uuids
    other = node.pod(fresh("other"), theirs)
    victim, attacker = node.pod(fresh("train"), mine).client(), other.client()
    victim.open_session("run", SessionRequest())
    victim.set_power_limit("run", mine, 150.0)
    unknown = (404, ErrorCode.NOT_FOUND)
    for call in (attacker.session, attacker.renew, attacker.close_session):
        assert refusal(call, "run") == unknown == refusal(call, "never-opened")
    assert refusal(attacker.set_power_limit, "run", theirs, 120.0) == unknown
    assert refusal(attacker.report, "run", Result(sequence=9)) == unknown
    attacker.open_session("run", SessionRequest())  # a session of its own, of the same name
    attacker.set_power_limit("run", theirs, 120.0)
    attacker.close_session("run")
    assert (node.limit(mine), node.limit(theirs)) == (150.0, ADMIN_CAP_WATTS)
    status, leases = node.ask("GET", "/v1/leases", other.token)
    assert (status, leases) == (200, [])


@pytest.mark.parametrize(
    ("method", "rest", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/renew", None),
        ("PUT", "/report", {"version": 1}),
        ("PUT", "/gpus/THEIRS/power-limit", {"power_limit_watts": 120.0}),
        ("PUT", "/gpus/MINE/power-limit", {"power_limit_watts": 120.0}),
        ("DELETE", "/gpus/THEIRS/power-limit", None),
    ],
)
def test_every_operation_on_another_pods_session_finds_none(
    node: ClusterNode, method: str, rest: str, body: object
) -> None:
    theirs, mine = node.uuids
    victim, attacker = node.pod(fresh("victim"), theirs), node.pod(fresh("attacker"), mine)
    client = victim.client()
    client.open_session("run", SessionRequest())
    client.set_power_limit("run", theirs, 150.0)
    rest = rest.replace("THEIRS", theirs).replace("MINE", mine)
    answers = [
        node.ask(method, f"/v1/sessions/{name}{rest}", attacker.token, body)
        for name in ("run", "never-opened")
    ]
    codes = [(status, answer["code"]) for status, answer in answers]
    assert codes[0] == codes[1]
    assert codes[0] in ((404, ErrorCode.NOT_FOUND), (403, ErrorCode.NOT_OWNER))
    assert (node.limit(theirs), node.limit(mine)) == (150.0, ADMIN_CAP_WATTS)
    assert client.session("run") is not None


def test_one_of_several_users_of_a_board_sets_no_limit_on_it(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    client = node.pod(fresh("slice"), f"{uuid}::1").client()
    client.open_session("run", SessionRequest())
    assert refusal(client.set_power_limit, "run", uuid, 150.0) == (403, ErrorCode.GPU_SHARED)
    assert node.limit(uuid) == ADMIN_CAP_WATTS


def test_a_pod_can_not_open_sessions_without_end(node: ClusterNode) -> None:
    client = node.pod(fresh("train"), node.uuids[0]).client()
    for number in range(16):
        client.open_session(f"run-{number}", SessionRequest())
    assert refusal(client.open_session, "one-more", SessionRequest()) == (
        429,
        ErrorCode.TOO_MANY_SESSIONS,
    )
    node.pod(fresh("other"), node.uuids[1]).client().open_session("run", SessionRequest())


def test_tokens_that_prove_nothing_here_are_refused_and_change_nothing(node: ClusterNode) -> None:
    pod = node.pod(fresh("train"), node.uuids[0])
    elsewhere = dict(pod.manifest, spec={**pod.manifest["spec"], "nodeName": "node-2"})
    issue = node.api.issue
    good = issue(pod.manifest)
    signed, _, _ = good.rpartition(".")
    tokens: dict[str, str | None] = {
        "missing": None,
        "empty": "",
        "malformed": "nonsense",
        "forged": node.api.forged(pod.manifest),
        "signature": f"{signed}.AAAA",
        "unsigned": jwt({"aud": ["zeus-agent"], "exp": 9e9}, ""),
        "expired": issue(pod.manifest, lifetime_seconds=-1.0),
        "audience": issue(pod.manifest, audience="https://kubernetes.default.svc"),
        "no pod": issue(None),
        "other node": issue(elsewhere),
        "long": "x" * 9000,
    }
    for name, token in tokens.items():
        path = "/v1/sessions/run"
        status, body = node.ask("PUT", path, token, {})
        assert (status, body["code"]) == (401, ErrorCode.UNAUTHENTICATED), name
        if token:
            assert token not in json.dumps(body)
            assert token not in node.log()
    assert good not in node.log()
    assert node.metric("zeus_agent_sessions") == 0
    status, _ = node.ask("GET", "/v1/node", good)
    assert status == 200


def test_a_token_of_a_pod_that_is_gone_is_refused_though_it_was_good(node: ClusterNode) -> None:
    pod = node.pod(fresh("train"), node.uuids[0])
    token = pod.token
    assert node.ask("GET", "/v1/node", token)[0] == 200
    pod.delete()
    eventually(lambda: node.ask("GET", "/v1/node", token)[0] == 401, "the replay is refused")


def test_a_token_is_its_pods_alone_though_another_has_the_name_now(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    former = node.pod("reused", uuid)
    token = former.token
    assert node.ask("PUT", "/v1/sessions/run", token, {})[0] == 200
    former.delete()
    present = node.pod("reused", uuid)
    eventually(lambda: node.ask("GET", "/v1/node", token)[0] == 401, "the former is refused")
    assert node.ask("PUT", "/v1/sessions/run", token, {})[0] == 401
    assert node.ask("GET", "/v1/sessions/run", present.token)[0] == 404, "nothing is inherited"


def test_no_secret_gets_into_an_answer_without_a_token(node: ClusterNode) -> None:
    assert node.ask("GET", "/healthz", None) == (200, {"status": "ok"})
    for path in ("/metrics", "/readyz", "/v1/node", "/v1/leases", "/v1/openapi.json"):
        assert node.ask("GET", path, None)[0] == 401, path
    token = node.pod(fresh("train"), node.uuids[0]).token
    for path in ("/metrics", "/readyz", "/v1/reports"):
        assert node.ask("GET", path, token)[0] == 403, path


def test_a_pod_that_does_not_trust_the_agent_does_not_send_its_token(node: ClusterNode) -> None:
    pod = node.pod(fresh("train"), node.uuids[0])
    stranger = AgentClient(
        node.url.replace("localhost", "127.0.0.1"), timeout_seconds=30.0, environ=pod.environment
    )
    with pytest.raises(AgentUnavailable):
        stranger.node()
