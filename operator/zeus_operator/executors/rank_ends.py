"""How one pod of several has ended: by itself, or because it was asked to.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from zeus_operator.executors.pod_ends import disturbance_of
from zeus_operator.executors.pod_fields import (
    GONE_MARK,
    Object,
    container_state,
    deletion_asked_at,
    metadata_of,
    status_of,
    time_of,
)
from zeus_runtime.protocol import Result, decode_result

_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Failure:
    """That a pod has failed by itself.

    Args:
        at: None: nobody says when.
        words: why, for people.
    """

    at: datetime | None
    words: str


def failure_of(pod: Object, container: str) -> Failure | None:
    """Return how a pod has failed by itself; None: it has not.

    Args:
        container: name of the container that trains.
    """
    ended, asked = _ended(pod, container), deletion_asked_at(pod)
    code, finished = ended.get("exitCode"), time_of(ended.get("finishedAt"))
    name = f"{name_of(pod)} of the same run"
    if not code:
        # The kubelet may end a pod and say nothing of its containers.
        is_told = bool(ended) or asked is not None or disturbance_of(pod) is not None
        if is_told or status_of(pod).get("phase") != "Failed":
            return None
        said = str(status_of(pod).get("message") or status_of(pod).get("reason") or "")
        return Failure(None, f"{name} failed{f': {said}' if said else ''}")
    # Times are whole seconds, and who fails by itself is not asked to end as well.
    if asked is not None and is_before(asked, finished):
        return None
    why = "was over its memory limit" if ended.get("reason") == "OOMKilled" else "failed"
    text = str(ended.get("message") or "")
    lines = [] if _result(text) else [line.strip() for line in text.splitlines() if line.strip()]
    last = f": {lines[-1][:_LINE_CHARACTERS]}" if lines else ""
    return Failure(finished, f"{name} {why} (exit code {code}){last}")


def asked_while_it_ran(pod: Object, container: str) -> datetime | None:
    """Return when a pod that trained was asked to end; None: it was not, or had ended before."""
    state, asked = _state(pod, container), deletion_asked_at(pod)
    if not state.keys() & {"running", "terminated"}:
        return None
    finished = time_of((state.get("terminated") or {}).get("finishedAt"))
    return asked if is_before(asked, finished) else None


def taken_at(pod: Object, container: str, later: Object) -> datetime | None:
    """Return when a pod that trained was taken away from outside; None: it was not, or never ran.

    One that has not begun is missed by nobody: the others wait for the one that comes instead.

    Args:
        later: the pod that came instead.
    """
    state, disturbance = _state(pod, container), disturbance_of(pod)
    if not state.keys() & {"running", "terminated"}:
        return None
    known = (disturbance.at if disturbance else None) or deletion_asked_at(pod)
    if known is not None or "terminated" in state or not pod.get(GONE_MARK):
        return known
    # Deleted by force: it was just there no more.
    return time_of(metadata_of(later).get("creationTimestamp"))


def result_in(pod: Object) -> Result | None:
    """Return the result that a pod of another rank shows; None: it shows none."""
    for each in status_of(pod).get("containerStatuses") or ():
        ended = (each.get("state") or {}).get("terminated") or {}
        found = _result(str(ended.get("message") or ""))
        if found is not None:
            return found
    return None


def name_of(pod: Object) -> str:
    """Return what people call a pod."""
    return f"pod {metadata_of(pod).get('name') or '?'}"


def is_before(moment: datetime | None, end: datetime | None) -> bool:
    """Whether `moment` may have been before `end`.  Times of the API are whole seconds."""
    return moment is None or end is None or moment <= end


def _result(message: str) -> Result | None:
    return decode_result(message.encode("utf-8", "replace")) if message else None


def _ended(pod: Object, container: str) -> Object:
    """Return the end of the container that trains, or of another by which its pod has failed."""
    found: Object = _state(pod, container).get("terminated") or {}
    if found.get("exitCode") or status_of(pod).get("phase") != "Failed":
        return found
    for key in ("initContainerStatuses", "containerStatuses"):
        for each in status_of(pod).get(key) or ():
            other: Object = (each.get("state") or {}).get("terminated") or {}
            if other.get("exitCode"):
                return other
    return found


def _state(pod: Object, container: str) -> Object:
    """Return the state of what trains: of the container of rank 0's name, else of the only one."""
    state = container_state(pod, container)
    statuses = list(status_of(pod).get("containerStatuses") or ())
    if not state and len(statuses) == 1:
        state = statuses[0].get("state") or {}
    return state
