"""Pods and children of a run of several ranks, as the API server shows them."""

from __future__ import annotations

from typing import Any

from tests.support import api_objects as api
from tests.support.api_objects import at, condition, pod, terminated
from zeus_operator.executors.pods import ChildView, child_view

NOW = at(100)
INDEX = "batch.kubernetes.io/job-completion-index"
Object = dict[str, Any]

FAILED = condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")
DISTURBED = condition("DisruptionTarget", "TerminationByKubelet", "low on memory", seconds=40)


def rank(index: int, state: Object | None, *conditions: Object, **options: Any) -> Object:
    """Return a pod of a run by its rank."""
    found = pod(state, *conditions, uid=f"pod-{index}", **options)
    indices = {INDEX: str(index), "training.kubeflow.org/replica-index": str(index)}
    found["metadata"]["labels"] |= {**indices, "zeus.energy/execution": "0"}
    return found


def child(*conditions: Object, suspend: bool = False, kind: str = "JobSet") -> Object:
    found = api.job(*conditions, suspend=suspend)
    labels = {"zeus.energy/execution": "0"}
    return {**found, "kind": kind, "metadata": {**found["metadata"], "labels": labels}}


def view(of: Object | None, *pods: Object) -> ChildView:
    return child_view(of, pods, "train", NOW)


def deleted(state: Object) -> Object:
    return rank(0, state, phase="Failed", deleted=(50, 30), gone=True)


def preparing(uid: str, *conditions: Object, ended: float, created: float) -> Object:
    """Return a pod of an initializer, which is over before rank 0 begins."""
    ends = terminated(137 if conditions else 0, finished=api.stamp(ended))
    phase = "Failed" if conditions else "Succeeded"
    found = pod(ends, *conditions, phase=phase, uid=uid, created=created)
    labels = {"zeus.energy/pod-group": "1", "zeus.energy/execution": "0", INDEX: "0"}
    found["metadata"]["labels"] |= labels
    return found
