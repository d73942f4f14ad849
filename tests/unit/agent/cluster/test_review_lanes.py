"""How many unknown tokens are reviewed, and whose."""

from __future__ import annotations

import pytest

from zeus_agent.cluster import lanes as module
from zeus_agent.cluster.lanes import ALL, LANE, PEER, STRANGERS, Lanes


def admitted(lanes: Lanes, claim: str, tries: int, now: float, peer: str = "10.0.0.1") -> int:
    return sum(lanes.wait_seconds(claim, peer, now) == 0.0 for _ in range(tries))


def test_a_burst_passes_then_the_pace() -> None:
    lanes = Lanes()
    assert admitted(lanes, "pod", 100, 5.0) == LANE.burst
    assert admitted(lanes, "pod", 100, 5.0 + 2.0 / LANE.per_second) == 2


def test_the_wait_that_is_told_is_enough() -> None:
    lanes = Lanes()
    admitted(lanes, "pod", 100, 5.0)
    wait = lanes.wait_seconds("pod", "10.0.0.1", 5.0)
    assert admitted(lanes, "pod", 1, 5.0 + wait / 2) == 0
    assert admitted(lanes, "pod", 1, 5.0 + wait) == 1


def test_strangers_do_not_take_the_place_of_a_live_pod() -> None:
    lanes = Lanes()
    assert admitted(lanes, "", 1000, 5.0) == STRANGERS.burst
    assert admitted(lanes, "pod", 1, 5.0) == 1


def test_who_claims_to_be_another_does_not_take_its_place() -> None:
    lanes = Lanes()
    assert admitted(lanes, "victim", 100, 5.0, peer="10.0.0.66") == LANE.burst
    assert admitted(lanes, "victim", 1, 5.0, peer="10.0.0.1") == 1


def test_who_claims_to_be_everybody_does_not_use_up_what_there_is_for_all() -> None:
    lanes = Lanes()
    tries = [admitted(lanes, f"pod-{n}", 10, 5.0, peer="10.0.0.66") for n in range(100)]
    assert sum(tries) == PEER.burst
    assert admitted(lanes, "pod-99", 1, 5.0) == 1


def test_one_pod_does_not_take_the_place_of_another() -> None:
    lanes = Lanes()
    admitted(lanes, "loud", 1000, 5.0)
    assert admitted(lanes, "quiet", 1, 5.0) == 1


def test_all_lanes_together_have_a_pace_too() -> None:
    lanes = Lanes()
    tries = [admitted(lanes, f"pod-{n}", 10, 5.0, peer=f"10.0.0.{n}") for n in range(100)]
    assert sum(tries) == ALL.burst


def test_a_clock_that_goes_back_lets_nobody_in() -> None:
    lanes = Lanes()
    admitted(lanes, "pod", 100, 5.0)
    assert admitted(lanes, "pod", 1, 1.0) == 0


def test_of_too_many_lanes_the_oldest_is_forgotten_and_first_those_that_say_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LANES", 2)
    lanes = Lanes()
    for used in ("first", "second"):
        assert admitted(lanes, used, 100, 5.0) == LANE.burst
    admitted(lanes, "third", 100, 5.0)
    assert admitted(lanes, "first", 1, 5.0) == 1, "forgotten for the third, which was one too many"
    later = 5.0 + LANE.burst / LANE.per_second  # now all are as if they had never been used
    for new in ("fourth", "fifth"):
        assert admitted(lanes, new, 100, later) == LANE.burst
    assert admitted(lanes, "fourth", 1, later) == 0, "it was not the one to go"
