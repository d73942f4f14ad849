"""The GPUs, their machines and controllers, and the journal: everything below sessions."""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

from zeus_agent import nvml
from zeus_agent.controller import Controller
from zeus_agent.durable import DurableLimits
from zeus_agent.energy_totals import EnergyMeter
from zeus_agent.energy_writer import EnergyWriter
from zeus_agent.fleet import Fleet
from zeus_agent.gpu import Gpu, GpuUnavailable
from zeus_agent.inheritance import Inheritance
from zeus_agent.journal import Journal
from zeus_agent.leases import LeaseMachine
from zeus_agent.limit_events import LimitEvents
from zeus_agent.limits import Refused, Sight
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics
from zeus_agent.nvml import Identity, Library, NvmlFailure, Reading
from zeus_agent.policy import Policy
from zeus_agent.policy_file import PolicySource
from zeus_agent.refusals import refusal_for
from zeus_agent.worker import Worker, WorkerTimeout
from zeus_runtime.protocol import ErrorCode, GpuInfo

logger = logging.getLogger("zeus_agent.keeper")

FRESH_LOOK_SECONDS = 0.2
POLICY_PERIOD_SECONDS = 1.0
PROFILING_POLL_SECONDS = 0.1
LATE_FIRST_SECONDS, LATE_LAST_SECONDS = 1.0, 30.0  # between reads of what the disk did not give
_PROFILING_POLLS = 10.0  # looks at a GPU while its lease profiles, for each usual one


class Keeper(LimitEvents):
    """Keeps each GPU's limit as its machine decides, whatever GPUs come and go.

    Args:
        journal: the state folder.
        metrics: what is shown.
        poll_seconds: period of looks at the GPUs.
        nvml_timeout_seconds: longest time of one visit to the driver.
        clock: monotonic seconds.
        policy: where the administrator's rules come from; None: there are none.
        initialize: initializes NVML and returns what it says of itself.
        sleep: waits for so many seconds of the clock.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        *,
        poll_seconds: float,
        nvml_timeout_seconds: float,
        clock: Callable[[], float],
        policy: PolicySource | None = None,
        initialize: Callable[[], Library] = nvml.initialize,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__()
        self.is_looked_at = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._journal = journal
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._sleep = sleep
        self._policy_source = policy
        self._policy_problem = ""
        self._disk = DurableLimits(journal)
        self._energy = EnergyWriter(journal)
        self._fleet = Fleet(self, clock, nvml_timeout_seconds, metrics.nvml_called, initialize)
        self._controllers: dict[str, Controller] = {}
        self._inheritance = Inheritance(journal, self._disk, self._tell_left)
        self._is_stopping = False
        self._looks: dict[str, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._fences: Iterator[int] = iter(())
        self._profiles = asyncio.Event()

    # ---- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Read what an earlier agent left, look at the GPUs once, and begin to work."""
        self._inheritance.load()
        self._fences = itertools.count(self._first_fence())
        self._energy.load()
        await self._poll()
        self.is_looked_at = True
        self._inheritance.tell_absent()
        self.start_task(self._poll_forever())
        self.start_task(self._adopt_late())
        self.start_task(self._poll_profiling_forever())
        self.start_task(self._energy.write_forever(self._fleet.gpus))
        if self._policy_source is not None:
            self.start_task(self._follow_policy_forever(self._policy_source))

    async def stop(self, timeout_seconds: float) -> bool:
        """Put back what was found, node defaults or not, and stop; return whether all is back."""
        self._is_stopping = True
        for controller in self._controllers.values():
            controller.machine.give_up_default()
        await asyncio.gather(
            *(controller.settled(timeout_seconds) for controller in self._controllers.values())
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = [u for u, c in self._controllers.items() if c.machine.claim.saved is not None]
        left += self._inheritance.left  # of GPUs that never came, or of a disk that failed
        for uuid in left:
            note(logger, logging.ERROR, "limit not restored; saved for the next start", gpu=uuid)
        await self._energy.stop(self._fleet.gpus)
        self._fleet.stop()
        self._disk.stop()
        return not left

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until the agent stops; if it fails, so does the agent."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    # ---- what the broker asks --------------------------------------------------

    def controller(self, gpu_uuid: str) -> Controller:
        """Return who owns a GPU's limit.

        Raises:
            Refused: there is no such GPU here, or it has never answered yet.
        """
        controller = self._controllers.get(gpu_uuid)
        if controller is None and gpu_uuid in self._fleet.gpus:
            raise refusal_for(
                GpuUnavailable(f"GPU {gpu_uuid}: {self._fleet.gpus[gpu_uuid].reason}")
            )
        if controller is None:
            known = ", ".join(sorted(self._controllers)) or self.note
            raise Refused(ErrorCode.NOT_FOUND, f"no GPU {gpu_uuid!r} here ({known})", gpu=gpu_uuid)
        return controller

    def is_settled(self) -> bool:
        """Whether nothing is to be done on any GPU that is there."""
        return all(controller.machine.is_settled() for controller in self._controllers.values())

    async def look(self) -> None:
        """Look at every healthy GPU now; those that are slow end later, for the next caller."""
        for uuid, gpu in self._fleet.gpus.items():
            # One look at a time: many callers must not fill the queue that limits wait in too.
            if gpu.healthy and (uuid not in self._looks or self._looks[uuid].done()):
                self._looks[uuid] = asyncio.ensure_future(self._fleet.look_at(gpu))
        looks = [look for look in self._looks.values() if not look.done()]
        if looks:
            await asyncio.wait(looks, timeout=FRESH_LOOK_SECONDS)

    @property
    def library(self) -> Library | None:
        """What NVML says of itself; None while there is none."""
        return self._fleet.library

    @property
    def note(self) -> str:
        """Why there is no GPU to manage; "" if there is one."""
        if self._fleet.library is None:
            return f"no GPU can be managed: {self._fleet.reason}"
        return "" if self._fleet.gpus else "no GPU can be managed: NVML shows none"

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Return every GPU that was found once, by index."""
        infos = (self._gpu_info(gpu) for gpu in self._fleet.gpus.values())
        return tuple(sorted(infos, key=lambda info: info.index))

    def gpu_uuids(self) -> frozenset[str]:
        """Return the UUIDs of all boards that were found once."""
        return frozenset(self._fleet.gpus)

    async def named_boards(self) -> Mapping[str, str]:
        """Return the board's UUID for each name by which a kubelet may know it or a part of it.

        Names that are not UUIDs of boards: of MIG devices, and of device files, as in `nvidia0`.
        """
        return await self._fleet.named_boards()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return Policy() if self._policy_source is None else self._policy_source.policy

    def share_changed(self, gpu_uuid: str, shared: bool) -> None:
        """Tell that a board has come to be used by others too, or by its holder alone.

        Raises:
            Refused: there is no such GPU here.
        """
        controller = self.controller(gpu_uuid)
        controller.policing.set_shared(shared)
        controller.follow_policy()

    def show_metrics(self, sessions: int) -> None:
        """Bring the gauges up to date."""
        leases: collections.Counter[str] = collections.Counter()
        pending = 0
        for uuid, controller in self._controllers.items():
            view = controller.machine.view()
            if view is not None:
                leases[view.namespace] += 1
            pending += controller.machine.restore_pending
            self._metrics.show_gpu(self._fleet.gpus[uuid], view, controller.machine.rules)
        is_valid = self._policy_source is None or not self._policy_source.problem
        self._metrics.show_policy(is_valid=is_valid, dry_run=self.policy.dry_run)
        pending += self._inheritance.pending
        self._metrics.totals(sessions=sessions, leases=leases, restores_pending=pending)

    # ---- what the fleet tells -------------------------------------------------

    def gpu_found(self, gpu: Gpu, identity: Identity) -> None:
        """Give a new GPU its machine and controller; take over what was saved for it."""
        controller = self._controllers.get(gpu.uuid)
        if controller is None:
            machine = LeaseMachine(gpu.uuid, lambda: next(self._fences))
            controller = Controller(
                machine, gpu, self._disk, self._clock, self._metrics, self, self._profiles.set
            )
            controller.policing.set_policy(self.policy)
            self._controllers[gpu.uuid] = controller
            self._metrics.gpu_found(gpu.uuid, identity.model)
            self._adopt(controller)
            if self._is_stopping:
                machine.give_up_default()
            self.start_task(controller.run())
            note(logger, logging.INFO, "GPU found", gpu=gpu.uuid, model=identity.model)
        controller.machine.bounds = identity.bounds
        controller.follow_policy()
        self.on_identified(gpu.uuid)

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

    def gpu_meter(self, gpu_uuid: str) -> EnergyMeter:
        """Return what adds up a GPU's energy, from where an earlier agent left off."""
        return self._energy.meter(gpu_uuid)

    def gpu_used_energy(self, gpu: Gpu, joules: float) -> None:
        """Pass it on."""
        self.on_energy(gpu.uuid, joules)

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
        if controller is None:
            self._inheritance.device_reset(gpu.uuid)
        else:
            controller.machine.device_reset()
            controller.wake()
            note(logger, logging.WARNING, "GPU or driver was reset", gpu=gpu.uuid)

    def gpu_failed(self, gpu: Gpu, error: NvmlFailure | WorkerTimeout) -> None:
        """Count it."""
        self._metrics.nvml_failed(gpu.uuid, error)

    # ---- inside ---------------------------------------------------------------

    def _first_fence(self) -> int:
        try:
            return self._journal.first_fence(time.time())
        except OSError as error:
            note(logger, logging.ERROR, "state folder not writable", reason=str(error))
            # Nothing will be set as long as nothing can be saved.
            return self._journal.first_fence_unremembered(time.time())

    @property
    def _survives_boot(self) -> bool:
        """Whether the driver keeps limits over a reboot, as simulated ones do."""
        library = self._fleet.library
        return library is not None and library.simulated

    def _adopt(self, controller: Controller) -> bool:
        """Take over what was saved for a GPU; return whether there was something."""
        reading = controller.gpu.reading
        energy = None if reading is None else reading.energy_millijoules
        machine, survives = controller.machine, self._survives_boot
        return self._inheritance.adopt(machine, energy, survives_boot=survives)

    def _tell_left(self, gpu_uuid: str, reason: str) -> None:
        self.on_restore_failed(gpu_uuid, reason)

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

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A task that fails ends the agent: its next start restores from the journal."""
        if not task.cancelled() and not self.failure.done():
            error = task.exception()
            if error is not None:
                self.failure.set_exception(error)

    async def _poll_forever(self) -> None:
        while True:
            await self._sleep(self._poll_seconds)
            await self._poll()

    async def _poll(self) -> None:
        """Look at the GPUs; once the driver is known, so is what a reboot has done for it."""
        was_known = self._fleet.library is not None
        await self._fleet.poll()
        if not was_known and self._fleet.library is not None:
            self._inheritance.drop_void(survives_boot=self._survives_boot)

    async def _adopt_late(self) -> None:
        """Take over what could not be read at the start, when the disk gives it."""
        delay = LATE_FIRST_SECONDS
        while self._inheritance.late:
            await self._sleep(delay)
            delay = min(2.0 * delay, LATE_LAST_SECONDS)
            await self._inheritance.read_again()
            for controller in self._controllers.values():
                if self._adopt(controller):
                    controller.wake()

    async def _poll_profiling_forever(self) -> None:
        """Look more often at GPUs whose lease profiles; nothing wakes up while there is none."""
        period = max(PROFILING_POLL_SECONDS, self._poll_seconds / _PROFILING_POLLS)
        while True:
            await self._profiles.wait()
            await self._sleep(period)
            profiling = [c.gpu for c in self._controllers.values() if c.is_profiling()]
            if profiling:
                await asyncio.gather(*(self._fleet.look_at(gpu) for gpu in profiling))
            else:
                self._profiles.clear()

    async def _follow_policy_forever(self, source: PolicySource) -> None:
        # In a thread: a large file takes longer to understand than a limit may wait.  Not in one
        # of asyncio's own, for which the end of the program would wait if the disk hangs.
        worker = Worker("policy")
        try:
            while True:
                await self._sleep(POLICY_PERIOD_SECONDS)
                is_new = await worker.call(source.refresh, math.inf)
                self._follow_policy(source, is_new=is_new)
        finally:
            worker.stop()

    def _follow_policy(self, source: PolicySource, *, is_new: bool) -> None:
        if source.problem != self._policy_problem:
            self._policy_problem = source.problem
            if source.problem:
                what = "new policy refused; the one before stays in force"
                note(logger, logging.ERROR, what, reason=source.problem)
        if not is_new:
            return
        self._metrics.policy_changed()
        note(logger, logging.INFO, "policy changed", dry_run=source.policy.dry_run or None)
        for controller in self._controllers.values():
            controller.policing.set_policy(source.policy)
            controller.follow_policy()


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000.0
