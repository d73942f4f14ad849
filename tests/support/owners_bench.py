"""`GpuOwners` between an API server and a kubelet that say what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from tests.support.api_server_double import NODE, ApiServerDouble, Object, pod_manifest
from tests.support.async_scenario import Clock, soon
from zeus_agent.callers import PodCaller
from zeus_agent.cluster.gpu_owners import GpuOwners
from zeus_agent.cluster.kube_api import KubeApi
from zeus_agent.cluster.live_pods import LivePods
from zeus_agent.cluster.ownership import DeviceSet, PodDevices
from zeus_agent.cluster.pod_resources import KubeletUnavailable

A = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
B = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
MIG = "MIG-11111111-0000-5000-8000-000000000001"
GPU = "nvidia.com/gpu"


class Kubelet:
    """Lists what the test says; `test_pod_resources` has the real protocol."""

    def __init__(self) -> None:
        self.devices: dict[str, tuple[str, ...]] = {}
        self.claims: dict[str, frozenset[str]] = {}  # drivers by pod
        self.lists = 0
        self.is_away = False
        self.answers: asyncio.Event | None = None

    async def list(self) -> tuple[PodDevices, ...]:
        self.lists += 1
        listed = tuple(
            PodDevices("team", name, (DeviceSet(GPU, ids),), self.claims.get(name, frozenset()))
            for name, ids in self.devices.items()
        )
        if self.answers is not None:
            await self.answers.wait()
        if self.is_away:
            raise KubeletUnavailable("away, as the test wished")
        return listed


class Bench:
    def __init__(self, server: ApiServerDouble, pods: LivePods) -> None:
        self.server = server
        self.pods = pods
        self.kubelet = Kubelet()
        self.clock = Clock()
        self.named: dict[str, str] = {}
        self.name_reads = 0
        self.name_fault: Exception | None = None
        self.driver_answers: asyncio.Event | None = None
        self.owners = GpuOwners(
            self.kubelet, pods, named_boards=self._named_boards, clock=self.clock
        )

    async def _named_boards(self) -> Mapping[str, str]:
        self.name_reads += 1
        if self.driver_answers is not None:
            await self.driver_answers.wait()
        if self.name_fault is not None:
            raise self.name_fault
        return self.named

    async def pod(self, name: str, *device_ids: str, uid: str = "") -> PodCaller:
        """Run a pod with devices; return it as a caller."""
        manifest = await self.server.add(pod_manifest(name=name, uid=uid))
        self.kubelet.devices[name] = device_ids
        uid = manifest["metadata"]["uid"]
        await soon(lambda: self.pods.get(uid), "the pod is seen")
        return PodCaller("team", name, uid, "trainer")

    async def lose(self, caller: PodCaller) -> None:
        manifest: Object = pod_manifest(name=caller.pod, uid=caller.pod_uid)
        await self.server.delete(manifest)
        await soon(lambda: self.pods.is_gone(caller.pod_uid), "its end is seen")


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        pods = LivePods(api, NODE)
        work = asyncio.create_task(pods.run())
        await soon(lambda: pods.is_synced, "the pods are listed")
        try:
            yield Bench(server, pods)
        finally:
            work.cancel()
            await asyncio.wait([work])
