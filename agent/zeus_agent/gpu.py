"""One GPU as the agent sees it: its device behind a worker thread, and its health."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from zeus_agent.leases import Bounds
from zeus_agent.nvml import Device, Identity, Kind, NvmlFailure, Reading
from zeus_agent.worker import Worker, WorkerTimeout

T = TypeVar("T")


class GpuUnavailable(Exception):  # noqa: N818 -- a state of the GPU
    """The GPU is out; the text says why."""


class GpuListener(Protocol):
    """Whom a GPU tells."""

    def gpu_out(self, gpu: Gpu) -> None:
        """Tell that it no longer answers; `gpu.reason` says why."""

    def gpu_back(self, gpu: Gpu) -> None:
        """Tell that it answers again."""

    def gpu_reset(self, gpu: Gpu) -> None:
        """Tell that it or its driver was reset: its limit may be gone."""

    def gpu_failed(self, gpu: Gpu, error: NvmlFailure | WorkerTimeout) -> None:
        """Tell of each failed call, for counting."""

    def driver_gone(self, error: NvmlFailure) -> None:
        """Tell that NVML as a whole must be initialized again."""


@dataclass
class EnergyMeter:
    """Adds up an energy counter that starts again from zero when the driver is reloaded."""

    total_joules: float = 0.0
    last_millijoules: int | None = None

    def add(self, millijoules: int) -> bool:
        """Take a reading of the counter; return whether it was reset since the last one."""
        last = self.last_millijoules
        self.last_millijoules = millijoules
        if last is None:
            return False
        was_reset = millijoules < last
        self.total_joules += (millijoules if was_reset else millijoules - last) / 1000.0
        return was_reset


class Gpu:
    """A GPU that was found once.  It stays known when it is lost.

    Args:
        uuid: of the GPU.
        timeout_seconds: longest time of one visit to the driver.
        listener: whom to tell.
    """

    def __init__(self, uuid: str, timeout_seconds: float, listener: GpuListener) -> None:
        self.uuid = uuid
        self.identity: Identity | None = None
        self.reading: Reading | None = None
        self.energy = EnergyMeter()
        self.healthy = False
        self.reason = "not looked at yet"
        self.refused_reason = ""  # why its limit can't be set, when the driver last refused
        self.sick_kind: Kind | None = None
        self._timeout_seconds = timeout_seconds
        self._listener = listener
        self._device = Device(uuid)
        self._worker = Worker(f"gpu {uuid}", on_recovered=self._recovered)

    @property
    def is_hung(self) -> bool:
        """Whether a call to the driver has not returned."""
        return self._worker.is_hung

    async def identify(self) -> Identity:
        """Read what the GPU is; it counts as healthy from then on.

        Raises:
            NvmlFailure, WorkerTimeout: it does not answer.
        """
        self.identity = await self._visit(self._device.identify)
        self._answered()
        return self.identity

    async def limit(self) -> int:
        """Return the limit, milliwatts; a reset that nobody knows of yet is told first.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: it is not known.
        """
        self._require_healthy()
        limit, energy_millijoules = await self._visit(self._device.limit_and_energy)
        self._meter(energy_millijoules)
        return limit

    async def set_limit(self, milliwatts: int) -> int:
        """Set the limit and return what was read back, milliwatts.

        Raises:
            GpuUnavailable, NvmlFailure: it was not set.
            WorkerTimeout: it may or may not have been set, or may be set later.
        """
        self._require_healthy()
        try:
            readback = await self._visit(lambda: self._device.set_limit(milliwatts))
        except NvmlFailure as error:
            if error.kind in (Kind.PERMISSION, Kind.UNSUPPORTED):
                self.refused_reason = str(error)
            raise
        self.refused_reason = ""
        return readback

    async def refresh_bounds(self) -> Bounds | None:
        """Read again which limits the GPU accepts.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: they are not known.
        """
        self._require_healthy()
        return await self._visit(self._device.bounds)

    async def poll(self) -> Reading | None:
        """Look at the GPU, healthy or not; None: it does not answer."""
        if self._worker.is_hung:
            return None
        try:
            if self.identity is None or not self.healthy:
                await self.identify()
            reading = await self._visit(self._device.read)
            if self._meter(reading.energy_millijoules):
                # The limit may have been read before the reset, the energy after it.
                reading = await self._visit(self._device.read)
        except (NvmlFailure, WorkerTimeout):
            return None
        self.reading = reading
        return reading

    def forget_refusals(self) -> None:
        """Try what the GPU refused once more; rights and drivers change."""
        self.refused_reason = ""
        self._device.learn_again()

    def put_out(self, reason: str, kind: Kind | None) -> None:
        """Quarantine the GPU until it answers again."""
        was_healthy, self.healthy = self.healthy, False
        self.reason, self.sick_kind = reason, kind
        if was_healthy:
            self._listener.gpu_out(self)

    def stop(self) -> None:
        """End the worker thread."""
        self._worker.stop()

    async def _visit(self, function: Callable[[], T]) -> T:
        try:
            return await self._worker.call(function, self._timeout_seconds)
        except NvmlFailure as error:
            self._listener.gpu_failed(self, error)
            if error.kind in (Kind.LOST, Kind.UNKNOWN, Kind.DRIVER):
                self.put_out(str(error), error.kind)
            if error.kind is Kind.DRIVER:
                self._listener.driver_gone(error)
            raise
        except WorkerTimeout as error:
            self._listener.gpu_failed(self, error)
            if self._worker.is_hung:
                self.put_out(str(error), None)
            raise

    def _meter(self, energy_millijoules: int | None) -> bool:
        """Add up the energy; tell, and return, whether the counter shows a reset."""
        if energy_millijoules is None or not self.energy.add(energy_millijoules):
            return False
        self._listener.gpu_reset(self)
        return True

    def _answered(self) -> None:
        if self.healthy:
            return
        if self.sick_kind in (Kind.LOST, Kind.DRIVER):
            self._listener.gpu_reset(self)
        self.healthy, self.reason, self.sick_kind = True, "", None
        self._listener.gpu_back(self)

    def _recovered(self) -> None:
        """Note that a call that hung has returned; the next poll looks whether all is well."""
        self.reason = "a call that had hung has returned; not looked at yet"

    def _require_healthy(self) -> None:
        if not self.healthy:
            raise GpuUnavailable(f"GPU {self.uuid} is out: {self.reason}")
