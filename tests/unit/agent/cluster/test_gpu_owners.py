"""Whose a board is, while pods come and go and the kubelet does too."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.api_server_double import pod_manifest
from tests.support.async_scenario import scenario, soon
from tests.support.owners_bench import A, B, bench
from zeus_agent.callers import PodCaller
from zeus_agent.cluster.gpu_owners import (
    AWAY_SECONDS,
    FRESH_SECONDS,
    MISS_SECONDS,
    REUSED_SECONDS,
    OwnershipUnavailable,
)
from zeus_agent.cluster.ownership import Share


@scenario
async def test_a_pod_has_its_own_boards_and_no_others() -> None:
    async with bench() as b:
        one, two = await b.pod("one", A), await b.pod("two", B)
        assert await b.owners.share(one, A) == Share(True)
        assert await b.owners.share(one, B) is None
        assert await b.owners.share(two, A) is None
        assert await b.owners.share(one, "GPU-0-0") is None


@scenario
async def test_a_list_serves_for_a_moment() -> None:
    async with bench() as b:
        pod = await b.pod("train", A)
        for _ in range(10):
            await b.owners.share(pod, A)
        assert b.kubelet.lists == 1
        b.clock.advance(FRESH_SECONDS)
        await b.owners.share(pod, A)
        assert b.kubelet.lists == 2


@scenario
async def test_a_pod_that_has_just_started_is_found_by_a_new_list_however_young_the_old_one() -> (
    None
):
    async with bench() as b:
        old = await b.pod("old", A)
        await b.owners.share(old, A)
        new = await b.pod("new", B)
        assert await b.owners.share(new, B) == Share(True)


@scenario
async def test_a_list_that_was_begun_before_the_caller_was_known_is_not_the_last_word() -> None:
    async with bench() as b:
        old = await b.pod("old", A)
        b.kubelet.answers = asyncio.Event()
        first = asyncio.create_task(b.owners.share(old, A))
        await soon(lambda: b.kubelet.lists, "a list is on its way")
        new = await b.pod("new", B)
        second = asyncio.create_task(b.owners.share(new, B))
        b.kubelet.answers.set()
        assert await asyncio.gather(first, second) == [Share(True), Share(True)]


@scenario
async def test_devices_that_were_not_listed_a_moment_ago_are_found_by_a_new_list() -> None:
    async with bench() as b:
        pod = await b.pod("train")
        assert await b.owners.share(pod, A) is None
        b.kubelet.devices["train"] = (A,)
        b.clock.advance(MISS_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)


@scenario
async def test_a_pod_that_was_never_listed_does_not_flood_a_kubelet_that_is_away() -> None:
    async with bench() as b:
        old = await b.pod("old", A)
        await b.owners.share(old, A)
        b.kubelet.is_away = True
        new = await b.pod("new", B)
        for _ in range(20):
            with pytest.raises(OwnershipUnavailable):
                await b.owners.share(new, B)
        assert b.kubelet.lists <= 2


@scenario
async def test_a_kubelet_that_has_just_started_and_does_not_list_the_pod_has_not_said_no() -> None:
    async with bench() as b:
        pod = await b.pod("train", A)
        b.kubelet.devices.clear()
        with pytest.raises(OwnershipUnavailable, match="does not list the pod"):
            await b.owners.share(pod, A)
        b.kubelet.devices["train"] = (A,)
        b.clock.advance(FRESH_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)


@scenario
async def test_who_names_foreign_boards_in_a_loop_does_not_flood_the_kubelet() -> None:
    async with bench() as b:
        pod = await b.pod("train", A)
        for _ in range(100):
            assert await b.owners.share(pod, B) is None
        assert b.kubelet.lists == 1


@scenario
async def test_many_at_once_wait_for_one_list_and_one_that_hangs_up_does_not_end_it() -> None:
    async with bench() as b:
        pod = await b.pod("train", A)
        b.kubelet.answers = asyncio.Event()
        asked = [asyncio.create_task(b.owners.share(pod, A)) for _ in range(10)]
        await soon(lambda: b.kubelet.lists, "a list is asked for")
        asked[0].cancel()
        b.kubelet.answers.set()
        assert await asyncio.gather(*asked[1:]) == [Share(True)] * 9
        assert b.kubelet.lists == 1


@scenario
async def test_a_pod_that_is_gone_owns_nothing_and_shares_with_nobody() -> None:
    async with bench() as b:
        one = await b.pod("one", f"{A}::0")
        two = await b.pod("two", B)
        b.kubelet.devices["two"] = (B,)
        also_two = await b.pod("also-two", B)
        assert await b.owners.share(two, B) == Share(False, "2 pods have the GPU")
        await b.lose(one)
        await b.lose(also_two)  # the kubelet goes on to list both
        assert await b.owners.share(one, A) is None
        assert await b.owners.share(two, B) == Share(True)


@scenario
async def test_a_later_pod_of_the_same_name_does_not_inherit_the_devices() -> None:
    async with bench() as b:
        former = await b.pod("train", A)
        assert await b.owners.share(former, A) == Share(True)
        await b.lose(former)
        b.kubelet.is_away = True  # so that the list of before is all there is
        later = await b.pod("train", uid="uid-later")
        b.clock.advance(REUSED_SECONDS)
        with pytest.raises(OwnershipUnavailable, match="former pod"):
            await b.owners.share(later, A)
        b.kubelet.is_away = False
        b.kubelet.devices["train"] = (A,)
        b.clock.advance(FRESH_SECONDS)
        assert await b.owners.share(later, A) == Share(True)


@scenario
async def test_a_later_pod_is_given_nothing_that_the_kubelet_may_list_for_the_former_one() -> None:
    async with bench() as b:
        former = await b.pod("train", A)
        await b.owners.share(former, A)
        await b.lose(former)
        later = await b.pod("train", A, uid="uid-later")
        b.clock.advance(REUSED_SECONDS - 0.1)
        with pytest.raises(OwnershipUnavailable, match="former pod"):
            await b.owners.share(later, A)
        assert b.owners.owner_of(A) == ()
        b.clock.advance(FRESH_SECONDS)
        assert await b.owners.share(later, A) == Share(True)


@scenario
async def test_a_later_pod_is_given_nothing_before_the_end_of_the_former_one_is_told() -> None:
    async with bench() as b:
        former = await b.pod("train", A)
        await b.owners.share(former, A)
        b.server.show_again(pod_manifest(name="train", uid="uid-later"))  # no watch tells of it
        assert await b.pods.confirm("team", "train", "uid-later", "trainer")
        b.clock.advance(REUSED_SECONDS)
        with pytest.raises(OwnershipUnavailable, match="former pod"):
            await b.owners.share(PodCaller("team", "train", "uid-later", "trainer"), A)


@scenario
async def test_a_pod_has_lost_a_board_that_the_kubelet_lists_for_it_no_more() -> None:
    async with bench() as b:
        pod, other = await b.pod("train", A), await b.pod("other", B)
        await b.owners.share(pod, A)
        assert not b.owners.has_lost(pod, A)
        for case in ("a kubelet that has just started", "no board", "another's board"):
            match case:
                case "a kubelet that has just started":  # and does not list all pods yet
                    b.kubelet.devices.pop("train")
                case "no board":
                    b.kubelet.devices["train"] = ()
                case "another's board":
                    b.kubelet.devices = {"other": (A, B)}
            b.clock.advance(FRESH_SECONDS)
            lists = b.owners.lists
            await b.owners.look_again()
            assert b.owners.lists == lists + 1
            assert b.owners.has_lost(pod, A) is (case != "a kubelet that has just started"), case
            assert not b.owners.has_lost(other, B)


@scenario
async def test_a_list_that_was_on_its_way_while_the_pod_was_replaced_gives_nothing() -> None:
    async with bench() as b:
        bystander, former = await b.pod("bystander", B), await b.pod("train", A)
        b.kubelet.answers = asyncio.Event()
        asked = asyncio.create_task(b.owners.share(bystander, B))
        await soon(lambda: b.kubelet.lists, "a list is on its way")
        await b.lose(former)
        later = await b.pod("train", uid="uid-later")
        b.kubelet.answers.set()
        assert await asked == Share(True)
        assert b.owners.owner_of(A) == ()
        with pytest.raises(OwnershipUnavailable, match="former pod"):
            await b.owners.share(later, A)


@scenario
async def test_what_is_known_holds_for_a_minute_without_the_kubelet() -> None:
    async with bench() as b:
        pod = await b.pod("train", A)
        await b.owners.share(pod, A)
        b.kubelet.is_away = True
        b.clock.advance(AWAY_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)
        assert b.owners.is_known
        b.clock.advance(1.0)
        with pytest.raises(OwnershipUnavailable, match="kubelet"):
            await b.owners.share(pod, A)
        assert not b.owners.is_known
        b.kubelet.is_away = False
        b.clock.advance(FRESH_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)


@scenario
async def test_a_kubelet_that_never_answered_owns_nothing_to_nobody() -> None:
    async with bench() as b:
        b.kubelet.is_away = True
        with pytest.raises(OwnershipUnavailable):
            await b.owners.share(await b.pod("train", A), A)
        assert b.owners.owner_of(A) == ()


@scenario
async def test_a_kubelet_that_hangs_does_not_hold_up_what_is_known() -> None:
    async with bench() as b:
        pod = await b.pod("train", A)
        await b.owners.share(pod, A)
        b.kubelet.is_away = True
        b.clock.advance(FRESH_SECONDS)
        await b.owners.share(pod, A)  # which finds it away
        b.kubelet.answers = asyncio.Event()  # and now it does not even fail
        b.clock.advance(FRESH_SECONDS)
        assert await b.owners.share(pod, A) == Share(True)
        b.kubelet.answers.set()


@scenario
async def test_owners_are_known_by_name_for_metrics() -> None:
    async with bench() as b:
        one = await b.pod("one", f"{A}::0", B)
        two = await b.pod("two", f"{A}::1")
        await b.owners.share(one, A)
        assert [pod.uid for pod in b.owners.owner_of(A)] == [one.pod_uid, two.pod_uid]
        assert [pod.name for pod in b.owners.owner_of(B)] == ["one"]
        assert b.owners.is_shared(A)
        assert not b.owners.is_shared(B)
        assert not b.owners.is_shared("GPU-0-0")


@scenario
async def test_owners_are_kept_up_to_date_as_pods_come() -> None:
    async with bench() as b:
        work = asyncio.create_task(b.owners.run())
        await soon(lambda: b.kubelet.lists == 1, "a first list")
        b.kubelet.devices["train"] = (A,)
        b.clock.advance(FRESH_SECONDS)
        await b.pod("train", A)
        await soon(lambda: b.owners.owner_of(A), "the owner is known without a request")
        work.cancel()
        await asyncio.wait([work])
