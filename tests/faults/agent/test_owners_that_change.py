"""A lease does not outlive its pod's ownership of the board, whatever else goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.cluster_node import ClusterNode, cluster_node, refusal
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient, AgentError
from zeus_runtime.protocol import ErrorCode, SessionRequest

GPU = "nvidia.com/gpu"
REVOKED = "lease taken back"


@pytest.fixture
def node() -> Iterator[ClusterNode]:
    """A node with its agent."""
    with cluster_node() as made:
        made.start_agent()
        yield made


def test_a_board_that_the_kubelet_has_given_to_another_pod_is_given_up(node: ClusterNode) -> None:
    mine, other = node.uuids
    client = node.pod("train", mine, other).client()
    client.open_session("run", SessionRequest(ttl_seconds=600.0))
    for uuid in (mine, other):
        client.set_power_limit("run", uuid, 150.0)
    node.kubelet.take("team", "train")
    node.kubelet.give("team", "train", {GPU: [other]})
    victim = node.pod("victim", mine).client()
    eventually(lambda: node.limit(mine) == ADMIN_CAP_WATTS, "its limit is back")
    assert node.limit(other) == 150.0
    assert node.log().count(REVOKED) == 1
    eventually(
        lambda: any(
            body["reason"] == "PowerLimitRevoked" and mine in body["message"]
            for _, body in node.api.events
        ),
        "the pod is told",
    )
    assert refusal(client.set_power_limit, "run", mine, 120.0) == (403, ErrorCode.NOT_OWNER)
    assert [lease.gpu_uuid for lease in client.renew("run").leases] == [other]
    victim.open_session("run", SessionRequest())
    assert victim.set_power_limit("run", mine, 140.0).applied_watts == 140.0


def test_a_kubelet_that_has_just_started_and_lists_no_pods_yet_costs_no_lease(
    node: ClusterNode,
) -> None:
    mine = node.uuids[0]
    client = node.pod("train", mine).client()
    client.open_session("run", SessionRequest(ttl_seconds=600.0))
    client.set_power_limit("run", mine, 150.0)
    node.kubelet.take("team", "train")
    lists = len(node.kubelet.calls)

    def is_listed_twice() -> bool:
        with contextlib.suppress(AgentError):
            client.node()  # for which the agent asks the kubelet
        return len(node.kubelet.calls) >= lists + 3

    eventually(is_listed_twice, "it has listed no such pod twice")
    assert node.limit(mine) == 150.0
    assert REVOKED not in node.log()
    assert refusal(client.set_power_limit, "run", mine, 140.0) == (
        503,
        ErrorCode.IDENTITY_UNAVAILABLE,
    )


def test_a_pod_of_a_former_ones_name_is_not_given_what_the_kubelet_lists_for_that_one(
    node: ClusterNode,
) -> None:
    mine = node.uuids[0]
    former = node.pod("train", mine)
    former.client().node()
    node.run(node.api.delete(former.manifest))  # which the kubelet has not heard of
    later = node.pod("train").client()
    node.kubelet.take("team", "train")
    node.kubelet.give("team", "train", {GPU: [mine]})
    later.open_session("run", SessionRequest())
    assert refusal(later.set_power_limit, "run", mine, 150.0) == (
        503,
        ErrorCode.IDENTITY_UNAVAILABLE,
    )
    assert node.limit(mine) == ADMIN_CAP_WATTS
    eventually(lambda: is_granted(later, mine), "it is believed when it says so for longer")


def is_granted(client: AgentClient, uuid: str) -> bool:
    try:
        return client.set_power_limit("run", uuid, 150.0).applied_watts == 150.0
    except AgentError:
        return False


def number(node: ClusterNode, *numbers: int) -> None:
    """Give the boards, in their order, these minor numbers."""
    for uuid, minor_number in zip(node.uuids, numbers, strict=True):
        node.simulator.set("minor_number", minor_number, uuid)


def test_a_board_named_by_its_device_file_is_the_one_of_that_minor_number(
    node: ClusterNode,
) -> None:
    first, second = node.uuids
    number(node, 1, 0)  # as NVML's index is not
    client = node.pod("train", "nvidia1").client()
    client.open_session("run", SessionRequest(ttl_seconds=600.0))
    assert [gpu.uuid for gpu in client.node().gpus] == [first]
    assert client.set_power_limit("run", first, 150.0).applied_watts == 150.0
    assert refusal(client.set_power_limit, "run", second, 150.0) == (403, ErrorCode.NOT_OWNER)
    assert node.limit(second) == ADMIN_CAP_WATTS
    shared = node.pod("shared", "nvidia0/vgpu1").client()
    shared.open_session("run", SessionRequest())
    assert refusal(shared.set_power_limit, "run", second, 150.0) == (403, ErrorCode.GPU_SHARED)


def test_a_device_file_of_no_board_is_told_once_and_given_when_there_is_one(
    node: ClusterNode,
) -> None:
    first = node.uuids[0]
    client = node.pod("train", "nvidia5").client()
    client.open_session("run", SessionRequest(ttl_seconds=600.0))
    for _ in range(3):
        status, code = refusal(client.set_power_limit, "run", first, 150.0)
        assert (status, code) == (503, ErrorCode.IDENTITY_UNAVAILABLE)
    assert node.log().count("device ignored") == 1
    number(node, 5, 1)
    eventually(lambda: is_granted(client, first), "the driver was asked again")


def test_boards_that_come_back_under_each_others_numbers_are_given_up_by_their_former_owners(
    node: ClusterNode,
) -> None:
    first, second = node.uuids
    clients = [node.pod(f"pod-{n}", f"nvidia{n}").client() for n in range(2)]
    for client, uuid in zip(clients, node.uuids, strict=True):
        client.open_session("run", SessionRequest(ttl_seconds=600.0))
        client.set_power_limit("run", uuid, 150.0)
    for uuid in node.uuids:
        node.simulator.set_fault(uuid, "vanished")
    eventually(lambda: node.log().count("GPU out") == 2, "both are out")
    number(node, 1, 0)
    for uuid in node.uuids:
        node.simulator.clear_fault(uuid)
    eventually(lambda: node.log().count("GPU back") == 2, "both are back")
    assert refusal(clients[0].set_power_limit, "run", first, 120.0) == (403, ErrorCode.NOT_OWNER)
    assert refusal(clients[1].set_power_limit, "run", second, 120.0) == (403, ErrorCode.NOT_OWNER)
    eventually(lambda: node.log().count(REVOKED) == 2, "neither keeps the other's board")
    eventually(
        lambda: {node.limit(uuid) for uuid in node.uuids} == {ADMIN_CAP_WATTS}, "all is back"
    )
    assert clients[0].set_power_limit("run", second, 140.0).applied_watts == 140.0
    assert clients[1].set_power_limit("run", first, 130.0).applied_watts == 130.0


def test_a_board_that_comes_back_under_its_number_keeps_its_owner_and_its_lease(
    node: ClusterNode,
) -> None:
    first, second = node.uuids
    client = node.pod("train", "nvidia0").client()
    other = node.pod("other", "nvidia1").client()
    for each, uuid in ((client, first), (other, second)):
        each.open_session("run", SessionRequest(ttl_seconds=600.0))
        each.set_power_limit("run", uuid, 150.0)
    node.simulator.set_fault(first, "vanished")
    eventually(lambda: "GPU out" in node.log(), "it is out")
    node.simulator.clear_fault(first)
    eventually(lambda: node.limit(first) == 150.0, "the lease's limit is set again")
    assert client.set_power_limit("run", first, 140.0).applied_watts == 140.0
    assert other.set_power_limit("run", second, 140.0).applied_watts == 140.0
    assert REVOKED not in node.log()
