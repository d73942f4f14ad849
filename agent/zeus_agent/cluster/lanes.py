"""How many unknown tokens are reviewed, and whose.  Pure; time comes as an argument.

A flood of forged tokens must neither flood the API server nor keep others from being reviewed.
Each token is sorted by what it claims and by the address it comes from: those that come from one
address and name the same live pod share a lane, those from there that name no live pod share one
more.  Whoever floods fills its own lanes, whomever the tokens name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Pace:
    """So many a second, after `burst` at once."""

    per_second: float
    burst: float


LANE = Pace(per_second=1.0, burst=4.0)
"""Of one live pod: a token serves for an hour, and for all processes of the pod."""
STRANGERS = Pace(per_second=4.0, burst=8.0)
"""Of tokens that name no pod seen here, such as one that started a moment ago."""
PEER = Pace(per_second=8.0, burst=32.0)
"""Of one address, whatever its tokens claim: a part of what there is for all."""
ALL = Pace(per_second=32.0, burst=64.0)
MAX_LANES = 1024

K = TypeVar("K")


class Lanes:
    """Token buckets: one for each lane, one for each address, and one for all together."""

    def __init__(self) -> None:
        self._lanes: _Buckets[tuple[str, str]] = {}
        self._peers: _Buckets[str] = {}
        self._all = _Bucket(ALL)

    def wait_seconds(self, claim: str, peer: str, now_seconds: float) -> float:
        """Return 0 and count one review, or how long until one more is allowed.

        Args:
            claim: whom the token names; "" for strangers.
            peer: the address that it comes from.
            now_seconds: the time.
        """
        buckets = (
            _bucket(self._lanes, (claim, peer), LANE if claim else STRANGERS, now_seconds),
            _bucket(self._peers, peer, PEER, now_seconds),
            self._all,
        )
        wait = max(bucket.wait_seconds(now_seconds) for bucket in buckets)
        if wait == 0.0:
            for bucket in buckets:
                bucket.take()
        return wait


def _bucket(buckets: _Buckets[K], key: K, pace: Pace, now_seconds: float) -> _Bucket:
    """Return the bucket of `key`, a new one if it has none; others are forgotten for it."""
    bucket = buckets.get(key)
    if bucket is None:
        if len(buckets) >= MAX_LANES:  # a full bucket says no more than none
            full = [name for name, each in buckets.items() if each.is_full(now_seconds)]
            for name in full or list(buckets)[:1]:
                del buckets[name]
        bucket = buckets[key] = _Bucket(pace)
    return bucket


class _Bucket:
    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._level = pace.burst
        self._at_seconds = -math.inf

    def wait_seconds(self, now_seconds: float) -> float:
        if now_seconds > self._at_seconds:
            if self._at_seconds > -math.inf:
                gained = (now_seconds - self._at_seconds) * self._pace.per_second
                self._level = min(self._pace.burst, self._level + gained)
            self._at_seconds = now_seconds
        return max(0.0, 1.0 - self._level) / self._pace.per_second

    def take(self) -> None:
        self._level -= 1.0

    def is_full(self, now_seconds: float) -> bool:
        self.wait_seconds(now_seconds)
        return self._level >= self._pace.burst


_Buckets = dict[K, _Bucket]
