"""Names that only the driver can tell the boards of: MIG devices, device files, claims."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.async_scenario import scenario, soon
from tests.support.owners_bench import MIG, A, B, bench
from zeus_agent.cluster.gpu_owners import FRESH_SECONDS, NAME_SECONDS, OwnershipUnavailable
from zeus_agent.cluster.ownership import Share


@scenario
async def test_the_board_of_a_mig_device_is_asked_of_the_driver_once() -> None:
    async with bench() as b:
        b.named = {MIG: A}
        pod = await b.pod("train", MIG)
        share = await b.owners.share(pod, A)
        assert share is not None
        assert not share.exclusive
        b.clock.advance(FRESH_SECONDS)
        await b.owners.share(pod, A)
        assert b.name_reads == 1
        assert b.owners.is_shared(A)


@scenario
async def test_a_mig_device_that_the_driver_does_not_know_is_asked_for_now_and_then() -> None:
    async with bench() as b:
        pod = await b.pod("train", MIG)
        for _ in range(3):
            with pytest.raises(OwnershipUnavailable):
                await b.owners.share(pod, A)
            b.clock.advance(FRESH_SECONDS)
        assert b.name_reads == 1
        b.named = {MIG: A}
        b.clock.advance(NAME_SECONDS)
        assert await b.owners.share(pod, A) is not None


@pytest.mark.parametrize("fault", [OSError("the driver"), KeyError("a fault of ours")])
@scenario
async def test_a_fault_of_the_driver_with_mig_does_not_end_the_work(fault: Exception) -> None:
    async with bench() as b:
        b.name_fault = fault
        plain, part = await b.pod("plain", B), await b.pod("part", MIG)
        assert await b.owners.share(plain, B) == Share(True)
        with pytest.raises(OwnershipUnavailable):
            await b.owners.share(part, A)
        b.name_fault, b.named = None, {MIG: A}
        b.clock.advance(NAME_SECONDS)
        assert await b.owners.share(part, A) is not None


@scenario
async def test_a_device_file_is_asked_for_when_a_pod_has_it_and_again_now_and_then() -> None:
    async with bench() as b:
        b.named = {"nvidia0": A, "nvidia1": B}
        pod = await b.pod("train", "nvidia0")
        assert await b.owners.share(pod, A) == Share(True)
        assert await b.owners.share(pod, B) is None
        assert b.name_reads == 1
        b.clock.advance(NAME_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)
        await soon(lambda: b.name_reads == 2, "it is asked for again")
        later = await b.pod("later", "nvidia1")
        assert await b.owners.share(later, B) == Share(True)
        assert b.name_reads == 3


@scenario
async def test_a_device_file_that_the_driver_does_not_know_is_nobodys_yet_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as b:
        pod = await b.pod("train", "nvidia0")
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                with pytest.raises(OwnershipUnavailable, match="which board a device of the pod"):
                    await b.owners.share(pod, A)
                b.clock.advance(FRESH_SECONDS)
        assert [record.getMessage() for record in caplog.records] == ["device ignored"]
        assert b.name_reads == 1
        b.named = {"nvidia0": A}
        b.clock.advance(NAME_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)


@scenario
async def test_a_number_that_has_become_another_boards_takes_the_ownership_with_it() -> None:
    async with bench() as b:
        b.named = {"nvidia0": A, "nvidia1": B}
        one, two = await b.pod("one", "nvidia0"), await b.pod("two", "nvidia1")
        assert await b.owners.share(one, A) == Share(True)
        b.named = {"nvidia0": B, "nvidia1": A}
        b.clock.advance(NAME_SECONDS)
        await b.owners.look_again()
        await soon(lambda: b.owners.owner_of(B)[0].uid == one.pod_uid, "it is noticed")
        assert b.owners.has_lost(one, A)
        assert await b.owners.share(one, A) is None
        assert await b.owners.share(one, B) == Share(True)
        assert await b.owners.share(two, A) == Share(True)


@scenario
async def test_a_board_that_was_identified_anew_has_no_owner_before_the_driver_is_asked() -> None:
    async with bench() as b:
        b.named = {"nvidia0": A, "nvidia1": B}
        one, two = await b.pod("one", "nvidia0"), await b.pod("two", "nvidia1")
        assert await b.owners.share(one, A) == Share(True)
        b.named = {"nvidia0": "GPU-new-0", "nvidia1": A}  # B is gone, and A has B's number
        b.driver_answers = asyncio.Event()
        b.owners.forget_names_of(A)
        assert b.owners.owner_of(A) == ()
        assert not b.owners.has_lost(one, A), "which alone ends no lease"
        asked = asyncio.create_task(b.owners.share(one, A))
        await soon(lambda: b.name_reads == 2, "the driver is asked at once")
        assert not asked.done()
        b.driver_answers.set()
        assert await asked is None
        assert b.owners.has_lost(one, A)
        assert await b.owners.share(two, A) == Share(True)


@scenario
async def test_a_board_that_is_identified_anew_while_the_driver_is_asked_is_asked_for_again() -> (
    None
):
    async with bench() as b:
        pod = await b.pod("train", "nvidia0")
        b.driver_answers = asyncio.Event()
        asked = asyncio.create_task(b.owners.share(pod, A))
        await soon(lambda: b.name_reads == 1, "the driver is asked")
        b.owners.forget_names_of(A)  # so that the answer has none of its names
        b.driver_answers.set()
        with pytest.raises(OwnershipUnavailable):
            await asked
        assert b.name_reads == 2


@scenario
async def test_a_number_that_was_nobodys_for_a_while_is_read_anew() -> None:
    async with bench() as b:
        b.named = {"nvidia0": A}
        one = await b.pod("one", "nvidia0")
        assert await b.owners.share(one, A) == Share(True)
        await b.lose(one)
        b.kubelet.devices.clear()
        b.clock.advance(FRESH_SECONDS)
        await b.owners.look_again()
        b.named = {"nvidia0": B, "nvidia1": A}
        two = await b.pod("two", "nvidia0")
        assert await b.owners.share(two, A) is None
        assert await b.owners.share(two, B) == Share(True)


@scenario
async def test_a_driver_that_hangs_does_not_hold_up_what_is_known_of_device_files() -> None:
    async with bench() as b:
        b.named = {"nvidia0": A}
        pod = await b.pod("train", "nvidia0")
        assert await b.owners.share(pod, A) == Share(True)
        b.driver_answers = asyncio.Event()
        for _ in range(3):
            b.clock.advance(NAME_SECONDS)
            assert await b.owners.share(pod, A) == Share(True)
        assert b.name_reads == 2, "one call that hangs is enough"
        b.driver_answers.set()


@scenario
async def test_a_fault_of_the_driver_leaves_no_board_with_a_number_and_each_with_its_uuids() -> (
    None
):
    async with bench() as b:
        b.named = {"nvidia0": A, MIG: B}
        one, two = await b.pod("one", "nvidia0"), await b.pod("two", MIG)
        assert await b.owners.share(one, A) == Share(True)
        b.name_fault = OSError("the driver")
        b.clock.advance(NAME_SECONDS)
        await b.owners.look_again()
        await soon(lambda: b.owners.owner_of(A) == (), "the number does not count any more")
        assert await b.owners.share(two, B) is not None
        assert not b.owners.has_lost(one, A)


@scenario
async def test_without_the_kubelet_the_driver_still_says_what_was_known_of_before() -> None:
    async with bench() as b:
        b.named = {"nvidia0": A}
        pod = await b.pod("train", "nvidia0")
        assert await b.owners.share(pod, A) == Share(True)
        b.kubelet.is_away = True
        b.owners.forget_names_of(A)
        assert await b.owners.share(pod, A) == Share(True)


@scenario
async def test_devices_of_resource_claims_are_told_once_for_each_driver(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as b:
        b.kubelet.claims = {
            "one": frozenset({"gpu.nvidia.com"}),
            "two": frozenset({"gpu.nvidia.com", "dra.example.com"}),
        }
        with caplog.at_level(logging.WARNING):
            for name in ("one", "two"):
                pod = await b.pod(name)
                assert await b.owners.share(pod, A) is None
                await b.lose(pod)
                b.clock.advance(FRESH_SECONDS)
                await b.owners.look_again()
        assert [record.getMessage() for record in caplog.records] == ["device ignored"]
