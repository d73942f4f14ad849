"""How an execution ended: what the kubelet, the scheduler and controllers say of it.  Pure.

What is found here outweighs the exit code and not the result (`classify`).  An end is stored once
and for all, so it is told only where it was seen, or where nobody will see it any more.
(https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from zeus_operator.executors.pod_fields import (
    GONE_MARK,
    Object,
    condition,
    container_state,
    created_at,
    deletion_asked_at,
    kind_name,
    memory_limit,
    metadata_of,
    spec_of,
    status_of,
    time_of,
    uid_of,
)
from zeus_operator.records import ExecutionRecord
from zeus_runtime.protocol import FINAL_BY_RUNTIME, Outcome, Result, decode_result

EVICTED = "Evicted"
PREEMPTED = "Preempted"
NODE_LOST = "NodeLost"
NODE_SHUT_DOWN = "NodeShutDown"
REFUSED_BY_NODE = "RefusedByNode"
DISRUPTED = "Disrupted"

_NODE_LOST = "its node was lost"
_CONDITIONS = {  # reasons of the condition DisruptionTarget
    "PreemptionByScheduler": (PREEMPTED, "preempted by a pod of higher priority"),
    "DeletionByTaintManager": (NODE_LOST, "its node was lost or tainted"),
    "EvictionByEvictionAPI": (EVICTED, "evicted by an administrator or the autoscaler"),
    "DeletionByPodGC": (NODE_LOST, _NODE_LOST),
    "TerminationByKubelet": (EVICTED, "evicted by its node"),
}
_STATUSES = {  # `status.reason` of a pod that the kubelet or the node controller ended
    "Evicted": (EVICTED, "evicted by its node"),
    "NodeLost": (NODE_LOST, _NODE_LOST),
    "Preempting": (PREEMPTED, "preempted by a critical pod of its node"),
    "Shutdown": (NODE_SHUT_DOWN, "its node was shut down"),
    "NodeShutdown": (NODE_SHUT_DOWN, "its node was shut down"),
    "Terminated": (NODE_SHUT_DOWN, "its node was shut down"),
}
_REFUSALS = frozenset(
    {"UnexpectedAdmissionError", "NodeAffinity", "NodePorts", "TopologyAffinityError"}
)
"""A kubelet that takes no pod just now, e.g. as a GPU is not healthy; and `OutOf<resource>`."""
_COULD_NOT_START = frozenset({"StartError", "ContainerCannotRun"})
_UNKNOWN_END = "ContainerStatusUnknown"
_GONE_WITH_ITS_NODE = ("Unknown", 255)
"""What containerd makes up for a container that is gone when it starts, as after a power cut."""
DEADLINE = "DeadlineExceeded"
_DEADLINE_WORDS = "it ran longer than activeDeadlineSeconds allows"
_TAIL_CHARACTERS = 2000
WORDS_CHARACTERS = 500


@dataclass(frozen=True)
class Disturbance:
    """Who ended a pod from outside.

    Args:
        word: for programs.
        words: for people.
        at: None: the cluster does not say.
    """

    word: str
    words: str
    at: datetime | None = None


def execution_of(
    pod: Object,
    job: Object | None,
    container: str,
    now: datetime,
    *,
    is_over: bool,
    reported: Result | None = None,
    kind: str = "Job",
) -> ExecutionRecord:
    """Return the execution that a pod is.

    Args:
        job: the child, in the shape of a Job; None: it is gone.
        container: name of the container that trains; its end is the execution's.
        is_over: the child has finished or is gone: what has not ended is taken to have.
        reported: its result as an agent knows it, in place of one that the pod does not show.
        kind: of the child.
    """
    state = container_state(pod, container)
    terminated: Object = state.get("terminated") or {}
    started = (
        time_of(terminated.get("startedAt"))
        or time_of((state.get("running") or {}).get("startedAt"))
        or time_of(status_of(pod).get("startTime"))
        or created_at(pod, now)
    )
    phase = status_of(pod).get("phase")
    has_ended = bool(terminated) or phase in ("Succeeded", "Failed") or bool(pod.get(GONE_MARK))
    if not has_ended and not is_over:
        return ExecutionRecord(uid_of(pod), started)
    message = str(terminated.get("message") or "")
    written = decode_result(message.encode("utf-8", "replace")) if message else None
    result = reported if written is None else written
    code = terminated.get("exitCode")
    if terminated.get("reason") == _UNKNOWN_END or _is_gone(terminated):
        code = None  # the kubelet or the container runtime made it up
    elif not terminated and phase == "Succeeded":
        code = 0
    outcome, reason = _judged(pod, job, container, terminated, code, result, kind)
    disturbance = disturbance_of(pod)
    ended = (
        time_of(terminated.get("finishedAt"))
        or (disturbance.at if disturbance else None)
        or deletion_asked_at(pod)
        or now
    )
    return ExecutionRecord(
        uid_of(pod),
        started,
        ended_at=max(started, ended),
        exit_code=code if isinstance(code, int) else None,
        outcome=outcome,
        result=result,
        output_tail="" if written is not None else message[-_TAIL_CHARACTERS:],
        reason=reason[:WORDS_CHARACTERS],
    )


def execution_without_pod(job: Object, now: datetime) -> ExecutionRecord:
    """Return what stands for the executions of a child that has finished and shows no pod.

    Its UID is the child's.
    """
    failed = condition(job, "Failed")
    found = failed or condition(job, "Complete")
    started = time_of(status_of(job).get("startTime")) or created_at(job, now)
    ended = time_of(found.get("lastTransitionTime")) or now
    said = str(found.get("message") or found.get("reason") or "")
    if failed.get("reason") == DEADLINE:
        outcome, reason = Outcome.CRASHED, _DEADLINE_WORDS
    else:
        outcome, reason = Outcome.LOST, f"its {kind_name(job)} has ended and its pod is gone"
    return ExecutionRecord(
        uid_of(job),
        started,
        ended_at=max(started, ended),
        outcome=outcome,
        reason=(f"{reason} ({said})" if said else reason)[:WORDS_CHARACTERS],
    )


def disturbance_of(pod: Object) -> Disturbance | None:
    """Return who ends or has ended a pod from outside; None: nobody."""
    status = status_of(pod)
    found = condition(pod, "DisruptionTarget")
    said = str(status.get("message") or found.get("message") or "")
    if found:
        reason = str(found.get("reason") or "")
        unknown = f"ended from outside ({reason or 'no reason given'})"
        word, words = _CONDITIONS.get(reason, (DISRUPTED, unknown))
        # A graceful shutdown has the condition of an eviction, and its own status.
        word, words = _STATUSES.get(str(status.get("reason") or ""), (word, words))
    elif status.get("reason") in _STATUSES:
        word, words = _STATUSES[status["reason"]]
    elif status.get("phase") == "Unknown":
        word, words = NODE_LOST, _NODE_LOST
    elif _is_gone_with_its_node(pod):
        word, words = NODE_LOST, "its node or the container runtime was restarted"
    elif _is_refused(pod):
        word, words = REFUSED_BY_NODE, f"refused by its node ({status.get('reason')})"
    else:
        return None
    at = time_of(found.get("lastTransitionTime"))
    return Disturbance(word, (f"{words}: {said}" if said else words)[:WORDS_CHARACTERS], at)


def _is_gone_with_its_node(pod: Object) -> bool:
    statuses = status_of(pod).get("containerStatuses") or ()
    return any(_is_gone((each.get("state") or {}).get("terminated") or {}) for each in statuses)


def _is_gone(terminated: Object) -> bool:
    return (terminated.get("reason"), terminated.get("exitCode")) == _GONE_WITH_ITS_NODE


def _is_refused(pod: Object) -> bool:
    status = status_of(pod)
    reason = str(status.get("reason") or "")
    return status.get("phase") == "Failed" and (reason in _REFUSALS or reason.startswith("OutOf"))


def _judged(
    pod: Object,
    job: Object | None,
    container: str,
    terminated: Object,
    code: object,
    result: Result | None,
    kind: str,
) -> tuple[Outcome | None, str]:
    """Return what the cluster knows of an end, better than the result does; None: nothing."""
    claim = claim_of(result)
    if code == 0 and claim is not None:
        return None, ""
    if not terminated and job is None:
        return Outcome.CANCELLED, f"its {kind} was deleted"
    finished = time_of(terminated.get("finishedAt"))
    outside = _from_outside(pod, job, finished, kind)
    if outside is not None:
        return outside
    if terminated.get("reason") == "OOMKilled":
        if claim not in (None, Outcome.REACHED):
            return None, ""
        limit = memory_limit(pod, container)
        whose = f"its memory limit of {limit}" if limit else "the memory that its node had"
        return Outcome.CRASHED, f"OOMKilled: container {container} was over {whose}"
    if terminated.get("reason") in _COULD_NOT_START:
        return Outcome.CRASHED, f"container {container} could not be started"
    if terminated.get("reason") == _UNKNOWN_END:
        return Outcome.LOST, "the kubelet lost its container"
    if not terminated and code is None:
        return _unseen(pod, kind)
    return None, ""


def _from_outside(
    pod: Object, job: Object | None, finished: datetime | None, kind: str
) -> tuple[Outcome, str] | None:
    """Return the end that somebody else made, if that came before the container's own."""
    disturbance = disturbance_of(pod)
    if disturbance is not None and _came_first(disturbance.at, finished):
        return Outcome.PREEMPTED, disturbance.words
    if status_of(pod).get("reason") == DEADLINE:
        return Outcome.CRASHED, _DEADLINE_WORDS
    asked = deletion_asked_at(pod)
    if not (pod.get(GONE_MARK) or asked) or not _came_first(asked, finished):
        return None
    if pod.get(GONE_MARK) and not asked and finished:
        return None  # it had ended when it was last seen
    if any(condition(job, kind).get("reason") == DEADLINE for kind in ("Failed", "FailureTarget")):
        return Outcome.CRASHED, _DEADLINE_WORDS
    if job is None or metadata_of(job).get("deletionTimestamp"):
        return Outcome.PREEMPTED, f"its {kind} was deleted"
    if spec_of(job).get("suspend"):
        return Outcome.PREEMPTED, f"its {kind} was suspended"
    return Outcome.PREEMPTED, "its pod was deleted"


def _came_first(cause: datetime | None, end: datetime | None) -> bool:
    """Whether `cause` may have made `end`.  Times of the API are whole seconds."""
    return cause is None or end is None or cause <= end


def _unseen(pod: Object, kind: str) -> tuple[Outcome, str]:
    """Judge a pod that is over and does not say how its container ended."""
    status = status_of(pod)
    for each in status.get("initContainerStatuses") or ():
        ended: Mapping[str, object] = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            why = "was over its memory limit" if ended.get("reason") == "OOMKilled" else "failed"
            return (
                Outcome.CRASHED,
                f"init container {each.get('name')} {why} (exit code {ended['exitCode']})",
            )
    said = str(status.get("message") or status.get("reason") or "")
    if status.get("phase") == "Failed" and said:
        return Outcome.CRASHED, f"its container never started: {said}"
    return Outcome.LOST, f"its {kind} ended, and nobody saw how its container did"


def claim_of(result: Result | None) -> Outcome | None:
    """Return the end that a result claims."""
    if result is None:
        return None
    return next((each for each in FINAL_BY_RUNTIME if each.value == result.outcome), None)
