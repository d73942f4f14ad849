"""The keys that wait to be reconciled: each once, the urgent first, failed ones later.

The semantics are those of client-go's work queue
(https://pkg.go.dev/k8s.io/client-go/util/workqueue): a key that is added twice is handed out once;
a key is never in two hands at once; a key added while it is in hand is handed out again after
`done`.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

URGENT_IN_A_ROW = 16
"""After so many urgent keys one of low priority has its turn, so that none waits for ever."""

_OUTDATED_KEPT = 256


@dataclass(frozen=True)
class Backoff:
    """How long a key waits after its n-th failure in a row: doubling, capped, spread out.

    Half of each delay is fixed, half is random, so that keys that failed
    together (the store was away) do not come back together.
    """

    first_seconds: float = 0.5
    cap_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: a bound is not positive, or the cap is below the first delay.
        """
        if not 0 < self.first_seconds <= self.cap_seconds:
            raise ValueError("a back-off needs 0 < first_seconds <= cap_seconds")

    def delay_seconds(self, failures: int, chance: float) -> float:
        """Return the delay after `failures` (1 = the first); `chance` lies in [0, 1)."""
        doublings = min(failures - 1, 60)  # far beyond any cap, far below overflow
        longest = min(self.first_seconds * 2.0**doublings, self.cap_seconds)
        return longest * (0.5 + 0.5 * chance)


class WorkQueue(Generic[K]):
    """A thread-safe queue of keys with delays, two priorities and back-off.

    Who takes a key with `get` gives it back with `done`, also after a failure::

        while not queue.is_shut_down:
            key = queue.get(timeout_seconds=1)
            if key is None:
                continue
            try:
                reconcile(key)
            except Exception:
                queue.retry(key)
            else:
                queue.forget(key)
            finally:
                queue.done(key)
    """

    def __init__(
        self,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Make an empty queue.

        Args:
            backoff: delays of `retry`.
            clock: monotonic seconds. A `get` that waits sleeps in real seconds.
            rng: source of the jitter.
        """
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._rng = rng or random.Random()
        self._changed = threading.Condition()
        # Key -> since when it waits, in the order of arrival.
        self._urgent: OrderedDict[K, float] = OrderedDict()
        self._low: OrderedDict[K, float] = OrderedDict()
        self._urgent_in_a_row = 0
        # Key in hand -> whether it was handed out with low priority.
        self._in_hand: dict[K, bool] = {}
        # Key added while in hand -> (low priority, since when it waits).
        self._again: dict[K, tuple[bool, float]] = {}
        # Key -> (due, low priority); entries of the heap that disagree with it are outdated.
        self._delays: dict[K, tuple[float, bool]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._shut_down = False

    def add(self, key: K, *, low: bool = False) -> None:
        """Ask for `key` now; a delay it still has ends.

        Args:
            key: what to hand out.
            low: hand it out after all others, as for a periodic resync. A delay
                it has is then kept: the key is urgent again once that is over.
        """
        with self._changed:
            if self._shut_down:
                return
            if not low:
                self._delays.pop(key, None)
            self._enqueue(key, low, self._clock())

    def add_after(self, key: K, seconds: float, *, low: bool = False) -> None:
        """Ask for `key` in `seconds`; of several such wishes the earliest holds."""
        with self._changed:
            if not self._shut_down:
                self._delay(key, seconds, low)

    def get(self, timeout_seconds: float | None = None) -> K | None:
        """Take the next key, waiting for it up to `timeout_seconds` (None: without end).

        Returns:
            A key, which nobody else is given until `done`; or None after the
            time-out and, at once, after `shut_down`.
        """
        with self._changed:
            deadline = None if timeout_seconds is None else self._clock() + timeout_seconds
            while not self._shut_down:
                now = self._clock()
                self._release_due(now)
                if self._urgent or self._low:
                    return self._hand_out()
                wakes = [time for time in (deadline, self._next_due()) if time is not None]
                if deadline is not None and now >= deadline:
                    return None
                self._changed.wait(min(wakes) - now if wakes else None)
            return None

    def done(self, key: K) -> None:
        """Give `key` back; it is handed out again if it was added meanwhile.

        Raises:
            ValueError: the key is not in hand.
        """
        with self._changed:
            if key not in self._in_hand:
                raise ValueError(f"{key!r} was not handed out, or was given back already")
            del self._in_hand[key]
            again = self._again.pop(key, None)
            if again is not None and not self._shut_down:
                self._enqueue(key, *again)

    def retry(self, key: K) -> float:
        """Ask for `key` again after its back-off, with the priority it was handed out with.

        Returns:
            The delay in seconds.
        """
        with self._changed:
            failures = self._failures.get(key, 0) + 1
            self._failures[key] = failures
            seconds = self._backoff.delay_seconds(failures, self._rng.random())
            if not self._shut_down:
                self._delay(key, seconds, self._in_hand.get(key, False))
            return seconds

    def forget(self, key: K) -> None:
        """Count the failures of `key` from zero again: it succeeded, or it is gone."""
        with self._changed:
            self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Return how often `key` failed in a row."""
        with self._changed:
            return self._failures.get(key, 0)

    def shut_down(self) -> None:
        """Hand out nothing more and wake everybody who waits; keys in hand may be given back."""
        with self._changed:
            self._shut_down = True
            self._changed.notify_all()

    @property
    def is_shut_down(self) -> bool:
        """Whether `shut_down` was called."""
        with self._changed:
            return self._shut_down

    @property
    def depth(self) -> int:
        """Number of keys that are due and wait for a taker, or for their `done`."""
        with self._changed:
            self._release_due(self._clock())
            return len(self._urgent) + len(self._low) + len(self._again)

    @property
    def delayed(self) -> int:
        """Number of keys that are not due yet."""
        with self._changed:
            self._release_due(self._clock())
            return len(self._delays)

    @property
    def oldest_age_seconds(self) -> float:
        """How long the key that waits longest has been due; 0 if none waits."""
        with self._changed:
            now = self._clock()
            self._release_due(now)
            since = [*self._urgent.values(), *self._low.values()]
            since.extend(start for _, start in self._again.values())
            return max(0.0, now - min(since)) if since else 0.0

    def _enqueue(self, key: K, low: bool, since: float) -> None:
        if key in self._in_hand:
            was_low, was_since = self._again.get(key, (low, since))
            self._again[key] = (low and was_low, min(since, was_since))
        elif key in self._urgent:
            return
        elif low:
            self._low.setdefault(key, since)
            self._changed.notify()
        else:
            self._urgent[key] = min(since, self._low.pop(key, since))
            self._changed.notify()

    def _delay(self, key: K, seconds: float, low: bool) -> None:
        due = self._clock() + max(0.0, seconds)
        if key in self._delays:
            earliest, was_low = self._delays[key]
            due, low = min(due, earliest), low and was_low
            self._delays[key] = (due, low)
            if due == earliest:
                return
        self._delays[key] = (due, low)
        heapq.heappush(self._heap, (due, next(self._order), key))
        if len(self._heap) > 2 * len(self._delays) + _OUTDATED_KEPT:
            # Else a key delayed by days and added by each event would leave an entry per event.
            self._heap = [entry for entry in self._heap if self._is_current(entry)]
            heapq.heapify(self._heap)
        if self._heap[0][2] == key:
            # All of them: the one woken alone might reach its own time-out before `due`.
            self._changed.notify_all()

    def _next_due(self) -> float | None:
        """Return when the next delay ends, dropping what is outdated."""
        while self._heap:
            if self._is_current(self._heap[0]):
                return self._heap[0][0]
            heapq.heappop(self._heap)
        return None

    def _is_current(self, entry: tuple[float, int, K]) -> bool:
        due, _, key = entry
        return key in self._delays and self._delays[key][0] == due

    def _release_due(self, now: float) -> None:
        while (due := self._next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._heap)
            _, low = self._delays.pop(key)
            self._enqueue(key, low, due)

    def _hand_out(self) -> K:
        low = not self._urgent or (bool(self._low) and self._urgent_in_a_row >= URGENT_IN_A_ROW)
        waiting = self._low if low else self._urgent
        key, _ = waiting.popitem(last=False)
        self._urgent_in_a_row = 0 if low else self._urgent_in_a_row + 1
        self._in_hand[key] = low
        return key
