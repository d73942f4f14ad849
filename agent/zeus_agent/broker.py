"""The agent without its HTTP: sessions of processes, and the limits they hold."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable

from zeus_agent.journal import Journal
from zeus_agent.keeper import Keeper
from zeus_agent.leases import LeaseView, Refused
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics, agent_version
from zeus_agent.sessions import Owner, Session, Sessions
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
    """Grants power limits to processes, for as long as they live and renew.

    Args:
        journal: the state folder.
        metrics: what is shown.
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
        poll_seconds: float = 1.0,
        nvml_timeout_seconds: float = 1.5,
        clock: Callable[[], float] = time.monotonic,
        node: str | None = None,
    ) -> None:
        self.sessions = Sessions()
        self._keeper = Keeper(
            journal,
            metrics,
            poll_seconds=poll_seconds,
            nvml_timeout_seconds=nvml_timeout_seconds,
            clock=clock,
        )
        self._nvml_timeout_seconds = nvml_timeout_seconds
        self._clock = clock
        self._node = node or platform.node()
        self._pidfds: dict[str, int] = {}
        self._idle_since = clock()

    # ---- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Restore what an earlier agent left, and begin to work."""
        await self._keeper.start()
        self._keeper.start_task(self._expire_forever())

    async def stop(self, timeout_seconds: float) -> bool:
        """End every session, restore, and stop; return whether every limit is back."""
        self.end_all_sessions("the agent stops")
        return await self._keeper.stop(timeout_seconds)

    @property
    def failure(self) -> asyncio.Future[None]:
        """Fails when the agent can't go on."""
        return self._keeper.failure

    def idle_seconds(self) -> float:
        """How long there has been no session and nothing to restore on a GPU that is there."""
        if len(self.sessions) or not self._keeper.is_settled():
            self._idle_since = self._clock()
        return self._clock() - self._idle_since

    # ---- what callers ask -----------------------------------------------------

    def open_session(
        self, name: str, owner: Owner, pidfd: int, request: SessionRequest
    ) -> SessionInfo:
        """Open a session bound to the life of a process, or renew the process's own.

        Args:
            name: chosen by the caller.
            owner: the caller's process.
            pidfd: of that process; the broker closes it.
            request: for logs, and the time to live.

        Raises:
            Refused: the name belongs to another process, or the user has too many sessions.
        """
        try:
            session, is_new = self.sessions.open(name, owner, request, self._clock())
        except Refused:
            os.close(pidfd)
            raise
        if is_new:
            self._pidfds[name] = pidfd
            asyncio.get_running_loop().add_reader(
                pidfd, self.end_session, name, "its process has ended"
            )
            self._log_session("session opened", session)
        else:
            os.close(pidfd)
        return self.session_info(session)

    async def set_power_limit(
        self, name: str, owner: Owner, gpu_uuid: str, milliwatts: int, sequence: int
    ) -> Lease:
        """Set a limit for a session and return the lease with what was read back.

        Raises:
            Refused: it can't be; nothing has changed, or what may have is restored.
        """
        session = self.sessions.use(name, owner, self._clock())
        controller = self._keeper.controller(gpu_uuid)
        ticket = controller.machine.request(name, milliwatts, sequence)
        session.gpu_uuids.add(gpu_uuid)
        return self._as_lease(await controller.result_of(ticket, name), session)

    async def release(self, name: str, owner: Owner, gpu_uuid: str) -> bool:
        """End a lease; return whether its limit is back already.

        Raises:
            Refused: no such session or GPU.
        """
        session = self.sessions.use(name, owner, self._clock())
        controller = self._keeper.controller(gpu_uuid)
        session.gpu_uuids.discard(gpu_uuid)
        if controller.machine.release(name):
            return await controller.settled(self._nvml_timeout_seconds)
        return True

    async def close_session(self, name: str) -> bool:
        """End a session; return whether every limit that it held is back already.

        Raises:
            Refused: no such session.
        """
        held = self.sessions.get(name).gpu_uuids
        controllers = [self._keeper.controller(uuid) for uuid in held]
        self.end_session(name, "closed")
        timeout = self._nvml_timeout_seconds
        return all(await asyncio.gather(*(c.settled(timeout) for c in controllers)))

    def report(self, name: str, owner: Owner, result: Result) -> None:
        """Keep the newest report of a session.

        Raises:
            Refused: no such session, or a newer report is known.
        """
        session = self.sessions.use(name, owner, self._clock())
        known = session.report
        if known is not None and result.sequence < known.sequence:
            raise Refused(
                ErrorCode.STALE_SEQUENCE,
                f"report {result.sequence} is older than {known.sequence}, which was already seen",
                newest=known.sequence,
            )
        session.report = result

    def renew(self, name: str, owner: Owner) -> SessionInfo:
        """Give a session its whole time to live again.

        Raises:
            Refused: no such session, or it belongs to another process.
        """
        return self.session_info(self.sessions.use(name, owner, self._clock()))

    def session_info(self, session: Session) -> SessionInfo:
        """Return a session with its leases."""
        views = [self._keeper.controller(uuid).machine.view() for uuid in sorted(session.gpu_uuids)]
        leases = tuple(
            self._as_lease(view, session)
            for view in views
            if view is not None and view.session == session.name
        )
        return SessionInfo(session.name, session.request.ttl_seconds, leases)

    def leases(self) -> list[Lease]:
        """Return every lease that holds a limit."""
        return [lease for s in self.sessions.all() for lease in self.session_info(s).leases]

    async def node_info(self) -> NodeInfo:
        """Return the machine and its GPUs, freshly looked at where they answer at once."""
        await self._keeper.look()
        library = self._keeper.library
        return NodeInfo(
            node=self._node,
            agent_version=agent_version(),
            driver="" if library is None else library.driver,
            simulated=library is not None and library.simulated,
            gpus=self._keeper.gpus(),
            note=self.note,
        )

    @property
    def note(self) -> str:
        """Why there is no GPU to manage; "" if there is one."""
        return self._keeper.note

    def show_metrics(self) -> None:
        """Bring the gauges up to date."""
        self._keeper.show_metrics(len(self.sessions))

    # ---- ends of sessions -----------------------------------------------------

    def end_session(self, name: str, reason: str) -> None:
        """End a session; its limits are restored by their controllers."""
        session = self.sessions.end(name)
        if session is None:
            return
        pidfd = self._pidfds.pop(name)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        for uuid in session.gpu_uuids:
            controller = self._keeper.controller(uuid)
            if controller.machine.release(name):
                controller.wake()
        self._idle_since = self._clock()
        self._log_session("session ended", session, reason=reason)

    def end_all_sessions(self, reason: str) -> None:
        """End every session."""
        for session in self.sessions.all():
            self.end_session(session.name, reason)

    def expire_sessions(self) -> None:
        """End the sessions whose time to live is over."""
        for session in self.sessions.expired(self._clock()):
            self.end_session(session.name, "not renewed in time")

    # ---- inside ---------------------------------------------------------------

    def _as_lease(self, view: LeaseView, session: Session) -> Lease:
        return Lease(
            session=view.session,
            gpu_uuid=view.gpu_uuid,
            fence=view.fence,
            requested_watts=view.requested_milliwatts / 1000.0,
            applied_watts=view.applied_milliwatts / 1000.0,
            previous_watts=view.previous_milliwatts / 1000.0,
            clamped=view.clamped,
            foreign_change=view.foreign,
            expires_in_seconds=max(0.0, session.expires_at_seconds - self._clock()),
        )

    def _log_session(self, message: str, session: Session, reason: str = "") -> None:
        report = session.report
        note(
            logger,
            logging.INFO,
            message,
            session=session.name,
            job=session.request.job,
            recurrence=session.request.recurrence,
            attempt=session.request.attempt or None,
            pid=session.owner.pid,
            uid=session.owner.uid,
            reason=reason,
            epochs=None if report is None else report.epochs,
            energy_joules=None if report is None else report.energy_joules,
            outcome=None if report is None else report.outcome,
        )

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_SECONDS)
            self.expire_sessions()
