"""Who calls the agent, as a real API server says it: its tokens, its reviews, its watch."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster.support.api import Api, Object
from tests.cluster.support.control_plane import ControlPlane
from tests.support.async_scenario import Clock, scenario, soon
from zeus_agent.callers import PodCaller, ServiceCaller
from zeus_agent.cluster.api_address import ApiAddress
from zeus_agent.cluster.kube_api import ApiRefused, KubeApi
from zeus_agent.cluster.live_pods import LivePods
from zeus_agent.cluster.tokens import (
    FRESH_SECONDS,
    Reason,
    ReviewUnavailable,
    TokenAuthenticator,
    Unauthenticated,
)

RULES = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]
"""All that the agent's identity needs."""


@dataclass
class Place:
    """A namespace, a node that only this test has, and an agent's account on it."""

    cluster: ControlPlane
    api: Api
    namespace: str
    agent: ApiAddress
    stranger: ApiAddress

    @property
    def node(self) -> str:
        return f"node-of-{self.namespace}"

    def pod(self, name: str = "train", node: str = "", account: str = "default") -> Object:
        """Create a pod that is on a node already."""
        container = {"name": "train", "image": "example.org/train:1"}
        spec = {
            "nodeName": node or self.node,
            "serviceAccountName": account,
            "containers": [container],
        }
        body = {"metadata": {"name": name, "labels": {"zeus.energy/job": "nightly"}}, "spec": spec}
        return self.api.post(f"/api/v1/namespaces/{self.namespace}/pods", body)

    def path(self, pod: Object) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"

    def delete(self, pod: Object) -> None:
        """Remove a pod as if its kubelet had ended it."""
        self.api.delete(self.path(pod), gracePeriodSeconds=0)

    def token(
        self, pod: Object | None, audience: str = "zeus-agent", account: str = "default"
    ) -> str:
        """Return what a kubelet would project into the pod."""
        spec: Object = {"audiences": [audience], "expirationSeconds": 600}
        if pod is not None:
            about = pod["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": about["name"],
                "uid": about["uid"],
            }
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        token: str = self.api.post(path, {"spec": spec})["status"]["token"]
        return token


def account(place_of: Path, cluster: ControlPlane, namespace: str, name: str) -> ApiAddress:
    """Return the API server as a service account sees it."""
    document = yaml.safe_load(cluster.kubeconfig_for(name, namespace).read_text())
    folder = place_of / name
    folder.mkdir()
    (folder / "token").write_text(document["users"][0]["user"]["token"])
    authority = document["clusters"][0]["cluster"]["certificate-authority-data"]
    (folder / "ca.crt").write_bytes(base64.b64decode(authority))
    return ApiAddress(cluster.url, folder / "token", folder / "ca.crt")


@pytest.fixture
def place(cluster: ControlPlane, api: Api, namespace: str, tmp_path: Path) -> Iterator[Place]:
    for name in ("agent", "operator", "stranger"):
        api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    api.post(roles, {"metadata": {"name": namespace}, "rules": RULES})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace}
    subject = {"kind": "ServiceAccount", "name": "agent", "namespace": namespace}
    api.post(bindings, {"metadata": {"name": namespace}, "roleRef": role, "subjects": [subject]})
    agent = account(tmp_path, cluster, namespace, "agent")
    stranger = account(tmp_path, cluster, namespace, "stranger")
    yield Place(cluster, api, namespace, agent, stranger)
    api.delete(f"{bindings}/{namespace}")
    api.delete(f"{roles}/{namespace}")


class Agent:
    """What the agent has to know its callers, with clocks that a test may move."""

    def __init__(self, api: KubeApi, place: Place) -> None:
        self.clock, self.wall = Clock(), Clock(time.time())
        self.pods = LivePods(api, place.node)
        self.checks = TokenAuthenticator(
            api,
            self.pods,
            place.node,
            operator=ServiceCaller(place.namespace, "operator"),
            clock=self.clock,
            wall_clock=self.wall,
        )

    async def refusal(self, token: str, *, for_renewal: bool = False) -> Reason:
        with pytest.raises(Unauthenticated) as refused:
            await self.checks.authenticate(token, for_renewal=for_renewal)
        return refused.value.reason

    async def sees(self, pod: Object) -> None:
        await soon(lambda: self.pods.get(pod["metadata"]["uid"]), "the pod is seen")


@contextlib.asynccontextmanager
async def agent(place: Place, *, watches: bool = True) -> AsyncIterator[Agent]:
    async with KubeApi(place.agent) as api:
        made = Agent(api, place)
        work = asyncio.create_task(made.pods.run() if watches else asyncio.Event().wait())
        if watches:
            await soon(lambda: made.pods.is_synced, "the pods are listed")
        try:
            yield made
        finally:
            work.cancel()
            await asyncio.wait([work])


def caller(place: Place, pod: Object) -> PodCaller:
    about = pod["metadata"]
    return PodCaller(place.namespace, about["name"], about["uid"], "default")


@pytest.mark.parametrize("watches", [True, False])
@scenario
async def test_a_pod_of_this_node_is_known_by_its_projected_token(
    place: Place, watches: bool
) -> None:
    async with agent(place, watches=watches) as a:
        pod = place.pod()
        assert await a.checks.authenticate(place.token(pod)) == caller(place, pod)


@scenario
async def test_the_operator_is_known_by_its_account(place: Place) -> None:
    async with agent(place) as a:
        pod = place.pod("operator", node="elsewhere", account="operator")
        known = await a.checks.authenticate(place.token(pod, account="operator"))
        assert known == ServiceCaller(place.namespace, "operator")


def with_claims(token: str, **changed: object) -> str:
    """Return the token with other claims and the signature that it had."""
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    new = base64.urlsafe_b64encode(json.dumps({**claims, **changed}).encode()).decode()
    return f"{head}.{new.rstrip('=')}.{signature}"


@scenario
async def test_tokens_of_attackers_are_refused(place: Place) -> None:
    async with agent(place) as a:
        pod, elsewhere = place.pod(), place.pod("elsewhere", node="node-of-somebody")
        good = place.token(pod)

        # Forged: a longer life, with the signature of the shorter one.
        forged = with_claims(good, exp=int(time.time()) + 360_000)
        assert await a.refusal(forged) is Reason.REJECTED
        # For somebody else, and one for somebody else that says to be for us.
        other = place.token(pod, audience="somebody-else")
        assert await a.refusal(other) is Reason.WRONG_AUDIENCE
        assert await a.refusal(with_claims(other, aud=["zeus-agent"])) is Reason.REJECTED
        # Of an account, without a pod; and of a pod on another node.
        assert await a.refusal(place.token(None)) is Reason.NOT_A_POD
        assert await a.refusal(place.token(elsewhere)) is Reason.OTHER_NODE
        # Expired.
        a.wall.advance(601.0)
        assert await a.refusal(place.token(pod)) is Reason.EXPIRED


@scenario
async def test_the_api_server_itself_does_not_confirm_another_audience(place: Place) -> None:
    async with KubeApi(place.agent) as api:
        review = await api.review_token(place.token(place.pod(), "somebody-else"), "zeus-agent")
        assert not review.authenticated
        assert review.error


@scenario
async def test_the_token_of_a_deleted_pod_is_refused_at_once_and_by_an_agent_that_starts(
    place: Place,
) -> None:
    async with agent(place) as a, agent(place, watches=False) as later:
        pod = place.pod()
        token = place.token(pod)
        await a.checks.authenticate(token)
        place.delete(pod)
        await soon(lambda: a.pods.is_gone(pod["metadata"]["uid"]), "its end is seen")
        assert await a.refusal(token, for_renewal=True) is Reason.POD_GONE
        # The API server keeps good answers for some seconds itself, but not whether a pod is there.
        assert await later.refusal(token) in (Reason.POD_GONE, Reason.REJECTED)


@scenario
async def test_the_token_of_a_former_pod_of_the_same_name_is_refused(place: Place) -> None:
    async with agent(place) as a:
        former = place.pod()
        token = place.token(former)
        await a.checks.authenticate(token)
        place.delete(former)
        later = place.pod()
        await a.sees(later)
        assert await a.refusal(token) is Reason.POD_GONE
        assert await a.checks.authenticate(place.token(later)) == caller(place, later)


@scenario
async def test_a_pod_that_is_over_is_gone_though_its_token_reviews_well(place: Place) -> None:
    gone: list[str] = []
    async with agent(place) as a:
        pod = place.pod()
        await a.sees(pod)
        a.pods.when_gone(lambda each: gone.append(each.uid))
        token = place.token(pod)
        place.api.patch(place.path(pod) + "/status", {"status": {"phase": "Succeeded"}})
        await soon(lambda: gone == [pod["metadata"]["uid"]], "its end is told")
        assert await a.refusal(token) is Reason.POD_GONE


@scenario
async def test_a_pod_that_is_asked_to_end_may_call_until_it_has(place: Place) -> None:
    async with agent(place) as a:
        pod = place.pod()
        await a.sees(pod)
        place.api.delete(place.path(pod))  # nobody plays its kubelet: it stays
        await a.sees(place.pod("later"))  # so that the wish is seen too
        assert await a.checks.authenticate(place.token(pod)) == caller(place, pod)


@scenario
async def test_pods_are_seen_with_what_metrics_need(place: Place) -> None:
    async with agent(place) as a:
        for number in range(45):  # more than two pages of the next list
            place.pod(f"pod-{number}")
        place.pod("elsewhere", node="node-of-somebody")
        await soon(lambda: len(a.pods.all()) == 45, "all are seen")
        assert {pod.zeusjob for pod in a.pods.all()} == {"nightly"}
        async with agent(place) as b:
            assert set(b.pods.all()) == set(a.pods.all())


@scenario
async def test_an_outage_of_the_api_server_ends_no_session_and_begins_none(place: Place) -> None:
    async with agent(place) as a:
        pod, goes = place.pod(), place.pod("goes")
        token, new = place.token(pod), place.token(pod)
        await a.checks.authenticate(token)
        await a.sees(goes)

        await asyncio.to_thread(place.cluster.stop_api_server)
        try:
            a.clock.advance(FRESH_SECONDS)
            assert await a.checks.authenticate(token, for_renewal=True) == caller(place, pod)
            with pytest.raises(ReviewUnavailable):
                await a.checks.authenticate(token)
            with pytest.raises(ReviewUnavailable):
                await a.checks.authenticate(new, for_renewal=True)
            assert len(a.pods.all()) == 2, "nobody is gone because nobody answers"
        finally:
            await asyncio.to_thread(place.cluster.start_api_server)
        a.clock.advance(FRESH_SECONDS)
        place.delete(goes)
        await soon(lambda: a.pods.is_gone(goes["metadata"]["uid"]), "the watch goes on")
        assert await a.checks.authenticate(token) == caller(place, pod)
        assert await a.checks.authenticate(new) == caller(place, pod)


@scenario
async def test_an_agent_without_its_rights_lets_nobody_in_and_says_which(place: Place) -> None:
    token = place.token(place.pod())
    async with KubeApi(place.stranger) as api:
        checks = TokenAuthenticator(api, LivePods(api, place.node), place.node)
        with pytest.raises(ReviewUnavailable, match="cannot create resource"):
            await checks.authenticate(token)


@scenario
async def test_events_are_created_and_counted(place: Place) -> None:
    pod = place.pod()
    about = {"kind": "Pod", "namespace": place.namespace, "name": "train"}
    event = {
        "metadata": {"name": "train.1", "namespace": place.namespace},
        "involvedObject": {**about, "uid": pod["metadata"]["uid"]},
        "reason": "RestoreFailed",
        "message": "the limit is not back",
        "type": "Warning",
        "count": 1,
        "source": {"component": "zeus-agent", "host": place.node},
    }
    async with KubeApi(place.agent) as api:
        await api.create_event(place.namespace, event)
        await api.patch_event(place.namespace, "train.1", {"count": 2})
        with pytest.raises(ApiRefused) as refused:
            await api.patch_event(place.namespace, "train.2", {"count": 2})
    assert refused.value.status == 404
    kept = place.api.get(f"/api/v1/namespaces/{place.namespace}/events/train.1")
    assert (kept["count"], kept["message"]) == (2, "the limit is not back")
