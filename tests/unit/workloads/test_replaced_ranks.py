"""A rank that is taken away while the others run: that is no crash, whatever it makes of them.

A PyTorchJob makes a pod anew that is gone before its controller looks, as after most deletions by
force, and the others fail for want of the one that they had.  One that is asked to end counts as
failed with every kind: the controller ends the others, or these fail first.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import api_objects as api
from tests.support.api_objects import condition, running, terminated
from tests.support.ranks import FAILED, Object, child, deleted, preparing, rank, view
from zeus_runtime.protocol import Outcome

API_EVICTION = condition(
    "DisruptionTarget", "EvictionByEvictionAPI", "a node is drained", seconds=40
)
PEERS_FAILED = condition("Failed", "PyTorchJobFailed", "PyTorchJob run is failed")


def crash(index: int, seconds: float, **options: Any) -> Object:
    ends = terminated(1, finished=api.stamp(seconds), message="connection reset by peer")
    return rank(index, ends, phase="Failed", **options)


def drained(index: int, *conditions: Object, state: Object | None = None, at: float = 40) -> Object:
    """Return a pod that was evicted and is gone, as it was last seen."""
    found = rank(index, state or running(), *conditions, deleted=(int(at), 30), gone=True)
    found["metadata"]["uid"] += "-before"
    return found


@pytest.mark.parametrize(
    ("conditions", "words"),
    [((API_EVICTION,), "evicted by an administrator or the autoscaler"), ((), "it was deleted")],
)
def test_a_rank_that_was_replaced_alone_has_preempted_the_run_that_failed_for_want_of_it(
    conditions: tuple[Object, ...], words: str
) -> None:
    before = drained(1, *conditions)
    instead = rank(1, running(45), created=42)

    (found,) = view(
        child(PEERS_FAILED, kind="PyTorchJob"), crash(0, 50), before, instead
    ).executions

    assert found.outcome is Outcome.PREEMPTED
    assert f"{api.JOB_NAME}-pod-1 of the same run was replaced alone: {words}" in found.reason


def test_a_rank_that_was_deleted_by_force_was_there_until_another_came_instead() -> None:
    before = rank(1, running(), gone=True)
    before["metadata"]["uid"] += "-before"
    instead = rank(1, running(45), created=42)
    of = child(PEERS_FAILED, kind="PyTorchJob")

    (found,) = view(of, crash(0, 50), before, instead).executions
    (earlier,) = view(of, crash(0, 41), before, instead).executions

    assert found.outcome is Outcome.PREEMPTED
    assert (earlier.outcome, earlier.exit_code) == (None, 1)


def test_a_rank_that_failed_for_want_of_another_is_not_the_cause() -> None:
    """Its failure ends the run, and with it rank 0."""
    before, instead = drained(1, API_EVICTION), rank(1, running(45), created=42)
    failed = crash(2, 48)

    (found,) = view(
        child(PEERS_FAILED, kind="PyTorchJob"), deleted(terminated(143)), before, instead, failed
    ).executions

    assert found.outcome is Outcome.PREEMPTED
    assert "pod-1 of the same run was replaced alone" in found.reason


@pytest.mark.parametrize("conditions", [(API_EVICTION,), ()], ids=["evicted", "deleted"])
def test_where_rank_0_was_replaced_the_failure_of_the_others_is_not_the_cause(
    conditions: tuple[Object, ...],
) -> None:
    """They fail for want of the rank 0 that they had, and end the one that came instead."""
    before = drained(0, *conditions)
    instead = rank(0, terminated(143), phase="Failed", created=42, deleted=(50, 30), gone=True)

    first, second = view(
        child(PEERS_FAILED, kind="PyTorchJob"), before, instead, crash(1, 48)
    ).executions

    assert (first.outcome, second.outcome) == (Outcome.PREEMPTED, Outcome.PREEMPTED)
    assert "pod-0 of the same run was replaced alone" in second.reason


def test_a_rank_that_was_replaced_before_it_ran_is_missed_by_nobody() -> None:
    before = drained(1, API_EVICTION, state=api.waiting("ContainerCreating"))
    instead = rank(1, running(45), created=42)

    (found,) = view(
        child(PEERS_FAILED, kind="PyTorchJob"), crash(0, 50), before, instead
    ).executions

    assert (found.outcome, found.exit_code) == (None, 1)


def test_what_has_failed_before_another_was_replaced_has_crashed() -> None:
    before, instead = drained(1, API_EVICTION), rank(1, running(45), created=42)

    (found,) = view(
        child(PEERS_FAILED, kind="PyTorchJob"), crash(0, 39), before, instead
    ).executions

    assert (found.outcome, found.exit_code) == (None, 1)


def test_where_all_came_back_after_a_suspension_a_later_failure_is_a_crash() -> None:
    """The old pods may still end while the new one of rank 0 is there."""
    olds = [drained(0), drained(1)]
    olds[1]["metadata"]["deletionGracePeriodSeconds"] = 30
    news = [crash(0, 70, created=42), rank(1, running(48), created=47)]

    first, second = view(child(PEERS_FAILED, kind="PyTorchJob"), *olds, *news).executions

    assert (first.outcome, first.reason) == (Outcome.PREEMPTED, "its pod was deleted")
    assert (second.outcome, second.exit_code) == (None, 1)


def test_what_prepared_a_run_and_was_replaced_meanwhile_is_no_rank() -> None:
    evicted = condition("DisruptionTarget", "EvictionByEvictionAPI", seconds=30)
    before = preparing("before", evicted, ended=30, created=1)
    second = preparing("instead", ended=45, created=31)

    (found,) = view(child(FAILED, kind="TrainJob"), before, second, crash(0, 60)).executions

    assert (found.outcome, found.exit_code) == (None, 1)


# Deleted with their grace period ---------------------------------------------------


def ending(index: int, asked: float, ended: float | None = None) -> Object:
    """Return a pod that was asked to end, and has."""
    ends = terminated(143, finished=api.stamp(asked + 1 if ended is None else ended))
    return rank(index, ends, phase="Failed", deleted=(int(asked), 30))


KINDS_THAT_END = [(PEERS_FAILED, "PyTorchJob"), (FAILED, "JobSet"), (api.FAILED, "Job")]
each_kind = pytest.mark.parametrize(
    ("failed", "kind"), KINDS_THAT_END, ids=[kind for _, kind in KINDS_THAT_END]
)


@each_kind
@pytest.mark.parametrize(
    "rank_0", [ending(0, 41), crash(0, 42)], ids=["is ended", "fails for want of it"]
)
def test_a_rank_that_was_deleted_has_preempted_the_run(
    failed: Object, kind: str, rank_0: Object
) -> None:
    (found,) = view(child(failed, kind=kind), rank_0, ending(1, 40), ending(2, 41)).executions

    assert found.outcome is Outcome.PREEMPTED
    assert found.reason == f"pod {api.JOB_NAME}-pod-1 of the same run was deleted"


@each_kind
def test_where_rank_0_was_deleted_first_the_others_were_for_its_sake(
    failed: Object, kind: str
) -> None:
    (found,) = view(child(failed, kind=kind), ending(0, 40), ending(1, 41)).executions

    assert (found.outcome, found.reason) == (Outcome.PREEMPTED, "its pod was deleted")


def test_a_pytorchjob_that_fails_with_no_rank_that_did_was_short_of_one_that_was_deleted() -> None:
    """Within one second nobody can tell which it was."""
    of = child(PEERS_FAILED, kind="PyTorchJob")

    (found,) = view(of, ending(0, 40), ending(1, 40)).executions

    assert (found.outcome, found.reason) == (Outcome.PREEMPTED, "its pod was deleted")


@pytest.mark.parametrize("child_of", [child(), child(FAILED)], ids=["going on", "failed"])
def test_a_failure_after_rank_0_was_deleted_is_not_its_cause(child_of: Object) -> None:
    (found,) = view(child_of, ending(0, 40, 45), crash(1, 42)).executions
    (tied,) = view(child_of, ending(0, 42, 45), crash(1, 42)).executions

    assert (found.outcome, found.reason) == (Outcome.PREEMPTED, "its pod was deleted")
    assert tied.outcome is Outcome.CRASHED, "times of the API are whole seconds"


@each_kind
def test_a_rank_that_was_deleted_as_another_had_failed_is_not_the_cause(
    failed: Object, kind: str
) -> None:
    """The controller deletes what still runs, and that may take it more than a second."""
    of = child(failed, kind=kind)

    (found,) = view(of, ending(0, 41), ending(1, 40), crash(2, 40)).executions

    assert found.outcome is Outcome.CRASHED
    assert "pod-2 of the same run failed (exit code 1)" in found.reason


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (ending(1, 42), "asked in the same second"),
        (ending(1, 40, 39), "had failed before"),
        (rank(1, terminated(0, finished=api.stamp(38)), deleted=(40, 30)), "had ended before"),
        (rank(1, api.waiting("ContainerCreating"), deleted=(40, 30)), "never ran"),
        (rank(1, running(), deleted=(10, 30)), "asked before rank 0 was there"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_fails_by_itself_has_crashed_where_no_running_rank_was_taken_from_it(
    other: Object, why: str
) -> None:
    failed = crash(0, 42, created=10)

    (found,) = view(child(FAILED), failed, other).executions

    assert (found.outcome, found.exit_code) == (None, 1), why


def test_ranks_that_are_deleted_as_time_is_up_have_preempted_nothing() -> None:
    late = condition("Failed", "DeadlineExceeded", "longer than specified deadline")

    (found,) = view(child(late, kind="PyTorchJob"), crash(0, 42), ending(1, 40)).executions

    assert (found.outcome, found.exit_code) == (None, 1)
