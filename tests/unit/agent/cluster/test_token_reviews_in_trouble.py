"""Tokens while somebody floods the agent, the API server fails, or a clock jumps."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.api_server_double import NODE, ApiServerDouble, Fault, pod_manifest
from tests.support.async_scenario import Clock, scenario, soon
from tests.support.token_bench import bench, caller
from zeus_agent.cluster import tokens
from zeus_agent.cluster.kube_api import KubeApi
from zeus_agent.cluster.lanes import LANE, STRANGERS
from zeus_agent.cluster.live_pods import LivePod, LivePods
from zeus_agent.cluster.tokens import (
    FRESH_SECONDS,
    PROBE_SECONDS,
    REFUSED_SECONDS,
    STALE_SECONDS,
    Reason,
    ReviewUnavailable,
    TokenAuthenticator,
    Unauthenticated,
)

LIFETIME_SECONDS = 3600.0


# ---- floods --------------------------------------------------------------------------


@scenario
async def test_a_flood_of_forged_tokens_makes_few_reviews_and_delays_no_known_caller() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        b.server.let_reviews_go = asyncio.Event()  # and each of theirs would take for ever
        flood = [
            asyncio.create_task(b.checks.authenticate(b.server.forged(pod_manifest(name=f"p-{n}"))))
            for n in range(1000)
        ]
        await soon(lambda: sum(task.done() for task in flood) >= 900, "most are turned away")
        assert await b.checks.authenticate(token) == caller(pod)
        await soon(lambda: b.reviews - 1 == STRANGERS.burst, "a few are asked about")
        assert b.server.busiest_reviews <= tokens.MAX_UNKNOWN_REVIEWS

        # Also when the known one has to be reviewed again itself.
        b.pass_time(FRESH_SECONDS)
        renewed = asyncio.create_task(b.checks.authenticate(token))
        await soon(lambda: b.server.reviewed[-1] == token, "it is not queued behind the flood")
        b.server.let_reviews_go.set()
        assert await renewed == caller(pod)
        outcomes = await asyncio.gather(*flood, return_exceptions=True)
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds.count(Unauthenticated) == STRANGERS.burst
        assert kinds.count(ReviewUnavailable) == 1000 - STRANGERS.burst
        assert b.reviews == 1 + STRANGERS.burst + 1


@scenario
async def test_a_flood_does_not_keep_a_pod_that_was_never_seen_from_its_first_call() -> None:
    async with bench() as b:
        pod = await b.pod()
        flood = [b.server.forged(pod_manifest(name=f"p-{n}")) for n in range(100)]
        await asyncio.gather(*map(b.checks.authenticate, flood), return_exceptions=True)
        assert await b.checks.authenticate(b.server.issue(pod)) == caller(pod)


@scenario
async def test_who_forges_a_pods_tokens_fills_that_pods_lane_alone() -> None:
    async with bench() as b:
        victim, other = await b.pod("victim"), await b.pod("other")
        good = await b.known(b.server.issue(victim))
        before = b.reviews
        flood = [b.server.forged(victim) for _ in range(100)]
        await asyncio.gather(*map(b.checks.authenticate, flood), return_exceptions=True)
        assert b.reviews - before < LANE.burst
        assert await b.checks.authenticate(good) == caller(victim)
        assert await b.checks.authenticate(b.server.issue(other)) == caller(other)


@scenario
async def test_who_forges_tokens_elsewhere_does_not_keep_their_owner_from_a_new_one() -> None:
    async with bench() as b:
        victim = await b.pod("victim")
        away = await b.pod("operator", node="node-2", namespace="zeus-system")
        for pod, account in ((victim, "trainer"), (away, "zeus-operator")):
            forged = [b.server.issue(pod, account=account) for _ in range(8)]
            for token in forged:
                b.server.revoke(token)
            flood = (b.checks.authenticate(token, peer="10.0.0.66") for token in forged)
            await asyncio.gather(*flood, return_exceptions=True)
            fresh = b.server.issue(pod, account=account)
            assert await b.checks.authenticate(fresh, peer="10.0.0.1")


@scenario
async def test_what_was_refused_for_the_flood_is_told_when_to_come_back() -> None:
    async with bench() as b:
        pod = await b.pod()
        for _ in range(int(LANE.burst)):
            await b.refusal(b.server.forged(pod))
        failed = await b.unavailable(b.server.issue(pod))
        b.pass_time(failed.retry_after_seconds)
        assert await b.checks.authenticate(b.server.issue(pod)) == caller(pod)


@scenario
async def test_what_is_remembered_of_tokens_is_bounded() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "MAX_REFUSED", 4)
        patch.setattr(tokens, "MAX_GOOD", 2)
        async with bench() as b:
            good = await b.known()
            forged = b.server.forged(pod_manifest(name="nobody"))
            assert await b.refusal(forged) is Reason.REJECTED
            for number in range(4):
                assert await b.refusal(b.server.forged(pod_manifest(name=f"p-{number}")))
            before = b.reviews
            assert await b.refusal(forged) is Reason.REJECTED
            assert b.reviews == before + 1, "the oldest refusal was forgotten"
            await b.checks.authenticate(good)
            assert b.reviews == before + 1, "a flood does not push out what is good"


# ---- an API server that fails ------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault.ERROR, Fault.BUSY, Fault.DISCONNECT, Fault.GARBAGE, Fault.FORBIDDEN]
)
@scenario
async def test_nobody_new_gets_in_while_nobody_can_review(fault: Fault) -> None:
    async with bench() as b:
        pod = await b.pod()
        b.server.review_fault = fault
        await b.unavailable(b.server.issue(pod))
        b.server.review_fault = Fault.NONE
        assert await b.checks.authenticate(b.server.issue(pod)) == caller(pod)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.BUSY, Fault.DISCONNECT, Fault.HANG, None])
@scenario
async def test_a_session_goes_on_for_minutes_while_nobody_can_review(fault: Fault | None) -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        if fault is None:
            await b.server.go_away()
        else:
            b.server.review_fault = fault
        with b.impatient() if fault is Fault.HANG else contextlib.nullcontext():
            b.pass_time(FRESH_SECONDS)
            await b.unavailable(token)
            assert await b.checks.authenticate(token, for_renewal=True) == caller(pod)
            b.pass_time(STALE_SECONDS - FRESH_SECONDS)
            assert await b.checks.authenticate(token, for_renewal=True) == caller(pod)
            b.pass_time(0.1)
            await b.unavailable(token, for_renewal=True)
            await b.checks.close()  # the last try may still be under way
        # It is known again as soon as somebody can review.
        b.server.review_fault = Fault.NONE
        if fault is None:
            await b.server.come_back()
        b.pass_time(PROBE_SECONDS)
        assert await b.checks.authenticate(token) == caller(pod)


@scenario
async def test_a_server_that_is_known_to_be_away_costs_no_turn_of_those_who_wait_for_it() -> None:
    async with bench() as b:
        pod = await b.pod()
        await b.server.go_away()
        for _ in range(3 * int(LANE.burst)):
            failed = await b.unavailable(b.server.issue(pod))
            assert "does not answer" in str(failed) or "can't be checked now" in str(failed)
        await b.server.come_back()
        b.pass_time(PROBE_SECONDS)
        for _ in range(int(LANE.burst)):
            assert await b.checks.authenticate(b.server.issue(pod)) == caller(pod)


@scenario
async def test_a_pod_that_can_not_be_confirmed_in_time_holds_nobody_up() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        checks = TokenAuthenticator(api, NeverSure(api, NODE), NODE)
        token = server.issue(await server.add(pod_manifest()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "REVIEW_TIMEOUT_SECONDS", 0.5)
            with pytest.raises(ReviewUnavailable, match="no answer in time"):
                await checks.authenticate(token)


class NeverSure(LivePods):
    """Pods of a node whose API server says nothing of any of them."""

    async def confirm(
        self,
        namespace: str,
        name: str,
        uid: str,
        service_account: str,
    ) -> LivePod | None:
        await asyncio.Event().wait()
        return None


@scenario
async def test_a_renewal_does_not_wait_for_a_server_that_is_known_to_hang() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        b.server.review_fault = Fault.HANG
        b.pass_time(FRESH_SECONDS)
        with b.impatient():
            assert await b.checks.authenticate(token, for_renewal=True) == caller(pod)  # waits
        for _ in range(5):
            b.pass_time(PROBE_SECONDS)
            assert await b.checks.authenticate(token, for_renewal=True) == caller(pod)
        assert b.reviews <= 3, "one try at a time"


@scenario
async def test_a_stale_review_does_not_outlive_the_token() -> None:
    async with bench() as b:
        token = await b.known(b.server.issue(await b.pod(), lifetime_seconds=60.0))
        b.server.review_fault = Fault.ERROR
        b.pass_time(59.0)
        await b.checks.authenticate(token, for_renewal=True)
        b.pass_time(1.0)
        assert await b.refusal(token, for_renewal=True) is Reason.EXPIRED


@scenario
async def test_a_stale_review_does_not_outlive_the_pod() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        b.server.review_fault = Fault.ERROR
        b.pass_time(FRESH_SECONDS)
        await b.checks.authenticate(token, for_renewal=True)
        await b.lose(pod)
        assert await b.refusal(token, for_renewal=True) is Reason.POD_GONE


@scenario
async def test_a_stale_review_serves_exactly_its_own_token() -> None:
    async with bench() as b:
        pod = await b.pod()
        await b.known(b.server.issue(pod))
        b.server.review_fault = Fault.ERROR
        await b.unavailable(b.server.issue(pod), for_renewal=True)


@scenario
async def test_a_token_that_was_refused_meanwhile_is_not_stale_but_refused() -> None:
    async with bench() as b:
        token = await b.known()
        b.server.revoke(token)
        b.pass_time(FRESH_SECONDS)
        assert await b.refusal(token, for_renewal=True) is Reason.REJECTED
        b.server.review_fault = Fault.ERROR
        b.pass_time(REFUSED_SECONDS)
        await b.unavailable(token, for_renewal=True)


@scenario
async def test_a_review_that_hangs_for_a_strangers_token_is_no_outage_for_others() -> None:
    # A webhook that checks other kinds of tokens may be slow to say that it knows none.
    async with bench() as b:
        pod = await b.pod()
        b.server.review_fault = Fault.HANG
        with b.impatient():
            await b.unavailable(b.server.forged(pod))
        b.server.review_fault = Fault.NONE
        assert await b.checks.authenticate(b.server.issue(pod)) == caller(pod)


# ---- a clock that jumps --------------------------------------------------------------------


@scenario
async def test_a_wall_clock_that_jumps_ahead_leaves_it_to_the_api_server_to_say() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        servers = Clock(b.wall())
        b.server.wall_clock = servers  # which has another clock
        b.wall.advance(2 * LIFETIME_SECONDS)
        assert await b.checks.authenticate(token) == caller(pod)
        assert b.reviews == 2
        servers.advance(2 * LIFETIME_SECONDS)
        assert await b.refusal(token) is Reason.REJECTED


@scenario
async def test_a_wall_clock_that_is_set_back_does_not_prolong_a_token() -> None:
    async with bench() as b:
        token = await b.known()
        b.server.review_fault = Fault.ERROR
        b.wall.advance(-LIFETIME_SECONDS)
        b.clock.advance(LIFETIME_SECONDS)
        assert await b.refusal(token, for_renewal=True) is Reason.EXPIRED
