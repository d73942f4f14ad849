from __future__ import annotations

import asyncio
import threading

import pytest

from zeus_agent.worker import GaveWay, LeftBehind, Steps, StepTimes, Worker, WorkerTimeout

PATIENCE_SECONDS = 60.0
AT_ONCE_SECONDS = 0.01


async def _hung(worker: Worker, release: threading.Event) -> None:
    """Bring the worker into a call that does not return before `release`."""
    started = False
    while not started:  # a busy machine may not come to it in that time, and then it never runs
        with pytest.raises(WorkerTimeout) as timeout:
            await worker.call(lambda: release.wait(PATIENCE_SECONDS), 0.2)
        started = timeout.value.started


def test_a_worker_returns_values_and_raises_what_its_function_raises() -> None:
    async def scenario() -> None:
        worker = Worker("w")
        assert await worker.call(lambda: 7, PATIENCE_SECONDS) == 7
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 // 0, PATIENCE_SECONDS)
        worker.stop()

    asyncio.run(scenario())


def test_a_hung_worker_refuses_at_once_and_works_again_after_it_is_told() -> None:
    async def scenario() -> None:
        recovered, release = asyncio.Event(), threading.Event()
        worker = Worker("w", on_recovered=recovered.set)
        await _hung(worker, release)
        assert worker.is_hung
        with pytest.raises(WorkerTimeout) as refused:
            await worker.call(lambda: 1, PATIENCE_SECONDS)
        assert not refused.value.started
        release.set()
        await asyncio.wait_for(recovered.wait(), PATIENCE_SECONDS)
        assert not worker.is_hung
        assert await worker.call(lambda: 2, PATIENCE_SECONDS) == 2
        worker.stop()

    asyncio.run(scenario())


def test_a_call_that_timed_out_before_its_turn_never_runs() -> None:
    async def scenario() -> None:
        release, ran = threading.Event(), []
        worker = Worker("w")
        first = asyncio.ensure_future(
            worker.call(lambda: release.wait(PATIENCE_SECONDS), PATIENCE_SECONDS)
        )
        await asyncio.sleep(0)
        with pytest.raises(WorkerTimeout) as timeout:
            await worker.call(lambda: ran.append(1), AT_ONCE_SECONDS)
        assert not timeout.value.started
        assert not worker.is_hung, "the one that runs has its own time"
        release.set()
        assert await first
        assert await worker.call(lambda: list(ran), PATIENCE_SECONDS) == []
        worker.stop()

    asyncio.run(scenario())


def test_one_hung_worker_does_not_stop_another() -> None:
    async def scenario() -> None:
        release = threading.Event()
        sick, well = Worker("sick"), Worker("well")
        await _hung(sick, release)
        assert await well.call(lambda: "fine", PATIENCE_SECONDS) == "fine"
        release.set()
        sick.stop()
        well.stop()

    asyncio.run(scenario())


def test_a_call_that_ends_just_as_its_time_is_over_does_not_count_as_hanging() -> None:
    async def scenario() -> None:
        worker = Worker("on-the-edge")
        thread = next(t for t in threading.enumerate() if t.name == "on-the-edge")
        call = asyncio.ensure_future(worker.call(lambda: 7, 0.0))
        await asyncio.sleep(0)  # the call's time is over, and the loop is about to say so
        worker.stop()
        thread.join(PATIENCE_SECONDS)  # meanwhile the answer has come
        assert await call == 7
        assert not worker.is_hung

    asyncio.run(scenario())


def test_a_call_goes_between_the_steps_of_a_look_that_came_before_it() -> None:
    async def scenario() -> None:
        order: list[str] = []
        first_step, may_go_on = threading.Event(), threading.Event()

        def look() -> Steps[str]:
            order.append("look 1")
            first_step.set()
            may_go_on.wait(PATIENCE_SECONDS)
            yield
            order.append("look 2")
            yield
            order.append("look 3")
            return "looked"

        worker = Worker("w")
        looking = asyncio.ensure_future(worker.call_in_steps(look(), PATIENCE_SECONDS))
        await asyncio.sleep(0)
        first_step.wait(PATIENCE_SECONDS)
        limits = [
            asyncio.ensure_future(worker.call(lambda: order.append("limit"), PATIENCE_SECONDS))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.gather(*limits)
        assert await looking == "looked"
        assert order == ["look 1", "limit", "limit", "look 2", "look 3"]
        worker.stop()

    asyncio.run(scenario())


def test_a_look_that_fails_or_hangs_at_a_step_is_like_any_other_call() -> None:
    async def scenario() -> None:
        release, ran = threading.Event(), []

        def failing() -> Steps[int]:
            yield
            return 1 // 0

        def hanging() -> Steps[None]:
            yield
            release.wait(PATIENCE_SECONDS)
            yield
            ran.append("a step after its time was over")

        worker = Worker("w")
        with pytest.raises(ZeroDivisionError):
            await worker.call_in_steps(failing(), PATIENCE_SECONDS)
        with pytest.raises(WorkerTimeout) as timeout:
            await worker.call_in_steps(hanging(), 0.2)
        assert timeout.value.started
        assert worker.is_hung
        release.set()
        while worker.is_hung:  # noqa: ASYNC110 -- until the loop has been told
            await asyncio.sleep(0.01)
        assert await worker.call(lambda: list(ran), PATIENCE_SECONDS) == []
        worker.stop()

    asyncio.run(scenario())


def test_looks_go_on_while_calls_keep_coming() -> None:
    async def scenario() -> None:
        def look() -> Steps[int]:
            for _ in range(5):
                yield
            return 5

        worker = Worker("w")
        looking = asyncio.ensure_future(worker.call_in_steps(look(), PATIENCE_SECONDS))
        for number in range(50):
            assert await worker.call(lambda number=number: number, PATIENCE_SECONDS) == number  # type: ignore[misc]
        assert await looking == 5
        worker.stop()

    asyncio.run(scenario())


def test_what_comes_first_and_hangs_takes_neither_the_worker_nor_its_looks_with_it() -> None:
    async def scenario() -> None:
        release, ended, ran = threading.Event(), threading.Event(), []
        step, may_go_on = threading.Event(), threading.Event()

        def look() -> Steps[str]:
            step.set()
            may_go_on.wait(PATIENCE_SECONDS)
            yield
            return "looked"

        def hang() -> None:
            release.wait(PATIENCE_SECONDS)
            ended.set()

        worker = Worker("w")
        looking = asyncio.ensure_future(worker.call_in_steps(look(), PATIENCE_SECONDS))
        await asyncio.sleep(0)
        step.wait(PATIENCE_SECONDS)
        hanging = asyncio.ensure_future(worker.call(lambda: ran.append("late"), 0.2, first=hang))
        await asyncio.sleep(0)
        may_go_on.set()
        with pytest.raises(LeftBehind):
            await hanging
        assert not worker.is_hung
        assert (
            await worker.call(lambda: 7, PATIENCE_SECONDS, first=lambda: ran.append("first")) == 7
        )
        assert await looking == "looked"
        release.set()
        ended.wait(PATIENCE_SECONDS)
        threads = [each for each in threading.enumerate() if each.name == "w"]
        worker.stop()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
        assert ran == ["first"], "what came after it must not run any more"

    asyncio.run(scenario())


def test_a_call_does_not_run_if_what_comes_first_fails() -> None:
    async def scenario() -> None:
        ran: list[int] = []

        def fail() -> None:
            raise OSError("no space left")

        worker = Worker("w")
        with pytest.raises(OSError, match="no space left"):
            await worker.call(lambda: ran.append(1), PATIENCE_SECONDS, first=fail)
        assert await worker.call(lambda: list(ran), PATIENCE_SECONDS) == []
        worker.stop()

    asyncio.run(scenario())


def test_a_look_that_gives_way_ends_with_the_call_that_comes() -> None:
    async def scenario() -> None:
        order: list[str] = []
        step, may_go_on = threading.Event(), threading.Event()

        def look() -> Steps[None]:
            order.append("look 1")
            step.set()
            may_go_on.wait(PATIENCE_SECONDS)
            yield
            order.append("look 2")

        worker, times = Worker("w"), StepTimes()
        looking = asyncio.ensure_future(
            worker.call_in_steps(look(), PATIENCE_SECONDS, times=times, gives_way=True)
        )
        await asyncio.sleep(0)
        step.wait(PATIENCE_SECONDS)
        limit = asyncio.ensure_future(worker.call(lambda: order.append("limit"), PATIENCE_SECONDS))
        await asyncio.sleep(0)
        may_go_on.set()
        await limit
        with pytest.raises(GaveWay):
            await looking
        assert order == ["look 1", "limit"]
        assert times.total_seconds == times.longest_seconds > 0.0
        worker.stop()

    asyncio.run(scenario())


def _quick_worker() -> Worker:
    """Return one whose calls are all quick, and are waited for as long as it takes."""
    return Worker("w", quick_seconds=PATIENCE_SECONDS, moment_seconds=PATIENCE_SECONDS / 2)


def test_after_a_quick_call_the_next_one_is_waited_for_before_anything_else_runs() -> None:
    async def scenario() -> None:
        between: list[str] = []
        worker = _quick_worker()
        loop = asyncio.get_running_loop()
        loop.call_soon(between.append, "the first")
        await worker.call(lambda: 1, PATIENCE_SECONDS)
        assert between == ["the first"], "nothing is known of the device yet"
        loop.call_soon(between.append, "the second")
        assert await worker.call(lambda: 2, PATIENCE_SECONDS) == 2
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 // 0, PATIENCE_SECONDS)
        assert between == ["the first"]
        worker.stop()

    asyncio.run(scenario())


def test_a_device_that_is_quick_no_more_holds_the_loop_up_for_a_moment_at_most() -> None:
    async def scenario() -> None:
        release = threading.Event()
        worker = Worker("w", quick_seconds=PATIENCE_SECONDS, moment_seconds=AT_ONCE_SECONDS)
        await worker.call(lambda: 1, PATIENCE_SECONDS)
        asyncio.get_running_loop().call_soon(release.set)
        assert await worker.call(lambda: release.wait(PATIENCE_SECONDS), PATIENCE_SECONDS)
        worker.stop()

    asyncio.run(scenario())


def test_a_call_that_hangs_after_quick_ones_counts_as_hanging() -> None:
    async def scenario() -> None:
        recovered, release = asyncio.Event(), threading.Event()
        worker = Worker(
            "w", recovered.set, quick_seconds=PATIENCE_SECONDS, moment_seconds=AT_ONCE_SECONDS
        )
        await worker.call(lambda: 1, PATIENCE_SECONDS)
        await _hung(worker, release)
        assert worker.is_hung
        release.set()
        await asyncio.wait_for(recovered.wait(), PATIENCE_SECONDS)
        assert await worker.call(lambda: 2, PATIENCE_SECONDS) == 2
        worker.stop()

    asyncio.run(scenario())


def test_after_a_slow_call_the_loop_does_not_wait() -> None:
    async def scenario() -> None:
        release = threading.Event()
        worker = Worker("w", quick_seconds=0.0, moment_seconds=PATIENCE_SECONDS / 2)
        await worker.call(lambda: 1, PATIENCE_SECONDS)
        asyncio.get_running_loop().call_soon(release.set)
        await worker.call(lambda: 2, PATIENCE_SECONDS)
        assert release.is_set(), "the loop went round for the answer"
        worker.stop()

    asyncio.run(scenario())


def test_the_loop_never_waits_for_a_look() -> None:
    async def scenario() -> None:
        release = threading.Event()

        def look() -> Steps[bool]:
            yield
            return release.wait(PATIENCE_SECONDS / 6)

        worker = _quick_worker()
        await worker.call(lambda: 1, PATIENCE_SECONDS)
        asyncio.get_running_loop().call_soon(release.set)
        assert await worker.call_in_steps(look(), PATIENCE_SECONDS)
        worker.stop()

    asyncio.run(scenario())
