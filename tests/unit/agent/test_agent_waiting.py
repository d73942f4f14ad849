"""Who waits for a limit, and is answered."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.async_scenario import scenario
from zeus_agent.limits import LeaseView, Refused
from zeus_agent.waiting import PER_ROUND, Waiting
from zeus_runtime.protocol import ErrorCode

VIEW = LeaseView("run", "GPU-1", 1, 200_000, 200_000, 300_000, clamped=False, foreign=False)


@scenario
async def test_many_callers_are_answered_a_few_in_each_round_of_the_loop() -> None:
    waiting = Waiting()
    futures = [waiting.add(1, "run") for _ in range(3 * PER_ROUND)]
    waiting.answer(1, "run", None, VIEW)
    assert not waiting
    answered = []
    for _ in range(4):
        answered.append(sum(future.done() for future in futures))
        await asyncio.sleep(0)
    assert answered == [PER_ROUND, 2 * PER_ROUND, 3 * PER_ROUND, 3 * PER_ROUND]
    assert {future.result() for future in futures} == {VIEW}


@scenario
async def test_those_who_are_answered_later_are_not_mixed_up_with_those_who_wait_anew() -> None:
    waiting, refusal = Waiting(), Refused(ErrorCode.NVML_ERROR, "no")
    first = [waiting.add(1, "run") for _ in range(PER_ROUND + 2)]
    waiting.answer(1, "run", None, VIEW)
    second, third = waiting.add(2, "run"), waiting.add(3, "run")
    waiting.answer(2, "run", refusal, VIEW)
    assert waiting, "the third wish is not done"
    await asyncio.sleep(0)
    assert {future.result() for future in first} == {VIEW}
    with pytest.raises(Refused, match="no"):
        await second
    assert not third.done()


@scenario
async def test_who_has_gone_before_its_answer_is_passed_over() -> None:
    waiting = Waiting()
    futures = [waiting.add(1, "run") for _ in range(PER_ROUND + 2)]
    waiting.answer(1, "run", None, VIEW)
    futures[1].cancel()
    await asyncio.sleep(0)
    assert futures[0].result() == VIEW


@scenario
async def test_the_newest_wish_is_answered_before_those_that_it_has_replaced() -> None:
    waiting = Waiting()
    replaced = [waiting.add(number, "run") for number in range(1, 3 * PER_ROUND)]
    newest = waiting.add(3 * PER_ROUND, "run")
    waiting.answer(3 * PER_ROUND, "run", None, VIEW)
    assert newest.result() == VIEW
    assert not replaced[0].done()
