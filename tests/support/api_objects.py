"""Jobs and pods as a cluster shows them: what the kubelet and the controllers write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from zeus_runtime.protocol import Outcome, Result, encode_result

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
JOB_UID = "5b6f0d4e-0000-4000-8000-000000000001"
JOB_NAME = "digits-0a1b2c3d-mm9a2o00-a1"


def at(seconds: float) -> datetime:
    """Return a moment after the Job was created."""
    return START + timedelta(seconds=seconds)


def stamp(seconds: float) -> str:
    """Return `at(seconds)` as the API writes it."""
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    kind: str, reason: str = "", message: str = "", *, status: str = "True", seconds: float = 60
) -> dict[str, Any]:
    """Return a condition of a Job or a pod."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": None,
        "lastTransitionTime": stamp(seconds),
    }


def job(*conditions: dict[str, Any], suspend: bool = False, **metadata: Any) -> dict[str, Any]:
    """Return a Job as the API server gives it."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": JOB_NAME,
            "namespace": "vision",
            "uid": JOB_UID,
            "resourceVersion": "41",
            "generation": 1,
            "creationTimestamp": stamp(0),
            "labels": {"zeus.energy/job": "digits"},
            "managedFields": [{"manager": "zeus-operator", "operation": "Update"}],
            **metadata,
        },
        "spec": {"backoffLimit": 0, "suspend": suspend, "template": {"spec": {"containers": []}}},
        "status": {"startTime": stamp(0), "conditions": list(conditions), "active": 1},
    }


COMPLETE = condition("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
FAILED = condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
DEADLINE = condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")


def pod(
    state: dict[str, Any] | None = None,
    *conditions: dict[str, Any],
    phase: str = "Running",
    uid: str = "pod-1",
    created: float = 1,
    others: tuple[dict[str, Any], ...] = (),
    init: tuple[dict[str, Any], ...] = (),
    memory: str | None = "8Gi",
    deleted: tuple[float, int] | None = None,
    gone: bool = False,
    **status: Any,
) -> dict[str, Any]:
    """Return a pod as the API server gives it.

    Args:
        state: of the container `train`; None: the kubelet has written none.
        others: statuses of other containers, by `container_status`.
        deleted: when deletion was asked for, and the grace period, both in seconds.
        status: further fields of the pod's status.
    """
    metadata: dict[str, Any] = {
        "name": f"{JOB_NAME}-{uid}",
        "generateName": f"{JOB_NAME}-",
        "namespace": "vision",
        "uid": uid,
        "resourceVersion": "77",
        "creationTimestamp": stamp(created),
        "labels": {"zeus.energy/job": "digits", "zeus.energy/attempt": "1"},
        "finalizers": ["batch.kubernetes.io/job-tracking"],
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "uid": JOB_UID, "controller": True}
        ],
    }
    if deleted is not None:
        asked, grace = deleted
        metadata["deletionTimestamp"] = stamp(asked + grace)
        metadata["deletionGracePeriodSeconds"] = grace
    limits = {} if memory is None else {"memory": memory}
    found: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "nodeName": "gpu-node-3",
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "train",
                    "image": "example.org/train:1",
                    "env": [{"name": "ZEUS_DECISION", "value": "{}"}],
                    "resources": {"limits": {"nvidia.com/gpu": "1", **limits}},
                },
                {"name": "logs", "image": "example.org/logs:1"},
            ],
        },
        "status": {
            "phase": phase,
            "startTime": stamp(created + 1),
            "hostIP": "10.0.0.3",
            "qosClass": "Burstable",
            "conditions": [condition("Initialized"), *conditions],
            **status,
        },
    }
    statuses = [*([] if state is None else [container_status("train", state)]), *others]
    if statuses:
        found["status"]["containerStatuses"] = statuses
    if init:
        found["status"]["initContainerStatuses"] = list(init)
    return {**found, "gone": True} if gone else found


def container_status(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return the status of one container."""
    return {
        "name": name,
        "state": state,
        "lastState": {},
        "ready": False,
        "restartCount": 0,
        "image": f"example.org/{name}:1",
        "imageID": f"example.org/{name}@sha256:00",
        "containerID": "containerd://00",
        "started": "running" in state,
    }


def running(seconds: float = 5) -> dict[str, Any]:
    """Return the state of a container that runs."""
    return {"running": {"startedAt": stamp(seconds)}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Return the state of a container that does not run yet."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def terminated(
    code: int,
    reason: str | None = None,
    message: str = "",
    *,
    started: str | None = stamp(5),
    finished: str | None = stamp(55),
) -> dict[str, Any]:
    """Return the state of a container that has ended."""
    end = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "startedAt": started,
        "finishedAt": finished,
        "containerID": "containerd://00",
        **({"message": message} if message else {}),
    }
    return {"terminated": end}


def message(outcome: Outcome | None = None, *, size_bytes: int = 2048, **fields: Any) -> str:
    """Return a termination message of ours."""
    claim = None if outcome is None else outcome.value
    found = Result(job="vision/digits", epochs=3, outcome=claim, **fields)
    return encode_result(found, size_bytes).decode()
