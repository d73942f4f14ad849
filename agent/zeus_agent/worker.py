"""One thread for one device: a call that hangs stops nobody but its own device.

A call may have to wait for something else first, a disk say: if that hangs, it keeps a thread and
not the device.

Calls that somebody waits for go between the steps of those that only look, so that
a look at a slow device delays a limit by one call to its driver at most.

A device whose calls are over in less time than a turn of the event loop takes is waited for then
and there, for a moment at most: while it works nobody else could use the interpreter anyway.  Two
threads that both want it would hand it to and fro at each call to driver and disk, for longer
than all of these take.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

QUICK_SECONDS = 0.0002
"""A device whose call takes less is quick; its next one is likely to be."""

MOMENT_SECONDS = 0.0005
"""So long the event loop waits for a call that is likely to be quick; threads' switches count."""

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A function in steps: it yields wherever another call may go first."""


class WorkerTimeout(Exception):  # noqa: N818 -- the counterpart of asyncio's TimeoutError
    """The call took too long.

    Attributes:
        started: it was being executed, and may still come to its end.
    """

    def __init__(self, what: str, *, started: bool) -> None:
        super().__init__(what)
        self.started = started


class LeftBehind(Exception):  # noqa: N818 -- what had to come first hangs, not the device
    """What had to come before a call did not end in time; the call never runs."""


class GaveWay(Exception):  # noqa: N818 -- the steps are as they should be
    """A function in steps was ended for a call that came; it has looked at a part only."""


@dataclass
class StepTimes:
    """What the steps of a function have taken, seconds; of a single one, and all together."""

    longest_seconds: float = 0.0
    total_seconds: float = 0.0


class _Job:
    __slots__ = (
        *("cancelled", "error", "ended", "first", "function", "future", "gives_way", "is_at_first"),
        *("is_left", "is_told", "result", "started", "steps", "times"),
    )

    def __init__(self) -> None:
        self.function: Callable[[], Any] | None = None  # either this
        self.steps: Generator[None, None, Any] | None = None  # or these
        self.first: Callable[[], None] | None = None
        self.is_at_first = False  # guarded, as the next one, by the worker's lock
        self.is_left = False  # by the worker, whose thread is another one now
        self.times: StepTimes | None = None
        self.gives_way = False
        self.started = False
        self.cancelled = False
        self.result: Any = None
        self.error: Exception | None = None
        self.is_told = False  # guarded by the worker's lock: result and error are there
        self.ended: threading.Lock | None = None  # likewise: the loop waits until it is let go
        self.future: asyncio.Future[Any] | None = None  # likewise: or for this one


class Worker:
    """Runs functions one after another in a daemon thread.

    Args:
        name: of the thread.
        on_recovered: called on the event loop when a call that had timed out has ended.
        quick_seconds: after a call that took less the next one is waited for; 0: none is.
        moment_seconds: for so long, and no longer.
    """

    def __init__(
        self,
        name: str,
        on_recovered: Callable[[], None] | None = None,
        *,
        quick_seconds: float = 0.0,
        moment_seconds: float = MOMENT_SECONDS,
    ) -> None:
        self._name = name
        self._on_recovered = on_recovered
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting: collections.deque[_Job] = collections.deque()  # that go in steps, one by one
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._overdue: _Job | None = None
        self._quick_seconds = quick_seconds
        self._moment_seconds = moment_seconds
        self._is_quick = False
        self._start_thread()

    @property
    def is_hung(self) -> bool:
        """Whether a call that timed out has not come back yet."""
        return self._overdue is not None

    async def call(
        self,
        function: Callable[[], T],
        timeout_seconds: float,
        *,
        first: Callable[[], None] | None = None,
    ) -> T:
        """Run `function` in the thread and return what it returns.

        May return without having given way to other tasks: see `_ends_at_once`.

        Args:
            function: to run.
            timeout_seconds: longest time to its end.
            first: is run before it, and may hang for reasons of its own; if it raises, the
                function does not run.

        Raises:
            WorkerTimeout: it did not end in time.  If it had not started it
                never will; if it had, further calls are refused until it ends.
            LeftBehind: what comes first did not; further calls are taken.
        """
        job = _Job()
        job.function, job.first = function, first
        return await self._answer(job, timeout_seconds)  # type: ignore[no-any-return]

    async def call_in_steps(
        self,
        steps: Steps[T],
        timeout_seconds: float,
        *,
        times: StepTimes | None = None,
        gives_way: bool = False,
    ) -> T:
        """Run `steps` in the thread, letting others go between them; return what they return.

        Args:
            steps: to run.
            timeout_seconds: longest time to the end of the last one.
            times: is told what they have taken.
            gives_way: a call that comes meanwhile ends them: others are likely to follow it,
                and each would wait for a step.

        Raises:
            GaveWay: they were ended for a call.
            WorkerTimeout: as with `call`.
        """
        job = _Job()
        job.steps, job.times, job.gives_way = steps, times, gives_way
        return await self._answer(job, timeout_seconds)  # type: ignore[no-any-return]

    async def _answer(self, job: _Job, timeout_seconds: float) -> Any:
        if self._overdue is not None:
            raise WorkerTimeout(f"{self._name}: an earlier call has not returned", started=False)
        if self._ends_at_once(job, timeout_seconds):
            if job.error is not None:
                raise job.error
            return job.result
        assert job.future is not None
        # A timer costs half of what asyncio.timeout and shield do, on the path of every limit.
        timer = self._loop.call_later(timeout_seconds, self._expire, job, timeout_seconds)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            raise
        finally:
            timer.cancel()

    def _ends_at_once(self, job: _Job, timeout_seconds: float) -> bool:
        """Hand a job to the thread; wait a moment for it if it is likely to end in that.

        False: it has a future now, which is told.
        """
        is_look = job.steps is not None  # for which nobody is kept waiting
        if is_look or not self._is_quick or timeout_seconds < self._moment_seconds:
            job.future = self._loop.create_future()
            self._jobs.put(job)
            return False
        ended = job.ended = threading.Lock()
        ended.acquire()
        self._jobs.put(job)
        if ended.acquire(timeout=self._moment_seconds):
            return True
        with self._lock:
            if job.is_told:
                return True
            self._is_quick = False
            job.future = self._loop.create_future()
        return False

    def _expire(self, job: _Job, timeout_seconds: float) -> None:
        if job.future is None or job.future.done():
            return
        with self._lock:
            job.cancelled = True
            job.is_left = job.is_at_first
        if job.is_left:
            # Its thread ends with what it waits for, whenever that is.
            self._start_thread()
            job.future.set_exception(
                LeftBehind(f"{self._name}: what comes first took over {timeout_seconds:g} s")
            )
            return
        if job.started:
            self._overdue = job
        text = f"{self._name}: no answer within {timeout_seconds:g} s"
        job.future.set_exception(WorkerTimeout(text, started=job.started))

    def stop(self) -> None:
        """Let the thread end after the call that it is in."""
        self._jobs.put(None)

    def _start_thread(self) -> None:
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        waiting = self._waiting
        while True:
            try:
                job = self._jobs.get(block=not waiting)
            except queue.Empty:
                job = waiting[0]
                if self._step(job):
                    waiting.popleft()
                continue
            if job is None:
                for begun in waiting:
                    while not self._step(begun):
                        continue
                return
            if job.steps is not None:
                waiting.append(job)
                continue
            began = time.perf_counter()
            if not self._go_first(job):
                return  # another thread does what is to be done
            self._call(job, began)
            if waiting:
                for begun in [each for each in waiting if each.gives_way]:
                    waiting.remove(begun)
                    self._tell(begun, None, GaveWay())

    def _step(self, job: _Job) -> bool:
        """Do a step of a job; return whether it was the last one."""
        # Started is said before cancelled is read, and `_expire` says cancelled before it reads
        # started: at least one of the two sees the other.
        job.started = True
        if job.cancelled or job.steps is None:
            self._tell(job, None, None)
            return True
        began = time.perf_counter()
        try:
            next(job.steps)
        except StopIteration as end:
            self._count(job, began)
            self._tell(job, end.value, None)
            return True
        except Exception as error:  # handed to the caller, whatever it is
            self._count(job, began)
            self._tell(job, None, error)
            return True
        self._count(job, began)
        job.started = False  # between its steps it keeps nobody waiting
        return False

    def _count(self, job: _Job, began: float) -> None:
        if job.times is not None:
            took = time.perf_counter() - began
            job.times.total_seconds += took
            job.times.longest_seconds = max(job.times.longest_seconds, took)

    def _go_first(self, job: _Job) -> bool:
        """Do what comes before a call; return False if this thread was left behind in it."""
        first = job.first
        if first is None:
            return True
        with self._lock:
            if job.cancelled:
                return True
            job.is_at_first = True
        try:
            first()
        except Exception as error:  # handed to the caller, whatever it is
            job.function = functools.partial(_raise, error)
        with self._lock:
            job.is_at_first = False
            return not job.is_left

    def _call(self, job: _Job, began: float) -> None:
        job.started = True  # before cancelled is read: see `_step`
        result: Any = None
        error: Exception | None = None
        if not job.cancelled and job.function is not None:
            try:
                result = job.function()
            except Exception as caught:  # handed to the caller, whatever it is
                error = caught
        self._is_quick = time.perf_counter() - began < self._quick_seconds
        self._tell(job, result, error)

    def _tell(self, job: _Job, result: Any, error: Exception | None) -> None:
        with self._lock:
            job.result, job.error, job.is_told = result, error, True
            if job.future is None and job.ended is not None:
                job.ended.release()
                return
        # The loop may have ended while the call was hanging: then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, job)

    def _finish(self, job: _Job) -> None:
        if job.future is not None and not job.future.done():
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
        if self._overdue is job:
            self._overdue = None
            if self._on_recovered is not None:
                self._on_recovered()


def _raise(error: Exception) -> None:
    raise error
