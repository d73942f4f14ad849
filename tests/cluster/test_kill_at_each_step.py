"""SIGKILL to the operator at each step of a run, a new one, and everything has happened once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.cluster.support.endings import Gate, held, in_turn
from tests.cluster.support.happened_once import counted, everything_happened_once
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.executors.checkpoints import ClusterCheckpoint
from zeus_operator.records import RecurrenceState
from zeus_operator.store.store import Store

RUNS = 2

# Passed only where a run is stopped to make room for the next one.
STOPPING = (ClusterCheckpoint.BEFORE_STOP_CHILD, ClusterCheckpoint.AFTER_STOP_CHILD)
# Passed only where somebody asks by an annotation.
ASKING = ClusterCheckpoint.REQUEST_STORED
# Passed only where a child needs something else beside it (`test_workload_kinds`).
BESIDE = ClusterCheckpoint.AFTER_CREATE_COMPANION
OF_A_RUN = [moment for moment in ClusterCheckpoint if moment not in (*STOPPING, ASKING, BESIDE)]


@pytest.mark.parametrize("moment", OF_A_RUN, ids=lambda moment: moment.value)
def test_a_run_survives_a_kill(
    moment: ClusterCheckpoint,
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
    stored: Store,
) -> None:
    started: Counter[tuple[str, str]] = Counter()
    make_node(counted(SyntheticJob(), started))
    first = make_operator().start(at=moment)
    zeusjobs.apply("job", runs=RUNS, successfulJobsHistoryLimit=0, failedJobsHistoryLimit=0)
    assert first.wait_for_end() == -9, first.log

    second = make_operator().start()
    zeusjobs.wait_for_runs("job", RUNS)

    everything_happened_once(zeusjobs, stored, started, RUNS)
    # Every child is pruned: its result is stored.
    eventually(lambda: not zeusjobs.jobs(), "no child is left")
    assert second.stop() == 0, second.log


def test_what_an_annotation_asks_for_survives_a_kill(
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
    stored: Store,
) -> None:
    started: Counter[tuple[str, str]] = Counter()
    make_node(counted(SyntheticJob(), started))
    first = make_operator().start(at=ASKING)
    zeusjobs.apply("job")
    zeusjobs.annotate("job", run=f"asked,runs={RUNS}")
    assert first.wait_for_end() == -9, first.log

    second = make_operator().start()
    zeusjobs.wait_for_runs("job", RUNS)

    everything_happened_once(zeusjobs, stored, started, RUNS)
    zeusjobs.wait_for_condition("job", "Progressing", "False", "OnDemand")
    assert second.stop() == 0, second.log


@pytest.mark.parametrize("moment", STOPPING, ids=lambda moment: moment.value)
def test_making_room_for_the_next_run_survives_a_kill(
    moment: ClusterCheckpoint,
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
    stored: Store,
) -> None:
    never = Gate()
    first_one_hangs = in_turn(held(never, SyntheticJob()), SyntheticJob())
    make_node(first_one_hangs)
    # An hour passes in less than three minutes: a tick comes every other second.
    first = make_operator(clock_speed=30).start(at=moment)
    zeusjobs.apply("job", schedule="* * * * *", concurrencyPolicy="Replace")
    assert first.wait_for_end() == -9, first.log

    make_operator(clock_speed=30).start()
    zeusjobs.wait_for("a run has reached", lambda: "Reached" in outcomes(zeusjobs))

    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    replaced, *later = stored.history(record.id)
    assert replaced.state is RecurrenceState.CANCELLED
    assert len(replaced.attempts) == 1
    assert "replaced by the recurrence of" in replaced.attempts[0].detail
    # The one that room was made for has run; on a busy machine the next tick may replace it too.
    assert later[0].attempts


def outcomes(zeusjobs: ZeusJobs) -> list[str]:
    return [run["outcome"] for run in zeusjobs.status("job").get("runs") or ()]
