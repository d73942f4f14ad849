"""Does the work of one GPU, one thing after another: the hands of its `LeaseMachine`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from zeus_agent.gpu import Gpu, GpuUnavailable
from zeus_agent.journal import Journal
from zeus_agent.leases import (
    Apply,
    Forget,
    LeaseMachine,
    LeaseView,
    Refused,
    Restore,
    SavedLimit,
    is_same_limit,
)
from zeus_agent.logs import note
from zeus_agent.nvml import Kind, NvmlFailure
from zeus_agent.worker import Worker, WorkerTimeout
from zeus_runtime.protocol import ErrorCode

logger = logging.getLogger("zeus_agent.limits")

DISK_TIMEOUT_SECONDS = 5.0

DeviceTrouble = (NvmlFailure, WorkerTimeout, GpuUnavailable)


class Counter(Protocol):
    """Counts what happens to limits."""

    def limit_set(self, gpu_uuid: str) -> None:
        """Count a limit that was set for a lease."""

    def limit_restored(self, gpu_uuid: str) -> None:
        """Count a limit that was put back."""

    def restore_failed(self, gpu_uuid: str) -> None:
        """Count a try to put a limit back that failed."""

    def foreign_change(self, gpu_uuid: str) -> None:
        """Count a limit found changed by somebody else."""


class DurableLimits:
    """The journal behind a thread, so that a slow disk stops neither loop nor GPUs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._worker = Worker("journal")

    async def save(
        self, saved: SavedLimit, energy_millijoules: int | None, *, durable: bool
    ) -> None:
        """Store `saved`.

        Raises:
            OSError, WorkerTimeout: it is not known to be stored.
        """
        await self._worker.call(
            lambda: self._journal.save(saved, energy_millijoules, durable=durable),
            DISK_TIMEOUT_SECONDS,
        )

    async def forget(self, gpu_uuid: str) -> None:
        """Remove what is stored.

        Raises:
            OSError, WorkerTimeout: it may still be there.
        """
        await self._worker.call(lambda: self._journal.forget(gpu_uuid), DISK_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """End the thread."""
        self._worker.stop()


class Controller:
    """Owns one GPU's limit on behalf of its machine.

    Args:
        machine: decides.
        gpu: the device.
        disk: where limits are saved.
        clock: monotonic seconds.
        counter: counts.
    """

    def __init__(
        self,
        machine: LeaseMachine,
        gpu: Gpu,
        disk: DurableLimits,
        clock: Callable[[], float],
        counter: Counter,
    ) -> None:
        self.machine = machine
        self.gpu = gpu
        self.version = 0  # changes before and after each write to the device
        self._disk = disk
        self._clock = clock
        self._counter = counter
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._waiting: list[tuple[int, str, asyncio.Future[LeaseView]]] = []

    def wake(self) -> None:
        """Tell that the machine has changed."""
        self._settled.clear()
        self._wake.set()

    async def result_of(self, ticket: int, session: str) -> LeaseView:
        """Wait until a session's wish, or a newer one of its lease, was done.

        Raises:
            Refused: it could not be done.
        """
        future: asyncio.Future[LeaseView] = asyncio.get_running_loop().create_future()
        self._waiting.append((ticket, session, future))
        self.wake()
        return await future

    async def settled(self, timeout_seconds: float) -> bool:
        """Wait until nothing is to be done any more; return whether that came in time."""
        self.wake()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            work = self.machine.next_work(self._clock())
            if isinstance(work, Apply):
                await self._apply(work)
            elif isinstance(work, Restore):
                await self._restore(work)
            elif isinstance(work, Forget):
                await self._forget()
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Wait for something to do."""
        # What still waits here has lost its lease before its turn came.
        self._answer(None, self.machine.holder, None)
        delay: float | None = None
        if self.machine.is_settled():
            self._settled.set()
        else:
            delay = max(0.0, self.machine.retry_at_seconds - self._clock())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    def _answer(
        self, up_to_ticket: int | None, session: str | None, refusal: Refused | None
    ) -> None:
        """Answer those who wait for a wish up to this one (None: all).

        What was done or refused was `session`'s; others that wait had their lease before, and
        lost it before their turn came.
        """
        view = self.machine.view()
        ended = Refused(ErrorCode.NOT_FOUND, "the lease was released before the limit was set")
        still_waiting = []
        for waiter in self._waiting:
            ticket, waiting_session, future = waiter
            if up_to_ticket is not None and ticket > up_to_ticket:
                still_waiting.append(waiter)
            elif future.done():
                continue  # the caller has gone
            elif waiting_session != session:
                future.set_exception(ended)
            elif refusal is None and view is not None and view.session == session:
                future.set_result(view)
            else:
                future.set_exception(refusal or ended)
        self._waiting = still_waiting

    async def _apply(self, work: Apply) -> None:
        """Do a wish and answer; where the bounds have changed, leave it due, within new ones."""
        session = self.machine.holder
        try:
            refusal = await self._try_to_apply(work)
        except DeviceTrouble as error:
            if await self._is_outside_new_bounds(work, error):
                return
            self.machine.apply_failed(work)
            refusal = refusal_for(error)
        self._answer(work.ticket, session, refusal)

    async def _is_outside_new_bounds(self, work: Apply, error: Exception) -> bool:
        """Where the driver took offence at the limit, look whether its bounds are others now."""
        if not (isinstance(error, NvmlFailure) and error.kind is Kind.ARGUMENT):
            return False
        await self._learn_bounds()
        target, bounds = work.target_milliwatts, self.machine.bounds
        return bounds is not None and bounds.clamp(target) != target

    async def _try_to_apply(self, work: Apply) -> Refused | None:
        machine = self.machine
        found = await self.gpu.limit()
        saved = machine.approve_apply(work, found)
        if saved is None:
            if not machine.is_wanted(work):
                return Refused(ErrorCode.NOT_FOUND, "the session ended before the limit was set")
            self.tell_foreign(found)
            return foreign_refusal(self.gpu.uuid, found)
        if machine.must_store(saved):
            refusal = await self._save(saved)
            if refusal is not None:
                machine.apply_failed(work)
                return refusal
        if not machine.is_wanted(work):
            return Refused(ErrorCode.NOT_FOUND, "the session ended before the limit was set")
        readback = await self._write(work.target_milliwatts)
        if not is_same_limit(readback, work.target_milliwatts) and is_same_limit(readback, found):
            machine.apply_failed(work)
            return Refused(
                ErrorCode.NVML_ERROR,
                f"the driver took {work.target_milliwatts / 1000:g} W for {self.gpu.uuid} without "
                f"an error, but its limit still is {readback / 1000:g} W",
            )
        machine.applied(work, readback)
        self._counter.limit_set(self.gpu.uuid)
        if is_same_limit(found, readback):
            return None  # nothing has changed that a log should tell
        note(
            logger,
            logging.INFO,
            "power limit set",
            gpu=self.gpu.uuid,
            session=machine.holder,
            watts=readback / 1000.0,
            found_watts=found / 1000.0,
            clamped=work.clamped or None,
        )
        return None

    async def _save(self, saved: SavedLimit) -> Refused | None:
        machine = self.machine
        before = machine.saved
        durable = (
            before is None
            or before.previous_milliwatts != saved.previous_milliwatts
            or not machine.is_stored
        )
        reading = self.gpu.reading
        energy_millijoules = None if reading is None else reading.energy_millijoules
        try:
            await self._disk.save(saved, energy_millijoules, durable=durable)
        except (OSError, WorkerTimeout) as error:
            machine.not_stored(saved)
            note(logger, logging.ERROR, "limit not saved", gpu=saved.gpu_uuid, reason=str(error))
            return Refused(
                ErrorCode.STATE_NOT_SAVED,
                f"the limit found could not be stored ({error}); nothing was set",
            )
        machine.stored(saved)
        return None

    async def _learn_bounds(self) -> None:
        """Read anew what the GPU accepts."""
        with contextlib.suppress(*DeviceTrouble):
            self.machine.bounds = await self.gpu.refresh_bounds()

    async def _write(self, milliwatts: int) -> int:
        self.version += 1
        try:
            return await self.gpu.set_limit(milliwatts)
        finally:
            self.version += 1

    async def _restore(self, work: Restore) -> None:
        machine = self.machine
        try:
            found = await self.gpu.limit()
            if not machine.approve_restore(found):
                saved = machine.saved
                if saved is not None and not is_same_limit(found, saved.previous_milliwatts):
                    self.tell_foreign(found)
                return
            readback = await self._write(work.target_milliwatts)
        except DeviceTrouble as error:
            if isinstance(error, NvmlFailure) and error.kind is Kind.ARGUMENT:
                await self._learn_bounds()  # the next try is clamped to them
            self._restore_failed(str(error))
            return
        if not is_same_limit(readback, work.target_milliwatts):
            self._restore_failed(f"the driver took it, but the limit is {readback / 1000:g} W")
            return
        machine.restored()
        self._counter.limit_restored(self.gpu.uuid)
        note(
            logger,
            logging.INFO,
            "power limit restored",
            gpu=self.gpu.uuid,
            watts=readback / 1000.0,
            found_watts=found / 1000.0,
        )

    def _restore_failed(self, reason: str) -> None:
        is_first = self.machine.restore_failures == 0
        delay = self.machine.failed(self._clock())
        self._counter.restore_failed(self.gpu.uuid)
        if is_first or delay >= 8.0:  # the first, and then a line each half a minute at most
            note(
                logger,
                logging.ERROR,
                "power limit not restored; it stays saved and is tried again",
                gpu=self.gpu.uuid,
                reason=reason,
                next_try_seconds=delay,
            )

    async def _forget(self) -> None:
        try:
            await self._disk.forget(self.gpu.uuid)
        except (OSError, WorkerTimeout) as error:
            delay = self.machine.forget_failed(self._clock())
            note(
                logger,
                logging.WARNING,
                "saved limit not removed",
                gpu=self.gpu.uuid,
                reason=str(error),
                next_try_seconds=delay,
            )
            return
        # Even if a new lease has come meanwhile: nothing is stored now, so it stores anew.
        self.machine.forgotten()

    def tell_foreign(self, found_milliwatts: int) -> None:
        """Count and log that somebody else has changed the limit."""
        self._counter.foreign_change(self.gpu.uuid)
        note(
            logger,
            logging.WARNING,
            "power limit changed by someone else; left alone",
            gpu=self.gpu.uuid,
            session=self.machine.holder,
            found_watts=found_milliwatts / 1000.0,
        )


def foreign_refusal(gpu_uuid: str, found_milliwatts: int) -> Refused:
    """Return the refusal of a wish for a GPU whose limit somebody else has changed."""
    return Refused(
        ErrorCode.FOREIGN_CHANGE,
        f"someone else has set {gpu_uuid} to {found_milliwatts / 1000:g} W; the agent leaves it "
        "alone until this lease is released",
        found_watts=found_milliwatts / 1000.0,
    )


def refusal_for(error: NvmlFailure | WorkerTimeout | GpuUnavailable) -> Refused:
    """Return what to tell the caller about trouble with a device."""
    if isinstance(error, WorkerTimeout):
        return Refused(ErrorCode.NVML_TIMEOUT, str(error))
    if isinstance(error, GpuUnavailable):
        return Refused(ErrorCode.GPU_LOST, str(error))
    codes = {
        Kind.PERMISSION: ErrorCode.NO_PERMISSION,
        Kind.UNSUPPORTED: ErrorCode.NOT_SUPPORTED,
        Kind.LOST: ErrorCode.GPU_LOST,
        Kind.TRANSIENT: ErrorCode.NVML_TIMEOUT,
    }
    hint = (
        "; setting a power limit needs root (CAP_SYS_ADMIN)"
        if error.kind is Kind.PERMISSION
        else ""
    )
    return Refused(codes.get(error.kind, ErrorCode.NVML_ERROR), f"{error}{hint}")
