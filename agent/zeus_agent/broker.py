"""The agent without its HTTP: sessions of processes and pods, and the limits they hold."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable, Hashable

from zeus_agent.callers import PodCaller
from zeus_agent.controller import Controller
from zeus_agent.journal import Journal
from zeus_agent.keeper import Keeper
from zeus_agent.leases import LeaseView, Refused
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics, agent_version
from zeus_agent.openings import Openings
from zeus_agent.policy_file import PolicySource
from zeus_agent.sessions import (
    CONNECTION_GRACE_SECONDS,
    Member,
    Session,
    Sessions,
    session_id,
)
from zeus_runtime.protocol import (
    ErrorCode,
    Lease,
    NodeInfo,
    Result,
    SessionInfo,
    SessionRequest,
)

logger = logging.getLogger("zeus_agent.broker")

EXPIRY_PERIOD_SECONDS = 0.5


class Broker:
    """Grants power limits to processes and pods, for as long as they live and renew.

    Args:
        journal: the state folder.
        metrics: what is shown.
        policy: the administrator's rules; None: there are none.
        poll_seconds: period of looks at the GPUs.
        nvml_timeout_seconds: longest time of one visit to the driver.
        clock: monotonic seconds.
        node: name of this machine.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        *,
        policy: PolicySource | None = None,
        poll_seconds: float = 1.0,
        nvml_timeout_seconds: float = 1.5,
        clock: Callable[[], float] = time.monotonic,
        node: str | None = None,
    ) -> None:
        self.sessions = Sessions()
        self.keeper = Keeper(
            journal,
            metrics,
            poll_seconds=poll_seconds,
            nvml_timeout_seconds=nvml_timeout_seconds,
            clock=clock,
            policy=policy,
        )
        self._nvml_timeout_seconds = nvml_timeout_seconds
        self._clock = clock
        self._node = node or platform.node()
        self._pidfds: dict[str, int] = {}
        self._openings = Openings()
        self._idle_since = clock()

    # ---- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Restore what an earlier agent left, and begin to work."""
        await self.keeper.start()
        self.keeper.start_task(self._expire_forever())

    async def stop(self, timeout_seconds: float) -> bool:
        """End every session, restore, and stop; return whether every limit is back."""
        self.end_all_sessions("the agent stops")
        return await self.keeper.stop(timeout_seconds)

    @property
    def failure(self) -> asyncio.Future[None]:
        """Fails when the agent can't go on."""
        return self.keeper.failure

    def idle_seconds(self) -> float:
        """How long there has been no session and nothing to restore on a GPU that is there."""
        if len(self.sessions) or not self.keeper.is_settled():
            self._idle_since = self._clock()
        return self._clock() - self._idle_since

    # ---- what callers ask -----------------------------------------------------

    def open_session(
        self,
        name: str,
        owner: Member,
        request: SessionRequest,
        *,
        connection: Hashable | None = None,
        watch: Callable[[], int] | None = None,
    ) -> SessionInfo:
        """Open a session, or renew the caller's own.

        Args:
            name: chosen by the caller.
            owner: the caller.
            request: its time to live, and what to log.
            connection: that the caller uses.
            watch: returns a pidfd of the caller's process; the session ends with it.

        Raises:
            Refused: the name belongs to another process, there are too many sessions, or they come
                too fast.
        """
        if isinstance(owner, PodCaller) and self.sessions.find(session_id(name, owner)) is None:
            self._openings.take(owner, self._clock())
        session, is_new = self.sessions.open(name, owner, request, self._clock(), connection)
        if is_new:
            if watch is not None:
                self._watch(session, watch)
            self._log_session("session opened", session)
        return self.session_info(session)

    async def set_power_limit(
        self,
        name: str,
        owner: Member,
        gpu_uuid: str,
        milliwatts: int,
        sequence: int,
        *,
        connection: Hashable | None = None,
        shared: bool = False,
    ) -> Lease:
        """Set a limit for a session and return the lease with what was read back.

        Args:
            name: of the session.
            owner: the caller.
            gpu_uuid: a GPU that the caller may touch.
            milliwatts: the limit.
            sequence: a wish older than one already seen is refused.
            connection: that the caller uses.
            shared: others use the board too.

        Raises:
            Refused: it can't be; nothing has changed, or what may have is restored.
        """
        session = self.sessions.use(name, owner, self._clock(), connection)
        controller = self._controller(gpu_uuid, owner)
        namespace = owner.namespace if isinstance(owner, PodCaller) else None
        try:
            ticket = controller.wish(
                session.id, milliwatts, sequence, namespace=namespace, shared=shared
            )
        except Refused as refused:
            raise self._as_told(refused, owner) from None
        session.gpu_uuids.add(gpu_uuid)
        return self._as_lease(await controller.result_of(ticket, session.id), session)

    async def release(
        self, name: str, owner: Member, gpu_uuid: str, connection: Hashable | None = None
    ) -> bool:
        """End a lease; return whether its limit is back already.

        Raises:
            Refused: no such session or GPU.
        """
        session = self.sessions.use(name, owner, self._clock(), connection)
        if isinstance(owner, PodCaller) and gpu_uuid not in session.gpu_uuids:
            return True  # which GPUs there are is not for every pod to know
        controller = self.keeper.controller(gpu_uuid)
        session.gpu_uuids.discard(gpu_uuid)
        if controller.machine.release(session.id):
            return await controller.settled(self._nvml_timeout_seconds)
        return True

    async def close_session(self, name: str, caller: Member, *, any_owner: bool = False) -> bool:
        """End a session; return whether every limit that it held is back already.

        Args:
            name: of the session.
            caller: whose it must be.
            any_owner: an administrator may end any process's.

        Raises:
            Refused: no such session, or it is another process's.
        """
        if any_owner:
            session = self.sessions.get(name, caller)
        else:
            session = self.sessions.use(name, caller, self._clock())
        controllers = [self.keeper.controller(uuid) for uuid in session.gpu_uuids]
        self.end_session(session.id, "closed")
        timeout = self._nvml_timeout_seconds
        return all(await asyncio.gather(*(c.settled(timeout) for c in controllers)))

    def report(
        self, name: str, owner: Member, result: Result, connection: Hashable | None = None
    ) -> None:
        """Keep the newest report of a session.

        Raises:
            Refused: no such session, or a newer report is known.
        """
        session = self.sessions.use(name, owner, self._clock(), connection)
        known = session.report
        if known is not None and result.sequence < known.sequence:
            raise Refused(
                ErrorCode.STALE_SEQUENCE,
                f"report {result.sequence} is older than {known.sequence}, which was already seen",
                newest=known.sequence,
            )
        session.report = result

    def renew(self, name: str, owner: Member, connection: Hashable | None = None) -> SessionInfo:
        """Give a session its whole time to live again.

        Raises:
            Refused: no such session, or it belongs to another process.
        """
        return self.session_info(self.sessions.use(name, owner, self._clock(), connection))

    def session_info(self, session: Session) -> SessionInfo:
        """Return a session with its leases."""
        views = [self.keeper.controller(uuid).machine.view() for uuid in sorted(session.gpu_uuids)]
        leases = tuple(
            self._as_lease(view, session)
            for view in views
            if view is not None and view.session == session.id
        )
        return SessionInfo(session.name, session.request.ttl_seconds, leases)

    def leases(self, caller: Member) -> list[Lease]:
        """Return every lease that holds a limit; to a pod, its own."""
        if isinstance(caller, PodCaller):
            sessions = self.sessions.of_pod(caller.pod_uid)
        else:
            sessions = self.sessions.all()
        return [lease for s in sessions for lease in self.session_info(s).leases]

    async def node_info(self) -> NodeInfo:
        """Return the machine and its GPUs, freshly looked at where they answer at once."""
        await self.keeper.look()
        library = self.keeper.library
        return NodeInfo(
            node=self._node,
            agent_version=agent_version(),
            driver="" if library is None else library.driver,
            simulated=library is not None and library.simulated,
            gpus=self.keeper.gpus(),
            note=self.note,
        )

    @property
    def note(self) -> str:
        """Why there is no GPU to manage; "" if there is one."""
        return self.keeper.note

    def show_metrics(self) -> None:
        """Bring the gauges up to date."""
        self.keeper.show_metrics(len(self.sessions))

    # ---- ends of sessions -----------------------------------------------------

    def end_session(self, key: str, reason: str) -> None:
        """End a session by its id; its limits are restored by their controllers."""
        session = self.sessions.end(key)
        if session is None:
            return
        pidfd = self._pidfds.pop(key, None)
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        for uuid in session.gpu_uuids:
            controller = self.keeper.controller(uuid)
            if controller.machine.release(key):
                controller.wake()
        self._idle_since = self._clock()
        self._log_session("session ended", session, reason=reason)

    def end_pod(self, pod_uid: str, reason: str) -> None:
        """End every session of a pod."""
        self._openings.forget(pod_uid)
        for session in self.sessions.of_pod(pod_uid):
            self.end_session(session.id, reason)

    def end_all_sessions(self, reason: str) -> None:
        """End every session."""
        for session in self.sessions.all():
            self.end_session(session.id, reason)

    def connection_lost(self, connection: Hashable) -> None:
        """End, in a moment, the sessions that end with this connection."""
        if self.sessions.connection_lost(connection, self._clock()):
            loop = asyncio.get_running_loop()
            loop.call_later(CONNECTION_GRACE_SECONDS, self.expire_sessions)

    def expire_sessions(self) -> None:
        """End the sessions whose time to live is over."""
        for session in self.sessions.expired(self._clock()):
            is_orphan = session.request.ends_with_connection and session.connection is None
            self.end_session(
                session.id, "its connection has ended" if is_orphan else "not renewed in time"
            )

    # ---- inside ---------------------------------------------------------------

    def _controller(self, gpu_uuid: str, owner: Member) -> Controller:
        """Return who owns a GPU's limit.

        Raises:
            Refused: NVML does not show it; a pod is not told which GPUs there are.
        """
        try:
            return self.keeper.controller(gpu_uuid)
        except Refused:
            if not isinstance(owner, PodCaller):
                raise
            raise Refused(
                ErrorCode.NOT_FOUND,
                f"NVML does not show GPU {gpu_uuid} on this node now",
                gpu=gpu_uuid,
            ) from None

    def _watch(self, session: Session, watch: Callable[[], int]) -> None:
        """End the session with its process."""
        try:
            pidfd = watch()
        except Refused:
            self.sessions.end(session.id)
            raise
        self._pidfds[session.id] = pidfd
        asyncio.get_running_loop().add_reader(
            pidfd, self.end_session, session.id, "its process has ended"
        )

    def _as_told(self, refused: Refused, caller: Member) -> Refused:
        """Return a refusal as the caller may know it: what a pod calls its sessions is its own."""
        if refused.code is not ErrorCode.GPU_LEASED:
            return refused
        holder = refused.details.get("holder")
        session = self.sessions.find(holder) if isinstance(holder, str) else None
        if session is None:
            if not isinstance(caller, PodCaller):
                return refused
            who = "another session, which is just ending,"
        elif not isinstance(session.owner, PodCaller):
            if not isinstance(caller, PodCaller):
                return refused
            who = "a process on the node"
        elif session.owner == caller:
            who = f"session {session.name!r} of this pod"
        elif isinstance(caller, PodCaller):
            who = "another pod"
        else:
            who = f"pod {session.owner.namespace}/{session.owner.pod}"
        return Refused(
            ErrorCode.GPU_LEASED, f"{who} holds the limit of this GPU; wait until it ends"
        )

    def _as_lease(self, view: LeaseView, session: Session) -> Lease:
        return Lease(
            session=session.name,
            gpu_uuid=view.gpu_uuid,
            fence=view.fence,
            requested_watts=view.requested_milliwatts / 1000.0,
            applied_watts=view.applied_milliwatts / 1000.0,
            previous_watts=view.previous_milliwatts / 1000.0,
            clamped=view.clamped,
            foreign_change=view.foreign,
            expires_in_seconds=max(0.0, session.expires_at_seconds - self._clock()),
            dry_run=view.dry_run,
        )

    def _log_session(self, message: str, session: Session, reason: str = "") -> None:
        report, owner = session.report, session.owner
        who: dict[str, object]
        if isinstance(owner, PodCaller):
            who = {"namespace": owner.namespace, "pod": owner.pod}
        else:
            who = {"pid": owner.pid, "uid": owner.uid}
        note(
            logger,
            logging.INFO,
            message,
            session=session.name,
            job=session.request.job,
            recurrence=session.request.recurrence,
            attempt=session.request.attempt or None,
            **who,
            reason=reason,
            epochs=None if report is None else report.epochs,
            energy_joules=None if report is None else report.energy_joules,
            outcome=None if report is None else report.outcome,
        )

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_SECONDS)
            self.expire_sessions()
