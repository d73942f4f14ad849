"""Which finished children go: those beyond the history limits, as with a CronJob.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from zeus_operator import names
from zeus_operator.executors.pod_fields import (
    Object,
    controller_uid,
    kind_name,
    metadata_of,
    uid_of,
)
from zeus_operator.executors.pods import finished_times
from zeus_operator.records import AttemptState, JobFacts
from zeus_runtime.protocol import Outcome


@dataclass(frozen=True)
class FinishedChild:
    """A finished child whose attempt is closed in the store.

    Args:
        is_successful: whether its attempt reached the target.
        kind: of the child.
    """

    name: str
    uid: str
    finished_at: datetime
    is_successful: bool
    kind: str = "Job"


def closed_children(
    facts: JobFacts, children: Sequence[Object], now: datetime
) -> list[FinishedChild]:
    """Return the finished ones of the children of a ZeusJob whose results are stored."""
    times = finished_times(children, now)
    closed = {
        attempt.child_name: attempt.outcome is Outcome.REACHED
        for recurrence in facts.recurrences
        for attempt in recurrence.attempts
        if attempt.state is AttemptState.ENDED
    }
    open_ids = [r.id for r in facts.recurrences if r.ended_at is None]
    oldest_id = min((each.id for each in facts.recurrences), default=0)
    found = []
    for child in children:
        metadata = metadata_of(child)
        uid, name = uid_of(child), metadata["name"]
        if uid not in times or controller_uid(child) != facts.job.uid:
            continue  # labels can be copied
        text = (metadata.get("labels") or {}).get(names.LABEL_RECURRENCE, "")
        if not text.isdigit():
            continue  # somebody has changed it: not ours any more
        recurrence_id = int(text)
        # Facts hold the newest recurrences only: what is older has long been closed.
        is_old = recurrence_id < oldest_id and recurrence_id not in open_ids
        if name in closed or is_old:
            is_successful = closed.get(name, False)
            found.append(FinishedChild(name, uid, times[uid], is_successful, kind_name(child)))
    return found


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
