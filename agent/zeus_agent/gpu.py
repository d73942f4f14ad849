"""One GPU as the agent sees it: its device behind a worker thread, and its health."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from zeus_agent.energy_totals import EnergyMeter
from zeus_agent.limits import Bounds
from zeus_agent.nvml import Device, Identity, Kind, NvmlFailure, Reading, Timer
from zeus_agent.pacing import Pace
from zeus_agent.worker import QUICK_SECONDS, GaveWay, StepTimes, Worker, WorkerTimeout

T = TypeVar("T")

FRUITLESS_LOOKS = 3
"""A GPU that could not be looked at so often, for whatever reason, is out."""

FRUITLESS_SECONDS = 1.5
"""But not before: one that is looked at more often fails more often in what soon passes."""

_OUT = (Kind.LOST, Kind.UNKNOWN, Kind.DRIVER, Kind.ABSENT)
_FORGETS = (Kind.LOST, Kind.DRIVER, Kind.ABSENT)  # one that comes back from it may have been reset
_READ_ONLY = (Kind.PERMISSION, Kind.UNSUPPORTED)


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

    def gpu_used_energy(self, gpu: Gpu, joules: float) -> None:
        """Tell of energy used since the last reading of the counter."""

    def gpu_failed(self, gpu: Gpu, error: NvmlFailure | WorkerTimeout) -> None:
        """Tell of each failed call, for counting."""


class Gpu:
    """A GPU that was found once.  It stays known when it is lost.

    Args:
        uuid: of the GPU.
        timeout_seconds: longest time of one visit to the driver.
        listener: whom to tell.
        energy: where its energy is added up.
        timer: is told how long each NVML call took, in the worker's thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        uuid: str,
        timeout_seconds: float,
        listener: GpuListener,
        energy: EnergyMeter,
        timer: Timer,
        clock: Callable[[], float],
    ) -> None:
        self.uuid = uuid
        self.identity: Identity | None = None
        self.reading: Reading | None = None
        self.energy = energy
        self.healthy = False
        self.reason = "not looked at yet"
        self.refused_reason = ""  # why its limit can't be set, when the driver last refused
        self.sick_kind: Kind | None = None
        self._fruitless_looks = 0
        self._fruitless_since_seconds = 0.0
        self._timeout_seconds = timeout_seconds
        self._listener = listener
        self._clock = clock
        self._pace = Pace()
        self._calls = 0  # that limits wait for
        self._device = Device(uuid, timer)
        self._worker = Worker(
            f"gpu {uuid}", on_recovered=self._recovered, quick_seconds=QUICK_SECONDS
        )

    @property
    def is_hung(self) -> bool:
        """Whether a call to the driver has not returned."""
        return self._worker.is_hung

    async def limit(self) -> int:
        """Return the limit, milliwatts; a reset that nobody knows of yet is told first.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: it is not known.
        """
        self._require_healthy()
        limit, energy_millijoules = await self._noting_refusal(
            self._visit(self._device.limit_and_energy)
        )
        self._meter(energy_millijoules)
        return limit

    async def set_limit(self, milliwatts: int) -> int:
        """Set the limit and return what was read back, milliwatts.

        Raises:
            GpuUnavailable, NvmlFailure: it was not set.
            WorkerTimeout: it may or may not have been set, or may be set later.
        """
        self._require_healthy()
        readback = await self._noting_refusal(
            self._visit(lambda: self._device.set_limit(milliwatts))
        )
        self.refused_reason = ""
        return readback

    async def change_limit(
        self,
        expected_milliwatts: int,
        milliwatts: int,
        is_wanted: Callable[[], bool],
        save: Callable[[], None] | None,
    ) -> tuple[int, int | None]:
        """Save and, if what is there is what is expected, set the limit: see `Device`.

        All of it is one visit: thread switches would cost more than everything else.

        Args:
            expected_milliwatts: what should be there.
            milliwatts: what to set.
            is_wanted: asked between looking and setting.
            save: done before anything else, in the GPU's thread; None: it is saved.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: as with `set_limit`.
            LeftBehind: saving did not end in time; nothing was set, and the GPU is well.
            OSError: of `save`; nothing was set.
        """
        self._require_healthy()
        visit = functools.partial(
            self._device.change_limit, expected_milliwatts, milliwatts, is_wanted
        )
        found, readback = await self._noting_refusal(
            self._told(self._worker.call(visit, self._timeout_seconds, first=save))
        )
        if readback is not None:
            self.refused_reason = ""
        return found, readback

    async def persistence(self) -> bool | None:
        """Return whether persistence mode is on; None: this GPU has none.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: it is not known.
        """
        self._require_healthy()
        return await self._visit(self._device.persistence)

    async def set_persistence(self, on: bool) -> None:
        """Turn persistence mode on or off.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: it may be as before.
        """
        self._require_healthy()
        await self._visit(lambda: self._device.set_persistence(on))

    async def names(self) -> frozenset[str]:
        """Return by what a kubelet may know it and its parts, beside its UUID.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: they are not known.
        """
        self._require_healthy()
        return await self._told(
            self._worker.call_in_steps(self._device.names(), self._timeout_seconds)
        )

    async def refresh_bounds(self) -> Bounds | None:
        """Read again which limits the GPU accepts.

        Raises:
            GpuUnavailable, NvmlFailure, WorkerTimeout: they are not known.
        """
        self._require_healthy()
        return await self._visit(self._device.bounds)

    async def poll(self) -> Reading | None:
        """Look at the GPU, healthy or not.

        None: it does not answer, or its driver is slow and limits must not wait for a look now.
        """
        if self._worker.is_hung or (self.healthy and not self._may_look()):
            return None
        try:
            if self.identity is None or not self.healthy:
                self.identity = await self._visit(self._device.identify)
            reading = await self._look()
            if self._meter(reading.energy_millijoules):
                # The limit may have been read before the reset, the energy after it.
                reading = await self._look()
        except GaveWay:
            return None
        except (NvmlFailure, WorkerTimeout) as error:
            if not self.healthy:
                self.reason = str(error)
            elif self._is_fruitless(self._clock()):
                self.put_out(str(error), error.kind if isinstance(error, NvmlFailure) else None)
            return None
        self._fruitless_looks = 0
        self._answered()
        self.reading = reading
        return reading

    def _is_fruitless(self, now_seconds: float) -> bool:
        """Count a look that failed; return whether there were too many."""
        if not self._fruitless_looks:
            self._fruitless_since_seconds = now_seconds
        self._fruitless_looks += 1
        is_long = now_seconds - self._fruitless_since_seconds >= FRUITLESS_SECONDS
        return is_long and self._fruitless_looks >= FRUITLESS_LOOKS

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
        return await self._told(self._worker.call(function, self._timeout_seconds))

    def _may_look(self) -> bool:
        now = self._clock()
        if self._calls:
            self._pace.used(now)
        return self._pace.may_look(now)

    async def _look(self) -> Reading:
        """Read the device, in steps.

        Raises:
            GaveWay: a limit came, and more are likely to follow.
        """
        times, pace, whole = StepTimes(), self._pace, False
        gives_way = self.healthy and pace.is_slow and not pace.must_look(self._clock())
        try:
            reading = await self._told(
                self._worker.call_in_steps(
                    self._device.read(), self._timeout_seconds, times=times, gives_way=gives_way
                )
            )
            whole = True
        finally:
            pace.looked(self._clock(), times.longest_seconds, times.total_seconds, whole=whole)
        return reading

    async def _told(self, visit: Coroutine[None, None, T]) -> T:
        """Wait for a visit; what its failure says of the GPU and the driver is passed on."""
        try:
            return await visit
        except NvmlFailure as error:
            self._listener.gpu_failed(self, error)
            if error.kind in _OUT:
                self.put_out(str(error), error.kind)
            raise
        except WorkerTimeout as error:
            self._listener.gpu_failed(self, error)
            if self._worker.is_hung:
                self.put_out(str(error), None)
            raise

    async def _noting_refusal(self, visit: Coroutine[None, None, T]) -> T:
        """Wait for a visit that a limit needs; remember why the driver refuses it."""
        self._calls += 1
        try:
            return await visit
        except NvmlFailure as error:
            if error.kind in _READ_ONLY:
                self.refused_reason = str(error)
            raise
        finally:
            self._calls -= 1
            self._pace.used(self._clock())

    def _meter(self, energy_millijoules: int | None) -> bool:
        """Add up the energy; tell, and return, whether the counter shows a reset."""
        if energy_millijoules is None:
            return False
        is_first = self.energy.last_millijoules is None
        before = self.energy.total_joules
        was_reset = self.energy.add(energy_millijoules)
        used = self.energy.total_joules - before
        if used > 0.0 and not is_first:  # the first reading tells what no agent has seen
            self._listener.gpu_used_energy(self, used)
        if was_reset:
            self._listener.gpu_reset(self)
        return was_reset

    def _answered(self) -> None:
        if self.healthy:
            return
        if self.sick_kind in _FORGETS:
            self._listener.gpu_reset(self)
        self.healthy, self.reason, self.sick_kind = True, "", None
        self._listener.gpu_back(self)

    def _recovered(self) -> None:
        """Note that a call that hung has returned; the next poll looks whether all is well."""
        self.reason = "a call that had hung has returned; not looked at yet"

    def _require_healthy(self) -> None:
        if not self.healthy:
            raise GpuUnavailable(f"GPU {self.uuid} is out: {self.reason}")
