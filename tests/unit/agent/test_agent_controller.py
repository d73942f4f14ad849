"""The hands of the machine, on a device in memory and a real journal, in every bad order."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.support.limit_bench import (
    ADMIN_CAP,
    GPU,
    INVALID_ARGUMENT,
    PATIENCE_SECONDS,
    Bench,
    on_bench,
    refusal,
)
from zeus_agent.durable import DurableLimits
from zeus_agent.journal import Journal
from zeus_agent.limits import Bounds, Refused, SavedLimit
from zeus_agent.nvml import NvmlFailure
from zeus_agent.policy import Amount, GpuRule, Policy
from zeus_runtime.protocol import ErrorCode

NO_PERMISSION, UNKNOWN = 4, 999


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


def test_a_held_limit_stays_and_comes_back_while_the_disk_hangs(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.device.disk_hangs = True
        assert (await refusal(bench.wish("a", 160_000))).code is ErrorCode.STATE_NOT_SAVED
        assert bench.device.written == [150_000]
        # The next one waits for the disk in its own thread, as a first one does.
        assert (await bench.wish("a", 170_000)).applied_milliwatts == 170_000
        saved = bench.stored()
        assert saved is not None
        assert 170_000 in saved.written_milliwatts
        assert await bench.release("a")
        assert bench.device.milliwatts == ADMIN_CAP

    on_bench(tmp_path, scenario)


def test_what_is_stored_is_not_written_again_before_a_write_that_hangs_has_returned(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        begun, release = threading.Event(), threading.Event()

        class HangingJournal(Journal):
            def save(
                self, saved: SavedLimit, energy_millijoules: int | None, *, durable: bool
            ) -> None:
                if not durable:
                    begun.set()
                    release.wait(PATIENCE_SECONDS)
                super().save(saved, energy_millijoules, durable=durable)

        journal = HangingJournal(tmp_path, "boot-1")
        limits = DurableLimits(journal)
        await limits.save(SavedLimit(GPU, ADMIN_CAP, (150_000,)), None, durable=True)
        over = SavedLimit(GPU, ADMIN_CAP, (160_000,))
        hanging = threading.Thread(target=limits.save_over, args=(over, None))
        hanging.start()
        begun.wait(PATIENCE_SECONDS)
        newer = SavedLimit(GPU, ADMIN_CAP, (170_000,))
        with pytest.raises(OSError, match="has not returned"):
            await limits.save(newer, None, durable=True)
        with pytest.raises(OSError, match="has not returned"):
            await limits.forget(GPU)
        release.set()
        hanging.join(PATIENCE_SECONDS)
        await limits.save(newer, None, durable=True)
        assert journal.load()[0][GPU].saved == newer
        limits.stop()
        journal.close()

    asyncio.run(scenario())


def test_what_a_failed_save_has_left_on_disk_is_removed(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.journal.fails = True
        assert (await refusal(bench.wish("a", 150_000))).code is ErrorCode.STATE_NOT_SAVED
        assert bench.device.written == []
        bench.journal.fails = False
        while not await bench.controller.settled(0.5):  # a try that was under way may have failed
            bench.now_seconds += 60.0
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


def test_a_wish_under_a_lease_that_can_not_be_saved_leaves_the_limit_that_can_be_undone(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.journal.fails = True
        assert (await refusal(bench.wish("a", 175_000))).code is ErrorCode.STATE_NOT_SAVED
        assert bench.device.milliwatts == 150_000
        bench.journal.fails = False
        assert (await bench.wish("a", 175_000)).applied_milliwatts == 175_000
        await bench.release("a")
        assert bench.device.milliwatts == ADMIN_CAP

    on_bench(tmp_path, scenario)


def test_a_foreign_change_between_two_wishes_is_found_before_anything_is_written(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.device.milliwatts = 190_000
        assert (await refusal(bench.wish("a", 175_000))).code is ErrorCode.FOREIGN_CHANGE
        await bench.release("a")
        assert bench.device.milliwatts == 190_000
        assert bench.device.written == [150_000]

    on_bench(tmp_path, scenario)


def test_a_burst_of_one_caller_is_over_for_the_next_one_after_what_was_being_written(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.device.looking.clear()
        bench.device.may_look.clear()
        burst = [bench.wish("a", 110_000 + 500 * index) for index in range(300)]
        await bench.device.looking.wait()
        bench.machine.release("a")
        other = bench.wish("b", 120_000)
        bench.device.may_look.set()
        assert (await other).session == "b"
        assert bench.device.written == [150_000, 120_000], "none of the 300 is in the way"
        refusals = await asyncio.gather(*burst, return_exceptions=True)
        assert all(isinstance(refused, Refused) for refused in refusals)

    on_bench(tmp_path, scenario)


def test_what_a_full_disk_did_not_take_is_stored_before_the_same_wish_is_done(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.journal.is_full = True
        assert (await refusal(bench.wish("a", 175_000))).code is ErrorCode.STATE_NOT_SAVED
        bench.journal.is_full = False
        on_disk = []
        bench.device.before_write = lambda: on_disk.append(bench.stored())
        await bench.wish("a", 175_000)
        (saved,) = on_disk
        assert saved is not None
        assert 175_000 in saved.written_milliwatts, "else the next agent takes it for another's"

    on_bench(tmp_path, scenario)


def test_a_limit_set_by_someone_else_while_what_was_found_is_stored_is_what_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        save = bench.journal.save

        def while_storing(saved: SavedLimit, energy: int | None, *, durable: bool) -> None:
            save(saved, energy, durable=durable)
            bench.device.milliwatts = 180_000
            monkeypatch.undo()

        monkeypatch.setattr(bench.journal, "save", while_storing)
        view = await bench.wish("a", 150_000)
        assert (view.applied_milliwatts, view.previous_milliwatts) == (150_000, 180_000)
        await bench.release("a")
        assert bench.device.milliwatts == 180_000
        assert bench.device.written == [150_000, 180_000]

    on_bench(tmp_path, scenario)


def test_a_limit_set_by_someone_else_while_the_default_is_stored_is_yielded_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        save = bench.journal.save

        def while_storing(saved: SavedLimit, energy: int | None, *, durable: bool) -> None:
            save(saved, energy, durable=durable)
            bench.device.milliwatts = 170_000
            monkeypatch.undo()

        monkeypatch.setattr(bench.journal, "save", while_storing)
        await bench.follow(Policy(gpus=(GpuRule("*", default=Amount(watts=180)),)))
        assert bench.device.written == []
        assert bench.machine.default_yields
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_a_limit_that_is_another_one_at_every_look_is_left_to_whoever_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        save = bench.journal.save

        def while_storing(saved: SavedLimit, energy: int | None, *, durable: bool) -> None:
            save(saved, energy, durable=durable)
            bench.device.milliwatts += 2_000

        monkeypatch.setattr(bench.journal, "save", while_storing)
        assert (await refusal(bench.wish("a", 150_000))).code is ErrorCode.FOREIGN_CHANGE
        monkeypatch.undo()
        assert await bench.release("a")
        assert bench.device.written == []
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_a_wish_that_the_driver_refused_is_not_done_when_the_policy_is_followed_again(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        def refuse() -> None:
            raise NvmlFailure(NO_PERMISSION, "nvmlDeviceSetPowerManagementLimit")

        await bench.wish("a", 150_000)
        bench.device.before_write = refuse
        assert (await refusal(bench.wish("a", 250_000))).code is ErrorCode.NO_PERMISSION
        bench.device.before_write = lambda: None
        bench.controller.follow_policy()
        assert await bench.controller.settled(PATIENCE_SECONDS)
        assert bench.device.milliwatts == 150_000

    on_bench(tmp_path, scenario)


def test_an_agent_that_stops_tries_at_once_what_waits_for_its_next_try(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        def refuse() -> None:
            raise NvmlFailure(UNKNOWN, "nvmlDeviceSetPowerManagementLimit")

        await bench.wish("a", 150_000)
        bench.device.before_write = refuse
        bench.machine.release("a")
        assert not await bench.controller.settled(0.1)
        bench.device.before_write = lambda: None
        assert await bench.stop(), "its clock stands still"
        assert bench.device.milliwatts == ADMIN_CAP

    on_bench(tmp_path, scenario)


def test_what_a_driver_has_rounded_far_is_on_disk_for_the_next_agent(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.rounds_to_milliwatts = 5_000
        view = await bench.wish("a", 152_000)
        assert view.applied_milliwatts == 150_000
        saved = bench.stored()
        assert saved is not None
        assert 150_000 in saved.written_milliwatts
        await bench.release("a")
        await bench.follow(Policy(gpus=(GpuRule("*", default=Amount(watts=183)),)))
        saved = bench.stored()
        assert saved is not None
        assert bench.device.milliwatts == 180_000
        assert 180_000 in saved.written_milliwatts

    on_bench(tmp_path, scenario)


def test_all_who_wait_are_told_that_someone_else_has_set_the_limit(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        bench.device.may_look.clear()
        bench.device.looking.clear()
        bench.device.milliwatts = 211_000
        first = bench.wish("a", 160_000)
        await bench.device.looking.wait()
        second = bench.wish("a", 170_000)
        await asyncio.sleep(0)
        bench.device.may_look.set()
        assert (await refusal(first)).code is ErrorCode.FOREIGN_CHANGE
        assert (await refusal(second)).code is ErrorCode.FOREIGN_CHANGE

    on_bench(tmp_path, scenario)
