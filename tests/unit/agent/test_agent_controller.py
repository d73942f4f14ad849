"""The hands of the machine, on a device in memory and a real journal, in every bad order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from zeus_agent.controller import Controller, DurableLimits
from zeus_agent.journal import Journal
from zeus_agent.leases import Bounds, LeaseMachine, LeaseView, Refused, SavedLimit
from zeus_agent.metrics import Metrics
from zeus_agent.nvml import NvmlFailure
from zeus_runtime.protocol import ErrorCode

ADMIN_CAP = 200_000
GPU = "GPU-0"
PATIENCE_SECONDS = 60.0
INVALID_ARGUMENT = 2


class MemoryDevice:
    """A GPU whose driver answers at once, within bounds that a test may change."""

    uuid = GPU
    reading = None

    def __init__(self) -> None:
        self.milliwatts = ADMIN_CAP
        self.bounds = Bounds(100_000, 300_000)
        self.written: list[int] = []
        self.before_write: Callable[[], None] = lambda: None
        self.may_look = asyncio.Event()
        self.may_look.set()
        self.looking = asyncio.Event()

    async def limit(self) -> int:
        self.looking.set()
        await self.may_look.wait()
        return self.milliwatts

    async def set_limit(self, milliwatts: int) -> int:
        self.before_write()
        if self.bounds.clamp(milliwatts) != milliwatts:
            raise NvmlFailure(INVALID_ARGUMENT, "nvmlDeviceSetPowerManagementLimit")
        self.written.append(milliwatts)
        self.milliwatts = milliwatts
        return milliwatts

    async def refresh_bounds(self) -> Bounds | None:
        return self.bounds


class SickJournal(Journal):
    """A journal whose disk can fail just after it has done its work."""

    fails = False

    def save(self, saved: SavedLimit, energy_millijoules: int | None, *, durable: bool) -> None:
        super().save(saved, energy_millijoules, durable=durable)
        self._fail()

    def forget(self, gpu_uuid: str) -> None:
        super().forget(gpu_uuid)
        self._fail()

    def _fail(self) -> None:
        if self.fails:
            raise OSError("the disk failed after it was done")


class Bench:
    """One controller at work."""

    def __init__(self, folder: Path) -> None:
        self.device = MemoryDevice()
        self.journal = SickJournal(folder, "boot-1")
        self.machine = LeaseMachine(GPU, itertools.count(1).__next__)
        self.machine.bounds = self.device.bounds
        self.now_seconds = 0.0
        self.controller = Controller(
            self.machine,
            self.device,  # type: ignore[arg-type]  # the part of a GPU that a controller uses
            DurableLimits(self.journal),
            lambda: self.now_seconds,
            Metrics(),
        )

    def wish(self, session: str, milliwatts: int) -> asyncio.Future[LeaseView]:
        ticket = self.machine.request(session, milliwatts, 0)
        return asyncio.ensure_future(self.controller.result_of(ticket, session))

    async def release(self, session: str) -> bool:
        self.machine.release(session)
        return await self.controller.settled(PATIENCE_SECONDS)

    def stored(self) -> SavedLimit | None:
        entry = self.journal.load()[0].get(GPU)
        return None if entry is None else entry.saved


def on_bench(tmp_path: Path, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        work = asyncio.ensure_future(bench.controller.run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await scenario(bench)
        finally:
            work.cancel()
            bench.journal.close()

    asyncio.run(run())


async def refusal(wish: asyncio.Future[LeaseView]) -> Refused:
    with pytest.raises(Refused) as refused:
        await wish
    return refused.value


def test_bounds_that_have_changed_are_read_again_and_the_wish_is_clamped(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.bounds = Bounds(100_000, 250_000)
        view = await bench.wish("a", 280_000)
        assert (view.applied_milliwatts, view.clamped) == (250_000, True)
        assert bench.device.written == [250_000]

    on_bench(tmp_path, scenario)


def test_a_limit_refused_within_the_drivers_own_bounds_is_an_error(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        def refuse() -> None:
            raise NvmlFailure(INVALID_ARGUMENT, "nvmlDeviceSetPowerManagementLimit")

        bench.device.before_write = refuse
        assert (await refusal(bench.wish("a", 150_000))).code is ErrorCode.NVML_ERROR
        assert await bench.release("a")
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_at_every_write_the_limit_found_is_on_disk(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        on_disk: list[tuple[int, bool]] = []

        def look() -> None:
            saved = bench.stored()
            assert saved is not None, "written without being saved"
            on_disk.append(
                (saved.previous_milliwatts, bench.device.milliwatts in saved.written_milliwatts)
            )

        bench.device.before_write = look
        for milliwatts in (150_000, 175_000, 120_000):
            await bench.wish("a", milliwatts)
        assert await bench.release("a")
        # A kill at any of these moments: the next agent knows what it finds as ours, or as first.
        assert on_disk == [(ADMIN_CAP, False), *[(ADMIN_CAP, True)] * 3]
        assert bench.device.milliwatts == ADMIN_CAP
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_a_limit_is_saved_anew_when_removing_the_last_entry_had_failed_halfway(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.machine.release("a")
        bench.journal.fails = True
        assert not await bench.controller.settled(0.5)
        assert bench.stored() is None, "gone, though an error was told"
        bench.journal.fails = False
        await bench.wish("b", 150_000)
        assert bench.stored() is not None

    on_bench(tmp_path, scenario)


def test_what_a_failed_save_has_left_on_disk_is_removed(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.journal.fails = True
        assert (await refusal(bench.wish("a", 150_000))).code is ErrorCode.STATE_NOT_SAVED
        assert bench.device.written == []
        bench.journal.fails = False
        bench.now_seconds += 60.0
        assert await bench.release("a")
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_a_caller_whose_lease_has_ended_is_not_given_the_next_ones(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.may_look.clear()
        first = bench.wish("a", 150_000)
        await bench.device.looking.wait()
        second = bench.wish("a", 160_000)
        bench.machine.release("a")
        third = bench.wish("b", 120_000)
        await asyncio.sleep(0)
        bench.device.may_look.set()
        assert (await third).session == "b"
        assert (await refusal(first)).code is ErrorCode.NOT_FOUND
        assert (await refusal(second)).code is ErrorCode.NOT_FOUND
        assert bench.device.written == [120_000]

    on_bench(tmp_path, scenario)
