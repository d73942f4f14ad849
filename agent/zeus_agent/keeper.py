"""The GPUs, their machines and controllers, and the journal: everything below sessions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from zeus_agent import nvml
from zeus_agent.controller import Controller, DurableLimits
from zeus_agent.fleet import Fleet
from zeus_agent.gpu import Gpu
from zeus_agent.journal import Entry, Journal
from zeus_agent.leases import LeaseMachine, Refused, Sight
from zeus_agent.logs import note
from zeus_agent.metrics import Metrics
from zeus_agent.nvml import Identity, Library, NvmlFailure, Reading
from zeus_agent.worker import WorkerTimeout
from zeus_runtime.protocol import ErrorCode, GpuInfo

logger = logging.getLogger("zeus_agent.keeper")

FRESH_LOOK_SECONDS = 0.2


class Keeper:
    """Keeps each GPU's limit as its machine decides, whatever GPUs come and go.

    Args:
        journal: the state folder.
        metrics: what is shown.
        poll_seconds: period of looks at the GPUs.
        nvml_timeout_seconds: longest time of one visit to the driver.
        clock: monotonic seconds.
        initialize: initializes NVML and returns what it says of itself.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        *,
        poll_seconds: float,
        nvml_timeout_seconds: float,
        clock: Callable[[], float],
        initialize: Callable[[], Library] = nvml.initialize,
    ) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._journal = journal
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._disk = DurableLimits(journal)
        self._fleet = Fleet(self, clock, nvml_timeout_seconds, initialize)
        self._controllers: dict[str, Controller] = {}
        self._entries: dict[str, Entry] = {}
        self._reset_before_found: set[str] = set()
        self._looks: dict[str, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._fences: Iterator[int] = iter(())

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
        self.start_task(self._poll_forever())

    async def stop(self, timeout_seconds: float) -> bool:
        """Wait until what is to be restored is, and stop; return whether all of it is."""
        await asyncio.gather(
            *(controller.settled(timeout_seconds) for controller in self._controllers.values())
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = [u for u, c in self._controllers.items() if c.machine.saved is not None]
        left += self._entries  # of GPUs that never came
        for uuid in left:
            note(logger, logging.ERROR, "limit not restored; saved for the next start", gpu=uuid)
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
            Refused: there is no such GPU here.
        """
        controller = self._controllers.get(gpu_uuid)
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

    def show_metrics(self, sessions: int) -> None:
        """Bring the gauges up to date."""
        leases = pending = 0
        for uuid, controller in self._controllers.items():
            view = controller.machine.view()
            leases += view is not None
            pending += controller.machine.restore_pending
            self._metrics.show_gpu(self._fleet.gpus[uuid], view)
        self._metrics.totals(
            sessions=sessions, leases=leases, restores_pending=pending + len(self._entries)
        )

    # ---- what the fleet tells -------------------------------------------------

    def gpu_found(self, gpu: Gpu, identity: Identity) -> None:
        """Give a new GPU its machine and controller; take over what was saved for it."""
        controller = self._controllers.get(gpu.uuid)
        if controller is None:
            machine = LeaseMachine(gpu.uuid, lambda: next(self._fences))
            controller = Controller(machine, gpu, self._disk, self._clock, self._metrics)
            self._controllers[gpu.uuid] = controller
            self._metrics.gpu_found(gpu.uuid, identity.model)
            self._adopt(machine, gpu.reading)
            self.start_task(controller.run())
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
        if controller is None:
            self._reset_before_found.add(gpu.uuid)
        else:
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
        if machine.gpu_uuid in self._reset_before_found or (
            reading is not None and entry.tells_reset(reading.energy_millijoules)
        ):
            machine.device_reset()

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
            await asyncio.sleep(self._poll_seconds)
            await self._fleet.poll()


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000.0
