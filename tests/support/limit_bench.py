"""One GPU's controller at work, on a device in memory and a real journal that may fail."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from zeus_agent.controller import Controller
from zeus_agent.durable import DurableLimits
from zeus_agent.journal import Journal
from zeus_agent.leases import LeaseMachine
from zeus_agent.limit_events import LimitEvents
from zeus_agent.limits import Bounds, LeaseView, Refused, SavedLimit, is_same_limit
from zeus_agent.metrics import Metrics
from zeus_agent.nvml import Identity, NvmlFailure
from zeus_agent.policy import Policy
from zeus_agent.worker import LeftBehind

ADMIN_CAP = 200_000
GPU = "GPU-0"
MODEL = "NVIDIA A100-SXM4-40GB"
PATIENCE_SECONDS = 60.0
INVALID_ARGUMENT = 2


class MemoryDevice:
    """A GPU whose driver answers at once, within bounds that a test may change."""

    uuid = GPU
    reading = None

    def __init__(self) -> None:
        self.milliwatts = ADMIN_CAP
        self.bounds = Bounds(100_000, 300_000)
        self.identity = Identity(GPU, 0, MODEL, 300_000, self.bounds)
        self.persistence_mode: bool | None = False
        self.written: list[int] = []
        self.rounds_to_milliwatts = 1
        self.before_write: Callable[[], None] = lambda: None
        self.disk_hangs = False
        self.before_persistence: Callable[[bool], None] = lambda on: None
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
        self.milliwatts = milliwatts // self.rounds_to_milliwatts * self.rounds_to_milliwatts
        return self.milliwatts

    async def change_limit(
        self,
        expected_milliwatts: int,
        milliwatts: int,
        is_wanted: Callable[[], bool],
        save: Callable[[], None] | None,
    ) -> tuple[int, int | None]:
        if save is not None:
            if self.disk_hangs:
                raise LeftBehind("the state folder hangs")
            save()
        found = await self.limit()
        if not is_same_limit(found, expected_milliwatts) or not is_wanted():
            return found, None
        return found, found if found == milliwatts else await self.set_limit(milliwatts)

    async def persistence(self) -> bool | None:
        return self.persistence_mode

    async def set_persistence(self, on: bool) -> None:
        self.before_persistence(on)
        self.persistence_mode = on

    async def refresh_bounds(self) -> Bounds | None:
        return self.bounds


class SickJournal(Journal):
    """A journal whose disk can fail just before, or just after, it has done its work."""

    is_full = False
    fails = False

    def save(self, saved: SavedLimit, energy_millijoules: int | None, *, durable: bool) -> None:
        if self.is_full:
            raise OSError("no space left")
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
        self.events = LimitEvents()
        self.metrics = Metrics()
        self.controller = Controller(
            self.machine,
            self.device,  # type: ignore[arg-type]  # the part of a GPU that a controller uses
            DurableLimits(self.journal),
            lambda: self.now_seconds,
            self.metrics,
            self.events,
        )

    def wish(
        self,
        session: str,
        milliwatts: int,
        *,
        namespace: str | None = None,
        shared: bool = False,
        sequence: int = 0,
    ) -> asyncio.Future[LeaseView]:
        """Ask for a limit; the answer is awaited.  What is refused at once raises here."""
        ticket = self.controller.wish(
            session, milliwatts, sequence, namespace=namespace, shared=shared
        )
        return asyncio.ensure_future(self.controller.result_of(ticket, session))

    async def release(self, session: str) -> bool:
        """End a lease, and wait until what follows is done."""
        self.machine.release(session)
        return await self.controller.settled(PATIENCE_SECONDS)

    async def follow(self, policy: Policy) -> None:
        """Come under a policy, and wait until what follows is done."""
        self.controller.policing.set_policy(policy)
        self.controller.follow_policy()
        assert await self.controller.settled(PATIENCE_SECONDS)

    async def stop(self) -> bool:
        """Stop as the agent does; return whether everything is back."""
        self.machine.give_up_default()
        return await self.controller.settled(PATIENCE_SECONDS)

    def stored(self) -> SavedLimit | None:
        """Return what is on disk."""
        entry = self.journal.load()[0].get(GPU)
        return None if entry is None else entry.saved


def on_bench(folder: Path, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a scenario with a controller at work."""

    async def run() -> None:
        bench = Bench(folder)
        work = asyncio.ensure_future(bench.controller.run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await scenario(bench)
        finally:
            work.cancel()
            bench.journal.close()

    asyncio.run(run())


async def refusal(wish: asyncio.Future[LeaseView]) -> Refused:
    """Return why a wish was refused."""
    with pytest.raises(Refused) as refused:
        await wish
    return refused.value
