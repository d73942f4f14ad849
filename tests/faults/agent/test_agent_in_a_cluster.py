"""Pods and an agent over TLS: what they may do, and that a limit comes back when a pod ends.

Real TLS with certificates as the operator makes them, real tokens' way through the agent (an API
server and a kubelet that a test can switch), simulated GPUs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS, raw_request
from tests.support.cluster_node import ClusterNode, cluster_node, refusal
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient, AgentError
from zeus_runtime.protocol import ErrorCode, GpuInfo, PodReport, Result, SessionRequest

BOUND = SessionRequest(job="team/job", ttl_seconds=600.0, ends_with_connection=True)


@pytest.fixture
def node() -> Iterator[ClusterNode]:
    """A node whose agent is not started yet."""
    with cluster_node() as made:
        yield made


# ---- what a pod may do --------------------------------------------------------


def test_a_pod_sets_the_limit_of_its_gpu_and_it_comes_back(node: ClusterNode) -> None:
    node.start_agent()
    mine, other = node.uuids
    client = node.pod("train", mine).client()
    client.open_session("run", SessionRequest(job="team/job"))
    lease = client.set_power_limit("run", mine, 150.0)
    assert (lease.session, lease.applied_watts, lease.previous_watts) == (
        "run",
        150.0,
        ADMIN_CAP_WATTS,
    )
    assert (node.limit(mine), node.limit(other)) == (150.0, ADMIN_CAP_WATTS)
    client.report("run", Result(sequence=1, epochs=1))
    assert client.renew("run").leases[0].gpu_uuid == mine
    client.close_session("run")
    assert node.limit(mine) == ADMIN_CAP_WATTS


def test_a_shared_gpu_is_left_alone_unless_the_policy_allows_it(node: ClusterNode) -> None:
    policy = node.folder / "policy.yaml"
    policy.write_text("version: 1\n")
    node.start_agent("--policy", str(policy))
    uuid = node.uuids[0]
    pod = node.pod("train", f"{uuid}::0")
    client = pod.client()
    client.open_session("run", SessionRequest())
    assert refusal(client.set_power_limit, "run", uuid, 150.0) == (403, ErrorCode.GPU_SHARED)
    assert node.limit(uuid) == ADMIN_CAP_WATTS
    policy.write_text("version: 1\nsharedGpus: Allow\n")

    def allowed() -> bool:
        try:
            return client.set_power_limit("run", uuid, 150.0).applied_watts == 150.0
        except AgentError:
            return False

    eventually(allowed, "the policy was read again")
    other = node.pod("other", f"{uuid}::1", namespace="rivals").client()
    other.open_session("theirs", SessionRequest())
    with pytest.raises(AgentError) as refused:
        other.set_power_limit("theirs", uuid, 120.0)
    assert refused.value.code == ErrorCode.GPU_LEASED
    told = f"{refused.value.message} {refused.value.details}"
    assert not any(word in told for word in ("run", "train", "team", pod.uid))
    local = node.client()
    local.open_session("local", SessionRequest())
    with pytest.raises(AgentError, match="pod team/train holds"):
        local.set_power_limit("local", uuid, 120.0)
    assert node.limit(uuid) == 150.0


def test_a_namespace_that_the_policy_does_not_allow_is_refused(node: ClusterNode) -> None:
    policy = node.folder / "policy.yaml"
    policy.write_text("version: 1\nnamespaces: {deny: [team]}\n")
    node.start_agent("--policy", str(policy))
    uuid = node.uuids[0]
    client = node.pod("train", uuid).client()
    client.open_session("run", SessionRequest())
    assert refusal(client.set_power_limit, "run", uuid, 150.0) == (403, ErrorCode.POLICY_DENIED)
    assert node.limit(uuid) == ADMIN_CAP_WATTS


def test_a_pod_whose_gpu_nvml_does_not_show_is_not_told_which_there_are(node: ClusterNode) -> None:
    node.start_agent()
    missing = "GPU-00000000-0000-4000-8000-000000000000"
    client = node.pod("train", missing).client()
    client.open_session("run", SessionRequest())
    with pytest.raises(AgentError) as refused:
        client.set_power_limit("run", missing, 150.0)
    assert (refused.value.status, refused.value.code) == (404, ErrorCode.NOT_FOUND)
    assert missing in refused.value.message
    assert not any(uuid in refused.value.message for uuid in node.uuids)


def test_an_unreadable_policy_is_no_start(node: ClusterNode) -> None:
    policy = node.folder / "policy.yaml"
    policy.write_text("version: 1\nnonsense: 1\n")
    attempt = subprocess.run(
        node.command("--policy", str(policy)),
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert attempt.returncode == 2
    assert "nonsense" in attempt.stderr


# ---- tokens -------------------------------------------------------------------


def test_while_nobody_can_review_a_session_lives_on_but_nothing_new_is_set(
    node: ClusterNode,
) -> None:
    node.start_agent()
    uuid = node.uuids[0]
    pod = node.pod("train", uuid)
    client = pod.client()
    client.open_session("run", SessionRequest())
    client.set_power_limit("run", uuid, 150.0)
    node.run(node.api.go_away())
    stranger = node.api.issue(pod.manifest)  # good, and never seen
    status, body = node.ask("PUT", "/v1/sessions/new", stranger, {})
    assert (status, body["code"]) == (503, ErrorCode.IDENTITY_UNAVAILABLE)
    client.renew("run")
    client.report("run", Result(sequence=1, epochs=1))
    assert node.limit(uuid) == 150.0
    node.run(node.api.come_back())
    eventually(lambda: node.ask("GET", "/v1/node", stranger)[0] == 200, "it can review again")


def test_without_the_kubelet_no_gpu_is_given_to_anyone_new(node: ClusterNode) -> None:
    node.run(node.kubelet.stop())
    node.start_agent()
    uuid = node.uuids[0]
    client = node.pod("train", uuid).client()
    client.open_session("run", SessionRequest())
    assert refusal(client.set_power_limit, "run", uuid, 150.0) == (
        503,
        ErrorCode.IDENTITY_UNAVAILABLE,
    )
    node.run(node.kubelet.start())
    eventually(
        lambda: (
            client.set_power_limit("run", uuid, 150.0).applied_watts == 150.0
            if [gpu.uuid for gpu in _gpus(client)] == [uuid]
            else False
        ),
        "the kubelet answers again",
    )


def _gpus(client: AgentClient) -> tuple[GpuInfo, ...]:
    try:
        return client.node().gpus
    except AgentError:
        return ()


# ---- ends ---------------------------------------------------------------------


def test_a_session_ends_soon_after_the_connection_if_it_asked_for_that(node: ClusterNode) -> None:
    node.start_agent()
    one, two = node.uuids
    pod = node.pod("train", one, two)
    bound, free = pod.client(), pod.client()
    bound.open_session("bound", BOUND)
    bound.set_power_limit("bound", one, 150.0)
    free.open_session("free", SessionRequest(ttl_seconds=600.0))
    free.set_power_limit("free", two, 150.0)
    bound.close()
    free.close()
    eventually(lambda: node.limit(one) == ADMIN_CAP_WATTS, "the bound one has ended")
    assert node.limit(two) == 150.0
    assert 'reason="its connection has ended"' in node.log()


def test_a_process_in_a_pod_that_is_killed_gives_its_limit_back(node: ClusterNode) -> None:
    node.start_agent()
    uuid = node.uuids[0]
    pod = node.pod("train", uuid)
    process = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys\nfrom zeus_runtime.agent_client import AgentClient\n"
            "from zeus_runtime.protocol import SessionRequest\n"
            "client = AgentClient(sys.argv[1], timeout_seconds=30)\n"
            "client.open_session('run', SessionRequest(ttl_seconds=600, "
            "ends_with_connection=True))\n"
            "client.set_power_limit('run', sys.argv[2], 150.0)\n"
            "print('holding', flush=True)\nsys.stdin.read()",
            node.url,
            uuid,
        ],
        env={**node.environment, **pod.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "holding\n"
        assert node.limit(uuid) == 150.0
        process.kill()
        eventually(lambda: node.limit(uuid) == ADMIN_CAP_WATTS, "the limit is back")
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
        process.stdin.close()


def test_a_pod_that_is_gone_takes_its_sessions_with_it(node: ClusterNode) -> None:
    node.start_agent()
    mine, theirs = node.uuids
    gone, stays = node.pod("train", mine), node.pod("other", theirs)
    for pod, uuid in ((gone, mine), (stays, theirs)):
        client = pod.client()
        client.open_session("run", SessionRequest(ttl_seconds=600.0))
        client.set_power_limit("run", uuid, 150.0)
    gone.delete()
    eventually(lambda: node.limit(mine) == ADMIN_CAP_WATTS, "the limit is back")
    assert node.limit(theirs) == 150.0
    assert 'reason="its pod is gone"' in node.log()


def test_an_agent_whose_sockets_folder_is_gone_still_puts_limits_back(node: ClusterNode) -> None:
    folder = node.folder / "run"
    node.socket = folder / "agent.sock"
    node.address = f"unix://{node.socket}"
    node.start_agent()
    uuid = node.uuids[0]
    client = node.pod("train", uuid).client()
    client.open_session("run", SessionRequest(ttl_seconds=600.0))
    client.set_power_limit("run", uuid, 150.0)
    folder.rename(node.folder / "elsewhere")
    folder.write_text("no folder any more")
    assert node.stop_agent() == 0
    assert node.limit(uuid) == ADMIN_CAP_WATTS
    assert node.saved() == []
    assert "socket not removed" in node.log()


def test_a_disk_that_hangs_does_not_hold_up_the_end(node: ClusterNode) -> None:
    policy = node.folder / "policy.yaml"
    policy.write_text("version: 1\n")
    node.start_agent("--policy", str(policy))
    uuid = node.uuids[0]
    client = node.pod("train", uuid).client()
    client.open_session("run", SessionRequest(ttl_seconds=600.0))
    client.set_power_limit("run", uuid, 150.0)
    # To open a FIFO that nobody has at its other end takes for ever, as to open a file on a server
    # that is away does.
    os.mkfifo(node.state_dir / "energy-by-pod.json.tmp")
    policy.unlink()
    os.mkfifo(policy)
    assert node.stop_agent() == 0
    assert node.limit(uuid) == ADMIN_CAP_WATTS


# ---- TLS ----------------------------------------------------------------------


def test_a_certificate_is_renewed_while_connections_stay_open(node: ClusterNode) -> None:
    node.start_agent()
    uuid = node.uuids[0]
    pod = node.pod("train", uuid)
    client = pod.client()
    client.open_session("run", BOUND)
    client.set_power_limit("run", uuid, 150.0)

    def shown() -> bytes:
        connection = node.connect()
        connection.connect()
        try:
            certificate = connection.sock.getpeercert(binary_form=True)
            assert certificate
            return certificate
        finally:
            connection.close()

    before = shown()
    node.show_certificate(node.authority)
    eventually(lambda: shown() != before, "the new one is shown")
    client.renew("run")
    assert len(client.session("run").leases) == 1
    node.certificate.write_text("half a certif")
    eventually(lambda: "no new certificate" in node.log(), "it is refused")
    assert shown() != before
    client.renew("run")
    assert node.limit(uuid) == 150.0


def test_without_a_certificate_the_agent_restores_waits_and_says_so(node: ClusterNode) -> None:
    certificate = node.certificate.read_text()
    node.certificate.unlink()
    node.start_agent(is_ready=False)
    status, body = node.probe("/readyz")
    assert status == 503
    assert "certificate" in json.loads(body)["message"]
    node.certificate.write_text(certificate)
    eventually(lambda: node.probe("/readyz")[0] == 200, "it is ready")
    node.pod("train", node.uuids[0]).client().node()


# ---- reports ------------------------------------------------------------------


def test_the_operator_alone_reads_what_pods_reported_also_after_a_restart(
    node: ClusterNode,
) -> None:
    node.start_agent()
    operator = node.operator_token()
    pod = node.pod("train", node.uuids[0])
    client = pod.client()
    client.open_session("run", SessionRequest())
    client.report("run", Result(sequence=1, epochs=1))
    client.report("run", Result(sequence=2, epochs=2, outcome="reached"))
    client.close_session("run")
    path = f"/v1/reports/{pod.uid}"
    assert node.ask("GET", path, pod.token)[0] == 403
    assert node.ask("GET", path, None)[0] == 401
    for restarted in (False, True):
        if restarted:
            node.stop_agent()
            node.start_agent()
        status, raw = node.ask("GET", path, operator)
        assert status == 200
        report = PodReport.from_body(raw)
        assert (report.pod_uid, report.namespace, report.pod) == (pod.uid, "team", "train")
        assert (report.result.epochs, report.result.outcome) == (2, "reached")
        assert node.ask("GET", "/v1/reports", operator) == (200, [raw])
        assert json.loads(raw_request(node.socket, "GET", "/v1/reports")[1]) == [raw]
    assert node.ask("GET", "/v1/reports/none", operator)[0] == 404
    for method, other in (("PUT", "/v1/sessions/run"), ("GET", "/v1/leases"), ("GET", "/metrics")):
        assert node.ask(method, other, operator)[0] == 403, other


# ---- probes and metrics -------------------------------------------------------


def test_probes_and_prometheus_need_no_token_and_get_nothing_else(node: ClusterNode) -> None:
    node.start_agent()
    pod = node.pod("train", node.uuids[0], labels={"zeus.energy/job": "digits"})
    client = pod.client()
    client.open_session("run", SessionRequest(job="team/secret"))
    client.report("run", Result(sequence=1, epochs=3, energy_joules=10.0))
    assert node.probe("/healthz")[0] == 200
    status, text = node.probe("/metrics")
    assert status == 200
    line = 'zeus_agent_run_epochs{namespace="team",pod="train",zeusjob="digits"} 3.0'
    assert line in text.decode()
    assert "secret" not in text.decode()
    for path in ("/v1/node", "/v1/reports", "/v1/leases"):
        assert node.probe(path)[0] == 404
    client.close_session("run")
    eventually(lambda: "zeus_agent_run_epochs{" not in node.shown(), "its series end")


def test_a_node_that_should_have_gpus_and_shows_none_is_not_ready(node: ClusterNode) -> None:
    node.start_agent("--expect-gpus", without_driver=True, is_ready=False)
    status, body = node.probe("/readyz")
    message = json.loads(body)["message"]
    assert (status, json.loads(body)["code"]) == (503, ErrorCode.NOT_READY)
    assert "agent.nvidia.mode" in message
    assert node.probe("/healthz")[0] == 200


def test_one_that_should_have_none_is_ready_and_says_so(node: ClusterNode) -> None:
    node.start_agent(without_driver=True)
    status, body = node.probe("/readyz")
    assert status == 200
    assert json.loads(body)["note"]


def test_an_address_in_use_is_named_and_nothing_is_touched(node: ClusterNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        attempt = subprocess.run(
            node.command("--metrics-listen", f"127.0.0.1:{port}"),
            env=node.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert attempt.returncode == 2
    assert f"127.0.0.1:{port}" in attempt.stderr
    assert not node.socket.exists()
