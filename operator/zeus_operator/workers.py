"""The threads that take keys from the queue and reconcile them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from zeus_operator.alarms import Alarms
from zeus_operator.health import WorkerState
from zeus_operator.kube import Conflict, KubeError, KubeUnavailable, Refused
from zeus_operator.leader import LeadershipLost
from zeus_operator.metrics import Metrics
from zeus_operator.reconcile import ResultAwaited, TryLater
from zeus_operator.store.fencing import FencedOut
from zeus_operator.store.store import StoreError, StoreUnavailable
from zeus_operator.workqueue import WorkQueue
from zeus_operator.world import Key

_STOP_SECONDS = 10.0
_FATAL = (FencedOut, LeadershipLost)

_log = logging.getLogger(__name__)


class Work(Protocol):
    """What a worker does with a key."""

    def reconcile(self, key: Key) -> datetime | None:
        """Bring it further; returns when to look again."""

    def explain(self, key: Key) -> None:
        """Tell the user that the store is away; must not raise for that."""


class Workers:
    """A fixed number of threads on one queue.

    Args:
        guard: raises `LeadershipLost` if this process may act no more; called before each key.
    """

    def __init__(
        self,
        count: int,
        work: Work,
        queue: WorkQueue[Key],
        alarms: Alarms[Key],
        metrics: Metrics,
        guard: Callable[[], None],
    ) -> None:
        self._work = work
        self._queue = queue
        self._alarms = alarms
        self._metrics = metrics
        self._guard = guard
        self._busy: dict[str, tuple[float, Key]] = {}
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)
            for number in range(1, count + 1)
        ]
        self.fatal: BaseException | None = None

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each thread end what it does, and wait for that, but not for ever."""
        self._queue.shut_down()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def states(self) -> list[WorkerState]:
        """Return what each thread does."""
        now = time.monotonic()
        states = []
        for thread in self._threads:
            since, key = self._busy.get(thread.name, (None, None))
            busy_seconds = None if since is None else now - since
            states.append(
                WorkerState(thread.name, thread.is_alive(), busy_seconds, str(key) if key else "")
            )
        return states

    def _run(self) -> None:
        while not self._queue.is_shut_down:
            key = self._queue.get(1.0)
            if key is None:
                continue
            started = time.monotonic()
            self._busy[threading.current_thread().name] = (started, key)
            try:
                self._take(key)
            finally:
                self._busy.pop(threading.current_thread().name, None)
                self._metrics.reconciled(time.monotonic() - started)
                self._queue.done(key)

    def _take(self, key: Key) -> None:
        try:
            self._guard()
            moment = self._work.reconcile(key)
        except _FATAL as error:
            self.fatal = self.fatal or error
            self._metrics.reconcile_failed("fenced_out")
            self._queue.shut_down()
        except Exception as error:
            self._failed(key, error)
        else:
            self._alarms.set(key, moment)
            self._queue.forget(key)

    def _failed(self, key: Key, error: Exception) -> None:
        seconds = self._queue.retry(key)
        if isinstance(error, StoreUnavailable):
            self._work.explain(key)
        reason = _reason(error)
        self._metrics.reconcile_failed(reason)
        if reason == "internal":
            _log.error("%s failed; again in %.1f s", key, seconds, exc_info=error)
        else:
            _log.warning("%s: %s; again in %.1f s", key, error, seconds)


def _reason(error: Exception) -> str:
    """Return the label of the metric; "internal" is what nobody has foreseen."""
    if isinstance(error, KubeUnavailable):
        return "api_server_unavailable"
    if isinstance(error, Conflict):
        return "conflict"
    if isinstance(error, ResultAwaited):
        return "result_awaited"
    if isinstance(error, (KubeError, Refused, TryLater)):
        return "refused"
    if isinstance(error, StoreError):
        return "store_unavailable"
    return "internal"
