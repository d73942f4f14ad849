"""How an execution ended, told apart as the kubelet, scheduler and controllers write it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import api_objects as api
from tests.support.api_objects import (
    DEADLINE,
    FAILED,
    at,
    condition,
    message,
    pod,
    running,
    stamp,
    terminated,
    waiting,
)
from zeus_operator.executors.pods import child_view
from zeus_operator.records import ExecutionRecord
from zeus_runtime.protocol import Outcome, Result

NOW = at(100)
KILLED = terminated(137)
NOT_STARTED = waiting("PodInitializing")


def execution(one_pod: dict[str, Any], job: dict[str, Any] | None) -> ExecutionRecord:
    (found,) = child_view(job, [one_pod], "train", NOW).executions
    return found


def disrupted(reason: str, text: str = "", seconds: float = 50) -> dict[str, Any]:
    return condition("DisruptionTarget", reason, text, seconds=seconds)


FROM_OUTSIDE: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "evicted by the kubelet": (
        pod(
            KILLED,
            disrupted("TerminationByKubelet", "The node was low on resource: memory."),
            phase="Failed",
            reason="Evicted",
            message="The node was low on resource: memory.",
        ),
        api.job(),
        "evicted by its node: The node was low on resource: memory.",
    ),
    "evicted before it started": (
        pod(None, phase="Failed", reason="Evicted", message="The node had DiskPressure."),
        api.job(),
        "evicted by its node: The node had DiskPressure.",
    ),
    "preempted by the scheduler": (
        pod(
            terminated(143),
            disrupted("PreemptionByScheduler", "default-scheduler: preempting"),
            phase="Failed",
            deleted=(50, 30),
        ),
        api.job(),
        "preempted by a pod of higher priority: default-scheduler: preempting",
    ),
    "preempted by a critical pod": (
        pod(KILLED, phase="Failed", reason="Preempting", message="Preempted in order to admit"),
        api.job(),
        "preempted by a critical pod of its node: Preempted in order to admit",
    ),
    "drained": (
        pod(
            KILLED,
            disrupted("EvictionByEvictionAPI", "Eviction API: evicting"),
            phase="Failed",
            deleted=(50, 30),
        ),
        api.job(),
        "evicted by an administrator or the autoscaler: Eviction API: evicting",
    ),
    "node shut down": (
        pod(
            KILLED,
            disrupted("TerminationByKubelet"),
            phase="Failed",
            reason="Terminated",
            message="Pod was terminated in response to imminent node shutdown.",
        ),
        api.job(),
        "its node was shut down: Pod was terminated in response to imminent node shutdown.",
    ),
    "node lost, collected": (
        pod(
            running(),
            disrupted("DeletionByPodGC", "PodGC: node no longer exists"),
            phase="Failed",
            deleted=(50, 0),
        ),
        api.job(),
        "its node was lost: PodGC: node no longer exists",
    ),
    "node lost, force deleted": (
        pod(running(), disrupted("DeletionByTaintManager"), deleted=(50, 30), gone=True),
        api.job(),
        "its node was lost or tainted",
    ),
    "refused by its node as a GPU is not healthy": (
        pod(
            None,
            phase="Failed",
            reason="UnexpectedAdmissionError",
            message="Allocate failed due to no healthy devices present; cannot allocate",
        ),
        api.job(FAILED),
        "refused by its node (UnexpectedAdmissionError): Allocate failed due to no healthy",
    ),
    "refused by its node as it is full": (
        pod(None, phase="Failed", reason="OutOfnvidia.com/gpu", message="Node didn't have enough"),
        api.job(FAILED),
        "refused by its node (OutOfnvidia.com/gpu)",
    ),
    "deleted by a person": (
        pod(terminated(143), phase="Failed", deleted=(50, 30)),
        api.job(),
        "its pod was deleted",
    ),
    "deleted by a person, gone before its end was seen": (
        pod(running(), deleted=(50, 30), gone=True),
        api.job(),
        "its pod was deleted",
    ),
    "its Job suspended": (
        pod(terminated(143), phase="Failed", deleted=(50, 30)),
        api.job(condition("Suspended", "JobSuspended", "Job suspended"), suspend=True),
        "its Job was suspended",
    ),
    "its Job deleted, and its end seen": (
        pod(terminated(143), phase="Failed", deleted=(50, 30)),
        api.job(deletionTimestamp=stamp(50)),
        "its Job was deleted",
    ),
    "its end invented after an eviction": (
        pod(
            terminated(137, "ContainerStatusUnknown", "could not be located", started=None),
            disrupted("TerminationByKubelet"),
            phase="Failed",
            reason="Evicted",
        ),
        api.job(),
        "evicted by its node",
    ),
    "its node lost power and came back": (
        pod(terminated(255, "Unknown"), phase="Failed"),
        api.job(FAILED),
        "its node or the container runtime was restarted",
    ),
    "asked to end, and ended well without being done": (
        pod(
            terminated(0, message=message()),
            disrupted("EvictionByEvictionAPI"),
            phase="Succeeded",
            deleted=(50, 30),
        ),
        api.job(),
        "evicted by an administrator or the autoscaler",
    ),
}


@pytest.mark.parametrize("case", FROM_OUTSIDE)
def test_what_was_ended_from_outside_is_preempted_and_says_by_whom(case: str) -> None:
    one_pod, job, words = FROM_OUTSIDE[case]

    found = execution(one_pod, job)

    assert found.outcome is Outcome.PREEMPTED
    assert found.reason.startswith(words)
    assert found.ended_at is not None


CRASHED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "out of memory on the host": (
        pod(terminated(137, "OOMKilled"), phase="Failed"),
        api.job(FAILED),
        "OOMKilled: container train was over its memory limit of 8Gi",
    ),
    "out of memory on the host without a limit": (
        pod(terminated(137, "OOMKilled"), phase="Failed", memory=None),
        api.job(FAILED),
        "OOMKilled: container train was over the memory that its node had",
    ),
    "out of memory after its target, so perhaps without a model": (
        pod(terminated(137, "OOMKilled", message(Outcome.REACHED)), phase="Failed"),
        api.job(FAILED),
        "OOMKilled: container train",
    ),
    "deadline of the Job": (
        pod(terminated(143), phase="Failed", deleted=(50, 30)),
        api.job(DEADLINE),
        "it ran longer than activeDeadlineSeconds allows",
    ),
    "deadline of the Job, its pod still ending": (
        pod(terminated(143), deleted=(50, 30)),
        api.job(condition("FailureTarget", "DeadlineExceeded")),
        "it ran longer than activeDeadlineSeconds allows",
    ),
    "deadline of the pod": (
        pod(
            KILLED,
            phase="Failed",
            reason="DeadlineExceeded",
            message="Pod was active on the node longer than the specified deadline",
        ),
        api.job(FAILED),
        "it ran longer than activeDeadlineSeconds allows",
    ),
    "no such program in the image": (
        pod(
            terminated(
                128,
                "StartError",
                'exec: "pythn": executable file not found in $PATH: unknown',
                started="1970-01-01T00:00:00Z",
            ),
            phase="Failed",
        ),
        api.job(FAILED),
        "container train could not be started",
    ),
    "an init container failed": (
        pod(
            NOT_STARTED,
            phase="Failed",
            init=(api.container_status("fetch", terminated(3)),),
        ),
        api.job(FAILED),
        "init container fetch failed (exit code 3)",
    ),
    "an init container was out of memory": (
        pod(
            NOT_STARTED,
            phase="Failed",
            init=(api.container_status("fetch", terminated(137, "OOMKilled")),),
        ),
        api.job(FAILED),
        "init container fetch was over its memory limit (exit code 137)",
    ),
    "refused by its node for good": (
        pod(None, phase="Failed", reason="SysctlForbidden", message='forbidden sysctl: "a"'),
        api.job(FAILED),
        'its container never started: forbidden sysctl: "a"',
    ),
}


@pytest.mark.parametrize("case", CRASHED)
def test_what_the_cluster_ended_for_a_fault_of_the_run_has_crashed(case: str) -> None:
    one_pod, job, words = CRASHED[case]

    found = execution(one_pod, job)

    assert found.outcome is Outcome.CRASHED
    assert found.reason.startswith(words)


LEFT_TO_THE_RESULT: dict[str, dict[str, Any]] = {
    "success": pod(terminated(0, message=message(Outcome.REACHED)), phase="Succeeded"),
    "success just before its node was lost": pod(
        terminated(0, message=message(Outcome.REACHED)),
        disrupted("DeletionByPodGC", seconds=90),
        phase="Succeeded",
    ),
    "done in the grace period of an eviction": pod(
        terminated(0, message=message(Outcome.REACHED)),
        disrupted("EvictionByEvictionAPI"),
        phase="Succeeded",
        deleted=(50, 30),
    ),
    "failed before it was deleted": pod(terminated(1), phase="Failed", deleted=(56, 30)),
    "failed, and then evicted": pod(terminated(1), disrupted("X", seconds=56), phase="Failed"),
    "failed, deleted long after": pod(terminated(1), phase="Failed", gone=True),
    "out of memory on the GPU and then on the host": pod(
        terminated(137, "OOMKilled", message(Outcome.OUT_OF_MEMORY)), phase="Failed"
    ),
    "exit code with a partial result": pod(terminated(1, message=message()), phase="Failed"),
    "exit code without a result": pod(terminated(1), phase="Failed"),
    "killed by nobody knows whom": pod(KILLED, phase="Failed"),
}


@pytest.mark.parametrize("case", LEFT_TO_THE_RESULT)
def test_what_the_cluster_had_no_part_in_is_left_to_result_and_exit_code(case: str) -> None:
    found = execution(LEFT_TO_THE_RESULT[case], api.job(FAILED))

    assert (found.outcome, found.reason) == (None, "")
    assert found.exit_code is not None
    assert found.ended_at == at(55)


def test_times_exit_code_and_result_are_those_of_the_container_that_trains() -> None:
    side = api.container_status("logs", terminated(7, message=message(Outcome.DIVERGED)))
    found = execution(
        pod(terminated(1, message=message(gpu_model="V100")), others=(side,)), api.job()
    )

    assert (found.uid, found.started_at, found.ended_at) == ("pod-1", at(5), at(55))
    assert found.exit_code == 1
    assert found.result is not None
    assert (found.result.gpu_model, found.result.epochs, found.output_tail) == ("V100", 3, "")


@pytest.mark.parametrize("text", ["Traceback: no such file", "zeus-result/1 00000000 {}"])
def test_a_message_that_is_not_ours_is_only_text_for_people(text: str) -> None:
    found = execution(pod(terminated(1, message=text), phase="Failed"), api.job(FAILED))

    assert (found.result, found.output_tail) == (None, text)


def test_text_before_our_result_does_not_hide_it() -> None:
    found = execution(pod(terminated(0, message="loading\n" + message())), api.job())

    assert found.result is not None


def test_a_container_that_never_started_has_begun_with_its_pod() -> None:
    one_pod, job, _ = CRASHED["no such program in the image"]

    assert execution(one_pod, job).started_at == at(2)


def test_an_exit_code_that_the_kubelet_made_up_is_not_believed() -> None:
    unknown = pod(terminated(137, "ContainerStatusUnknown", started=None), phase="Failed")

    found = execution(unknown, api.job(FAILED))

    assert (found.outcome, found.exit_code) == (Outcome.LOST, None)
    assert found.reason == "the kubelet lost its container"


@pytest.mark.parametrize(
    "one_pod",
    [
        pod(running()),
        pod(running(), disrupted("DeletionByTaintManager"), deleted=(50, 300)),
        pod(running(), phase="Unknown", reason="NodeLost"),
        pod(running(), deleted=(50, 30)),
        pod(waiting("ImagePullBackOff"), phase="Pending"),
        pod(waiting("CreateContainerConfigError"), phase="Pending"),
        pod(waiting("InvalidImageName"), phase="Pending"),
        pod(None, condition("PodScheduled", "Unschedulable", status="False"), phase="Pending"),
    ],
)
def test_an_end_that_nobody_has_seen_is_not_told_while_the_job_goes_on(
    one_pod: dict[str, Any],
) -> None:
    found = execution(one_pod, api.job())

    assert (found.ended_at, found.outcome) == (None, None)


def test_of_a_finished_job_every_execution_has_ended() -> None:
    """Its container's end can't be seen any more, e.g. because its node is lost."""
    found = execution(pod(running()), api.job(FAILED))

    assert (found.ended_at, found.outcome) == (NOW, Outcome.LOST)


def test_a_pod_that_succeeded_without_a_container_status_has_exit_code_0() -> None:
    found = execution(pod(None, phase="Succeeded"), api.job(api.COMPLETE))

    assert (found.exit_code, found.outcome) == (0, None)


def test_what_ran_when_its_job_was_deleted_is_cancelled() -> None:
    found = execution(pod(running(), deleted=(50, 30)), None)

    assert (found.ended_at, found.outcome) == (at(50), Outcome.CANCELLED)
    assert found.reason == "its Job was deleted"


def test_an_end_that_was_seen_counts_after_the_job_was_deleted() -> None:
    done = pod(terminated(0, message=message(Outcome.REACHED)), phase="Succeeded", gone=True)

    found = execution(done, None)

    assert found.outcome is None
    assert found.result is not None
    assert found.result.outcome == Outcome.REACHED.value


# What an agent knows ---------------------------------------------------------------

REPORTED = Result(job="vision/digits", epochs=7, sequence=8, outcome="reached")


def with_report(one_pod: dict[str, Any], job: dict[str, Any] | None) -> ExecutionRecord:
    (found,) = child_view(job, [one_pod], "train", NOW, {"pod-1": REPORTED}).executions
    return found


@pytest.mark.parametrize("text", ["", "Traceback: no result of ours"])
def test_a_result_that_the_pod_does_not_show_is_the_reported_one(text: str) -> None:
    end = with_report(pod(terminated(0, message=text), phase="Succeeded"), api.job(api.COMPLETE))
    assert end.result == REPORTED
    assert (end.exit_code, end.outcome) == (0, None)
    assert end.output_tail == text, "what it did say is not lost"


def test_a_result_that_the_pod_shows_counts_before_the_reported_one() -> None:
    """Both come from the same run; the pod's was written to its own disk."""
    end = with_report(pod(terminated(0, message=message(sequence=5))), api.job(api.COMPLETE))
    assert end.result is not None
    assert (end.result.epochs, end.result.sequence) == (3, 5)


def test_of_a_pod_that_is_gone_the_reported_result_is_kept_and_its_end_is_as_it_was() -> None:
    gone = pod(running(), gone=True)
    end = with_report(gone, api.job())
    assert end.result == REPORTED
    assert (end.outcome, end.reason) == (Outcome.PREEMPTED, "its pod was deleted")
    assert end.exit_code is None


def test_a_container_that_was_over_its_memory_is_told_so_also_with_a_reported_result() -> None:
    end = with_report(pod(terminated(137, "OOMKilled"), phase="Failed"), api.job(FAILED))
    assert end.outcome is Outcome.CRASHED
    assert "over its memory limit" in end.reason


def test_a_pod_that_runs_has_no_result_yet_whatever_is_reported() -> None:
    assert with_report(pod(running()), api.job()).result is None
