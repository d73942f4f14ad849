"""What checks tokens, with an API server and the pods of a node; time stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.api_server_double import NODE, ApiServerDouble, Object, pod_manifest
from tests.support.async_scenario import Clock, soon
from tests.support.eventually import DEADLINE_SECONDS
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster import tokens
from zeus_agent.cluster.kube_api import KubeApi
from zeus_agent.cluster.live_pods import LivePods
from zeus_agent.cluster.tokens import (
    Reason,
    ReviewUnavailable,
    TokenAuthenticator,
    Unauthenticated,
)

OPERATOR = ServiceCaller("zeus-system", "zeus-operator")


class Bench:
    """An API server, the pods of this node, and what checks tokens; time stands still."""

    def __init__(self, server: ApiServerDouble, api: KubeApi, clock: Clock, wall: Clock) -> None:
        self.server = server
        self.clock = clock
        self.wall = wall
        self.pods = LivePods(api, NODE, sleep=lambda _seconds: asyncio.sleep(0.01))
        self.checks = TokenAuthenticator(
            api, self.pods, NODE, operator=OPERATOR, clock=clock, wall_clock=wall
        )

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    async def pod(self, name: str = "train", **rest: str) -> Object:
        """Create a pod and return when its watch has told of it."""
        manifest = await self.server.add(pod_manifest(name=name, **rest))
        if manifest["spec"]["nodeName"] == NODE:
            await soon(lambda: self.pods.get(manifest["metadata"]["uid"]), "the pod is seen")
        return manifest

    async def lose(self, manifest: Object) -> None:
        """Delete a pod and return when its watch has told of it."""
        await self.server.delete(manifest)
        uid = manifest["metadata"]["uid"]
        await soon(lambda: self.pods.is_gone(uid), "the end of the pod is seen")

    async def known(self, token: str = "") -> str:
        """Return a token that was found good."""
        token = token or self.server.issue(await self.pod())
        await self.checks.authenticate(token)
        return token

    async def refusal(self, token: str, *, for_renewal: bool = False) -> Reason:
        with pytest.raises(Unauthenticated) as refused:
            await self.checks.authenticate(token, for_renewal=for_renewal)
        assert not token or token not in str(refused.value)
        return refused.value.reason

    async def unavailable(self, token: str, *, for_renewal: bool = False) -> ReviewUnavailable:
        with pytest.raises(ReviewUnavailable) as failed:
            await self.checks.authenticate(token, for_renewal=for_renewal)
        assert failed.value.retry_after_seconds > 0.0
        return failed.value

    @contextlib.contextmanager
    def impatient(self) -> Iterator[None]:
        """Give the API server next to no time to answer: for one that hangs."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "REVIEW_TIMEOUT_SECONDS", 0.05)
            yield

    @property
    def reviews(self) -> int:
        return len(self.server.reviewed)


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    clock, wall = Clock(), Clock(1_800_000_000.0)
    async with ApiServerDouble(wall) as server, KubeApi(server.address) as api:
        patch = pytest.MonkeyPatch()
        patch.setattr(tokens, "REVIEW_TIMEOUT_SECONDS", DEADLINE_SECONDS)  # on any machine
        made = Bench(server, api, clock, wall)
        work = asyncio.create_task(made.pods.run())
        await soon(lambda: made.pods.is_synced, "the pods are listed")
        try:
            yield made
        finally:
            patch.undo()
            await made.checks.close()
            work.cancel()
            await asyncio.wait([work])


def caller(manifest: Object) -> PodCaller:
    about = manifest["metadata"]
    return PodCaller(about["namespace"], about["name"], about["uid"], "trainer")
