"""When to look at a device whose driver is slow, so that limits need not wait for looks.

Pure.  Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math

SLOW_STEP_SECONDS = 0.001
"""A driver whose calls take less delays nobody."""

SHARE_OF_DEVICE = 0.1
"""Of a device's time, what looks at it may take."""

IN_USE_SECONDS = 0.25
"""A device whose limit was asked for within this time will be asked again."""

LONGEST_UNSEEN_SECONDS = 10.0
"""So long may a device that is in use go without a look; each change of its limit looks too."""


class Pace:
    """Decides when a device may be looked at."""

    def __init__(self) -> None:
        self._longest_steps_seconds = (0.0, 0.0)  # of the last two looks
        self._rests_until_seconds = -math.inf
        self._seen_at_seconds = -math.inf
        self._used_at_seconds = -math.inf

    @property
    def is_slow(self) -> bool:
        """Whether somebody who waits for a step of a look would notice.

        One look may have taken long because the machine was busy; two tell of the driver.
        """
        return min(self._longest_steps_seconds) >= SLOW_STEP_SECONDS

    def used(self, now_seconds: float) -> None:
        """Note that the device does, or has just done, what somebody waits for."""
        self._used_at_seconds = now_seconds

    def looked(
        self, now_seconds: float, longest_step_seconds: float, spent_seconds: float, *, whole: bool
    ) -> None:
        """Note the end of a look.

        Args:
            now_seconds: when it ended.
            longest_step_seconds: of its calls to the driver.
            spent_seconds: all of them together.
            whole: it came to its end.
        """
        before = self._longest_steps_seconds[1]
        known = 0.0 if whole else before
        self._longest_steps_seconds = (before, max(longest_step_seconds, known))
        rest = spent_seconds / SHARE_OF_DEVICE - spent_seconds
        self._rests_until_seconds = now_seconds + min(rest, LONGEST_UNSEEN_SECONDS)
        if whole:
            self._seen_at_seconds = now_seconds

    def may_look(self, now_seconds: float) -> bool:
        """Whether a look may begin now."""
        if not self.is_slow:
            return True
        if now_seconds < self._rests_until_seconds:
            return False
        return self.must_look(now_seconds) or not self._is_in_use(now_seconds)

    def must_look(self, now_seconds: float) -> bool:
        """Whether a look is due that gives way to nobody."""
        return now_seconds - self._seen_at_seconds >= LONGEST_UNSEEN_SECONDS

    def _is_in_use(self, now_seconds: float) -> bool:
        return now_seconds - self._used_at_seconds < IN_USE_SECONDS
