"""Simulated GPUs, handed out by the kubelet's own device manager."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.support.api import Api
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.node import Node
from tests.full_cluster.pods import await_phase, log_of, run_pod, shell
from tests.support.eventually import eventually
from zeus_agent.cluster.facts import LivePod
from zeus_agent.cluster.ownership import PodDevices, Share, join
from zeus_agent.cluster.pod_resources import PodResources

_SHOW_AND_WAIT = shell("list-gpus; exec sleep infinity")


def listed(node: Node) -> tuple[PodDevices, ...]:
    """Return the devices of all pods of a node, as its kubelet says."""

    async def ask() -> tuple[PodDevices, ...]:
        client = PodResources(node.pod_resources, timeout_seconds=10.0)
        try:
            return await client.list()
        finally:
            await client.close()

    return asyncio.run(ask())


def devices_of(node: Node, namespace: str, name: str) -> list[str]:
    """Return the devices that the kubelet says the pod has."""
    mine = [pod for pod in listed(node) if (pod.namespace, pod.name) == (namespace, name)]
    return [device for pod in mine for each in pod.devices for device in each.device_ids]


@contextlib.contextmanager
def another_plugin(node: Node, *options: str) -> Iterator[None]:
    """Offer the GPUs of a node by another plug-in, too, as long as the block runs."""
    folder = node.folder / "kubelet" / "device-plugins"
    program = [sys.executable, "-m", "gpu_simulator.control", "--state", str(node.gpus.path)]
    process = subprocess.Popen([*program, "device-plugin", "--plugin-dir", str(folder), *options])
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def gpus(count: int) -> dict[str, str]:
    return {"nvidia.com/gpu": str(count)}


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_pod_sees_exactly_the_gpus_that_it_asks_for(
    api: Api, full_cluster: FullCluster, namespace: str, wanted: int
) -> None:
    node = full_cluster.nodes[0]
    options = {"node": node.name, "limits": gpus(wanted)}
    run_pod(api, namespace, "trains", shell("list-gpus"), **options)
    await_phase(api, namespace, "trains", "Succeeded")

    seen = log_of(api, namespace, "trains").split()

    assert len(seen) == wanted
    assert set(seen) <= set(node.gpus.uuids())


def test_a_pod_that_asks_for_none_sees_no_gpu(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    run_pod(api, namespace, "plain", shell("list-gpus 2>&1 || true"), node="node-1")
    await_phase(api, namespace, "plain", "Succeeded")

    assert "no NVML here" in log_of(api, namespace, "plain")


def test_two_pods_have_different_gpus_as_the_kubelet_tells_and_a_third_waits(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    node = full_cluster.nodes[1]
    names = ["first", "second"]
    for name in names:
        run_pod(api, namespace, name, _SHOW_AND_WAIT, node=node.name, limits=gpus(1))
        await_phase(api, namespace, name, "Running")
    run_pod(api, namespace, "third", shell("true"), node=node.name, limits=gpus(1))

    def printed(name: str) -> list[str]:
        return eventually(lambda: log_of(api, namespace, name).split(), f"{name} has printed")

    seen = [printed(name) for name in names]
    assert seen == [devices_of(node, namespace, name) for name in names]
    assert sorted(uuid for each in seen for uuid in each) == sorted(node.gpus.uuids())

    def scheduler_says() -> str:
        third = api.get(f"/api/v1/namespaces/{namespace}/pods/third")
        conditions = third["status"].get("conditions") or []
        return "".join(each["message"] for each in conditions if each["status"] == "False")

    assert "1 Insufficient nvidia.com/gpu" in eventually(scheduler_says, "the third pod waits")


def test_a_lost_gpu_is_not_offered_any_more(api: Api, full_cluster: FullCluster) -> None:
    node = full_cluster.nodes[1]

    def offers(count: int) -> bool:
        found = api.get(f"/api/v1/nodes/{node.name}")
        return bool(found["status"]["allocatable"]["nvidia.com/gpu"] == str(count))

    node.gpus.set_fault(0, "lost")
    try:
        eventually(lambda: offers(1), "one GPU is left")
    finally:
        node.gpus.clear_fault(0, "lost")
    eventually(lambda: offers(2), "both GPUs are back")


def test_a_kubelet_gives_and_lists_a_gpu_by_its_device_file(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    node = full_cluster.nodes[0]
    boards = {"nvidia4": node.gpus.uuids()[0], "nvidia3": node.gpus.uuids()[1]}
    for index, number in enumerate((4, 3)):  # in the other order than NVML's indices
        node.gpus.set("minor_number", number, index)
    resource = "nvidia.com/file"
    try:
        with another_plugin(node, "--resource", resource, "--device-ids", "device-file"):
            options = {"node": node.name, "limits": {resource: "1"}}
            run_pod(api, namespace, "trains", _SHOW_AND_WAIT, **options)
            await_phase(api, namespace, "trains", "Running")
            [seen] = eventually(lambda: log_of(api, namespace, "trains").split(), "it has printed")
            [device] = devices_of(node, namespace, "trains")
            assert boards[device] == seen
            pod = LivePod("uid", namespace, "trains", "default")
            assert join(listed(node), [pod], boards).share("uid", seen) == Share(True)
    finally:
        for index in range(2):
            node.gpus.set("minor_number", index, index)
