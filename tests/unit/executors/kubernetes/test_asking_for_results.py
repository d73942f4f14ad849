"""Which pods that left no result are asked for, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml
from kubernetes.client import Configuration

from tests.support.api_objects import (
    DEADLINE,
    JOB_NAME,
    JOB_UID,
    at,
    job,
    pod,
    terminated,
)
from tests.support.jobs import execution_of
from tests.support.manifests import VALID
from tests.support.plan_facts import attempt, facts, recurrence
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.kube import KubeClient
from zeus_operator.records import ExecutionRecord
from zeus_operator.world import World
from zeus_runtime.protocol import Outcome

Object = dict[str, Any]
STORED = execution_of(None, uid="pod-1", ended_at=None, exit_code=None)


class Cluster(KubeClient):
    """An API server that has a finished child, and its pods."""

    def __init__(self, *pods: Object) -> None:
        super().__init__(Configuration())
        self._pods = pods

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_rest: Any
    ) -> Object:
        assert method == "GET"
        return {"items": [*self._pods]} if query else job(DEADLINE)


def asked(*pods: Object, executions: tuple[ExecutionRecord, ...]) -> list[tuple[str, str]]:
    """Return pod and node of each question about a child that has ended with these pods."""
    questions: list[tuple[str, str]] = []

    def result_of(pod_uid: str, node: str) -> None:
        questions.append((pod_uid, node))

    running = replace(attempt(1, executions=executions), child_name=JOB_NAME, child_uid=JOB_UID)
    known = facts(recurrence(1, running), job={"spec": yaml.safe_load(VALID)["spec"]})
    executor = KubernetesExecutor(Cluster(*pods), World(), ChildSettings, lambda: at(99), result_of)
    view = executor.observe(known.job, running)
    assert all(each.ended_at is not None for each in view.executions)
    return questions


def without_node(uid: str = "pod-1") -> Object:
    found = pod(None, phase="Failed", uid=uid)
    del found["spec"]["nodeName"]
    return found


def test_a_pod_that_has_run_is_asked_for_at_its_node() -> None:
    assert asked(pod(terminated(0)), executions=(STORED,)) == [("pod-1", "gpu-node-3")]


def test_a_pod_that_was_never_scheduled_is_asked_for_nowhere() -> None:
    assert asked(without_node(), executions=()) == []
    assert asked(without_node(), executions=(STORED,)) == []


def test_a_pod_that_is_not_at_hand_any_more_is_asked_for_everywhere() -> None:
    assert asked(executions=(STORED,)) == [("pod-1", "")]


def test_a_pod_whose_end_is_stored_is_not_asked_for_again() -> None:
    ended = replace(STORED, ended_at=at(50), outcome=Outcome.PREEMPTED)
    assert asked(pod(terminated(0)), executions=(ended,)) == []
