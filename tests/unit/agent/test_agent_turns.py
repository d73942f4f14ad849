"""Whose request is begun next, with rounds of the loop that the test makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.support.async_scenario import Clock
from zeus_agent.turns import MOMENT_SECONDS, PER_ROUND, Turns


@dataclass
class Lab:
    """Turns, and what was begun."""

    clock: Clock = field(default_factory=Clock)
    due: list[Callable[[], None]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = Turns(self.due.append, self.clock)

    def ask(self, lane: str, count: int = 1) -> list[Waiter]:
        waiters = [Waiter(self, lane) for _ in range(count)]
        for waiter in waiters:
            self.turns.ask(lane, waiter)
        return waiters

    def round(self) -> list[str]:
        """Go round the loop once and return whose requests that has begun."""
        before, due = len(self.begun), self.due[:]
        self.due.clear()
        for call in due:
            call()
        return self.begun[before:]


@dataclass(eq=False)
class Waiter:
    lab: Lab
    name: str

    def take_turn(self) -> None:
        self.lab.begun.append(self.name)


def test_while_nobody_waits_a_request_is_begun_at_once() -> None:
    lab = Lab()
    lab.ask("one")
    lab.ask("other")
    assert lab.begun == ["one", "other"]
    assert not lab.due, "no round is needed for that"


def test_of_many_requests_a_few_are_begun_in_each_round() -> None:
    lab = Lab()
    lab.ask("flood", 3 * PER_ROUND)
    assert len(lab.begun) == PER_ROUND
    assert [len(lab.round()) for _ in range(3)] == [PER_ROUND, PER_ROUND, 0]


def test_another_caller_waits_for_no_more_than_one_request_of_a_flood() -> None:
    lab = Lab()
    lab.ask("flood", 300)
    lab.ask("other")
    assert lab.round()[:2] == ["flood", "other"]


def test_callers_take_turns_whatever_each_of_them_sends() -> None:
    lab = Lab()
    lab.ask("full", PER_ROUND)
    lab.ask("a", 6)
    lab.ask("b", 2)
    lab.ask("c", 1)
    assert lab.round() == ["a", "b", "c", "a", "b", "a", "a", "a"]
    assert lab.round() == ["a"]


def test_who_comes_while_others_wait_does_not_go_before_them() -> None:
    lab = Lab()
    lab.ask("flood", PER_ROUND + 2)
    lab.clock.advance(2 * MOMENT_SECONDS)
    lab.ask("other")
    assert lab.begun == ["flood"] * PER_ROUND
    assert lab.round() == ["flood", "other", "flood"]


def test_after_a_moment_there_is_room_again() -> None:
    lab = Lab()
    lab.ask("one", PER_ROUND)
    lab.clock.advance(MOMENT_SECONDS)
    lab.ask("one")
    assert len(lab.begun) == PER_ROUND + 1


def test_who_leaves_has_no_turn_and_takes_none_from_others() -> None:
    lab = Lab()
    lab.ask("full", PER_ROUND)
    gone = lab.ask("hung up", 3)
    lab.ask("stays", PER_ROUND)
    for waiter in (*gone, gone[0]):
        lab.turns.leave("hung up", waiter)
    assert lab.round() == ["stays"] * PER_ROUND
    assert not lab.due


def test_a_turn_that_fails_keeps_nobody_from_theirs() -> None:
    class Failing(Waiter):
        def take_turn(self) -> None:
            raise ZeroDivisionError

    lab = Lab()
    lab.ask("full", PER_ROUND)
    lab.turns.ask("sick", Failing(lab, "sick"))
    lab.ask("well")
    with pytest.raises(ZeroDivisionError):
        lab.round()
    assert lab.round() == ["well"]
