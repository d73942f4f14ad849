"""The pod status that a kubelet and a scheduler write, as bodies of a strategic merge patch.  Pure.

As Kubernetes 1.37 does it: times are whole seconds, a message is the last 4,096 bytes of its file
and at most an equal part of 12 KiB, a container that never started began in 1970.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.cluster.support.endings import Disruption, Ending, Trouble
from tests.cluster.support.pod_run import PodRun

Object = dict[str, Any]

MESSAGE_BYTES = 4096
POD_MESSAGE_BYTES = 12 * 1024
LOG_BYTES, LOG_LINES = 2048, 80
NEVER = "1970-01-01T00:00:00Z"


def timestamp(moment: datetime) -> str:
    """Return `moment` as the API writes it, in whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def unscheduled(trouble: Trouble, now: datetime) -> Object:
    """Return the status of a pod that no node takes."""
    false = _condition("PodScheduled", False, now, trouble.reason, trouble.message)
    return {"phase": "Pending", "conditions": [false]}


def waiting(run: PodRun, trouble: Trouble, now: datetime) -> Object:
    """Return the status of a pod on its node whose containers do not start."""
    state = {"waiting": {"reason": trouble.reason, "message": trouble.message}}
    return {
        "phase": "Pending",
        "startTime": timestamp(now),
        "conditions": [
            _condition("Initialized", True, now),
            _condition("Ready", False, now, "ContainersNotReady"),
            _condition("ContainersReady", False, now, "ContainersNotReady"),
        ],
        "containerStatuses": [
            {**_common(run, each), "ready": False, "started": False, "state": state}
            for each in _containers(run)
        ],
    }


def running(run: PodRun, started: datetime, now: datetime) -> Object:
    """Return the status of a pod whose containers all run."""
    names = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
    return {
        "phase": "Running",
        "startTime": timestamp(started),
        "podIP": "192.0.2.1",
        "podIPs": [{"ip": "192.0.2.1"}],
        "conditions": [_condition(name, True, now) for name in names],
        "initContainerStatuses": [
            {
                **_common(run, each),
                "ready": True,
                "started": False,
                "state": {"terminated": _terminated(0, "Completed", started, started, run, each)},
            }
            for each in run.manifest["spec"].get("initContainers") or ()
        ],
        "containerStatuses": [
            {
                **_common(run, each),
                "ready": True,
                "started": True,
                "state": {"running": {"startedAt": timestamp(started)}},
            }
            for each in _containers(run)
        ],
    }


def disrupted(disruption: Disruption, now: datetime) -> Object:
    """Return the status that tells of a disruption that is about to end the pod."""
    words = (disruption.reason, disruption.message)
    return {"conditions": [_condition("DisruptionTarget", True, now, *words)]}


def ended(run: PodRun, ending: Ending, started: datetime, now: datetime) -> Object:
    """Return the status of a pod that is over."""
    succeeded = ending.exit_code == 0
    why = "PodCompleted" if succeeded else "PodFailed"
    conditions = [_condition(name, False, now, why) for name in ("Ready", "ContainersReady")]
    if ending.disruption is not None:
        conditions += disrupted(ending.disruption, now)["conditions"]
    status: Object = {"phase": "Succeeded" if succeeded else "Failed", "conditions": conditions}
    if ending.pod_reason:
        status.update(reason=ending.pod_reason, message=ending.pod_message)
    if ending.exit_code is not None:
        status["containerStatuses"] = [
            {
                **_common(run, each),
                "ready": False,
                "started": False,
                "state": {"terminated": _end_of(run, each, ending, started, now)},
            }
            for each in _containers(run)
        ]
    return status


def _end_of(
    run: PodRun, container: Mapping[str, Any], ending: Ending, started: datetime, now: datetime
) -> Object:
    if container["name"] != run.container:
        return _terminated(0, "Completed", started, now, run, container)
    code = ending.exit_code or 0
    reason = ending.reason or ("Error" if code else "Completed")
    state = _terminated(code, reason, started, now, run, container)
    if not ending.is_started:
        state["startedAt"] = NEVER
    message = _message(run, container, ending)
    return {**state, "message": message} if message else state


def _message(run: PodRun, container: Mapping[str, Any], ending: Ending) -> str:
    spec = run.manifest["spec"]
    count = len(spec["containers"]) + len(spec.get("initContainers") or ())
    text = ending.message[-MESSAGE_BYTES:]
    falls_back = container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
    if not text and falls_back and ending.exit_code:
        text = "\n".join(ending.log.splitlines()[-LOG_LINES:]).encode()[-LOG_BYTES:]
    return text[: POD_MESSAGE_BYTES // count].decode(errors="replace")


def _terminated(
    code: int,
    reason: str,
    started: datetime,
    finished: datetime,
    run: PodRun,
    container: Mapping[str, Any],
) -> Object:
    return {
        "exitCode": code,
        "reason": reason,
        "startedAt": timestamp(started),
        "finishedAt": timestamp(finished),
        "containerID": _container_id(run, container),
    }


def _common(run: PodRun, container: Mapping[str, Any]) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "containerID": _container_id(run, container),
        "restartCount": 0,
        "lastState": {},
    }


def _containers(run: PodRun) -> list[Mapping[str, Any]]:
    return list(run.manifest["spec"]["containers"])


def _container_id(run: PodRun, container: Mapping[str, Any]) -> str:
    return "containerd://" + hashlib.sha256(f"{run.uid}/{container['name']}".encode()).hexdigest()


def _condition(
    kind: str, status: bool, now: datetime, reason: str = "", message: str = ""
) -> Object:
    return {
        "type": kind,
        "status": str(status),
        "lastTransitionTime": timestamp(now),
        **({"reason": reason} if reason else {}),
        **({"message": message} if message else {}),
    }
