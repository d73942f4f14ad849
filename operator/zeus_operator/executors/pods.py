"""How the child of an attempt stands, from its Job and pods as the API server shows them.  Pure.

A pod is an execution of the attempt; the Job says when the attempt is over.  What the kubelet, the
scheduler and the Job controller write is read here and nowhere else
(https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/).  Missing fields never raise:
objects come from servers of any version, and from pods that never started.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zeus_operator.records import ExecutionRecord
from zeus_runtime.protocol import FINAL_BY_RUNTIME, Outcome, Result, decode_result

Object = Mapping[str, Any]

GONE_MARK = "gone"
"""Key that the watch puts into a pod that was deleted, kept as it was last seen."""

_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "its node was lost or tainted",
    "EvictionByEvictionAPI": "evicted by an administrator or the autoscaler",
    "DeletionByPodGC": "its node was lost",
    "TerminationByKubelet": "evicted by its node",
}
_WAITING = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ErrImageInspect": "ImagePullFailed",
    "RegistryUnavailable": "ImagePullFailed",
    "SignatureValidationFailed": "ImagePullFailed",
    "CreateContainerConfigError": "ContainerConfigError",
    "CreateContainerError": "ContainerConfigError",
    "RunContainerError": "ContainerConfigError",
}
_UNKNOWN_ENDS = frozenset({"ContainerStatusUnknown"})
_TAIL_CHARACTERS = 2000


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
        uid: of the Job; "": it is gone.
        executions: one for each pod, in the order of their creation.
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
        """Whether the Job is over: no pod of it runs or will run."""
        return self.phase in (ChildPhase.SUCCEEDED, ChildPhase.FAILED)


def child_view(
    job: Object | None, pods: Sequence[Object], container: str, now: datetime
) -> ChildView:
    """Return how a child stands.

    Args:
        job: None: there is none any more.
        pods: of this attempt; one that was deleted is as it was last seen, with `gone` in it.
        container: name of the container that trains.
        now: aware; the end of what ended at an unknown time.
    """
    ordered = sorted(pods, key=lambda pod: (_created(pod, now), _metadata(pod).get("uid", "")))
    deadline = _condition(job, "Failed").get("reason") == "DeadlineExceeded"
    executions = tuple(_execution(pod, job, container, now, deadline) for pod in ordered)
    phase = _phase(job, ordered)
    if job is not None and not executions and phase in (ChildPhase.SUCCEEDED, ChildPhase.FAILED):
        executions = (_without_pod(job, now),)
    live = [pod for pod in ordered if not pod.get(GONE_MARK)]
    return ChildView(
        uid="" if job is None else str(_metadata(job).get("uid", "")),
        phase=phase,
        executions=executions,
        trouble=_trouble(live[-1], container) if live and not _is_over(phase) else None,
        node=next((n for pod in reversed(ordered) if (n := _spec(pod).get("nodeName"))), ""),
    )


def project_job(raw: Object) -> dict[str, Any]:
    """Return of a Job what is read here: a watch keeps nothing else."""
    metadata, status = _metadata(raw), _status(raw)
    return {
        "metadata": _only(
            metadata,
            "name",
            "namespace",
            "uid",
            "labels",
            "creationTimestamp",
            "deletionTimestamp",
            "resourceVersion",
            "ownerReferences",
        ),
        "spec": _only(_spec(raw), "suspend"),
        "status": {
            **_only(status, "completionTime", "startTime"),
            "conditions": [
                _only(each, "type", "status", "reason", "message", "lastTransitionTime")
                for each in status.get("conditions") or ()
            ],
        },
    }


def project_pod(raw: Object) -> dict[str, Any]:
    """Return of a pod what is read here."""
    status = _status(raw)
    return {
        "metadata": _only(
            _metadata(raw),
            "name",
            "uid",
            "labels",
            "creationTimestamp",
            "deletionTimestamp",
        ),
        "spec": _only(_spec(raw), "nodeName"),
        "status": {
            **_only(status, "phase", "reason", "message", "startTime"),
            "conditions": [
                _only(each, "type", "status", "reason", "message")
                for each in status.get("conditions") or ()
                if each.get("type") in ("DisruptionTarget", "PodScheduled")
            ],
            **{
                key: [_only(each, "name", "state") for each in status.get(key) or ()]
                for key in ("containerStatuses", "initContainerStatuses")
            },
        },
        **({GONE_MARK: True} if raw.get(GONE_MARK) else {}),
    }


# Parts of the answer ----------------------------------------------------------


def _phase(job: Object | None, pods: Sequence[Object]) -> ChildPhase:
    if job is None:
        return ChildPhase.GONE
    if _condition(job, "Complete"):
        return ChildPhase.SUCCEEDED
    if _condition(job, "Failed"):
        return ChildPhase.FAILED
    if _metadata(job).get("deletionTimestamp"):
        return ChildPhase.ENDING
    if any(_status(pod).get("phase") == "Running" and not pod.get(GONE_MARK) for pod in pods):
        return ChildPhase.RUNNING
    return ChildPhase.QUEUED if _spec(job).get("suspend") else ChildPhase.PENDING


def _is_over(phase: ChildPhase) -> bool:
    return phase in (ChildPhase.SUCCEEDED, ChildPhase.FAILED, ChildPhase.GONE)


def _execution(
    pod: Object, job: Object | None, container: str, now: datetime, deadline: bool
) -> ExecutionRecord:
    """Return the execution that a pod is."""
    state = _state(pod, container)
    terminated = state.get("terminated") or {}
    started = (
        _time(terminated.get("startedAt"))
        or _time((state.get("running") or {}).get("startedAt"))
        or _time(_status(pod).get("startTime"))
        or _created(pod, now)
    )
    message = str(terminated.get("message") or "")
    result = _result(message)
    uid = str(_metadata(pod).get("uid", ""))
    phase = _status(pod).get("phase")
    if not terminated and phase not in ("Succeeded", "Failed"):
        return ExecutionRecord(uid, started, result=result)
    outcome, reason = _judged(pod, job, container, terminated, result, deadline)
    code = terminated.get("exitCode")
    return ExecutionRecord(
        uid,
        started,
        ended_at=max(started, _time(terminated.get("finishedAt")) or now),
        exit_code=code if isinstance(code, int) else None,
        outcome=outcome,
        result=result,
        output_tail="" if result is not None else message[-_TAIL_CHARACTERS:],
        reason=reason,
    )


def _judged(
    pod: Object,
    job: Object | None,
    container: str,
    terminated: Object,
    result: Result | None,
    deadline: bool,
) -> tuple[Outcome | None, str]:
    """Return what the cluster knows of an end, better than the result does; None: nothing."""
    if terminated.get("exitCode") == 0 and terminated.get("reason") not in _UNKNOWN_ENDS:
        return None, ""
    disturbance = _disturbance(pod)
    if disturbance:
        return Outcome.PREEMPTED, disturbance
    if result is not None and _claims_an_end(result):
        return None, ""
    if terminated.get("reason") == "OOMKilled":
        return Outcome.CRASHED, f"OOMKilled: container {container} was over its memory limit"
    if deadline:
        return Outcome.CRASHED, "it ran longer than activeDeadlineSeconds allows"
    if job is not None and _spec(job).get("suspend"):
        return Outcome.PREEMPTED, "its Job was suspended"
    if _metadata(pod).get("deletionTimestamp"):
        if job is None or _metadata(job).get("deletionTimestamp"):
            return Outcome.PREEMPTED, "its Job was deleted"
        return Outcome.PREEMPTED, "its pod was deleted"
    if terminated.get("reason") in _UNKNOWN_ENDS:
        return Outcome.LOST, "the kubelet lost its container"
    if not terminated:
        return Outcome.CRASHED, _never_started(pod)
    return None, ""


def _disturbance(pod: Object) -> str:
    """Return who ended the pod from outside, in words; "": nobody."""
    condition = _condition(pod, "DisruptionTarget")
    status = _status(pod)
    if condition:
        reason = str(condition.get("reason") or "")
        words = _DISRUPTIONS.get(reason, f"ended from outside ({reason or 'no reason given'})")
    elif status.get("reason") in ("Evicted", "NodeLost", "Shutdown", "NodeShutdown", "Terminated"):
        words = {"Evicted": "evicted by its node", "NodeLost": "its node was lost"}.get(
            status["reason"], "its node was shut down"
        )
    elif status.get("phase") == "Unknown":
        words = "its node was lost"
    else:
        return ""
    detail = str(status.get("message") or condition.get("message") or "")
    return f"{words}: {detail}" if detail else words


def _never_started(pod: Object) -> str:
    status = _status(pod)
    said = str(status.get("message") or status.get("reason") or "")
    for each in status.get("initContainerStatuses") or ():
        ended = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"init container {each.get('name')} ended with exit code {ended['exitCode']}"
    return f"its container never started: {said}" if said else "its container never started"


def _without_pod(job: Object, now: datetime) -> ExecutionRecord:
    """Return what stands for the executions of a Job that has finished and shows no pod."""
    status = _status(job)
    condition = _condition(job, "Failed") or _condition(job, "Complete")
    started = _time(status.get("startTime")) or _created(job, now)
    ended = _time(condition.get("lastTransitionTime")) or now
    words = str(condition.get("message") or condition.get("reason") or "")
    said = f" ({words})" if words else ""
    return ExecutionRecord(
        str(_metadata(job).get("uid", "")),
        started,
        ended_at=max(started, ended),
        outcome=Outcome.LOST,
        reason=f"its Job has ended and its pod is gone{said}",
    )


def _trouble(pod: Object, container: str) -> Trouble | None:
    """Return why the newest pod does not get on."""
    status = _status(pod)
    for each in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason = _WAITING.get(waiting.get("reason", ""))
        if reason:
            said = waiting.get("message") or waiting["reason"]
            return Trouble(reason, f"container {each.get('name', container)}: {said}")
    scheduled = _condition(pod, "PodScheduled", "False")
    if scheduled:
        said = str(scheduled.get("message") or "no node fits")
        return Trouble(str(scheduled.get("reason") or "Unschedulable"), said)
    return None


# Fields ------------------------------------------------------------------------


def _state(pod: Object, container: str) -> Object:
    """Return the state of the container that trains."""
    for each in _status(pod).get("containerStatuses") or ():
        if each.get("name") == container:
            return each.get("state") or {}
    return {}


def _claims_an_end(result: Result) -> bool:
    return result.outcome in {outcome.value for outcome in FINAL_BY_RUNTIME}


def _result(message: str) -> Result | None:
    return decode_result(message.encode("utf-8", "replace")) if message else None


def _condition(owner: Object | None, kind: str, status: str = "True") -> Object:
    for each in _status(owner or {}).get("conditions") or ():
        if each.get("type") == kind and each.get("status") == status:
            found: Object = each
            return found
    return {}


def _metadata(owner: Object) -> Object:
    return owner.get("metadata") or {}


def _spec(owner: Object) -> Object:
    return owner.get("spec") or {}


def _status(owner: Object) -> Object:
    return owner.get("status") or {}


def _created(owner: Object, now: datetime) -> datetime:
    return _time(_metadata(owner).get("creationTimestamp")) or now


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _only(source: Object, *keys: str) -> dict[str, Any]:
    return {key: source[key] for key in keys if source.get(key) is not None}


def finished_times(jobs: Iterable[Object], now: datetime) -> dict[str, datetime]:
    """Return when each finished Job of `jobs` did, by UID."""
    found = {}
    for job in jobs:
        condition = _condition(job, "Complete") or _condition(job, "Failed")
        if condition:
            ended = _time(condition.get("lastTransitionTime")) or _created(job, now)
            found[str(_metadata(job).get("uid", ""))] = ended
    return found
