"""The agent without its HTTP: sessions, machines, GPUs and the journal brought together.

Everything here runs on one event loop; what may block (NVML, the disk) is behind
worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator

from zeus_agent.controller import Controller, DurableLimits
from zeus_agent.fleet import Fleet
from zeus_agent.gpu import Gpu
from zeus_agent.journal import Entry, Journal
from zeus_agent.leases import LeaseMachine, LeaseView, Refused, Sight
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics, agent_version
from zeus_agent.nvml import Identity, NvmlFailure, Reading
from zeus_agent.sessions import Owner, Session, Sessions
from zeus_agent.worker import WorkerTimeout
from zeus_runtime.protocol import (
    ErrorCode,
    GpuInfo,
    Lease,
    NodeInfo,
    Result,
    SessionInfo,
    SessionRequest,
)

logger = logging.getLogger("zeus_agent.broker")

EXPIRY_PERIOD_SECONDS = 0.5
FRESH_LOOK_SECONDS = 0.2


class Broker:
    """Grants, watches and takes back power limits.

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
        self._journal = journal
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._nvml_timeout_seconds = nvml_timeout_seconds
        self._clock = clock
        self._node = node or platform.node()
        self._disk = DurableLimits(journal)
        self._fleet = Fleet(self, clock, nvml_timeout_seconds)
        self._machines: dict[str, LeaseMachine] = {}
        self._controllers: dict[str, Controller] = {}
        self._entries: dict[str, Entry] = {}
        self._pidfds: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._fences: Iterator[int] = iter(())
        self._idle_since = clock()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ---- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Read what an earlier agent left, look at the GPUs once, and begin to work."""
        self._entries, problems = self._journal.load()
        for problem in problems:
            note(logger, logging.ERROR, "saved limit unreadable", reason=problem)
        self._fences = itertools.count(self._first_fence())
        await self._fleet.poll()
        for uuid, entry in self._entries.items():
            note(
                logger,
                logging.WARNING,
                "an earlier agent left a limit to restore; its GPU is not there yet",
                gpu=uuid,
                watts=entry.saved.previous_milliwatts / 1000.0,
            )
        self._start_task(self._poll_forever())
        self._start_task(self._expire_forever())

    async def stop(self, timeout_seconds: float) -> bool:
        """End every session, restore, and stop; return whether every limit is back."""
        self.end_all_sessions("the agent stops")
        settled = await asyncio.gather(
            *(controller.settled(timeout_seconds) for controller in self._controllers.values())
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = [uuid for uuid, machine in self._machines.items() if machine.saved is not None]
        for uuid in left:
            note(logger, logging.ERROR, "limit not restored; saved for the next start", gpu=uuid)
        self._fleet.stop()
        self._disk.stop()
        return all(settled) and not left

    def idle_seconds(self) -> float:
        """How long there has been no session and nothing to restore on a GPU that is there."""
        if len(self.sessions) or any(
            not controller.machine.is_settled() for controller in self._controllers.values()
        ):
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
        controller = self._controller(gpu_uuid)
        ticket = controller.machine.request(name, milliwatts, sequence)
        session.gpu_uuids.add(gpu_uuid)
        return self._as_lease(await controller.result_of(ticket), session)

    async def release(self, name: str, owner: Owner, gpu_uuid: str) -> bool:
        """End a lease; return whether its limit is back already.

        Raises:
            Refused: no such session or GPU.
        """
        session = self.sessions.use(name, owner, self._clock())
        controller = self._controller(gpu_uuid)
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
        controllers = [self._controllers[uuid] for uuid in held]
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
        views = [self._controllers[uuid].machine.view() for uuid in sorted(session.gpu_uuids)]
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
        looks = [
            asyncio.ensure_future(self._fleet.look_at(gpu))
            for gpu in self._fleet.gpus.values()
            if gpu.healthy
        ]
        if looks:
            # Those that are slow end later and leave their reading for the next caller.
            await asyncio.wait(looks, timeout=FRESH_LOOK_SECONDS)
        library = self._fleet.library
        gpus = sorted(
            (self._gpu_info(gpu) for gpu in self._fleet.gpus.values()), key=lambda g: g.index
        )
        return NodeInfo(
            node=self._node,
            agent_version=agent_version(),
            driver="" if library is None else library.driver,
            simulated=library is not None and library.simulated,
            gpus=tuple(gpus),
            note=self.note,
        )

    @property
    def note(self) -> str:
        """Why there is no GPU to manage; "" if there is one."""
        if self._fleet.library is None:
            return f"no GPU can be managed: {self._fleet.reason}"
        return "" if self._fleet.gpus else "no GPU can be managed: NVML shows none"

    def show_metrics(self) -> None:
        """Bring the gauges up to date."""
        leases = pending = 0
        for uuid, controller in self._controllers.items():
            view = controller.machine.view()
            leases += view is not None
            self._metrics.show_gpu(self._fleet.gpus[uuid], view)
        for machine in self._machines.values():
            pending += machine.restore_pending
        self._metrics.totals(
            sessions=len(self.sessions),
            leases=leases,
            restores_pending=pending + len(self._entries),
        )

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
            controller = self._controllers[uuid]
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

    # ---- what the fleet tells -------------------------------------------------

    def gpu_found(self, gpu: Gpu, identity: Identity) -> None:
        """Give a new GPU its machine and controller; take over what was saved for it."""
        controller = self._controllers.get(gpu.uuid)
        if controller is None:
            machine = self._machines[gpu.uuid] = LeaseMachine(gpu.uuid, lambda: next(self._fences))
            controller = Controller(machine, gpu, self._disk, self._clock, self._metrics)
            self._controllers[gpu.uuid] = controller
            self._metrics.gpu_found(gpu.uuid, identity.model)
            self._adopt(machine, gpu.reading)
            self._start_task(controller.run())
            note(logger, logging.INFO, "GPU found", gpu=gpu.uuid, model=identity.model)
        controller.machine.bounds = identity.bounds
        controller.wake()

    def gpu_read(self, gpu: Gpu, reading: Reading, version: int) -> None:
        """Compare a reading with the lease, unless a write came between."""
        controller = self._controllers.get(gpu.uuid)
        found = reading.limit_milliwatts
        if controller is None or found is None or controller.version != version or version % 2:
            return
        sight = controller.machine.observed(found)
        if sight is Sight.FOREIGN:
            controller.tell_foreign(found)
        if sight is not Sight.EXPECTED:
            controller.wake()

    def gpu_version(self, gpu: Gpu) -> int:
        """Return the number of writes begun and ended; odd while one goes on."""
        controller = self._controllers.get(gpu.uuid)
        return 0 if controller is None else controller.version

    def gpu_out(self, gpu: Gpu) -> None:
        """Log it; leases stay, as they can't be touched now."""
        note(logger, logging.WARNING, "GPU out", gpu=gpu.uuid, reason=gpu.reason)

    def gpu_back(self, gpu: Gpu) -> None:
        """Do at once what waited for it."""
        controller = self._controllers.get(gpu.uuid)
        if controller is not None:
            controller.machine.device_answers()
            controller.wake()
            note(logger, logging.INFO, "GPU back", gpu=gpu.uuid)

    def gpu_reset(self, gpu: Gpu) -> None:
        """Expect that its limit is gone."""
        controller = self._controllers.get(gpu.uuid)
        if controller is not None:
            controller.machine.device_reset()
            note(logger, logging.WARNING, "GPU or driver was reset", gpu=gpu.uuid)

    def gpu_failed(self, gpu: Gpu, error: NvmlFailure | WorkerTimeout) -> None:
        """Count it."""
        self._metrics.nvml_failed(gpu.uuid, error)

    def driver_gone(self, error: NvmlFailure) -> None:
        """Pass it on to the fleet, whose GPU told it."""
        self._fleet.driver_gone(error)

    # ---- inside ---------------------------------------------------------------

    def _first_fence(self) -> int:
        try:
            return self._journal.first_fence()
        except OSError as error:
            note(logger, logging.ERROR, "state folder not writable", reason=str(error))
            # Nothing will be set as long as nothing can be saved; the time keeps fences apart
            # from those of other starts when the disk has room again.
            return int(time.time()) << 20

    def _adopt(self, machine: LeaseMachine, reading: Reading | None) -> None:
        entry = self._entries.pop(machine.gpu_uuid, None)
        if entry is None:
            return
        library = self._fleet.library
        survives_boot = library is not None and library.simulated
        if entry.boot_id != self._journal.boot_id and not survives_boot:
            with contextlib.suppress(OSError):  # seen again, and dropped again, at the next start
                self._journal.forget(machine.gpu_uuid)
            note(
                logger,
                logging.INFO,
                "a limit saved before a reboot is dropped; the reboot has reset it",
                gpu=machine.gpu_uuid,
            )
            return
        machine.adopt(entry.saved)
        now = None if reading is None else reading.energy_millijoules
        if now is not None and entry.energy_millijoules is not None:
            if now < entry.energy_millijoules:
                machine.device_reset()

    def _controller(self, gpu_uuid: str) -> Controller:
        controller = self._controllers.get(gpu_uuid)
        if controller is None:
            known = ", ".join(sorted(self._controllers)) or self.note
            raise Refused(ErrorCode.NOT_FOUND, f"no GPU {gpu_uuid!r} here ({known})", gpu=gpu_uuid)
        return controller

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

    def _gpu_info(self, gpu: Gpu) -> GpuInfo:
        identity, reading = gpu.identity, gpu.reading
        bounds = None if identity is None else identity.bounds
        reason = gpu.reason or gpu.refused_reason
        return GpuInfo(
            uuid=gpu.uuid,
            model="" if identity is None else identity.model,
            index=-1 if identity is None else identity.index,
            power_limit_watts=_watts(None if reading is None else reading.limit_milliwatts),
            min_limit_watts=_watts(None if bounds is None else bounds.min_milliwatts),
            max_limit_watts=_watts(None if bounds is None else bounds.max_milliwatts),
            default_limit_watts=_watts(None if identity is None else identity.default_milliwatts),
            can_set_power_limit=gpu.healthy and bounds is not None and not gpu.refused_reason,
            healthy=gpu.healthy,
            reason=reason or ("" if bounds is not None else "it does not tell its limits' range"),
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

    def _start_task(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A task that fails ends the agent: its next start restores from the journal."""
        if not task.cancelled() and not self.failure.done():
            error = task.exception()
            if error is not None:
                self.failure.set_exception(error)

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            await self._fleet.poll()

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_SECONDS)
            self.expire_sessions()


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000.0
