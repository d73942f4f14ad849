"""Which pod a token speaks for: honest callers and attackers."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.api_server_double import NODE, ApiServerDouble, jwt, pod_manifest
from tests.support.async_scenario import scenario, soon
from tests.support.token_bench import OPERATOR, bench, caller
from zeus_agent.cluster.kube_api import KubeApi
from zeus_agent.cluster.live_pods import LivePod, LivePods
from zeus_agent.cluster.tokens import (
    FRESH_SECONDS,
    REFRESH_SECONDS,
    REFUSED_SECONDS,
    Reason,
    TokenAuthenticator,
    Unauthenticated,
)

# ---- honest callers -------------------------------------------------------------


@scenario
async def test_a_pod_of_this_node_is_known_by_its_token() -> None:
    async with bench() as b:
        pod = await b.pod()
        assert await b.checks.authenticate(b.server.issue(pod)) == caller(pod)


@scenario
async def test_a_pod_that_calls_before_the_watch_has_told_of_it_is_known() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        pods = LivePods(api, NODE)  # which watches nothing
        pod = await server.add(pod_manifest())
        checks = TokenAuthenticator(api, pods, NODE)
        assert await checks.authenticate(server.issue(pod)) == caller(pod)


@scenario
async def test_the_operator_is_known_wherever_it_runs() -> None:
    async with bench() as b:
        pod = await b.pod("operator", node="node-2", namespace="zeus-system")
        token = b.server.issue(pod, account="zeus-operator")
        assert await b.checks.authenticate(token) == OPERATOR


@scenario
async def test_a_good_review_serves_for_seconds_and_is_then_asked_for_again() -> None:
    async with bench() as b:
        token = await b.known()
        b.pass_time(REFRESH_SECONDS - 0.1)
        await b.checks.authenticate(token)
        assert b.reviews == 1
        b.pass_time(FRESH_SECONDS)
        await b.checks.authenticate(token)
        assert b.reviews == 2


@scenario
async def test_a_review_is_renewed_before_it_is_too_old_without_a_wait() -> None:
    async with bench() as b:
        token = await b.known()
        b.server.let_reviews_go = asyncio.Event()
        b.pass_time(REFRESH_SECONDS)
        for _ in range(3):
            await b.checks.authenticate(token)  # though no review is answered
        await soon(lambda: b.reviews == 2, "it is reviewed meanwhile")
        b.server.let_reviews_go.set()
        b.pass_time(FRESH_SECONDS - REFRESH_SECONDS - 0.1)
        await b.checks.authenticate(token)
        await asyncio.sleep(0)
        assert b.reviews == 2


@scenario
async def test_many_calls_at_once_make_one_review_and_one_that_hangs_up_does_not_end_it() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = b.server.issue(pod)
        b.server.let_reviews_go = asyncio.Event()
        calls = [asyncio.create_task(b.checks.authenticate(token)) for _ in range(20)]
        await soon(lambda: b.reviews, "a review is asked for")
        calls[0].cancel()
        b.server.let_reviews_go.set()
        assert await asyncio.gather(*calls[1:]) == [caller(pod)] * 19
        assert b.reviews == 1


@scenario
async def test_a_token_that_the_kubelet_has_renewed_is_the_same_pods() -> None:
    async with bench() as b:
        pod = await b.pod()
        first, second = b.server.issue(pod), b.server.issue(pod)
        assert await b.checks.authenticate(first) == await b.checks.authenticate(second)


# ---- attackers ---------------------------------------------------------------------


@scenario
async def test_a_forged_token_is_refused_and_not_reviewed_again_at_once() -> None:
    async with bench() as b:
        token = b.server.forged(await b.pod())
        for _ in range(10):
            assert await b.refusal(token) is Reason.REJECTED
        assert b.reviews == 1
        b.pass_time(REFUSED_SECONDS)
        assert await b.refusal(token) is Reason.REJECTED
        assert b.reviews == 2


@scenario
async def test_an_expired_token_is_refused_unasked() -> None:
    async with bench() as b:
        token = b.server.issue(await b.pod(), lifetime_seconds=-1.0)
        assert await b.refusal(token) is Reason.EXPIRED
        assert b.reviews == 0


@scenario
async def test_a_token_does_not_outlive_its_end_however_young_its_review() -> None:
    async with bench() as b:
        token = await b.known(b.server.issue(await b.pod(), lifetime_seconds=4.0))
        b.pass_time(4.0)
        assert await b.refusal(token, for_renewal=True) is Reason.EXPIRED


@scenario
async def test_a_token_for_another_audience_is_refused() -> None:
    async with bench() as b:
        pod = await b.pod()
        other = "https://kubernetes.default.svc"
        assert await b.refusal(b.server.issue(pod, audience=other)) is Reason.WRONG_AUDIENCE
        # The signature of one for another audience does not cover what it says to be here.
        lying = b.server.issue(pod, audience=other, claims={"aud": ["zeus-agent"]})
        assert await b.refusal(lying) is Reason.REJECTED


@scenario
async def test_an_api_server_that_knows_no_audiences_lets_nobody_in() -> None:
    async with bench() as b:
        b.server.knows_audiences = False
        assert await b.refusal(b.server.issue(await b.pod())) is Reason.WRONG_AUDIENCE


@scenario
async def test_a_token_that_is_bound_to_no_pod_is_refused() -> None:
    async with bench() as b:
        assert await b.refusal(b.server.issue(None)) is Reason.NOT_A_POD
        # What it says of itself does not bind it.
        pod = await b.pod()
        bound = {"kubernetes.io": {"pod": {"uid": pod["metadata"]["uid"]}}}
        assert await b.refusal(b.server.issue(None, claims=bound)) is Reason.NOT_A_POD


@scenario
async def test_a_cluster_that_does_not_say_the_node_lets_nobody_in() -> None:
    async with bench() as b:
        b.server.knows_nodes = False
        assert await b.refusal(b.server.issue(await b.pod())) is Reason.NOT_A_POD


@scenario
async def test_a_token_of_a_pod_on_another_node_is_refused() -> None:
    async with bench() as b:
        pod = await b.pod("elsewhere", node="node-2")
        assert await b.refusal(b.server.issue(pod)) is Reason.OTHER_NODE
        here = {"kubernetes.io": {"pod": {"uid": "u"}, "node": {"name": NODE}}}
        assert await b.refusal(b.server.issue(pod, claims=here)) is Reason.OTHER_NODE


@scenario
async def test_a_token_that_is_used_again_after_its_pod_is_refused_at_once() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        await b.lose(pod)
        assert await b.refusal(token) is Reason.POD_GONE
        assert await b.refusal(token, for_renewal=True) is Reason.POD_GONE
        assert b.reviews == 1


@scenario
async def test_a_pod_that_is_over_can_not_call_though_its_token_still_reviews_well() -> None:
    async with bench() as b:
        pod = await b.pod()
        token = await b.known(b.server.issue(pod))
        over = pod_manifest(uid=pod["metadata"]["uid"], phase="Failed")
        await b.server.add(over)
        await soon(lambda: not b.pods.all(), "its end is seen")
        assert await b.refusal(token) is Reason.POD_GONE


@scenario
async def test_an_agent_that_has_seen_nothing_yet_asks_whether_the_pod_lives() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        pod = await server.add(pod_manifest(phase="Succeeded"))
        checks = TokenAuthenticator(api, LivePods(api, NODE), NODE)
        with pytest.raises(Unauthenticated) as refused:
            await checks.authenticate(server.issue(pod))
        assert refused.value.reason is Reason.POD_GONE


@scenario
async def test_a_token_of_a_former_pod_of_the_same_name_is_refused() -> None:
    async with bench() as b:
        former = await b.pod()
        token = await b.known(b.server.issue(former))
        await b.lose(former)
        later = await b.pod()
        assert await b.refusal(token) is Reason.POD_GONE
        assert await b.checks.authenticate(b.server.issue(later)) == caller(later)


class EndsAsItIsConfirmed(LivePods):
    """Pods whose end is told just after the API server has said that they live."""

    async def confirm(
        self, namespace: str, name: str, uid: str, service_account: str
    ) -> LivePod | None:
        pod = await super().confirm(namespace, name, uid, service_account)
        asyncio.get_running_loop().call_soon(self._lose, uid)
        return pod


@scenario
async def test_an_end_that_is_told_between_the_review_and_its_caller_counts() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        checks = TokenAuthenticator(api, EndsAsItIsConfirmed(api, NODE), NODE)
        with pytest.raises(Unauthenticated) as refused:
            await checks.authenticate(server.issue(await server.add(pod_manifest())))
        assert refused.value.reason is Reason.POD_GONE


@scenario
async def test_a_token_of_another_account_than_the_pods_is_refused() -> None:
    async with bench() as b:
        pod = await b.pod()
        assert await b.refusal(b.server.issue(pod, account="admin")) is Reason.POD_GONE


@scenario
async def test_why_a_token_is_not_good_is_told_to_who_debugs_and_the_token_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "zeus_agent")
    async with bench() as b:
        token = b.server.forged(await b.pod())
        await b.refusal(token)
    assert "unknown signature" in caplog.text
    assert token not in caplog.text


@scenario
async def test_a_token_that_was_revoked_is_refused_within_seconds() -> None:
    async with bench() as b:
        token = await b.known()
        b.server.revoke(token)
        b.pass_time(FRESH_SECONDS)
        assert await b.refusal(token) is Reason.REJECTED


@pytest.mark.parametrize(
    "odd", ["x" * 1_000_000, "e30." * 500_000, "\udcff.\udcff.\udcff", "é.é.é"]
)
@scenario
async def test_a_huge_or_odd_token_is_refused_unasked(odd: str) -> None:
    async with bench() as b:
        assert await b.refusal(odd) is Reason.MALFORMED
        assert b.reviews == 0


@scenario
async def test_a_token_without_a_signature_of_ours_is_refused_whatever_it_claims() -> None:
    async with bench() as b:
        pod = await b.pod()
        unsigned = jwt(
            {
                "aud": "zeus-agent",
                "exp": b.wall() + 60,
                "kubernetes.io": {"pod": {"uid": pod["metadata"]["uid"]}, "node": {"name": NODE}},
            },
            signature="e30",
        )
        assert await b.refusal(unsigned) is Reason.REJECTED
