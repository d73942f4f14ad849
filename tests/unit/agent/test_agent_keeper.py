"""The keeper and what earlier agents left, over GPUs in memory and a real state folder."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.async_scenario import Clock, scenario, soon
from zeus_agent import nvml
from zeus_agent.journal import Journal
from zeus_agent.keeper import Keeper
from zeus_agent.limits import Bounds, Refused, SavedLimit
from zeus_agent.metrics import Metrics
from zeus_agent.nvml import Identity, Library, NvmlFailure, Reading
from zeus_agent.policy import Amount, GpuRule, Policy
from zeus_agent.worker import Steps
from zeus_runtime.protocol import ErrorCode

GPU = "GPU-1"
ADMIN_CAP, FACTORY = 300_000, 400_000
OURS = 200_000
TIMEOUT, UNKNOWN = 10, 999  # NVML's errors
SAVED = SavedLimit(GPU, ADMIN_CAP, (OURS,))


@dataclass
class Board:
    """A GPU's hardware, and how its driver answers."""

    milliwatts: int = ADMIN_CAP
    energy_millijoules: int = 20_000_000
    failing_looks: int = 0
    refuses: bool = False
    names: frozenset[str] | None = frozenset({"nvidia0"})  # None: it does not say them
    written: list[int] = field(default_factory=list)


class MemoryDevice:
    """`nvml.Device` on a board."""

    def __init__(self, uuid: str, board: Board) -> None:
        self._uuid = uuid
        self._board = board

    def identify(self) -> Identity:
        return Identity(self._uuid, 0, "NVIDIA A100", FACTORY, Bounds(100_000, FACTORY))

    def read(self) -> Steps[Reading]:
        yield
        if self._board.failing_looks:
            self._board.failing_looks -= 1
            raise NvmlFailure(TIMEOUT, "nvmlDeviceGetPowerUsage")
        return Reading(*(*(self._board.milliwatts,) * 2, 50_000, self._board.energy_millijoules))

    def names(self) -> Steps[frozenset[str]]:
        yield
        if self._board.names is None:
            raise NvmlFailure(TIMEOUT, "nvmlDeviceGetMinorNumber")
        return self._board.names

    def limit_and_energy(self) -> tuple[int, int]:
        return self._board.milliwatts, self._board.energy_millijoules

    def set_limit(self, milliwatts: int) -> int:
        if self._board.refuses:
            raise NvmlFailure(UNKNOWN, "nvmlDeviceSetPowerManagementLimit")
        self._board.written.append(milliwatts)
        self._board.milliwatts = milliwatts
        return milliwatts

    def change_limit(
        self, expected_milliwatts: int, milliwatts: int, is_wanted: Callable[[], bool]
    ) -> tuple[int, int | None]:
        found = self._board.milliwatts
        if found != expected_milliwatts or not is_wanted():
            return found, None
        return found, found if found == milliwatts else self.set_limit(milliwatts)

    def learn_again(self) -> None:
        """There is nothing to forget."""


class FixedPolicy:
    """A policy that does not change."""

    problem = ""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.looked_in: set[int] = set()

    def refresh(self) -> bool:
        self.looked_in.add(threading.get_ident())
        return False


class Site:
    """A machine with a GPU, a state folder, and an agent's keeper in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.board = Board()
        self.boards = {GPU: self.board}
        self.clock = Clock()
        self.metrics = Metrics()
        self.told: list[str] = []
        self.simulated = False
        self.time_passes = asyncio.Event()
        self.time_passes.set()
        self.journal = Journal(folder, "boot-1")
        monkeypatch.setattr("zeus_agent.gpu.Device", self.device)
        monkeypatch.setattr(nvml, "device_count", lambda: len(self.boards))
        monkeypatch.setattr(nvml, "uuid_at", lambda index: list(self.boards)[index])

    def device(self, uuid: str, _: object) -> MemoryDevice:
        return MemoryDevice(uuid, self.boards[uuid])

    def keeper(self, policy: FixedPolicy | None = None) -> Keeper:
        keeper = Keeper(
            self.journal,
            self.metrics,
            poll_seconds=1.0,
            nvml_timeout_seconds=10.0,
            clock=self.clock,
            policy=policy,
            initialize=lambda: Library("1", simulated=self.simulated),
            sleep=self.sleep,
        )
        keeper.on_restore_failed = lambda gpu, reason: self.told.append(f"{gpu}: {reason}")
        return keeper

    async def sleep(self, seconds: float) -> None:
        """Let the time pass, fast."""
        await asyncio.sleep(0.002)
        await self.time_passes.wait()
        self.clock.advance(seconds)

    def shown(self, name: str, keeper: Keeper) -> float | None:
        keeper.show_metrics(0)
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize("failing_looks", [0, 1, 2])
@scenario
async def test_a_reset_while_no_agent_ran_is_known_though_the_first_looks_fail(
    site: Site, failing_looks: int
) -> None:
    site.journal.save(SAVED, 30_000_000, durable=True)
    site.board.milliwatts, site.board.energy_millijoules = FACTORY, 5_000
    site.board.failing_looks = failing_looks
    keeper = site.keeper()
    await keeper.start()
    await soon(lambda: site.board.milliwatts == ADMIN_CAP, "what was found is back")
    assert await keeper.stop(10.0)
    assert site.journal.load() == ({}, [])


@scenario
async def test_a_gpu_that_comes_while_the_agent_stops_gets_no_node_default(site: Site) -> None:
    rule = GpuRule("*", default=Amount(watts=250))
    keeper = site.keeper(FixedPolicy(Policy(gpus=(rule,))))
    await keeper.start()
    await soon(lambda: site.board.milliwatts == 250_000, "the first one has it")
    site.board.refuses = True
    stopping = asyncio.ensure_future(keeper.stop(60.0))
    late = site.boards["GPU-2"] = Board()
    await soon(
        lambda: [gpu for gpu in keeper.gpus() if gpu.uuid == "GPU-2" and gpu.healthy], "found"
    )
    await soon(lambda: keeper.controller("GPU-2").machine.is_settled(), "and all is done for it")
    site.board.refuses = False
    assert await stopping
    assert site.board.milliwatts == ADMIN_CAP
    assert late.written == []


@scenario
async def test_what_an_earlier_boot_left_for_a_gpu_that_is_gone_is_dropped(site: Site) -> None:
    site.journal.save(SAVED, None, durable=True)
    site.journal.boot_id = "boot-2"
    site.boards.clear()
    keeper = site.keeper()
    await keeper.start()
    assert site.shown("zeus_agent_restores_pending", keeper) == 0.0
    assert site.told == []
    assert await keeper.stop(10.0)
    assert site.journal.load() == ({}, [])


@pytest.mark.parametrize(("boot_id", "simulated"), [("boot-1", False), ("boot-2", True)])
@scenario
async def test_what_may_still_be_on_a_gpu_that_is_gone_is_kept_and_told(
    site: Site, boot_id: str, simulated: bool
) -> None:
    site.journal.save(SAVED, None, durable=True)
    site.journal.boot_id, site.simulated = boot_id, simulated
    site.boards.clear()
    keeper = site.keeper()
    await keeper.start()
    assert site.shown("zeus_agent_restores_pending", keeper) == 1.0
    assert len(site.told) == 1
    assert not await keeper.stop(10.0)
    assert list(site.journal.load()[0]) == [GPU]


@scenario
async def test_what_the_disk_does_not_give_at_the_start_is_put_back_when_it_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.journal.save(SAVED, None, durable=True)
    site.board.milliwatts = OURS

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_bytes", fail)
        keeper = site.keeper()
        await keeper.start()
        assert site.shown("zeus_agent_restores_pending", keeper) == 1.0
        assert "Input/output error" in site.told[0]
        controller = keeper.controller(GPU)
        ticket = controller.wish("a", 150_000, 0)
        with pytest.raises(Refused) as refused:
            await controller.result_of(ticket, "a")
        assert refused.value.code is ErrorCode.STATE_NOT_SAVED
    await soon(lambda: site.board.milliwatts == ADMIN_CAP, "what was found is back")
    await soon(lambda: site.journal.load() == ({}, []), "its entry is removed")
    assert site.board.written == [ADMIN_CAP]
    assert await keeper.stop(10.0)


@scenario
async def test_what_makes_no_sense_on_disk_is_pending_until_a_person_has_looked(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "saved" / f"{GPU}.json").write_text("{")
    for _ in range(2):
        keeper = site.keeper()
        await keeper.start()
        assert site.shown("zeus_agent_restores_pending", keeper) == 1.0
        assert "by hand" in site.told.pop()
        controller = keeper.controller(GPU)
        await controller.result_of(controller.wish("a", 150_000, 0), "a")
        controller.machine.release("a")
        assert await keeper.stop(10.0), "it is not the next agent's to do"


@scenario
async def test_a_policy_is_read_where_no_limit_waits_for_it(site: Site) -> None:
    policy = FixedPolicy(Policy())
    keeper = site.keeper(policy)
    await keeper.start()
    await soon(lambda: policy.looked_in, "it is looked at")
    assert threading.get_ident() not in policy.looked_in
    await keeper.stop(10.0)


@scenario
async def test_a_gpu_that_never_answered_is_out_and_no_energy_of_it_is_shown(site: Site) -> None:
    site.board.failing_looks = 1_000_000
    keeper = site.keeper()
    await keeper.start()
    with pytest.raises(Refused) as refused:
        keeper.controller(GPU)
    assert refused.value.code is ErrorCode.GPU_LOST, "it is there, and mute"
    keeper.show_metrics(0)
    assert b"zeus_agent_gpu_energy_joules_total{" not in site.metrics.text()
    site.board.failing_looks = 0
    await soon(lambda: keeper.gpus()[0].healthy, "it answers")
    keeper.show_metrics(0)
    assert b"zeus_agent_gpu_energy_joules_total{" in site.metrics.text()
    await keeper.stop(10.0)


@scenario
async def test_a_gpu_whose_lease_profiles_is_not_out_for_what_passes_within_a_second(
    site: Site,
) -> None:
    keeper = site.keeper()
    await keeper.start()
    await soon(lambda: keeper.gpus()[0].healthy, "it answers")
    gpu = keeper.controller(GPU).gpu
    site.board.failing_looks = 5
    site.time_passes.clear()
    for _ in range(5):
        assert await gpu.poll() is None
        assert gpu.healthy
    site.time_passes.set()
    await keeper.stop(10.0)


@scenario
async def test_what_a_board_was_called_does_not_outlive_its_absence(site: Site) -> None:
    identified: list[str] = []
    keeper = site.keeper()
    keeper.on_identified = identified.append
    await keeper.start()
    assert await keeper.named_boards() == {"nvidia0": GPU}
    site.board.names = None
    assert await keeper.named_boards() == {"nvidia0": GPU}, "a driver may be slow"
    site.board.failing_looks = 5
    await soon(lambda: identified == [GPU, GPU], "it was out and is back")
    assert await keeper.named_boards() == {}
    site.board.names = frozenset({"nvidia1"})
    assert await keeper.named_boards() == {"nvidia1": GPU}
    assert await keeper.stop(10.0)
