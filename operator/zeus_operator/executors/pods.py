"""How the child of an attempt stands, from it and its pods as the API server shows them.  Pure.

A pod of rank 0 is an execution of the attempt; the child says when the attempt is over.  Where a
run has more pods, `ranks` says what they change about an end.  What the kubelet, the
scheduler and the Job controller write is read here, in `pod_ends` and `pod_fields`, and nowhere
else (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from zeus_operator.executors.pod_ends import (
    disturbance_of,
    execution_of,
    execution_without_pod,
)
from zeus_operator.executors.pod_fields import (
    GONE_MARK,
    Object,
    condition,
    container_state,
    created_at,
    kind_name,
    metadata_of,
    project_job,
    project_pod,
    spec_of,
    status_of,
    time_of,
    uid_of,
)
from zeus_operator.executors.ranks import told_by_others
from zeus_operator.records import ExecutionRecord
from zeus_operator.workloads.base import RANK_ZERO, WorkloadKind
from zeus_operator.workloads.registry import kind_of_child
from zeus_runtime.protocol import Result

__all__ = [
    "GONE_MARK",
    "ChildPhase",
    "ChildView",
    "Trouble",
    "child_view",
    "finished_times",
    "project_job",
    "project_pod",
]

_WAITING = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ImageInspectError": "ImagePullFailed",
    "RegistryUnavailable": "ImagePullFailed",
    "SignatureValidationFailed": "ImagePullFailed",
    "CreateContainerConfigError": "ContainerConfigError",
    "CreateContainerError": "ContainerConfigError",
    "RunContainerError": "ContainerConfigError",
    "CrashLoopBackOff": "SidecarCrashing",
}
_SILENCE = timedelta(seconds=60)
"""So long nothing is said of a child without a pod, or of a pod that outlives its training."""


class ChildPhase(enum.StrEnum):
    """Where a child stands."""

    QUEUED = "Queued"  # suspended: Kueue or a person has not admitted it
    PENDING = "Pending"
    RUNNING = "Running"
    ENDING = "Ending"  # it is being deleted
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GONE = "Gone"


@dataclass(frozen=True)
class Trouble:
    """Why a child does not get on, though it has not failed.

    Args:
        reason: one word for programs.
        message: for people, in the words of the kubelet or the scheduler.
    """

    reason: str
    message: str


@dataclass(frozen=True)
class ChildView:
    """A child and its executions.

    Args:
        uid: of the child; "": it is gone.
        executions: one for each pod of rank 0, in the order of their creation; once the child has
            finished or is gone, all have ended.
        trouble: None: there is none.
        node: of the newest pod that has one.
    """

    uid: str
    phase: ChildPhase
    executions: tuple[ExecutionRecord, ...] = ()
    trouble: Trouble | None = None
    node: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether the child is there and over: no pod of rank 0 runs or will run."""
        return self.phase in (ChildPhase.SUCCEEDED, ChildPhase.FAILED)


def child_view(
    job: Object | None,
    pods: Sequence[Object],
    container: str,
    now: datetime,
    reported: Mapping[str, Result] | None = None,
    kind: WorkloadKind | None = None,
) -> ChildView:
    """Return how a child stands.

    Args:
        job: the child, projected by its adapter; None: there is none any more.
        pods: of this attempt; one that was deleted is as it was last seen, with `gone` in it.
            Those of an earlier child of the same name are left out.
        container: name of the container that trains.
        now: aware; the end of what ended at an unknown time.
        reported: results of pods that show none, by their UID.
        kind: of the child; None: as it says itself.
    """
    adapter = kind or kind_of_child(job)
    uid = "" if job is None else uid_of(job)
    every = own_pods(job, pods, adapter, now)
    own = [pod for pod in every if adapter.place_of(pod) == RANK_ZERO]
    others = [pod for pod in every if adapter.place_of(pod) != RANK_ZERO]
    phase = _phase(job, own)
    is_over = phase in (ChildPhase.SUCCEEDED, ChildPhase.FAILED, ChildPhase.GONE)
    results = reported or {}
    executions = tuple(
        execution_of(
            pod,
            job,
            container,
            now,
            is_over=is_over,
            reported=results.get(uid_of(pod)),
            kind=adapter.kind,
        )
        for pod in own
    )
    if others:
        executions = tuple(
            told_by_others(execution, pod, others, job, container, adapter, own)
            for execution, pod in zip(executions, own, strict=True)
        )
    if job is not None and is_over and not executions:
        executions = (execution_without_pod(job, now),)
    shows_trouble = phase in (ChildPhase.PENDING, ChildPhase.RUNNING)
    trouble = None
    if job is not None and shows_trouble:
        latest = _latest_of_each(every, adapter)
        found = (_trouble(job, [pod], container, now) for pod in latest)
        trouble = next(filter(None, found), None) if latest else _trouble(job, (), container, now)
    return ChildView(
        uid=uid,
        phase=phase,
        executions=executions,
        trouble=trouble,
        node=next((n for pod in reversed(own) if (n := spec_of(pod).get("nodeName"))), ""),
    )


def own_pods(
    child: Object | None, pods: Sequence[Object], kind: WorkloadKind, now: datetime
) -> list[Object]:
    """Return the pods of this very child, in the order of their creation."""
    has_uid = child is not None and uid_of(child)
    found = [pod for pod in pods if child is None or not has_uid or kind.owns(child, pod)]
    return sorted(found, key=lambda pod: (created_at(pod, now), uid_of(pod)))


def _latest_of_each(pods: Sequence[Object], kind: WorkloadKind) -> list[Object]:
    """Return the newest pod of each rank, in the order of ranks."""
    newest = {kind.place_of(pod): pod for pod in pods}
    return [newest[place] for place in sorted(newest)]


def finished_times(jobs: Iterable[Object], now: datetime) -> dict[str, datetime]:
    """Return when each finished child of `jobs` did, by UID."""
    found = {}
    for job in jobs:
        end = condition(job, "Complete") or condition(job, "Failed")
        if end:
            found[uid_of(job)] = time_of(end.get("lastTransitionTime")) or created_at(job, now)
    return found


def _phase(job: Object | None, pods: Sequence[Object]) -> ChildPhase:
    if job is None:
        return ChildPhase.GONE
    end = condition(job, "Complete") or condition(job, "Failed")
    if end and not _outlives(job, pods):
        return ChildPhase.SUCCEEDED if end["type"] == "Complete" else ChildPhase.FAILED
    if metadata_of(job).get("deletionTimestamp"):
        return ChildPhase.ENDING
    if spec_of(job).get("suspend"):
        return ChildPhase.QUEUED
    if any(status_of(pod).get("phase") == "Running" and not pod.get(GONE_MARK) for pod in pods):
        return ChildPhase.RUNNING
    return ChildPhase.PENDING


def _outlives(child: Object, pods: Sequence[Object]) -> bool:
    """Whether a pod of rank 0 still ends, though its child says that all is over.

    A Job waits for its pods before it says so.  The others do not: they fail, and then delete what
    runs.  What rank 0 has to say comes with its end.
    """
    if kind_name(child) == "Job":
        return False
    return any(
        status_of(pod).get("phase") in ("Pending", "Running") and not pod.get(GONE_MARK)
        for pod in pods
    )


def _trouble(job: Object, pods: Sequence[Object], container: str, now: datetime) -> Trouble | None:
    """Return why the newest pod does not get on, or why there is none."""
    if not pods:
        started = time_of(status_of(job).get("startTime")) or created_at(job, now)
        if now - started < _SILENCE:
            return None
        name = metadata_of(job).get("name", "")
        kind = kind_name(job)
        described = f"`kubectl describe {kind.lower()} {name}` says why"
        return Trouble("NoPod", f"its {kind} has made no pod: {described}")
    pod = pods[-1]
    disturbance = disturbance_of(pod)
    if disturbance is not None:
        return Trouble(disturbance.word, disturbance.words)
    if pod.get(GONE_MARK):
        return None
    return next(_waits(pod), None) or _outlived(pod, container, now)


def _waits(pod: Object) -> Iterator[Trouble]:
    status = status_of(pod)
    for key in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(key) or ():
            waiting = (each.get("state") or {}).get("waiting") or {}
            reason = _WAITING.get(str(waiting.get("reason") or ""))
            if reason is not None:
                said = waiting.get("message") or waiting["reason"]
                yield Trouble(reason, f"container {each.get('name')}: {said}")
    scheduled = condition(pod, "PodScheduled", "False")
    if scheduled:
        said = str(scheduled.get("message") or "no node fits")
        yield Trouble(str(scheduled.get("reason") or "Unschedulable"), said)


def _outlived(pod: Object, container: str, now: datetime) -> Trouble | None:
    """Tell of a pod that goes on when its training has ended: its child never finishes so."""
    ended = container_state(pod, container).get("terminated") or {}
    finished = time_of(ended.get("finishedAt"))
    if finished is None or now - finished < _SILENCE:
        return None
    running = [
        str(each.get("name"))
        for each in status_of(pod).get("containerStatuses") or ()
        if (each.get("state") or {}).get("running")
    ]
    if not running:
        return None
    return Trouble(
        "OtherContainersRun",
        f"container {container} has ended and {', '.join(running)} has not: let it end too, or "
        "make it a sidecar (an init container with restartPolicy: Always)",
    )
