"""When to look at which job again, by the wall clock: what a schedule means."""

from __future__ import annotations

import heapq
import threading
from datetime import datetime
from typing import Generic, TypeVar

from zeus_operator.schedule import CLOCK_TOLERANCE

K = TypeVar("K")


class Alarms(Generic[K]):
    """One time per key.  Thread-safe.

    It is asked again and again what is due *now*, so that a clock that jumps, or a machine that
    slept, delays nothing.  Where the clock was set back, every key is due: their times came from
    a clock that was wrong, and one of them might be next year.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[K, datetime] = {}
        self._heap: list[tuple[datetime, int, K]] = []
        self._count = 0
        self._asked: datetime | None = None

    def set(self, key: K, moment: datetime | None) -> None:
        """Let `key` be due at `moment` (aware) and at no other time; None: at none."""
        with self._lock:
            if moment is None:
                self._times.pop(key, None)
            elif self._times.get(key) != moment:
                self._times[key] = moment
                self._count += 1
                heapq.heappush(self._heap, (moment, self._count, key))

    def due(self, now: datetime) -> list[K]:
        """Take out and return the keys that are due, the earliest first."""
        found = []
        with self._lock:
            set_back = self._asked is not None and now < self._asked - CLOCK_TOLERANCE
            self._asked = now
            while self._heap and (set_back or self._heap[0][0] <= now):
                moment, _, key = heapq.heappop(self._heap)
                if self._times.get(key) == moment:
                    del self._times[key]
                    found.append(key)
        return found
