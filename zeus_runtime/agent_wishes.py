"""What each GPU shall have, and when to ask the agent for it.  Pure; time comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional

from zeus_runtime.protocol import ErrorCode

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LAST_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 300.0  # whatever an answer says: it might be a mistake of units

FINAL_REFUSALS = frozenset(
    {
        ErrorCode.FOREIGN_CHANGE.value,
        ErrorCode.NO_PERMISSION.value,
        ErrorCode.NOT_SUPPORTED.value,
        ErrorCode.BAD_REQUEST.value,
        ErrorCode.FORBIDDEN.value,
        ErrorCode.NOT_OWNER.value,
        ErrorCode.GPU_SHARED.value,
        ErrorCode.POLICY_DENIED.value,
    }
)
"""Refusals of a limit that asking again by itself won't change; a new wish is tried again."""

_OUR_OWN = frozenset({ErrorCode.FOREIGN_CHANGE.value, ErrorCode.BAD_REQUEST.value})
"""Final refusals that another session would not change: what someone else has set stays theirs."""


class Backoff:
    """Pauses between tries: none before the first one after a success, then 1 s, up to 30 s."""

    def __init__(self) -> None:
        self._next_seconds = BACKOFF_FIRST_SECONDS

    def succeeded(self) -> None:
        """Begin anew: a connection that was good may be good again at once."""
        self._next_seconds = 0.0

    def next_seconds(self) -> float:
        """Return the pause before the next try, seconds."""
        pause = self._next_seconds
        self._next_seconds = min(max(BACKOFF_FIRST_SECONDS, 2.0 * pause), BACKOFF_LAST_SECONDS)
        return pause


@dataclass
class Wish:
    """What one GPU shall have: a limit, or (None) its release.

    Args:
        not_before: the agent said not to ask sooner, about whatever limit; monotonic seconds.
    """

    watts: Optional[float]
    sequence: int
    done: bool = False
    gave_up: bool = False
    refusal: str = ""
    retry_at: float = 0.0
    not_before: float = 0.0
    backoff_seconds: float = BACKOFF_FIRST_SECONDS

    @property
    def open(self) -> bool:
        """Whether it is neither granted nor given up."""
        return not self.done and not self.gave_up

    @property
    def due_at(self) -> float:
        """When to ask, monotonic seconds.  Giving back is never put off."""
        return self.retry_at if self.watts is None else max(self.retry_at, self.not_before)

    def granted(self) -> None:
        """The agent has done it."""
        self.done, self.refusal = True, ""

    def refused(self, code: str, details: Mapping[str, Any], now_seconds: float) -> None:
        """The agent has not done it: ask again later, or never if that can't help."""
        self.refusal = code
        self.gave_up = code in FINAL_REFUSALS
        pause = said_pause(details)
        if pause is not None:
            self.retry_at = self.not_before = now_seconds + pause
            return
        self.retry_at = now_seconds + self.backoff_seconds
        self.backoff_seconds = min(2.0 * self.backoff_seconds, BACKOFF_LAST_SECONDS)

    def session_lost(self) -> None:
        """Nothing is held any more.  What was denied may be allowed by the next agent."""
        self.done = self.watts is None
        self.gave_up = self.gave_up and self.refusal in _OUR_OWN


def said_pause(details: Mapping[str, Any]) -> Optional[float]:
    """Return how long a refusal says to wait, seconds; None: it does not say."""
    said = details.get("retry_after_seconds")
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not said >= 0.0:
        return None
    return float(min(max(said, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS))
