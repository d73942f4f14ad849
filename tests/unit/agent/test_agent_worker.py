from __future__ import annotations

import asyncio
import threading

import pytest

from zeus_agent.worker import Worker, WorkerTimeout

PATIENCE_SECONDS = 60.0
AT_ONCE_SECONDS = 0.01


async def _hung(worker: Worker, release: threading.Event) -> None:
    """Bring the worker into a call that does not return before `release`."""
    with pytest.raises(WorkerTimeout) as timeout:
        await worker.call(lambda: release.wait(PATIENCE_SECONDS), 0.2)
    assert timeout.value.started


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
