"""Kubernetes Events: few calls, whatever happens, and nothing lost while nobody answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.async_scenario import Clock, scenario
from zeus_agent.callers import PodCaller
from zeus_agent.cluster.kube_api import ApiRefused, ApiUnavailable
from zeus_agent.events import (
    BURST,
    FORGET_SECONDS,
    REFUSALS_BURST,
    REPEAT_SECONDS,
    RETRY_SECONDS,
    Events,
)
from zeus_agent.leases import Refused
from zeus_runtime.protocol import ErrorCode

GPU = "GPU-1"
TRAIN = PodCaller("team", "train", "uid-1", "trainer")
DENIED = Refused(ErrorCode.POLICY_DENIED, "namespace team is not allowed")


@dataclass
class EventsServer:
    """Takes Events, or raises what the test puts in."""

    created: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    patched: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    fault: Exception | None = None
    answers_get_lost: bool = False

    async def create_event(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        if body["metadata"]["name"] in [other["metadata"]["name"] for _, other in self.created]:
            raise ApiRefused(409, "AlreadyExists", "there is one of that name")
        self.created.append((namespace, body))
        if self.answers_get_lost:
            raise ApiUnavailable("the connection was reset")
        return body

    async def patch_event(self, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        self.patched.append((namespace, name, body))
        return body


@dataclass
class Lab:
    server: EventsServer = field(default_factory=EventsServer)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.events = Events(self.server, "node-1", clock=self.clock, wall_clock=lambda: 86400.0)

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.events.send_due()


@scenario
async def test_what_concerns_the_node_is_told_at_the_node() -> None:
    lab = Lab()
    lab.events.restore_failed(GPU, "the GPU is lost")
    await lab.later(0.0)
    ((namespace, body),) = lab.server.created
    assert namespace == body["metadata"]["namespace"] == "default"
    assert body["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node-1",
        "uid": "node-1",
    }
    assert (body["type"], body["reason"], body["count"]) == ("Warning", "PowerLimitNotRestored", 1)
    assert GPU in body["message"]
    assert "the GPU is lost" in body["message"]
    assert body["firstTimestamp"] == body["lastTimestamp"] == "1970-01-02T00:00:00Z"


@scenario
async def test_what_concerns_a_pod_is_told_at_the_pod() -> None:
    lab = Lab()
    lab.events.pod_refused(TRAIN, DENIED)
    lab.events.lease_revoked(GPU, TRAIN, DENIED)
    lab.events.foreign_change(GPU, 250.0, TRAIN)
    await lab.later(0.0)
    reasons = {
        (namespace, body["involvedObject"]["kind"], body["reason"])
        for namespace, body in lab.server.created
    }
    assert reasons == {
        ("team", "Pod", "PowerLimitRefused"),
        ("team", "Pod", "PowerLimitRevoked"),
        ("team", "Pod", "PowerLimitChangedElsewhere"),
        ("default", "Node", "PowerLimitChangedElsewhere"),
    }


@pytest.mark.parametrize("code", [ErrorCode.NOT_FOUND, ErrorCode.GPU_LEASED, ErrorCode.BAD_REQUEST])
def test_refusals_that_nobody_has_to_act_on_are_not_told(code: ErrorCode) -> None:
    @scenario
    async def check() -> None:
        lab = Lab()
        lab.events.pod_refused(TRAIN, Refused(code, "no"))
        await lab.later(0.0)
        assert lab.server.created == []

    check()


@scenario
async def test_repetitions_become_a_count_once_a_minute() -> None:
    lab = Lab()
    for _ in range(600):
        lab.events.pod_refused(TRAIN, DENIED)
        await lab.later(0.2)
    assert len(lab.server.created) == 1
    assert len(lab.server.patched) == 1
    (_, name, body) = lab.server.patched[0]
    assert name == lab.server.created[0][1]["metadata"]["name"]
    assert 300 <= body["count"] <= 302
    await lab.later(REPEAT_SECONDS)
    assert lab.server.patched[-1][2]["count"] == 600


@scenario
async def test_after_a_while_without_it_the_same_is_a_new_event() -> None:
    lab = Lab()
    lab.events.restore_failed(GPU, "lost")
    await lab.later(0.0)
    await lab.later(FORGET_SECONDS + 1.0)
    lab.events.restore_failed(GPU, "lost")
    await lab.later(0.0)
    names = [body["metadata"]["name"] for _, body in lab.server.created]
    assert len(set(names)) == 2


@scenario
async def test_while_nobody_answers_it_waits_and_is_told_later() -> None:
    lab = Lab()
    lab.server.fault = ApiUnavailable("away")
    lab.events.restore_failed(GPU, "lost")
    lab.events.restore_failed("GPU-2", "lost")
    await lab.later(0.0)
    lab.server.fault = None
    await lab.later(RETRY_SECONDS - 0.1)
    assert lab.server.created == [], "not asked again at once"
    lab.events.restore_failed(GPU, "still lost")
    await lab.later(0.2)
    assert [body["count"] for _, body in lab.server.created] == [2, 1]
    assert "still lost" in lab.server.created[0][1]["message"]


@scenario
async def test_an_event_that_has_expired_is_created_again() -> None:
    lab = Lab()
    lab.events.restore_failed(GPU, "lost")
    await lab.later(0.0)
    lab.events.restore_failed(GPU, "lost")
    lab.server.fault = ApiRefused(404, "NotFound", "no such event")
    await lab.later(REPEAT_SECONDS)
    lab.server.fault = None
    await lab.later(1.0)
    assert [body["count"] for _, body in lab.server.created] == [1, 2]


@scenario
async def test_one_that_is_refused_is_dropped_and_others_are_told() -> None:
    lab = Lab()
    lab.server.fault = ApiRefused(403, "Forbidden", "namespace is terminating")
    lab.events.pod_refused(TRAIN, DENIED)
    await lab.later(0.0)
    lab.server.fault = None
    lab.events.restore_failed(GPU, "lost")
    await lab.later(1.0)
    assert [body["reason"] for _, body in lab.server.created] == ["PowerLimitNotRestored"]


def flood(lab: Lab, pods: int = 1000) -> None:
    """Refuse so many pods."""
    for number in range(pods):
        lab.events.pod_refused(PodCaller("team", f"p{number}", f"uid-{number}", "a"), DENIED)


@scenario
async def test_a_flood_of_refused_pods_is_told_slowly_and_bounded() -> None:
    lab = Lab()
    flood(lab)
    await lab.later(0.0)
    assert len(lab.server.created) == REFUSALS_BURST
    await lab.later(10.0)
    assert len(lab.server.created) == REFUSALS_BURST + 1
    for _ in range(1000):
        await lab.later(10.0)
    assert len(lab.server.created) <= 256 + REFUSALS_BURST


@pytest.mark.parametrize("is_flooded_first", [True, False])
def test_what_concerns_the_node_is_told_at_once_whatever_pods_do(is_flooded_first: bool) -> None:
    @scenario
    async def check() -> None:
        lab = Lab()
        if is_flooded_first:
            flood(lab)
            await lab.later(0.0)
        lab.server.created.clear()
        lab.events.restore_failed(GPU, "lost")
        flood(lab)
        await lab.later(0.0)
        assert lab.server.created[0][1]["reason"] == "PowerLimitNotRestored"

    check()


@scenario
async def test_what_concerns_the_node_does_not_give_way_to_refusals_while_nobody_answers() -> None:
    lab = Lab()
    lab.server.fault = ApiUnavailable("away")
    lab.events.restore_failed(GPU, "lost")
    lab.events.foreign_change(GPU, 125.0, TRAIN)
    flood(lab)
    lab.server.fault = None
    await lab.later(RETRY_SECONDS)
    told = [(body["involvedObject"]["kind"], body["reason"]) for _, body in lab.server.created[:3]]
    assert told == [
        ("Node", "PowerLimitNotRestored"),
        ("Node", "PowerLimitChangedElsewhere"),
        ("Pod", "PowerLimitChangedElsewhere"),
    ]


@scenario
async def test_what_is_new_goes_before_repetitions() -> None:
    lab = Lab()
    gpus = [f"GPU-{number}" for number in range(BURST)]
    for gpu in gpus:
        lab.events.restore_failed(gpu, "lost")
    await lab.later(0.0)
    assert len(lab.server.created) == BURST
    for gpu in gpus:
        lab.events.restore_failed(gpu, "lost")
    lab.events.restore_failed("GPU-new", "lost")
    await lab.later(REPEAT_SECONDS)
    assert "GPU-new" in lab.server.created[-1][1]["message"]


@scenario
async def test_a_creation_whose_answer_was_lost_makes_no_second_event() -> None:
    lab = Lab()
    lab.server.answers_get_lost = True
    lab.events.restore_failed(GPU, "lost")
    await lab.later(0.0)
    lab.server.answers_get_lost = False
    lab.events.restore_failed(GPU, "lost")
    await lab.later(RETRY_SECONDS)
    await lab.later(REPEAT_SECONDS)
    names = {body["metadata"]["name"] for _, body in lab.server.created}
    assert len(names) == 1
    assert [(name, body["count"]) for _, name, body in lab.server.patched] == [(*names, 2)]


@pytest.mark.parametrize("cut", ["-", "."])
def test_a_long_name_is_cut_to_a_valid_one(cut: str) -> None:
    @scenario
    async def check() -> None:
        lab = Lab()
        name = "p" * 199 + cut + "x" * 40
        lab.events.pod_refused(PodCaller("team", name, "uid-1", "a"), DENIED)
        await lab.later(0.0)
        made = lab.server.created[0][1]["metadata"]["name"]
        assert len(made) <= 253
        assert all(re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", part) for part in made.split("."))

    check()
