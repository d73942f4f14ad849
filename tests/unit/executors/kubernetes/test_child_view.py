"""Where a child stands, and what keeps it from getting on."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import api_objects as api
from tests.support.api_objects import (
    COMPLETE,
    DEADLINE,
    FAILED,
    JOB_UID,
    at,
    condition,
    pod,
    running,
    stamp,
    terminated,
    waiting,
)
from zeus_operator.executors.pods import (
    ChildPhase,
    ChildView,
    child_view,
    finished_times,
    project_job,
    project_pod,
)
from zeus_runtime.protocol import Outcome

NOW = at(200)


def view(job: dict[str, Any] | None, *pods: dict[str, Any]) -> ChildView:
    return child_view(job, pods, "train", NOW)


@pytest.mark.parametrize(
    ("job", "pods", "phase"),
    [
        (api.job(suspend=True), (), ChildPhase.QUEUED),
        (api.job(suspend=True), (pod(running(), deleted=(150, 60)),), ChildPhase.QUEUED),
        (api.job(), (), ChildPhase.PENDING),
        (api.job(), (pod(waiting("ContainerCreating"), phase="Pending"),), ChildPhase.PENDING),
        (api.job(), (pod(terminated(137), phase="Failed", reason="Evicted"),), ChildPhase.PENDING),
        (api.job(), (pod(running(), gone=True),), ChildPhase.PENDING),
        (api.job(), (pod(running()),), ChildPhase.RUNNING),
        (api.job(deletionTimestamp=stamp(150)), (pod(running()),), ChildPhase.ENDING),
        (api.job(condition("FailureTarget")), (pod(running()),), ChildPhase.RUNNING),
        (api.job(COMPLETE), (pod(terminated(0), phase="Succeeded"),), ChildPhase.SUCCEEDED),
        (api.job(FAILED), (pod(terminated(1), phase="Failed"),), ChildPhase.FAILED),
        (api.job(FAILED, deletionTimestamp=stamp(150)), (), ChildPhase.FAILED),
        (api.job(condition("Failed", status="False")), (), ChildPhase.PENDING),
        (None, (pod(running()),), ChildPhase.GONE),
        (None, (), ChildPhase.GONE),
    ],
)
def test_phase(job: dict[str, Any] | None, pods: tuple[dict[str, Any], ...], phase: Any) -> None:
    found = view(job, *pods)

    assert found.phase is phase
    assert found.is_finished is (phase in (ChildPhase.SUCCEEDED, ChildPhase.FAILED))


def test_a_replaced_pod_is_another_execution_in_the_order_of_creation() -> None:
    second = pod(running(95), uid="pod-0", created=90)
    first = pod(terminated(137), phase="Failed", reason="Evicted", uid="pod-1", created=1)

    found = view(api.job(), second, first)

    assert [(each.uid, each.outcome) for each in found.executions] == [
        ("pod-1", Outcome.PREEMPTED),
        ("pod-0", None),
    ]
    assert (found.phase, found.trouble, found.node) == (ChildPhase.RUNNING, None, "gpu-node-3")


def test_pods_of_an_earlier_job_of_the_same_name_are_not_executions_of_this_one() -> None:
    stale = pod(running())
    stale["metadata"]["ownerReferences"][0]["uid"] = "another"

    assert view(api.job(), stale) == view(api.job())


def test_a_job_that_finished_and_shows_no_pod_has_one_execution_that_nobody_saw() -> None:
    (found,) = view(api.job(FAILED)).executions

    assert (found.uid, found.outcome) == (JOB_UID, Outcome.LOST)
    assert (found.started_at, found.ended_at) == (at(0), at(60))
    assert "reached the specified backoff limit" in found.reason


def test_a_job_whose_deadline_passed_without_a_pod_has_crashed() -> None:
    (found,) = view(api.job(DEADLINE)).executions

    assert found.outcome is Outcome.CRASHED
    assert found.reason.startswith("it ran longer than activeDeadlineSeconds allows")


UNSCHEDULABLE = condition(
    "PodScheduled",
    "Unschedulable",
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    status="False",
)
TROUBLES: dict[str, tuple[tuple[dict[str, Any], ...], str, str]] = {
    "no node fits": (
        (pod(None, UNSCHEDULABLE, phase="Pending"),),
        "Unschedulable",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    ),
    "image not found": (
        (
            pod(
                waiting("ImagePullBackOff", 'Back-off pulling image "example.org/trian:1"'),
                phase="Pending",
            ),
        ),
        "ImagePullFailed",
        'container train: Back-off pulling image "example.org/trian:1"',
    ),
    "image without a valid name": (
        (pod(waiting("InvalidImageName", "couldn't parse image"), phase="Pending"),),
        "ImagePullFailed",
        "container train: couldn't parse image",
    ),
    "image of an init container": (
        (
            pod(
                waiting("PodInitializing"),
                phase="Pending",
                init=(api.container_status("zeus-runtime", waiting("ErrImagePull", "denied")),),
            ),
        ),
        "ImagePullFailed",
        "container zeus-runtime: denied",
    ),
    "a ConfigMap that is not there": (
        (
            pod(
                waiting("CreateContainerConfigError", 'configmap "settings" not found'),
                phase="Pending",
            ),
        ),
        "ContainerConfigError",
        'container train: configmap "settings" not found',
    ),
    "evicted and not replaced yet": (
        (pod(terminated(137), phase="Failed", reason="Evicted", message="low on memory"),),
        "Evicted",
        "evicted by its node: low on memory",
    ),
    "its node does not answer": (
        (pod(running(), phase="Unknown", reason="NodeLost"),),
        "NodeLost",
        "its node was lost",
    ),
    "no pod for a minute": (
        (),
        "NoPod",
        f"its Job has made no pod: `kubectl describe job {api.JOB_NAME}` says why",
    ),
    "another container that never ends": (
        (pod(terminated(0), others=(api.container_status("logs", running()),)),),
        "OtherContainersRun",
        "container train has ended and logs has not",
    ),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_trouble_is_told_and_ends_nothing(case: str) -> None:
    pods, reason, message = TROUBLES[case]

    found = view(api.job(), *pods)

    assert found.trouble is not None
    assert found.trouble.reason == reason
    assert found.trouble.message.startswith(message)
    assert not found.is_finished


@pytest.mark.parametrize(
    ("job", "pods"),
    [
        (api.job(suspend=True), ()),
        (api.job(creationTimestamp=stamp(190)), (pod(running()),)),
        (api.job(), (pod(waiting("ContainerCreating"), phase="Pending"),)),
        (api.job(FAILED), (pod(waiting("ImagePullBackOff"), phase="Failed"),)),
    ],
)
def test_no_trouble(job: dict[str, Any], pods: tuple[dict[str, Any], ...]) -> None:
    assert view(job, *pods).trouble is None


def test_a_job_may_take_a_minute_to_make_its_pod() -> None:
    assert child_view(api.job(), (), "train", at(59)).trouble is None


def test_finished_jobs_are_known_by_uid_with_the_time_of_their_end() -> None:
    assert finished_times([api.job(COMPLETE), api.job(uid="runs")], NOW) == {JOB_UID: at(60)}


# What the watch keeps ----------------------------------------------------------

STATES = st.sampled_from(
    [
        None,
        running(),
        waiting("ImagePullBackOff", "no such image"),
        terminated(0, message=api.message(Outcome.REACHED)),
        terminated(1, message="Traceback"),
        terminated(137, "OOMKilled"),
        terminated(137, "ContainerStatusUnknown", started=None),
        terminated(128, "StartError", started="1970-01-01T00:00:00Z"),
        terminated(255, "Unknown"),
    ]
)
PODS = st.builds(
    pod,
    STATES,
    st.sampled_from(
        [UNSCHEDULABLE, condition("Ready"), condition("DisruptionTarget", "DeletionByPodGC")]
    ),
    phase=st.sampled_from(["Pending", "Running", "Failed", "Succeeded", "Unknown"]),
    uid=st.sampled_from(["a", "b"]),
    created=st.integers(0, 100),
    memory=st.sampled_from([None, "8Gi"]),
    deleted=st.sampled_from([None, (50, 30), (90, 0)]),
    gone=st.booleans(),
    init=st.sampled_from([(), (api.container_status("fetch", terminated(3)),)]),
    others=st.sampled_from([(), (api.container_status("logs", running()),)]),
    reason=st.sampled_from([None, "Evicted", "DeadlineExceeded", "OutOfcpu"]),
)
JOBS = st.one_of(
    st.none(),
    st.builds(
        api.job,
        st.sampled_from([COMPLETE, FAILED, DEADLINE, condition("Suspended")]),
        suspend=st.booleans(),
        deletionTimestamp=st.sampled_from([None, stamp(50)]),
    ),
)


@given(job=JOBS, pods=st.lists(PODS, max_size=3))
def test_a_projection_shows_what_the_whole_object_shows(
    job: dict[str, Any] | None, pods: list[dict[str, Any]]
) -> None:
    projected = None if job is None else project_job(job)

    assert view(job, *pods) == view(projected, *map(project_pod, pods))


@given(job=JOBS, pods=st.lists(PODS, max_size=3), data=st.data())
def test_no_missing_field_raises(
    job: dict[str, Any] | None, pods: list[dict[str, Any]], data: st.DataObject
) -> None:
    broken = copy.deepcopy([*pods, *([] if job is None else [job])])
    for each in broken:
        for part in data.draw(st.sets(st.sampled_from(["metadata", "spec", "status"]))):
            fields = each.get(part) or {}
            gone = data.draw(st.sets(st.sampled_from(sorted(fields))) if fields else st.just(set()))
            for name in gone:
                del fields[name]
            if data.draw(st.booleans()):
                each[part] = None
    shown = None if job is None else project_job(broken.pop())

    found = view(shown, *map(project_pod, broken))

    assert all(each.ended_at or not found.is_finished for each in found.executions)


def test_a_projection_keeps_no_environment_and_is_small() -> None:
    kept = json.dumps(project_pod(pod(running())))

    assert "ZEUS_DECISION" not in kept
    assert len(kept) < len(json.dumps(pod(running()))) * 0.6
