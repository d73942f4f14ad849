"""How often something may happen: a token bucket, pure."""

from __future__ import annotations


class TokenBucket:
    """Lets `burst` things happen at once, and `per_minute` in the long run.

    Args:
        per_minute: tokens that come back in a minute; above 0.
        burst: tokens that it holds at most; at least 1.
        now_seconds: monotonic.
    """

    def __init__(self, per_minute: float, burst: int, now_seconds: float) -> None:
        self._per_second = per_minute / 60.0
        self._burst = burst
        self._tokens = float(burst)
        self._at_seconds = now_seconds

    def take(self, now_seconds: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        self._fill(now_seconds)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._per_second

    def change(self, per_minute: float, burst: int, now_seconds: float) -> None:
        """Follow another rate; what was taken before stays taken."""
        self._fill(now_seconds)
        taken = self._burst - self._tokens
        self._per_second, self._burst = per_minute / 60.0, burst
        self._tokens = max(0.0, burst - taken)

    def _fill(self, now_seconds: float) -> None:
        passed = max(0.0, now_seconds - self._at_seconds)
        self._at_seconds = max(self._at_seconds, now_seconds)
        self._tokens = min(float(self._burst), self._tokens + passed * self._per_second)
