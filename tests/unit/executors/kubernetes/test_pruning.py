"""Which finished children go, by the history limits of a CronJob."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from kubernetes.client import Configuration

from tests.support.api_objects import COMPLETE, JOB_NAME, at, job
from tests.support.plan_facts import attempt, facts, recurrence
from zeus_operator import names
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.executors.pruning import FinishedChild, surplus
from zeus_operator.kube import KubeClient
from zeus_operator.records import RecurrenceState
from zeus_operator.world import Resource, World
from zeus_runtime.protocol import Outcome


def child(name: str, seconds: float, *, ok: bool = True) -> FinishedChild:
    return FinishedChild(name, f"uid-{name}", at(seconds), ok)


CHILDREN = (
    child("z", 1),
    child("y", 2, ok=False),
    child("c", 3),
    child("d", 3),
    child("b", 4, ok=False),
    child("a", 5),
)


@pytest.mark.parametrize(
    ("successful", "failed", "removed"),
    [
        (10, 10, ""),
        (3, 1, "zy"),
        (2, 2, "zc"),
        (0, 2, "zcda"),
        (4, 0, "yb"),
        (0, 0, "zycdba"),
    ],
)
def test_the_oldest_beyond_each_limit_go_first(successful: int, failed: int, removed: str) -> None:
    for order in itertools.islice(itertools.permutations(CHILDREN), 0, 720, 97):
        found = surplus(order, successful, failed)

        assert "".join(each.name for each in found) == removed


@pytest.mark.parametrize(("owner", "goes"), [("uid-of-digits", True), ("", False)])
def test_a_job_that_only_has_our_labels_is_a_strangers_and_stays(owner: str, goes: bool) -> None:
    """As `kubectl get job -o yaml | kubectl create` makes it: labels can be copied."""
    world = World()
    ended = replace(attempt(1, Outcome.CANCELLED), child_name=JOB_NAME)
    known = facts(recurrence(1, ended, state=RecurrenceState.CANCELLED), job={"uid": owner or "x"})
    labels = {
        names.LABEL_JOB: known.job.name,
        names.LABEL_JOB_UID: known.job.uid,
        names.LABEL_RECURRENCE: str(ended.recurrence_id),
        names.LABEL_ATTEMPT: "1",
    }
    owners = [{"uid": owner, "controller": True}] if owner else []
    finished = job(COMPLETE, namespace=known.job.namespace, labels=labels, ownerReferences=owners)
    world.apply(Resource.JOBS, "ADDED", finished)
    known = replace(known, job=replace(known.job, spec={"failedJobsHistoryLimit": 0}))
    executor = KubernetesExecutor(
        KubeClient(Configuration()), world, ChildSettings, lambda: at(99), lambda *_pod: None
    )

    found = executor.surplus(known)

    assert [each.name for each in found] == ([JOB_NAME] if goes else [])
