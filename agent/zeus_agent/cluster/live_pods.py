"""Which pods live on this node: a list and a watch of the API server's, kept small.

A pod is gone when it is deleted, or has succeeded or failed; not when its deletion has only been
asked for, since its containers still run then.  A UID that is gone never comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from zeus_agent.cluster.facts import LivePod
from zeus_agent.cluster.kube_api import ApiRefused, ApiUnavailable, KubeApi, WatchEvent
from zeus_agent.logs import note

__all__ = ["LivePod", "LivePods"]

logger = logging.getLogger("zeus_agent.cluster.live_pods")

LABEL_JOB = "zeus.energy/job"
"""Name of the ZeusJob; the operator writes it on the pods of its runs."""

FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 30.0
SHORTEST_WATCH_SECONDS = 5.0
"""What ends sooner, ends for a reason: it is not begun again at once."""
MAX_REMEMBERED_GONE = 4096
_OVER = frozenset({"Succeeded", "Failed"})

Sleep = Callable[[float], Awaitable[object]]


class LivePods:
    """The live pods of one node.

    Args:
        api: the API server.
        node_name: as the API server knows this node.
        sleep: waits.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        api: KubeApi,
        node_name: str,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._node = node_name
        self._sleep = sleep
        self._clock = clock
        self._pods: dict[str, LivePod] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._callbacks: list[Callable[[LivePod], None]] = []
        self._changed: list[Callable[[], None]] = []
        self._lists = 0  # begun, and ended
        self.is_synced = False

    # ---- what is known --------------------------------------------------------

    def get(self, pod_uid: str) -> LivePod | None:
        """Return a pod as it was first seen, None if it is gone or was never seen."""
        return self._pods.get(pod_uid)

    def all(self) -> tuple[LivePod, ...]:
        """Return all pods that live."""
        return tuple(self._pods.values())

    def is_gone(self, pod_uid: str) -> bool:
        """Whether the pod was seen and is gone."""
        return pod_uid in self._gone

    def when_gone(self, callback: Callable[[LivePod], None]) -> None:
        """Have `callback` called, in the event loop, once for each pod that is gone from now on."""
        self._callbacks.append(callback)

    def when_changed(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after pods have come or gone."""
        self._changed.append(callback)

    async def confirm(
        self, namespace: str, name: str, uid: str, service_account: str
    ) -> LivePod | None:
        """Return the pod if it lives here, asking the API server if it was not seen yet.

        A pod may call before the watch has told of it.

        Raises:
            ApiUnavailable, ApiRefused: there is no telling.
        """
        while uid not in self._pods and uid not in self._gone:
            lists = self._lists
            manifest = await self._api.get_pod(namespace, name)
            # A list that began or ended meanwhile may be younger than this answer, and the watch
            # after it does not tell of an end before it: the answer could bring back the dead.
            if self._lists == lists:
                if manifest is not None:
                    self._see(manifest)  # which may be a later one of that name
                break
        pod = self._pods.get(uid)
        is_it = pod is not None and (pod.namespace, pod.name, pod.service_account) == (
            namespace,
            name,
            service_account,
        )
        return pod if is_it else None

    # ---- list and watch -------------------------------------------------------

    async def run(self) -> None:
        """Keep up with the API server until cancelled."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while True:
            try:
                version = await self._list()
                backoff_seconds = FIRST_BACKOFF_SECONDS
                while True:  # the server ends each watch after some minutes; that loses nothing
                    version = await self._watch(version)
            except ApiRefused as refused:
                if not refused.is_too_old:
                    self._warn(refused, backoff_seconds)
            except ApiUnavailable as unavailable:
                self._warn(unavailable, backoff_seconds)
            # A whole cluster of agents must not come back at the same moment.
            await self._sleep(backoff_seconds * random.uniform(0.5, 1.0))
            backoff_seconds = min(2.0 * backoff_seconds, LAST_BACKOFF_SECONDS)

    async def _list(self) -> str:
        """Read all pods of the node; return the version to watch from."""
        self._lists += 1
        before = set(self._pods)
        seen: set[str] = set()
        version = ""
        async with contextlib.aclosing(self._api.pod_pages(self._node)) as pages:
            async for page in pages:
                version = page.resource_version
                for manifest in page.pods:
                    seen.add(manifest["metadata"]["uid"])
                    self._see(manifest)
        self._lists += 1
        for uid in before - seen:
            self._lose(uid)
        # One that was confirmed while the list was read may be younger than the list, or gone.
        for pod in [each for uid, each in self._pods.items() if uid not in seen]:
            await self._look_again(pod)
        if not self.is_synced:
            note(logger, logging.INFO, "pods of the node listed", live=len(self._pods))
        self.is_synced = True
        return version

    async def _look_again(self, pod: LivePod) -> None:
        """Ask whether a pod that the list has not told of is still there."""
        manifest = await self._api.get_pod(pod.namespace, pod.name)
        if manifest is None or manifest["metadata"]["uid"] != pod.uid:
            self._lose(pod.uid)
        if manifest is not None:
            self._see(manifest)

    async def _watch(self, version: str) -> str:
        """Follow one watch to its end; return the version to go on from.

        Raises:
            ApiUnavailable, ApiRefused: it did not end in good order.
        """
        began = self._clock()
        async with contextlib.aclosing(self._api.watch_pods(self._node, version)) as events:
            async for event in events:
                self._take(event)
                version = str(event.subject["metadata"].get("resourceVersion") or version)
        if self._clock() - began < SHORTEST_WATCH_SECONDS:
            raise ApiUnavailable("the API server ended the watch at once")
        return version

    def _take(self, event: WatchEvent) -> None:
        if event.kind == "DELETED":
            self._lose(event.subject["metadata"]["uid"])
        elif event.kind in ("ADDED", "MODIFIED"):
            self._see(event.subject)

    def _see(self, manifest: dict[str, Any]) -> None:
        uid = manifest["metadata"]["uid"]
        if uid in self._gone:
            return  # an answer that was on its way while the pod ended
        spec, status = manifest.get("spec") or {}, manifest.get("status") or {}
        if spec.get("nodeName") != self._node:
            return
        if status.get("phase") in _OVER:
            self._lose(uid)
            return
        if uid not in self._pods:
            self._pods[uid] = _live_pod(manifest["metadata"], spec)
            self._tell_changed()

    def _lose(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        self._gone[uid] = None
        while len(self._gone) > MAX_REMEMBERED_GONE:
            self._gone.popitem(last=False)
        if pod is None:
            return
        for callback in self._callbacks:
            callback(pod)
        self._tell_changed()

    def _tell_changed(self) -> None:
        for callback in self._changed:
            callback()

    def _warn(self, error: Exception, backoff_seconds: float) -> None:
        note(
            logger,
            logging.WARNING,
            "pods of the node can't be watched; trying again",
            reason=str(error),
            within_seconds=backoff_seconds,
        )


def _live_pod(metadata: dict[str, Any], spec: dict[str, Any]) -> LivePod:
    return LivePod(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        service_account=str(spec.get("serviceAccountName") or "default"),
        zeusjob=str((metadata.get("labels") or {}).get(LABEL_JOB) or ""),
    )
