"""Nodes as the cluster sees them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.support.api import Api
from tests.cluster.support.binaries import kubernetes_version
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.node import GPU_RESOURCE, Node, is_ready
from tests.full_cluster.pods import await_phase, log_of, run_pod, shell
from tests.full_cluster.programs import NODE_MODULE
from tests.support.eventually import eventually


def test_every_node_is_ready_and_of_the_pinned_version(api: Api, full_cluster: FullCluster) -> None:
    nodes = api.items("/api/v1/nodes")

    assert [node["metadata"]["name"] for node in nodes] == ["node-1", "node-2"]
    assert all(is_ready(node) for node in nodes)
    versions = {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes}
    assert versions == {kubernetes_version(NODE_MODULE)}


def test_a_node_counts_its_gpus_and_names_their_model(api: Api, full_cluster: FullCluster) -> None:
    nodes = api.items("/api/v1/nodes")

    assert [node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes] == ["2", "2"]
    products = [node["metadata"]["labels"]["nvidia.com/gpu.product"] for node in nodes]
    assert products == ["Tesla-V100-PCIE-16GB", "NVIDIA-A40"]


@pytest.mark.parametrize("restart", [Node.restart_kubelet, Node.restart_containerd])
def test_containers_outlive_a_restart_of_what_started_them(
    api: Api, full_cluster: FullCluster, namespace: str, restart: Callable[..., None]
) -> None:
    run_pod(api, namespace, "waits", shell("exec sleep infinity"), node="node-1")
    before = await_phase(api, namespace, "waits", "Running")

    restart(full_cluster.nodes[0], kill=True)
    full_cluster.nodes[0].await_ready()

    run_pod(api, namespace, "next", shell("true"), node="node-1")
    await_phase(api, namespace, "next", "Succeeded")
    after = api.get(f"/api/v1/namespaces/{namespace}/pods/waits")
    assert after["status"]["phase"] == "Running"
    containers = [pod["status"]["containerStatuses"][0] for pod in (before, after)]
    assert containers[0]["containerID"] == containers[1]["containerID"]
    assert containers[1]["restartCount"] == 0


def test_a_node_that_is_shut_down_runs_pods_when_it_is_on_again(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    node = full_cluster.nodes[1]

    node.stop()
    assert not node.is_running
    node.start()
    node.await_ready()

    run_pod(api, namespace, "next", shell("list-gpus"), node=node.name, limits={GPU_RESOURCE: "2"})
    await_phase(api, namespace, "next", "Succeeded")
    assert sorted(log_of(api, namespace, "next").split()) == sorted(node.gpus.uuids())


@pytest.mark.slow
def test_a_node_that_loses_power_is_not_ready_until_it_is_back(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    node = full_cluster.nodes[1]
    run_pod(api, namespace, "lost", shell("exec sleep infinity"), node=node.name)
    await_phase(api, namespace, "lost", "Running")

    node.power_cut()
    eventually(
        lambda: not is_ready(api.get(f"/api/v1/nodes/{node.name}")),
        "the cluster misses the node",
        120,
    )

    node.start()
    node.await_ready()
    run_pod(api, namespace, "next", shell("true"), node=node.name)
    await_phase(api, namespace, "next", "Succeeded")
