"""SIGKILL to the operator at each step of a run, a new one, and everything has happened once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.cluster.support.kubelet import Ending, PodRun, SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.executors.checkpoints import ClusterCheckpoint
from zeus_operator.records import RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import LEARNED_FROM

RUNS = 2

# Passed only where a run is stopped to make room for the next one.
STOPPING = (ClusterCheckpoint.BEFORE_STOP_CHILD, ClusterCheckpoint.AFTER_STOP_CHILD)
OF_A_RUN = [moment for moment in ClusterCheckpoint if moment not in STOPPING]


@pytest.mark.parametrize("moment", OF_A_RUN, ids=lambda moment: moment.value)
def test_a_run_survives_a_kill(
    moment: ClusterCheckpoint,
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
    stored: Store,
) -> None:
    started: Counter[tuple[str, str]] = Counter()
    job = SyntheticJob()

    def behave(pod: PodRun) -> Ending:
        started[pod.recurrence, pod.attempt] += 1
        return job(pod)

    make_node(behave)
    first = make_operator().start(at=moment)
    zeusjobs.apply("job", runs=RUNS, successfulJobsHistoryLimit=0, failedJobsHistoryLimit=0)
    assert first.wait_for_end() == -9, first.log

    second = make_operator().start()
    zeusjobs.wait_for_runs("job", RUNS)

    everything_happened_once(zeusjobs, stored, started)
    # Every child is pruned: its result is stored.
    eventually(lambda: not zeusjobs.jobs(), "no child is left")
    assert second.stop() == 0, second.log


def everything_happened_once(
    zeusjobs: ZeusJobs, stored: Store, started: Counter[tuple[str, str]]
) -> None:
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    recurrences = stored.history(record.id)
    assert [each.state for each in recurrences] == [RecurrenceState.REACHED] * RUNS
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
