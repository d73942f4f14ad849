"""Which finished children go: those beyond the history limits, as with a CronJob.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class FinishedChild:
    """A finished child whose attempt is closed in the store.

    Args:
        is_successful: whether its attempt reached the target.
    """

    name: str
    uid: str
    finished_at: datetime
    is_successful: bool


def surplus(
    children: Sequence[FinishedChild], successful_limit: int, failed_limit: int
) -> tuple[FinishedChild, ...]:
    """Return the children beyond the limits, the oldest first."""
    ordered = sorted(children, key=lambda child: (child.finished_at, child.name))
    found: list[FinishedChild] = []
    for is_successful, limit in ((True, successful_limit), (False, failed_limit)):
        of_kind = [child for child in ordered if child.is_successful is is_successful]
        found += of_kind[: max(0, len(of_kind) - limit)]
    return tuple(sorted(found, key=lambda child: (child.finished_at, child.name)))
