"""One thread for one device: a call that hangs stops nobody but its own device."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerTimeout(Exception):  # noqa: N818 -- the counterpart of asyncio's TimeoutError
    """The call took too long.

    Attributes:
        started: it was being executed, and may still come to its end.
    """

    def __init__(self, what: str, *, started: bool) -> None:
        super().__init__(what)
        self.started = started


class _Job:
    __slots__ = ("cancelled", "function", "future", "started")

    def __init__(self, function: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.function = function
        self.future = future
        self.started = False
        self.cancelled = False


class Worker:
    """Runs functions one after another in a daemon thread.

    Args:
        name: of the thread.
        on_recovered: called on the event loop when a call that had timed out has ended.
    """

    def __init__(self, name: str, on_recovered: Callable[[], None] | None = None) -> None:
        self._name = name
        self._on_recovered = on_recovered
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._overdue: _Job | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_hung(self) -> bool:
        """Whether a call that timed out has not come back yet."""
        return self._overdue is not None

    async def call(self, function: Callable[[], T], timeout_seconds: float) -> T:
        """Run `function` in the thread and return what it returns.

        Raises:
            WorkerTimeout: it did not end in time.  If it had not started it
                never will; if it had, further calls are refused until it ends.
        """
        if self._overdue is not None:
            raise WorkerTimeout(f"{self._name}: an earlier call has not returned", started=False)
        job = _Job(function, self._loop.create_future())
        self._jobs.put(job)
        try:
            # Shielded: cancelling the future would lose the answer of a call that goes on.
            async with asyncio.timeout(timeout_seconds):
                result: T = await asyncio.shield(job.future)
        except TimeoutError:
            if job.future.done():  # it came just as the time was over; nothing hangs
                return job.future.result()  # type: ignore[no-any-return]  # of this `function`
            job.cancelled = True
            if job.started:
                self._overdue = job
            raise WorkerTimeout(
                f"{self._name}: no answer within {timeout_seconds:g} s", started=job.started
            ) from None
        except asyncio.CancelledError:
            job.cancelled = True
            raise
        return result

    def stop(self) -> None:
        """Let the thread end after the call that it is in."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            # Started is said before cancelled is read, and `call` says cancelled before it reads
            # started: at least one of the two sees the other.
            job.started = True
            result: Any = None
            error: Exception | None = None
            if not job.cancelled:
                try:
                    result = job.function()
                except Exception as caught:  # handed to the caller, whatever it is
                    error = caught
            try:
                self._loop.call_soon_threadsafe(self._finish, job, result, error)
            except RuntimeError:
                return  # the loop has ended while the call was hanging

    def _finish(self, job: _Job, result: Any, error: Exception | None) -> None:
        if not job.future.done():
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
        if job.cancelled:
            job.future.exception()  # nobody waits any more; don't let asyncio complain
        if self._overdue is job:
            self._overdue = None
            if self._on_recovered is not None:
                self._on_recovered()
