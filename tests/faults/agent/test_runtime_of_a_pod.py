"""The runtime's client in a pod against the real agent's TLS listener, on a node of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.cluster_node import ClusterNode, Pod
from tests.support.eventually import eventually
from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import Result, SessionRequest

PATIENCE_SECONDS = 60.0


@pytest.fixture
def node() -> Iterator[ClusterNode]:
    """Two GPUs, and an agent that serves pods."""
    # Not under pytest's folder: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        made = ClusterNode(Path(folder))
        try:
            made.start_agent()
            yield made
        finally:
            made.close()


def background_of(node: ClusterNode, pod: Pod, renewal: float = 0.2) -> BackgroundAgent:
    made = BackgroundAgent(
        AgentClient(node.url, environ=pod.environment),
        "run.1",
        SessionRequest(job="team/job", ends_with_connection=True),
        renewal_seconds=renewal,
    )
    made.start()
    return made


def holds(background: BackgroundAgent, uuid: str, watts: float) -> None:
    def held() -> bool:
        lease = background.status.leases.get(uuid)
        return lease is not None and lease.applied_watts == watts

    background.wait(lambda _: held(), PATIENCE_SECONDS)
    assert held(), background.status


def test_a_pod_holds_a_limit_on_its_own_gpu_and_gives_it_back(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    background = background_of(node, node.pod("train", uuid))
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    assert node.limit(uuid) == 150.0
    background.report(Result(sequence=3, epochs=3))
    background.close()
    node.wait_until_restored()


def test_another_pods_gpu_is_refused_for_good_and_the_own_one_is_not(node: ClusterNode) -> None:
    own, others = node.uuids
    node.pod("other", others)
    background = background_of(node, node.pod("train", own))
    background.want_power_limit(others, 150.0)
    background.want_power_limit(own, 150.0)
    status = background.wait(lambda s: others in s.problems, PATIENCE_SECONDS)
    assert status.problems[others].code == "not_owner"
    holds(background, own, 150.0)
    assert node.limit(others) == ADMIN_CAP_WATTS
    background.close()


def test_the_token_rotates_and_the_lease_stays(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    pod = node.pod("train", uuid)
    background = background_of(node, pod)
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    old, new = pod.token_file.read_text(), node.api.issue(pod.manifest)
    pod.token_file.write_text(new)
    node.api.revoke(old)
    # The agent takes the old one until it has it reviewed again, some seconds later.
    eventually(lambda: new in node.api.reviewed, "the new token is shown")
    background.want_power_limit(uuid, 140.0)
    holds(background, uuid, 140.0)
    assert background.status.losses == 0
    background.close()


def test_after_a_restart_of_the_agent_the_lease_is_taken_again(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    background = background_of(node, node.pod("train", uuid))
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    fence = background.status.leases[uuid].fence
    node.stop_agent(signal.SIGTERM)
    background.wait(lambda s: not s.connected, PATIENCE_SECONDS)
    node.start_agent(
        "--listen", node.url.removeprefix("https://").replace("localhost", "127.0.0.1")
    )
    holds(background, uuid, 150.0)
    assert background.status.leases[uuid].fence > fence
    assert background.status.losses >= 1
    background.close()
    node.wait_until_restored()


def test_a_killed_container_leaves_the_limit_restored_long_before_its_session_expires(
    node: ClusterNode,
) -> None:
    uuid = node.uuids[0]
    pod = node.pod("train", uuid)

    def hold_and_die() -> None:
        background = background_of(node, pod, renewal=5.0)
        background.want_power_limit(uuid, 150.0)
        holds(background, uuid, 150.0)
        os._exit(1)

    child = multiprocessing.get_context("fork").Process(target=hold_and_die)
    child.start()
    child.join(PATIENCE_SECONDS)
    assert "power limit set" in node.log()
    node.wait_until_restored()
    assert "not renewed in time" not in node.log()


def test_a_pod_that_is_deleted_loses_its_lease_while_its_process_lives(node: ClusterNode) -> None:
    uuid = node.uuids[0]
    pod = node.pod("train", uuid)
    background = background_of(node, pod)
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    pod.delete()
    node.wait_until_restored()
    eventually(lambda: not background.status.leases, "the loss is told")
    background.close()
