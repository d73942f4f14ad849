"""The policy at work on one GPU: what it refuses, ends, moves, counts; and persistence mode."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.limit_bench import ADMIN_CAP, GPU, Bench, on_bench, refusal
from zeus_agent.limits import Refused, SavedLimit
from zeus_agent.nvml import NvmlFailure
from zeus_agent.policy import BURST_OF_CHANGES, Amount, GpuRule, Policy
from zeus_runtime.protocol import ErrorCode

NOT_SUPPORTED, NO_PERMISSION, LOST = 3, 4, 15
DEFAULT_OF_60_PERCENT = Policy(gpus=(GpuRule("*A100*", default=Amount(percent=60)),))  # 180 W
RATE = Policy(changes_per_minute=60.0)


def code_of(refused: pytest.ExceptionInfo[Refused]) -> ErrorCode:
    return refused.value.code


def test_a_namespace_that_is_denied_and_a_shared_board_are_refused_and_nothing_is_touched(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(Policy(denied_namespaces=("red",)))
        with pytest.raises(Refused) as denied:
            bench.wish("a", 150_000, namespace="red")
        assert code_of(denied) is ErrorCode.POLICY_DENIED
        with pytest.raises(Refused) as shared:
            bench.wish("a", 150_000, namespace="blue", shared=True)
        assert code_of(shared) is ErrorCode.GPU_SHARED
        assert bench.machine.holder is None
        view = await bench.wish("a", 150_000, namespace="blue")
        assert view.namespace == "blue"

    on_bench(tmp_path, scenario)


def test_a_namespace_denied_while_it_holds_loses_its_lease_and_what_was_found_comes_back(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        told: list[tuple[str, str, ErrorCode]] = []
        bench.events.on_lease_revoked = lambda gpu, session, why: told.append(
            (gpu, session, why.code)
        )
        await bench.wish("a", 150_000, namespace="red")
        await bench.follow(Policy(denied_namespaces=("red",)))
        assert bench.machine.view() is None
        assert bench.device.milliwatts == ADMIN_CAP
        assert bench.stored() is None
        assert told == [(GPU, "a", ErrorCode.POLICY_DENIED)]

    on_bench(tmp_path, scenario)


def test_one_who_waits_while_its_namespace_is_denied_is_told_why(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.may_look.clear()
        wish = bench.wish("a", 150_000, namespace="red")
        await bench.device.looking.wait()
        bench.controller.policing.set_policy(Policy(denied_namespaces=("*",)))
        bench.controller.follow_policy()
        bench.device.may_look.set()
        assert (await refusal(wish)).code is ErrorCode.POLICY_DENIED
        await bench.release("a")
        assert bench.device.written == []

    on_bench(tmp_path, scenario)


def test_a_process_on_this_machine_has_no_namespace_to_be_denied(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        await bench.follow(Policy(allowed_namespaces=()))
        assert bench.device.milliwatts == 150_000

    on_bench(tmp_path, scenario)


def test_a_board_that_comes_to_be_shared_while_it_is_held_is_given_back(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000, namespace="blue")
        bench.controller.policing.set_shared(True)
        await bench.follow(Policy())
        assert bench.device.milliwatts == ADMIN_CAP
        await bench.follow(Policy(shares=True))
        await bench.wish("a", 150_000, namespace="blue", shared=True)

    on_bench(tmp_path, scenario)


def test_tighter_bounds_move_the_limit_at_once_and_the_lease_says_so(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        await bench.follow(Policy(gpus=(GpuRule("*", minimum=Amount(percent=60)),)))
        view = bench.machine.view()
        assert view is not None
        assert (view.applied_milliwatts, view.clamped) == (180_000, True)
        assert bench.device.milliwatts == 180_000
        await bench.release("a")
        assert bench.device.milliwatts == ADMIN_CAP

    on_bench(tmp_path, scenario)


def test_the_node_default_holds_between_leases_and_what_was_found_comes_back_at_the_stop(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(DEFAULT_OF_60_PERCENT)
        assert bench.device.milliwatts == 180_000
        assert bench.stored() == SavedLimit(GPU, ADMIN_CAP, (180_000,))
        view = await bench.wish("a", 150_000)
        assert view.previous_milliwatts == ADMIN_CAP
        await bench.release("a")
        assert bench.device.milliwatts == 180_000
        assert await bench.stop()
        assert bench.device.milliwatts == ADMIN_CAP
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_a_node_default_that_can_not_be_saved_is_not_set_and_is_tried_again(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.journal.fails = True
        bench.controller.policing.set_policy(DEFAULT_OF_60_PERCENT)
        bench.controller.follow_policy()
        assert not await bench.controller.settled(0.3)
        assert bench.device.written == []
        bench.journal.fails = False
        bench.now_seconds += 60.0
        assert await bench.controller.settled(60.0)
        assert bench.device.milliwatts == 180_000

    on_bench(tmp_path, scenario)


def test_a_node_default_that_fails_is_no_restore_that_failed_until_something_is_ours(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        told: list[str] = []
        bench.events.on_restore_failed = lambda gpu, reason: told.append(reason)

        def refuse() -> None:
            raise NvmlFailure(NO_PERMISSION, "nvmlDeviceSetPowerManagementLimit")

        bench.device.before_write = refuse
        bench.controller.policing.set_policy(DEFAULT_OF_60_PERCENT)
        bench.controller.follow_policy()
        assert not await bench.controller.settled(0.3)
        assert bench.device.milliwatts == ADMIN_CAP
        bench.device.before_write = lambda: None
        await bench.wish("a", 150_000)
        bench.device.before_write = refuse
        bench.machine.release("a")
        assert not await bench.controller.settled(0.3)
        assert len(told) >= 1
        assert "nvmlDeviceSetPowerManagementLimit" in told[-1]

    on_bench(tmp_path, scenario)


def test_a_dry_run_answers_logs_counts_and_writes_nothing(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(Policy(dry_run=True, gpus=DEFAULT_OF_60_PERCENT.gpus))
        view = await bench.wish("a", 150_000)
        assert view.dry_run
        assert view.applied_milliwatts == view.previous_milliwatts == ADMIN_CAP
        assert bench.stored() is None
        await bench.release("a")
        assert bench.device.written == []
        assert b'zeus_agent_limits_tried_total{gpu="GPU-0"} 1.0' in bench.metrics.text()

    on_bench(tmp_path, scenario)


def test_a_dry_run_that_begins_puts_back_what_was_found(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.wish("a", 150_000)
        await bench.follow(Policy(dry_run=True))
        assert bench.device.milliwatts == ADMIN_CAP
        assert bench.machine.view() is None

    on_bench(tmp_path, scenario)


# ---- the rate of change ----------------------------------------------------------------------


def test_changes_above_the_rate_are_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(RATE)
        for index in range(BURST_OF_CHANGES):
            await bench.wish("a", 110_000 + 2_000 * index)
        with pytest.raises(Refused) as refused:
            bench.wish("a", 250_000)
        assert code_of(refused) is ErrorCode.RATE_LIMITED
        assert refused.value.details["retry_after_seconds"] == pytest.approx(1.0)
        bench.now_seconds += 1.0
        view = await bench.wish("a", 250_000)
        assert view.applied_milliwatts == 250_000

    on_bench(tmp_path, scenario)


def test_what_changes_nothing_and_restoring_are_never_limited(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(RATE)
        for index in range(BURST_OF_CHANGES):
            await bench.wish("a", 110_000 + 2_000 * index)
        held = bench.device.milliwatts
        writes = len(bench.device.written)
        for _ in range(5):
            assert (await bench.wish("a", held)).applied_milliwatts == held
        assert len(bench.device.written) == writes, "and nothing is written for it"
        await bench.release("a")
        assert bench.device.milliwatts == ADMIN_CAP

    on_bench(tmp_path, scenario)


def test_of_a_burst_only_the_newest_wish_is_done_and_counts(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(RATE)
        bench.device.may_look.clear()
        first = bench.wish("a", 150_000)
        await bench.device.looking.wait()
        burst = [bench.wish("a", 110_000 + 500 * index) for index in range(300)]
        await asyncio.sleep(0)
        bench.device.may_look.set()
        views = await asyncio.gather(first, *burst)
        assert views[-1].applied_milliwatts == 110_000 + 500 * 299
        assert bench.device.written == [150_000, 110_000 + 500 * 299]
        for index in range(BURST_OF_CHANGES - 2):
            await bench.wish("a", 110_000 + 2_000 * index)

    on_bench(tmp_path, scenario)


def test_a_session_that_is_refused_by_another_ones_lease_uses_up_none_of_the_rate(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.follow(RATE)
        await bench.wish("a", 150_000)
        for _ in range(100):
            with pytest.raises(Refused) as refused:
                bench.wish("b", 250_000)
            assert code_of(refused) is ErrorCode.GPU_LEASED
        assert (await bench.wish("a", 160_000)).applied_milliwatts == 160_000

    on_bench(tmp_path, scenario)


# ---- persistence mode --------------------------------------------------------------------------

ENABLE = Policy(enable_persistence=True)


def test_persistence_mode_is_saved_before_it_is_changed_and_put_back_with_the_limit(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        on_disk: list[SavedLimit | None] = []
        bench.device.before_persistence = lambda on: on_disk.append(bench.stored())
        await bench.follow(ENABLE)
        assert bench.device.persistence_mode is False, "nothing of ours is held yet"
        await bench.wish("a", 150_000)
        assert bench.device.persistence_mode is True
        assert on_disk == [SavedLimit(GPU, ADMIN_CAP, (150_000,), previous_persistence=False)]
        await bench.release("a")
        assert bench.device.persistence_mode is False
        assert bench.device.milliwatts == ADMIN_CAP
        assert bench.stored() is None

    on_bench(tmp_path, scenario)


def test_persistence_mode_that_was_on_or_is_to_be_kept_is_not_touched(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        changed: list[bool] = []
        bench.device.before_persistence = changed.append
        for policy, found in ((ENABLE, True), (ENABLE, None), (Policy(), False)):
            bench.device.persistence_mode = found
            await bench.follow(policy)
            await bench.wish("a", 150_000)
            await bench.release("a")
        assert changed == []

    on_bench(tmp_path, scenario)


def test_a_gpu_that_has_no_persistence_mode_after_all_is_limited_all_the_same(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        def refuse(on: bool) -> None:
            raise NvmlFailure(NOT_SUPPORTED, f"nvmlDeviceSetPersistenceMode {on}")

        bench.device.before_persistence = refuse
        await bench.follow(ENABLE)
        assert (await bench.wish("a", 150_000)).applied_milliwatts == 150_000
        await bench.release("a")
        assert bench.device.milliwatts == ADMIN_CAP

    on_bench(tmp_path, scenario)


def test_persistence_mode_that_can_not_be_put_back_stays_saved_and_is_tried_again(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        def refuse(on: bool) -> None:
            if not on:
                raise NvmlFailure(LOST, "nvmlDeviceSetPersistenceMode")

        await bench.follow(ENABLE)
        await bench.wish("a", 150_000)
        bench.device.before_persistence = refuse
        bench.machine.release("a")
        assert not await bench.controller.settled(0.3)
        assert bench.device.milliwatts == ADMIN_CAP, "the limit does not wait for it"
        assert bench.stored() is not None
        bench.device.before_persistence = lambda on: None
        bench.now_seconds += 60.0
        assert await bench.controller.settled(60.0)
        assert bench.device.persistence_mode is False
        assert bench.stored() is None

    on_bench(tmp_path, scenario)
