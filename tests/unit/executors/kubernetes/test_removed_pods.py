"""When a pod was asked to end, once it is removed.

Who removes a pod that has ended allows no grace period, and the API server then dates its deletion
anew: after its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.client import Configuration

from tests.support.api_objects import (
    FAILED,
    JOB_NAME,
    JOB_UID,
    at,
    job,
    pod,
    running,
    stamp,
    terminated,
)
from tests.support.plan_facts import attempt, facts, recurrence
from tests.support.workloads import job_of
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.kube import KubeClient
from zeus_operator.records import ExecutionRecord
from zeus_operator.world import Resource, World
from zeus_runtime.protocol import Outcome

Object = dict[str, Any]


class Cluster(KubeClient):
    """An API server that has a child, and what is left of its pods."""

    def __init__(self, child: Object, *pods: Object) -> None:
        super().__init__(Configuration())
        self._child, self._pods = child, pods

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_rest: Any
    ) -> Object:
        assert method == "GET"
        return {"items": [*self._pods]} if query else self._child


def of_run(found: Object) -> Object:
    """Return a pod as one of recurrence 1."""
    found["metadata"]["labels"]["zeus.energy/recurrence"] = "1"
    return found


def execution_after(cluster: Cluster, *events: tuple[str, Object]) -> ExecutionRecord:
    """Return the execution that the pod of these events is."""
    world = World()
    for kind, found in events:
        world.apply(Resource.PODS, kind, of_run(found))
    going = replace(attempt(1), recurrence_id=1, child_name=JOB_NAME, child_uid=JOB_UID)
    spec = job_of("Job", {"template": pod()}).spec
    known = facts(recurrence(1, going), job={"spec": spec, "namespace": "vision"}).job
    executor = KubernetesExecutor(
        cluster, world, ChildSettings, lambda: at(99), lambda _uid, _node: None
    )
    (found,) = executor.observe(known, going).executions
    return found


ASKED = ("MODIFIED", pod(running(), deleted=(50, 30)))
ENDED = terminated(143, finished=stamp(55))
REMOVED = pod(ENDED, phase="Failed", deleted=(56, 0))


def test_a_pod_that_was_asked_to_end_and_is_removed_later_was_preempted() -> None:
    found = execution_after(
        Cluster(job()),
        ASKED,
        ("MODIFIED", pod(ENDED, phase="Failed", deleted=(50, 30))),
        ("DELETED", REMOVED),
    )

    assert (found.outcome, found.reason) == (Outcome.PREEMPTED, "its pod was deleted")


def test_nor_is_it_a_crash_where_only_the_api_server_shows_how_it_ended() -> None:
    """The watch of pods lags behind that of children."""
    found = execution_after(Cluster(job(FAILED), of_run(REMOVED)), ASKED)

    assert (found.outcome, found.reason) == (Outcome.PREEMPTED, "its pod was deleted")


@pytest.mark.parametrize("removed_at", [56, 90])
def test_a_pod_that_failed_by_itself_and_is_removed_has_failed(removed_at: float) -> None:
    end = terminated(1, finished=stamp(55))

    found = execution_after(
        Cluster(job()),
        ("MODIFIED", pod(end, phase="Failed")),
        ("DELETED", pod(end, phase="Failed", deleted=(removed_at, 0))),
    )

    assert (found.outcome, found.exit_code) == (None, 1)
