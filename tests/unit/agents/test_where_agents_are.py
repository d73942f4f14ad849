"""Where the agents are is asked by one at a time, and nobody waits for that one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from kubernetes.client import Configuration

from zeus_operator.agents.directory import (
    FAILED_FOR_SECONDS,
    FOUND_FOR_SECONDS,
    SERVED_FOR_SECONDS,
    Agents,
)
from zeus_operator.kube import KubeClient, KubeUnavailable
from zeus_operator.settings import ServiceName


class Slices(KubeClient):
    """The API server's list of EndpointSlices, whose faults the test switches.

    Attributes:
        asked: number of lists.
        is_away: no list comes.
        may_answer: a list waits for it.
        is_asked: set by each list.
        nodes: where agents are.
    """

    def __init__(self) -> None:
        super().__init__(Configuration())
        self.asked = 0
        self.is_away = False
        self.nodes = ["gpu-1"]
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_rest: Any
    ) -> dict[str, Any]:
        self.asked += 1
        self.is_asked.set()
        assert self.may_answer.wait(30)
        assert (query or {})["labelSelector"] == "kubernetes.io/service-name=zeus-agent"
        if self.is_away:
            raise KubeUnavailable(0, "", "the API server does not answer")
        endpoints = [{"nodeName": node, "addresses": ["10.0.0.1"]} for node in self.nodes]
        return {"items": [{"ports": [{"port": 8443}], "endpoints": endpoints}]}


class Clock:
    """Monotonic seconds that the test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def slices() -> Iterator[Slices]:
    made = Slices()
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def agents(slices: Slices, clock: Clock) -> Agents:
    return Agents(slices, ServiceName("zeus-agent", "zeus-system"), clock)


def test_what_was_found_is_told_for_a_while(agents: Agents, slices: Slices, clock: Clock) -> None:
    assert list(agents.by_node()) == ["gpu-1"]
    slices.nodes = ["gpu-1", "gpu-2"]
    clock.seconds = FOUND_FOR_SECONDS - 1
    assert list(agents.by_node()) == ["gpu-1"]
    clock.seconds = FOUND_FOR_SECONDS
    assert list(agents.by_node()) == ["gpu-1", "gpu-2"]
    assert slices.asked == 2


def test_while_one_asks_the_others_take_what_was_found_before(
    agents: Agents, slices: Slices, clock: Clock
) -> None:
    agents.by_node()
    clock.seconds = FOUND_FOR_SECONDS
    with held_up(agents, slices):
        assert list(agents.by_node()) == ["gpu-1"]
        assert slices.asked == 2


def test_while_the_first_asks_the_others_are_told_so_and_do_not_wait(
    agents: Agents, slices: Slices
) -> None:
    with held_up(agents, slices):
        with pytest.raises(KubeUnavailable, match="is being asked"):
            agents.by_node()
        assert slices.asked == 1
    assert list(agents.by_node()) == ["gpu-1"]


def test_a_failure_is_told_to_all_who_ask_just_after(
    agents: Agents, slices: Slices, clock: Clock
) -> None:
    slices.is_away = True
    for _ in range(3):
        with pytest.raises(KubeUnavailable, match="does not answer"):
            agents.by_node()
    assert slices.asked == 1
    slices.is_away = False
    clock.seconds = FAILED_FOR_SECONDS
    assert list(agents.by_node()) == ["gpu-1"]


def test_an_api_server_that_is_away_for_a_moment_is_not_noticed(
    agents: Agents, slices: Slices, clock: Clock
) -> None:
    agents.by_node()
    slices.is_away = True
    clock.seconds = SERVED_FOR_SECONDS - 1
    assert list(agents.by_node()) == ["gpu-1"]
    clock.seconds = SERVED_FOR_SECONDS + FAILED_FOR_SECONDS
    with pytest.raises(KubeUnavailable, match="does not answer"):
        agents.by_node()


class held_up:  # noqa: N801 - reads as a verb
    """While a thread asks the API server and gets no answer yet."""

    def __init__(self, agents: Agents, slices: Slices) -> None:
        self._slices = slices
        self._thread = threading.Thread(target=agents.by_node)

    def __enter__(self) -> None:
        self._slices.may_answer.clear()
        self._slices.is_asked.clear()
        self._thread.start()
        assert self._slices.is_asked.wait(30)

    def __exit__(self, *_exception: object) -> None:
        self._slices.may_answer.set()
        self._thread.join()
