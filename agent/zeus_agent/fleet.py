"""All GPUs of the machine: NVML's beginning and end, finding GPUs, looking at them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from zeus_agent import nvml
from zeus_agent.energy_totals import EnergyMeter
from zeus_agent.gpu import Gpu, GpuListener, GpuUnavailable
from zeus_agent.logs import note
from zeus_agent.nvml import Identity, Kind, Library, NvmlFailure, Reading, Timer
from zeus_agent.worker import Worker, WorkerTimeout

logger = logging.getLogger("zeus_agent.fleet")

INIT_TIMEOUT_SECONDS = 30.0  # a driver without persistence mode takes seconds to load
INIT_BACKOFF_FIRST_SECONDS = 1.0
INIT_BACKOFF_LAST_SECONDS = 30.0
LOOK_FOR_GPUS_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 1.0  # while one of them does not tell its UUID
RELEARN_SECONDS = 60.0
FRUITLESS_INITS = 10

_DRIVER_TO_BLAME = (Kind.DRIVER, Kind.ABSENT, Kind.UNKNOWN)


class DriverBroken(Exception):  # noqa: N818 -- a state of the machine
    """NVML gives unknown errors for every GPU, and initializing again does not help."""


class FleetListener(GpuListener, Protocol):
    """Whom the fleet tells."""

    def gpu_found(self, gpu: Gpu, identity: Identity) -> None:
        """Tell of a GPU seen for the first time, or identified again."""

    def gpu_read(self, gpu: Gpu, reading: Reading, version: int) -> None:
        """Tell of a look at a GPU; `version` is what `gpu_version` said before it."""

    def gpu_version(self, gpu: Gpu) -> int:
        """Return a number that changes with each write to the GPU."""

    def gpu_meter(self, gpu_uuid: str) -> EnergyMeter:
        """Return the meter of a GPU that is new."""


class Fleet:
    """The GPUs by UUID.

    Args:
        listener: whom to tell.
        clock: monotonic seconds.
        timeout_seconds: longest time of one visit to the driver for one GPU.
        timer: is told how long each NVML call took, in the threads that make them.
        initialize: initializes NVML and returns what it says of itself.
    """

    def __init__(
        self,
        listener: FleetListener,
        clock: Callable[[], float],
        timeout_seconds: float,
        timer: Timer,
        initialize: Callable[[], Library] = nvml.initialize,
    ) -> None:
        self.gpus: dict[str, Gpu] = {}
        self.library: Library | None = None
        self.reason = "NVML is not initialized yet"  # why there is no library
        self._listener = listener
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._timer = timer
        self._initialize_nvml = initialize
        self._system = Worker("nvml")
        self._probes: dict[int, Worker] = {}
        self._lost_indices: set[int] = set()  # of GPUs that were lost before they told their UUID
        self._next_init_seconds = 0.0
        self._init_backoff_seconds = INIT_BACKOFF_FIRST_SECONDS
        self._was_initialized = False
        self._next_look_seconds = 0.0
        self._next_relearn_seconds = clock() + RELEARN_SECONDS
        self._fruitless_inits = 0
        self._names: dict[str, frozenset[str]] = {}  # beside its UUID, by UUID

    async def poll(self) -> None:
        """Do one round: initialize if needed, look for GPUs if due, look at each GPU.

        Raises:
            DriverBroken: see there.
        """
        now = self._clock()
        if self.library is None and now >= self._next_init_seconds:
            await self._initialize()
        if self.library is None:
            return
        if now >= self._next_look_seconds:
            self._next_look_seconds = now + LOOK_FOR_GPUS_SECONDS
            await self._look_for_gpus()
        if now >= self._next_relearn_seconds:
            self._next_relearn_seconds = now + RELEARN_SECONDS
            for gpu in self.gpus.values():
                gpu.forget_refusals()
        await asyncio.gather(*(self.look_at(gpu) for gpu in self.gpus.values()))
        self._judge()

    async def look_at(self, gpu: Gpu) -> None:
        """Read one GPU and tell the listener."""
        version = self._listener.gpu_version(gpu)
        known = gpu.identity
        reading = await gpu.poll()
        if reading is None:
            return  # what an earlier agent saved can't be judged without the energy counter
        if gpu.identity is not None and gpu.identity is not known:
            self._names.pop(gpu.uuid, None)
            self._listener.gpu_found(gpu, gpu.identity)
        self._listener.gpu_read(gpu, reading, version)

    async def named_boards(self) -> dict[str, str]:
        """Return the board's UUID for each name by which a kubelet may know it or a part of it.

        A GPU that does not answer keeps its names, but for those that another one says now, unless
        it was identified anew since it said them.  A name that several have is nobody's.
        """
        gpus = list(self.gpus.values())
        answers = await asyncio.gather(*(self._ask_names(gpu) for gpu in gpus))
        answered = {gpu.uuid for gpu, answer in zip(gpus, answers, strict=True) if answer}
        said = frozenset[str]().union(*(self._names.get(uuid, ()) for uuid in answered))
        for uuid in self._names.keys() - answered:
            self._names[uuid] -= said
        claims = Counter(name for names in self._names.values() for name in names)
        return {
            name: uuid for uuid, names in self._names.items() for name in names if claims[name] == 1
        }

    async def _ask_names(self, gpu: Gpu) -> bool:
        """Have a GPU say its names; return whether it does."""
        try:
            names = await gpu.names()
        except (NvmlFailure, WorkerTimeout, GpuUnavailable):
            return False
        # Here, and not when all have answered: one that is identified anew meanwhile loses them.
        self._names[gpu.uuid] = names
        return True

    def stop(self) -> None:
        """End all worker threads."""
        self._system.stop()
        for gpu in self.gpus.values():
            gpu.stop()

    async def _initialize(self) -> None:
        try:
            if self._was_initialized:
                await self._system.call(nvml.shut_down, INIT_TIMEOUT_SECONDS)
                self._was_initialized = False
            library = await self._system.call(self._initialize_nvml, INIT_TIMEOUT_SECONDS)
        except (NvmlFailure, WorkerTimeout) as error:
            reason = str(error)
            if reason != self.reason:
                note(logger, logging.WARNING, "no NVML", reason=reason)
            self.reason = reason
            self._next_init_seconds = self._clock() + self._init_backoff_seconds
            self._init_backoff_seconds = min(
                2.0 * self._init_backoff_seconds, INIT_BACKOFF_LAST_SECONDS
            )
            return
        self._was_initialized = True
        self._init_backoff_seconds = INIT_BACKOFF_FIRST_SECONDS
        self.library, self.reason = library, ""
        self._next_look_seconds = 0.0
        note(
            logger,
            logging.INFO,
            "NVML initialized",
            driver=library.driver,
            simulated=library.simulated,
        )

    async def _look_for_gpus(self) -> None:
        """Find GPUs that are not known yet; those that don't answer are tried again later."""
        try:
            count = await self._system.call(nvml.device_count, self._timeout_seconds)
        except (NvmlFailure, WorkerTimeout) as error:
            if isinstance(error, NvmlFailure) and error.kind is Kind.DRIVER:
                self._begin_again(str(error), self._init_backoff_seconds)
            else:
                note(logger, logging.WARNING, "GPUs can't be counted", reason=str(error))
            return
        if count <= sum(gpu.healthy or gpu.is_hung for gpu in self.gpus.values()):
            return
        uuids = await asyncio.gather(*(self._probe(index) for index in range(count)))
        for index, uuid in enumerate(uuids):
            if uuid is None:
                self._next_look_seconds = self._clock() + LOOK_AGAIN_SECONDS
            elif uuid not in self.gpus:
                # Reading what it is happens in its own worker, with the poll that follows.
                meter = self._listener.gpu_meter(uuid)
                gpu = Gpu(
                    uuid, self._timeout_seconds, self._listener, meter, self._timer, self._clock
                )
                self.gpus[uuid] = gpu
                if index in self._lost_indices:
                    self._listener.gpu_reset(gpu)
                self._lost_indices.discard(index)

    async def _probe(self, index: int) -> str | None:
        """Ask for a UUID in a thread of its own: a GPU that hangs must not hide the others."""
        earlier = self._probes.get(index)
        if earlier is not None and earlier.is_hung:
            return None  # one thread that hangs is enough
        worker = self._probes[index] = Worker(f"probe {index}")
        try:
            return await worker.call(lambda: nvml.uuid_at(index), self._timeout_seconds)
        except (NvmlFailure, WorkerTimeout) as error:
            if isinstance(error, NvmlFailure) and error.kind is Kind.LOST:
                self._lost_indices.add(index)
            if earlier is None:
                note(logger, logging.WARNING, "a GPU is mute", index=index, reason=str(error))
            return None
        finally:
            worker.stop()

    def _judge(self) -> None:
        """Where no GPU answers and the driver may be to blame, initialize again; then give up.

        As long as one GPU answers, the driver is well and the sick ones are left alone.
        """
        sick = [gpu.sick_kind for gpu in self.gpus.values()]
        if not sick or not all(kind in _DRIVER_TO_BLAME for kind in sick):
            self._fruitless_inits = 0
            return
        is_broken = all(kind is Kind.UNKNOWN for kind in sick)
        if is_broken and self._fruitless_inits >= FRUITLESS_INITS:
            raise DriverBroken(
                f"every GPU gives unknown errors after {FRUITLESS_INITS} initializations"
            )
        delay = INIT_BACKOFF_FIRST_SECONDS * 2.0 ** min(self._fruitless_inits, 30)
        self._fruitless_inits += 1
        self._begin_again(
            next(gpu.reason for gpu in self.gpus.values()), min(delay, INIT_BACKOFF_LAST_SECONDS)
        )

    def _begin_again(self, reason: str, delay_seconds: float) -> None:
        self.library = None
        self.reason = reason
        self._next_init_seconds = self._clock() + delay_seconds
        note(logger, logging.WARNING, "NVML must be initialized again", reason=reason)
