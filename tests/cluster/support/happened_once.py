"""What must be true whatever was killed in between: every thing happened once."""

from __future__ import annotations

from collections import Counter

from tests.cluster.support.endings import Ending, Held, Trainer
from tests.cluster.support.pod_run import PodRun
from tests.cluster.support.zeusjobs import ZeusJobs
from zeus_operator.records import RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import LEARNED_FROM

Started = Counter[tuple[str, str]]
"""Pods by recurrence and attempt."""


def counted(trainer: Trainer, started: Started) -> Trainer:
    """Return `trainer`, and count the pods that it is asked about."""

    def choose(run: PodRun) -> Ending | Held:
        started[run.recurrence, run.attempt] += 1
        return trainer(run)

    return choose


def everything_happened_once(
    zeusjobs: ZeusJobs, stored: Store, started: Started, runs: int
) -> None:
    """Check that ZeusJob `job` made `runs` recurrences, each with one pod per attempt."""
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    recurrences = stored.history(record.id)
    assert [each.state for each in recurrences] == [RecurrenceState.REACHED] * runs
    attempts = [attempt for each in recurrences for attempt in each.attempts]
    # One child per attempt, and one pod of each.
    assert started == Counter((str(a.recurrence_id), str(a.number)) for a in attempts)
    assert all(len(attempt.executions) == 1 for attempt in attempts)
    # One observation per run that teaches something.
    observed = [each.attempt_id for each in stored.observations(record.id)]
    assert observed == [attempt.id for attempt in attempts if attempt.outcome in LEARNED_FROM]
    # Each Event was posted once: its name is a function of what it says.
    reached = Counter(event["message"] for event in zeusjobs.events("RunReached"))
    assert all(count == 1 for count in reached.values())
