"""What is done to a device and to the disk for its limit, one small step each."""

from __future__ import annotations

import contextlib
import logging

from zeus_agent.durable import DurableLimits
from zeus_agent.gpu import Gpu
from zeus_agent.leases import LeaseMachine
from zeus_agent.limits import Apply, HoldDefault, Refused, SavedLimit
from zeus_agent.logs import note
from zeus_agent.nvml import Kind, NvmlFailure
from zeus_agent.refusals import DeviceTrouble
from zeus_agent.worker import LeftBehind, WorkerTimeout
from zeus_runtime.protocol import ErrorCode

logger = logging.getLogger("zeus_agent.limits")


class Hands:
    """The steps of one GPU's controller.  Those at the device raise `DeviceTrouble`.

    Args:
        machine: decides.
        gpu: the device.
        disk: where limits are saved.
    """

    def __init__(self, machine: LeaseMachine, gpu: Gpu, disk: DurableLimits) -> None:
        self.version = 0  # changes before and after each write to the device
        self._machine = machine
        self._gpu = gpu
        self._disk = disk

    async def save(self, saved: SavedLimit) -> Refused | None:
        """Store what is to be put back, unless the disk has it; return why it could not be."""
        claim = self._machine.claim
        if not claim.must_store(saved):
            return None
        try:
            await self._disk.save(saved, self._energy_millijoules, durable=not self._keeps(saved))
        except (OSError, WorkerTimeout) as error:
            return self._not_saved(saved, error)
        claim.stored(saved)
        return None

    def may_write_over(self, saved: SavedLimit) -> bool:
        """Whether storing this needs no waiting for the disk: see `write_over`."""
        return self._machine.claim.is_stored and self._keeps(saved)

    def _keeps(self, saved: SavedLimit) -> bool:
        """Whether what is to be put back stays what is stored."""
        before = self._machine.claim.saved
        return (
            before is not None
            and before.previous_milliwatts == saved.previous_milliwatts
            and before.previous_persistence == saved.previous_persistence
        )

    @property
    def _energy_millijoules(self) -> int | None:
        reading = self._gpu.reading
        return None if reading is None else reading.energy_millijoules

    def _not_saved(self, saved: SavedLimit, error: Exception) -> Refused:
        self._machine.claim.not_stored(saved)
        note(logger, logging.ERROR, "limit not saved", gpu=saved.gpu_uuid, reason=str(error))
        return Refused(
            ErrorCode.STATE_NOT_SAVED,
            f"the limit found could not be stored ({error}); nothing was set",
        )

    async def save_readback(self, readback: int) -> None:
        """Store what the device has of us where it is not what was written, as with a new limit.

        Where that fails, it is stored before the next write.
        """
        saved = self._machine.claim.with_readback(readback)
        if saved is not None:
            await self.save(saved)

    async def put(
        self, work: Apply | HoldDefault, found: int, persistence: bool | None
    ) -> int | None:
        """Bring the device to a limit and return what it has then; what it has is not written.

        None: nothing was written, as what was found is not there any more, or nobody wants it.
        """
        if persistence is False:
            await self._enable_persistence()
        self.version += 1
        try:
            _, readback = await self._gpu.change_limit(
                found, work.target_milliwatts, lambda: self._machine.is_wanted(work), None
            )
        finally:
            self.version += 1
        return readback

    async def write(self, milliwatts: int) -> int:
        """Set the limit and return what was read back."""
        self.version += 1
        try:
            return await self._gpu.set_limit(milliwatts)
        finally:
            self.version += 1

    async def write_over(
        self, expected_milliwatts: int, work: Apply, saved: SavedLimit
    ) -> tuple[int, int | None] | Refused:
        """Store and set a lease's limit in one visit, if the device has what is expected.

        Returns:
            what was found, and what was read back (None: nothing was written); or why it could
            not be stored.
        """
        claim, energy = self._machine.claim, self._energy_millijoules
        is_stored = not claim.must_store(saved)

        def save() -> None:
            nonlocal is_stored
            self._disk.save_over(saved, energy)
            is_stored = True

        self.version += 1
        try:
            return await self._gpu.change_limit(
                expected_milliwatts,
                work.target_milliwatts,
                lambda: self._machine.is_wanted(work),
                None if is_stored else save,
            )
        except (OSError, LeftBehind) as error:
            return self._not_saved(saved, error)
        finally:
            if is_stored:  # also where the device failed: it may have what was to be set
                claim.stored(saved)
            self.version += 1

    async def put_back_persistence(self, on: bool | None) -> None:
        """Bring persistence mode to what was found; None: it was left alone."""
        if on is not None and await self._gpu.persistence() == (not on):
            await self._gpu.set_persistence(on)

    async def found_persistence(self) -> bool | None:
        """Return the persistence mode, where the policy wants it on."""
        wants = self._machine.rules.enable_persistence
        return await self._gpu.persistence() if wants else None

    async def _enable_persistence(self) -> None:
        """Turn persistence mode on; a GPU that can't have it is limited all the same."""
        try:
            await self._gpu.set_persistence(True)
        except NvmlFailure as error:
            if error.kind not in (Kind.UNSUPPORTED, Kind.PERMISSION):
                raise
            note(
                logger,
                logging.WARNING,
                "persistence mode not enabled",
                gpu=self._gpu.uuid,
                reason=str(error),
            )

    async def learn_from(self, error: Exception) -> None:
        """Where the driver took offence at the limit, the next try is clamped to its bounds."""
        if isinstance(error, NvmlFailure) and error.kind is Kind.ARGUMENT:
            await self.learn_bounds()

    async def learn_bounds(self) -> None:
        """Read anew what the GPU accepts."""
        with contextlib.suppress(*DeviceTrouble):
            self._machine.bounds = await self._gpu.refresh_bounds()
