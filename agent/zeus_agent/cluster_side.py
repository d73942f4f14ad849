"""What an agent on a node of a cluster has beside the GPUs: identity, ownership, Events.

Imported only where it is asked for: on one machine none of it costs memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zeus_agent.bearer_tokens import BearerTokens
from zeus_agent.broker import Broker
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster.disowned import Disowned
from zeus_agent.cluster.energy_by_pod import EnergyByPod
from zeus_agent.cluster.energy_file import EnergyFile
from zeus_agent.cluster.gpu_owners import GpuOwners, OwnershipUnavailable
from zeus_agent.cluster.kube_api import ApiAddress, KubeApi
from zeus_agent.cluster.live_pods import LivePod, LivePods
from zeus_agent.cluster.ownership import Share
from zeus_agent.cluster.pod_resources import PodResources
from zeus_agent.cluster.tokens import TokenAuthenticator
from zeus_agent.events import Events
from zeus_agent.leases import Refused
from zeus_agent.metrics import Metrics
from zeus_agent.reports import Reports
from zeus_agent.runs import RunsCollector
from zeus_runtime.protocol import ErrorCode

SHARING_SECONDS = 1.0
TIDY_SECONDS = 30.0
REPORTS_FOLDER = "reports"
ENERGY_FILE = "energy-by-pod.json"


@dataclass(frozen=True)
class ClusterOptions:
    """How this agent knows its cluster.

    Args:
        node_name: as the API server knows this node.
        pod_resources: folder of the kubelet's socket of that name.
        operator: whose tokens may read reports.
        api: where the API server is.
    """

    node_name: str
    pod_resources: Path
    operator: ServiceCaller | None
    api: ApiAddress


class Boards:
    """`GpuOwners` as the API asks it."""

    def __init__(self, owners: GpuOwners) -> None:
        self._owners = owners

    async def share(self, caller: PodCaller, gpu_uuid: str) -> Share | None:
        """Return what the pod has of a board; None: nothing.

        Raises:
            Refused: nobody can tell now.
        """
        try:
            return await self._owners.share(caller, gpu_uuid)
        except OwnershipUnavailable as error:
            raise Refused(
                ErrorCode.IDENTITY_UNAVAILABLE, str(error), retry_after_seconds=1.0
            ) from None


class ClusterSide:
    """The parts, put together around a broker.

    Args:
        options: see there.
        broker: whose sessions pods have.
        metrics: where energy by pod, and what runs, is shown.
        state_dir: where reports are kept.
    """

    def __init__(
        self, options: ClusterOptions, broker: Broker, metrics: Metrics, state_dir: Path
    ) -> None:
        self._broker = broker
        self._api = KubeApi(options.api)
        self._pods = LivePods(self._api, options.node_name)
        self._tokens = TokenAuthenticator(
            self._api, self._pods, options.node_name, operator=options.operator
        )
        self._resources = PodResources(options.pod_resources)
        keeper = broker.keeper
        self._owners = GpuOwners(self._resources, self._pods, named_boards=keeper.named_boards)
        self._energy_file = EnergyFile(state_dir / ENERGY_FILE)
        self._energy = EnergyByPod(self._owners, stored=self._energy_file.load())
        self._tasks: list[asyncio.Task[None]] = []
        self.authenticator = BearerTokens(self._tokens)
        self.boards = Boards(self._owners)
        self.events = Events(self._api, options.node_name)
        self.reports = Reports(state_dir / REPORTS_FOLDER)
        self._pods.when_gone(self._pod_gone)
        metrics.registry.register(self._energy)
        metrics.registry.register(RunsCollector(broker.sessions, self._pods.get))
        keeper.on_energy = self._energy.add
        keeper.on_identified = self._owners.forget_names_of
        keeper.on_restore_failed = self.events.restore_failed
        keeper.on_foreign_change = self._foreign_change
        keeper.on_lease_revoked = self._lease_revoked

    async def start(self) -> None:
        """Begin to keep up with the cluster; a task that fails ends the agent."""
        await self.reports.start()
        for work in (
            self._pods.run,
            self._owners.run,
            partial(self._energy_file.run, self._energy),
            self.events.run,
            self._follow_sharing,
            self._tidy_forever,
        ):
            self._start_task(work)

    async def stop(self) -> None:
        """Stop; what is due to be told is told if that takes no time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._energy_file.store(self._energy)
        self._energy_file.close()
        await self._tokens.close()
        await self._resources.close()
        await self._api.close()
        self.reports.stop()

    def not_ready(self) -> str:
        """Return why pods can't be served yet; "" if they can."""
        return "" if self._pods.is_synced else "the pods of this node have not been listed yet"

    # ---- inside ---------------------------------------------------------------

    def _start_task(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        failure = self._broker.failure
        if not task.cancelled() and not failure.done() and task.exception() is not None:
            failure.set_exception(task.exception() or RuntimeError("a task has ended"))

    def _pod_gone(self, pod: LivePod) -> None:
        self._broker.end_pod(pod.uid, "its pod is gone")

    def _holder(self, session_id: str | None) -> PodCaller | None:
        session = None if session_id is None else self._broker.sessions.find(session_id)
        owner = None if session is None else session.owner
        return owner if isinstance(owner, PodCaller) else None

    def _foreign_change(self, gpu_uuid: str, found_watts: float, session: str | None) -> None:
        self.events.foreign_change(gpu_uuid, found_watts, self._holder(session))

    def _lease_revoked(self, gpu_uuid: str, session: str, why: Refused) -> None:
        holder = self._holder(session)
        if holder is not None:
            self.events.lease_revoked(gpu_uuid, holder, why)

    async def _follow_sharing(self) -> None:
        """Follow what the kubelet says of boards under a pod's lease."""
        disowned = Disowned()
        while True:
            await asyncio.sleep(SHARING_SECONDS)
            if self._owners.is_known and self._look_at_leases(disowned):
                await self._owners.look_again()

    def _look_at_leases(self, disowned: Disowned) -> bool:
        """Tell the keeper of boards that are shared now, or no longer; end leases of former owners.

        Returns:
            Whether there are leases of pods that seem to have lost the board.
        """
        keeper, owners, missing = self._broker.keeper, self._owners, []
        for session in self._broker.sessions.all():
            if isinstance(session.owner, PodCaller):
                for uuid in tuple(session.gpu_uuids):
                    keeper.share_changed(uuid, owners.is_shared(uuid))
                    if owners.has_lost(session.owner, uuid):
                        missing.append((session.id, uuid))
        for session_id, uuid in disowned.over(missing, owners.lists):
            holder = self._broker.sessions.find(session_id)
            if holder is not None:
                holder.gpu_uuids.discard(uuid)
            keeper.controller(uuid).revoke(session_id, _no_longer_owner(uuid))
        return bool(missing)

    async def _tidy_forever(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            await self.reports.tidy()


def _no_longer_owner(gpu_uuid: str) -> Refused:
    return Refused(
        ErrorCode.NOT_OWNER,
        f"the kubelet no longer lists GPU {gpu_uuid} for the pod that held its limit",
        gpu=gpu_uuid,
    )
