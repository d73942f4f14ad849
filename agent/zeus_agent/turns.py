"""Whose request is begun next: callers take turns, whatever each of them sends at once.

Pure but for the loop that it is given.  A request is begun at once while nobody waits and the
moment has room; otherwise it waits in its caller's lane.  Lanes take turns, one request each, a few
in each round of the event loop: between them, what is under way goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

PER_ROUND = 8
"""Requests that are begun in one round of the event loop, half a millisecond of work."""

MOMENT_SECONDS = 0.002
"""So many are begun at once in this time, without a round."""


class Waiter(Protocol):
    """Who waits for a turn."""

    def take_turn(self) -> None:
        """Begin what was waiting."""


class Turns:
    """Lanes of waiters.

    Args:
        call_soon: lets the event loop call something in its next round.
        clock: monotonic seconds.
    """

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], clock: Callable[[], float]
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._lanes: dict[Hashable, dict[Waiter, None]] = {}  # the one whose turn it is first
        self._is_round_due = False
        self._left = PER_ROUND
        self._moment_ends_seconds = 0.0

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._lanes.values()))

    def ask(self, lane: Hashable, waiter: Waiter) -> bool:
        """Give a waiter its turn now, if it may have it; else it waits.

        Args:
            lane: the caller.
            waiter: whose `take_turn` is called; it waits in one place at a time.

        Returns:
            whether it waits.
        """
        if not self._lanes:
            now = self._clock()
            if now >= self._moment_ends_seconds:
                self._moment_ends_seconds = now + MOMENT_SECONDS
                self._left = PER_ROUND
            if self._left:
                self._left -= 1
                waiter.take_turn()
                return False
        self._lanes.setdefault(lane, {})[waiter] = None
        self._order_round()
        return True

    def leave(self, lane: Hashable, waiter: Waiter) -> None:
        """Forget a waiter."""
        waiters = self._lanes.get(lane, {})
        waiters.pop(waiter, None)
        if not waiters:
            self._lanes.pop(lane, None)

    def _order_round(self) -> None:
        if not self._is_round_due:
            self._is_round_due = True
            self._call_soon(self._round)

    def _round(self) -> None:
        self._is_round_due = False
        lanes = self._lanes
        try:
            for _ in range(PER_ROUND):
                if not lanes:
                    return
                lane = next(iter(lanes))
                waiters = lanes.pop(lane)
                waiter = next(iter(waiters))
                del waiters[waiter]
                if waiters:
                    lanes[lane] = waiters  # behind the others
                waiter.take_turn()
        finally:  # whatever fails in a turn, the others get theirs
            if lanes:
                self._order_round()
