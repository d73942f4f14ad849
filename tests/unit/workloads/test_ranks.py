"""A run of several pods as the API server shows it: one execution, ended by whoever ended it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support import api_objects as api
from tests.support.api_objects import condition, running, terminated
from tests.support.ranks import (
    DISTURBED,
    FAILED,
    NOW,
    Object,
    child,
    deleted,
    preparing,
    rank,
    view,
)
from zeus_operator.executors.pods import ChildPhase, child_view
from zeus_operator.executors.rank_ends import result_in
from zeus_operator.executors.ranks import best_partial
from zeus_runtime.protocol import Outcome, Result, encode_result

RESULT = Result(job="vision/digits", epochs=3)


def failing(code: int, reason: str | None = None, message: str = "") -> Object:
    """Return the end of a container that came before rank 0 was deleted."""
    return terminated(code, reason, message, finished=api.stamp(48))


def test_only_the_pod_of_rank_0_is_an_execution() -> None:
    shown = view(child(), rank(1, running()), rank(0, running(), created=2), rank(2, None))

    assert [each.uid for each in shown.executions] == ["pod-0"]
    assert shown.phase is ChildPhase.RUNNING


def test_pods_of_an_execution_before_are_left_out() -> None:
    before = rank(0, terminated(0))
    before["metadata"]["labels"]["zeus.energy/execution"] = "7"

    assert view(child(), before).executions == ()


def test_what_keeps_another_rank_from_starting_is_told() -> None:
    stuck = condition("PodScheduled", "Unschedulable", "no GPU is free", status="False")

    shown = view(child(), rank(0, running()), rank(1, None, stuck, phase="Pending"))

    assert shown.trouble is not None
    assert shown.trouble.reason == "Unschedulable"


def test_a_child_without_a_pod_is_described_by_its_kind() -> None:
    shown = view(child())

    assert shown.trouble is not None
    assert "its JobSet has made no pod: `kubectl describe jobset" in shown.trouble.message


def test_a_failure_of_another_rank_that_ended_rank_0_is_a_crash_and_named() -> None:
    other = rank(1, failing(3, message="line\nValueError: no data\n"), phase="Failed")

    (found,) = view(child(FAILED), deleted(terminated(143)), other).executions

    assert found.outcome is Outcome.CRASHED
    assert found.reason == (
        f"pod {api.JOB_NAME}-pod-1 of the same run failed (exit code 3): ValueError: no data"
    )


def test_of_several_failures_the_first_is_the_cause() -> None:
    late = rank(1, terminated(9, finished=api.stamp(49)), phase="Failed")
    early = rank(2, terminated(3, finished=api.stamp(45)), phase="Failed")

    (found,) = view(child(FAILED), deleted(terminated(143)), late, early).executions

    assert "exit code 3" in found.reason


@pytest.mark.parametrize("finished", [55, 50], ids=["later", "in the same second"])
def test_a_rank_that_was_ended_as_well_is_not_the_cause(finished: float) -> None:
    ends = terminated(143, finished=api.stamp(finished))
    also = rank(1, ends, phase="Failed", deleted=(50, 30))

    (found,) = view(child(FAILED), deleted(ends), also).executions

    assert found.outcome is Outcome.CRASHED
    assert found.reason == ("its JobSet has failed: jobset failed due to one or more job failures")


def test_memory_that_another_rank_lacked_is_named() -> None:
    other = rank(1, failing(137, "OOMKilled"), phase="Failed")

    (found,) = view(child(FAILED), deleted(terminated(143)), other).executions

    assert "was over its memory limit" in found.reason


def test_a_rank_whose_gpu_ran_out_of_memory_says_so_for_the_run() -> None:
    """Rank 0 has failed for want of it, and knows no more."""
    claims = replace(RESULT, epochs=2, outcome=Outcome.OUT_OF_MEMORY.value)
    other = rank(1, terminated(1, message=encode_result(claims, 2048).decode()), phase="Failed")
    ends = terminated(1, message=api.message())

    (found,) = view(child(FAILED), rank(0, ends, phase="Failed"), other).executions

    assert found.result is not None
    assert (found.result.outcome, found.result.epochs) == (Outcome.OUT_OF_MEMORY.value, 3)


def test_what_rank_0_claims_outweighs_the_memory_of_another() -> None:
    claims = terminated(1, message=api.message(Outcome.DIVERGED))
    short = terminated(1, message=api.message(Outcome.OUT_OF_MEMORY))

    (found,) = view(
        child(FAILED), rank(0, claims, phase="Failed"), rank(1, short, phase="Failed")
    ).executions

    assert found.result is not None
    assert found.result.outcome == Outcome.DIVERGED.value


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (
            {"init": (api.container_status("wait", failing(2, message="no Master")),)},
            "failed (exit code 2): no Master",
        ),
        ({"others": (api.container_status("logs", failing(4)),)}, "failed (exit code 4)"),
        ({"reason": "DeadlineExceeded", "message": "was active too long"}, "was active too long"),
    ],
    ids=["an init container", "a container beside it", "nobody says which"],
)
def test_a_pod_that_failed_by_other_means_than_its_training_is_the_cause(
    ends: dict[str, Any], words: str
) -> None:
    """Else who was deleted for it would be taken for the cause."""
    failed = rank(1, None, phase="Failed", **ends)
    also = rank(2, terminated(143), phase="Failed", deleted=(49, 30))

    (found,) = view(
        child(FAILED, kind="PyTorchJob"), deleted(terminated(143)), failed, also
    ).executions

    assert found.outcome is Outcome.CRASHED
    assert "pod-1 of the same run failed" in found.reason
    assert found.reason.endswith(words)


def test_a_disturbance_of_another_rank_preempts_the_run() -> None:
    other = rank(1, terminated(137), DISTURBED, phase="Failed")

    (found,) = view(child(FAILED), deleted(terminated(143)), other).executions

    assert found.outcome is Outcome.PREEMPTED
    assert "of the same run: evicted by its node" in found.reason


def test_a_disturbance_is_known_by_the_childs_words_where_its_pod_is_not_at_hand() -> None:
    words = "Pod vision/x has condition DisruptionTarget matching FailJob rule at index 0"
    failed = condition("Failed", "FailedJobs", words)

    (found,) = view(child(failed), deleted(terminated(143)), rank(1, None)).executions

    assert found.outcome is Outcome.PREEMPTED


def test_a_disturbance_after_the_end_of_rank_0_changes_nothing() -> None:
    late = condition("DisruptionTarget", "TerminationByKubelet", seconds=90)
    other = rank(1, terminated(137), late, phase="Failed")

    (found,) = view(child(FAILED), rank(0, terminated(1), phase="Failed"), other).executions

    assert found.outcome is None
    assert found.exit_code == 1


@pytest.mark.parametrize("kind", ["JobSet", "TrainJob"])
@pytest.mark.parametrize("replaced_until", [8, 10], ids=["before", "in the same second"])
def test_an_initializer_that_was_evicted_and_replaced_has_not_preempted_what_crashed_later(
    kind: str, replaced_until: float
) -> None:
    evicted = condition("DisruptionTarget", "TerminationByKubelet", "low on memory", seconds=3)
    first = preparing("before", evicted, ended=3, created=1)
    second = preparing("instead", ended=replaced_until, created=4)
    ends = terminated(1, finished=api.stamp(50))
    crashed = rank(0, ends, phase="Failed", created=10)

    (found,) = view(child(FAILED, kind=kind), first, second, crashed).executions

    assert (found.outcome, found.exit_code) == (None, 1), "the exit code says that it crashed"


def test_an_initializer_that_was_evicted_is_not_why_rank_0_was_deleted_later() -> None:
    evicted = condition("DisruptionTarget", "TerminationByKubelet", "low on memory", seconds=3)
    first = preparing("before", evicted, ended=3, created=1)
    other = rank(1, failing(3), phase="Failed", created=10)
    ended = deleted(terminated(143))
    ended["metadata"]["creationTimestamp"] = api.stamp(10)

    (found,) = view(child(FAILED, kind="TrainJob"), first, ended, other).executions

    assert found.outcome is Outcome.CRASHED
    assert "exit code 3" in found.reason


def test_a_rank_that_was_evicted_before_rank_0_could_begin_has_preempted_the_run() -> None:
    """Its pod waits for an image, say: the pods are of one run from their creation on."""
    disturbed = condition("DisruptionTarget", "TerminationByKubelet", "low on memory", seconds=4)
    other = rank(1, terminated(137, finished=api.stamp(4)), disturbed, phase="Failed", created=2)
    late = terminated(143, started=api.stamp(6), finished=api.stamp(50))
    ended = rank(0, late, phase="Failed", deleted=(5, 30), created=2, gone=True)

    (found,) = view(child(FAILED), other, ended).executions

    assert found.outcome is Outcome.PREEMPTED
    assert "evicted by its node" in found.reason


def test_of_a_rank_that_came_back_with_rank_0_only_the_newest_pod_tells() -> None:
    """The first was disturbed when all of them were, before a suspension."""
    disturbed = condition("DisruptionTarget", "PreemptionByScheduler", seconds=12)
    before = rank(1, terminated(137, finished=api.stamp(12)), disturbed, phase="Failed", created=1)
    now = rank(1, terminated(3, finished=api.stamp(45)), phase="Failed", created=12)
    now["metadata"]["uid"] = "pod-1-again"
    ended = rank(0, terminated(143), phase="Failed", deleted=(50, 30), created=12, gone=True)

    (found,) = view(child(FAILED), before, now, ended).executions

    assert found.outcome is Outcome.CRASHED


def test_what_rank_0_has_claimed_and_ended_well_with_stands() -> None:
    claims = terminated(0, message=api.message(Outcome.REACHED))
    other = rank(1, terminated(1), DISTURBED, phase="Failed")

    (found,) = view(child(FAILED), rank(0, claims, phase="Succeeded"), other).executions

    assert found.outcome is None
    assert found.result is not None


@pytest.mark.parametrize("finished", [51, 50], ids=["later", "in the same second"])
def test_a_suspended_run_is_preempted_by_that(finished: float) -> None:
    ends = terminated(143, finished=api.stamp(finished))
    also = rank(1, ends, phase="Failed", deleted=(50, 30), gone=True)
    shown = view(child(suspend=True), deleted(ends), also)

    assert shown.phase is ChildPhase.QUEUED
    assert shown.executions[0].reason == "its JobSet was suspended"


def test_a_child_that_is_gone_has_cancelled_its_run() -> None:
    found = child_view(None, [rank(0, None, gone=True)], "train", NOW).executions[0]

    assert found.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("end", [FAILED, condition("Complete")])
def test_what_says_its_end_before_that_of_rank_0_is_waited_for(end: Object) -> None:
    """A Job waits for its pods before it says so; the others do not."""
    shown = view(child(end), rank(0, running()))

    assert shown.phase is ChildPhase.RUNNING
    assert shown.executions[0].ended_at is None
    assert view(child(end, kind="Job"), rank(0, running())).is_finished
    assert view(child(end), rank(0, terminated(1), phase="Failed")).is_finished


# Partial results -------------------------------------------------------------------


def test_the_result_of_the_rank_that_has_come_farthest_counts_as_a_partial_one() -> None:
    known = [
        ((0, 0, 1), replace(RESULT, epochs=3)),
        ((0, 0, 3), replace(RESULT, epochs=5, note="c", outcome=Outcome.REACHED.value)),
        ((0, 0, 2), replace(RESULT, epochs=5, note="b")),
        ((0, 0, 4), None),
    ]

    found = best_partial(known)

    assert found is not None
    assert (found.epochs, found.note) == (5, "b")
    assert found.outcome is None, "only rank 0 says how a run ended"
    assert best_partial([((0, 0, 1), None)]) is None


def test_that_memory_was_short_is_believed_of_any_rank() -> None:
    short = replace(RESULT, epochs=0, outcome=Outcome.OUT_OF_MEMORY.value)

    found = best_partial([((0, 0, 1), RESULT), ((0, 0, 2), short)])

    assert found is not None
    assert (found.epochs, found.outcome) == (3, Outcome.OUT_OF_MEMORY.value)


def test_a_rank_shows_its_result_as_rank_0_does() -> None:
    shown = result_in(rank(1, terminated(1, message=api.message())))

    assert shown is not None
    assert shown.epochs == 3
    assert result_in(rank(1, terminated(1, message="Traceback"))) is None
    assert result_in(rank(1, running())) is None


def test_a_rank_that_has_failed_is_the_cause_before_the_child_says_so() -> None:
    """A TrainJob learns of it from its JobSet, which deletes the other pods meanwhile."""
    other = rank(1, failing(3), phase="Failed")

    (found,) = view(child(), deleted(terminated(143)), other).executions

    assert found.outcome is Outcome.CRASHED


def test_a_pod_that_somebody_deletes_is_preempted_by_that() -> None:
    (found,) = view(child(), deleted(terminated(143)), rank(1, running())).executions

    assert (found.outcome, found.reason) == (Outcome.PREEMPTED, "its pod was deleted")
