"""Who is asked for the result of a run of several pods, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import Configuration

from tests.support import api_objects as api
from tests.support.api_objects import JOB_NAME, JOB_UID, at, terminated
from tests.support.jobs import execution_of
from tests.support.plan_facts import JOB, attempt, facts, recurrence
from tests.support.workloads import DECISION, job_of, pod_template
from zeus_operator.agents.client import AgentClient
from zeus_operator.agents.endpoints import AgentEndpoint
from zeus_operator.agents.progress import ProgressBook
from zeus_operator.agents.reader import PATIENCE_SECONDS, ReportReader
from zeus_operator.executors.base import ResultNotYet
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.kubernetes import ChildNotGone, KubernetesExecutor
from zeus_operator.executors.pods import ChildView
from zeus_operator.kube import AlreadyExists, KubeClient, KubeUnavailable
from zeus_operator.records import ExecutionRecord, JobRecord
from zeus_operator.world import World
from zeus_runtime.protocol import Outcome, Result

Object = dict[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"
FAILED = api.condition("Failed", "BackoffLimitExceeded")
RESULT = Result(job="vision/digits", epochs=2)
RANKS = {
    "parallelism": 3,
    "completions": 3,
    "completionMode": "Indexed",
    "template": pod_template(),
}


def rank(index: int, message: str = "") -> Object:
    found = api.pod(terminated(1, message=message), phase="Failed", uid=f"pod-{index}")
    found["metadata"]["labels"] |= {INDEX: str(index)}
    found["spec"]["nodeName"] = f"node-{index}"
    return found


class Cluster(KubeClient):
    """An API server that has a finished Job, and its pods."""

    def __init__(self, *pods: Object) -> None:
        super().__init__(Configuration())
        self._pods = pods

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_rest: Any
    ) -> Object:
        assert method == "GET"
        return {"items": [*self._pods]} if query else api.job(FAILED)


def observed(
    *pods: Object,
    known: Mapping[str, Result] | None = None,
    ask: Callable[[str, str], Result | None] | None = None,
    of: JobRecord | None = None,
) -> tuple[ExecutionRecord, list[tuple[str, str]]]:
    """Return the execution, and pod and node of each question that agents were asked.

    Args:
        known: results that agents have, by the UID of their pod.
        ask: asked instead of them.
        of: the ZeusJob; None: one whose children are Jobs.
    """
    questions: list[tuple[str, str]] = []

    def result_of(pod_uid: str, node: str) -> Result | None:
        questions.append((pod_uid, node))
        return (known or {}).get(pod_uid)

    stored = execution_of(None, uid="pod-0", ended_at=None, exit_code=None)
    going = replace(attempt(1, executions=(stored,)), child_name=JOB_NAME, child_uid=JOB_UID)
    job = facts(recurrence(1, going), job={"spec": (of or job_of("Job", RANKS)).spec}).job
    cluster = Cluster(*pods)
    executor = KubernetesExecutor(cluster, World(), ChildSettings, lambda: at(99), ask or result_of)
    view: ChildView = executor.observe(job, going)
    (found,) = view.executions
    return found, questions


def test_what_rank_0_shows_is_the_result_and_nobody_is_asked() -> None:
    found, questions = observed(rank(0, api.message()), rank(1, api.message()))

    assert found.result is not None
    assert found.result.epochs == 3
    assert questions == []


def test_the_agent_of_rank_0_is_asked_before_any_other_rank_counts() -> None:
    found, questions = observed(rank(0), rank(1, api.message()), known={"pod-0": RESULT})

    assert found.result == RESULT
    assert questions == [("pod-0", "node-0")]


def test_then_the_rank_that_has_come_farthest_counts_as_it_shows_or_as_its_agent_knows() -> None:
    far = replace(RESULT, epochs=7)

    found, questions = observed(rank(0), rank(1, api.message()), rank(2), known={"pod-2": far})

    assert found.result == far
    assert questions == [("pod-0", "node-0"), ("pod-2", "node-2")]


@pytest.mark.parametrize(
    ("known", "epochs"), [({"pod-0": replace(RESULT, epochs=7)}, 7), ({}, 3)], ids=["yes", "no"]
)
def test_a_rank_that_lacked_memory_says_so_and_its_epochs_count_where_nobody_knows_those_of_rank_0(
    known: Mapping[str, Result], epochs: int
) -> None:
    short = api.message(Outcome.OUT_OF_MEMORY)

    found, _ = observed(rank(0), rank(1, short), rank(2), known=known)

    assert found.result is not None
    assert (found.result.outcome, found.result.epochs) == (Outcome.OUT_OF_MEMORY.value, epochs)


def test_where_nobody_knows_anything_there_is_no_result() -> None:
    found, _ = observed(rank(0), rank(1), rank(2))

    assert found.result is None
    assert found.exit_code == 1


def test_results_of_before_a_suspension_are_not_those_of_the_run_that_was_resumed() -> None:
    """The Job stays the same one; each of its ranks has had a pod before."""
    before = rank(1, api.message())
    times = {"startedAt": api.stamp(0), "finishedAt": api.stamp(1)}
    before["metadata"] |= {"uid": "pod-1-before", "creationTimestamp": api.stamp(0)}
    before["status"]["containerStatuses"][0]["state"]["terminated"] |= times

    found, questions = observed(before, rank(0), rank(1))
    without, _ = observed(before, rank(0))

    assert found.result is None
    assert questions == [("pod-0", "node-0"), ("pod-1", "node-1")]
    assert without.result is None, "nor where its rank has no other pod yet"


def test_all_ranks_are_asked_at_once_and_what_is_waited_for_is_waited_for_once() -> None:
    """Nobody answers: a run of three ranks waits hardly longer than one of one rank does."""
    seconds = [1000.0]
    # The first questions take until they time out, and those after them are answered at once.
    steps = itertools.chain([5.0] * 3, itertools.repeat(0.5))

    def passing() -> float:
        seconds[0] += next(steps)
        return seconds[0]

    def agents() -> Mapping[str, AgentEndpoint]:
        raise KubeUnavailable(0, "", "the API server does not answer")

    client = AgentClient("agents", Path("token"), lambda: "")
    reader = ReportReader(agents, client, ProgressBook(), lambda: at(99), passing)
    started = seconds[0]
    pods = (rank(0), rank(1), rank(2))
    waited_for = 0
    found = None
    while found is None and seconds[0] - started < 3 * PATIENCE_SECONDS:
        try:
            found, _ = observed(*pods, ask=reader.result_of)
        except ResultNotYet:
            waited_for += 1
    reader.close()

    assert found is not None
    assert found.result is None
    assert waited_for > 1
    assert seconds[0] - started < 1.5 * PATIENCE_SECONDS


def test_a_rank_that_is_waited_for_does_not_hide_the_next_ones() -> None:
    questions: list[str] = []

    def not_yet(pod_uid: str, _node: str) -> Result | None:
        questions.append(pod_uid)
        raise ResultNotYet(f"{pod_uid} has left no result", f"the agent of {pod_uid}")

    with pytest.raises(ResultNotYet) as caught:
        observed(rank(0), rank(1), rank(2), ask=not_yet)

    assert questions == ["pod-0", "pod-1", "pod-2"]
    assert caught.value.waits_for == "the agent of pod-0"


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        (job_of("TrainJob", {"runtimeRef": {"name": "torch"}}), ["pod-0", "pod-1"]),
        # Any entry of a JobSet may train.
        (
            job_of("JobSet", {"replicatedJobs": [{"template": {"spec": RANKS}}]}),
            ["pod-0", "pod-1", "pod-2"],
        ),
    ],
    ids=["TrainJob", "JobSet"],
)
def test_pods_that_only_prepare_a_run_are_not_asked_for_results(
    of: JobRecord, asked: list[str]
) -> None:
    prepares = rank(2)
    prepares["metadata"]["labels"] |= {"zeus.energy/pod-group": "1"}

    _, questions = observed(rank(0), rank(1), prepares, of=of)

    assert [uid for uid, _ in questions] == asked


class Finished(Cluster):
    """The same API server, which is asked to create a child that is there already.

    Args:
        mark: number of the execution that it was made for.
    """

    def __init__(self, *pods: Object, mark: str = "") -> None:
        super().__init__(*pods)
        self._mark = mark
        self.deleted: list[str] = []
        self.policies: list[str] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> Object:
        if method == "POST":
            raise AlreadyExists(409, "AlreadyExists", path)
        if method == "DELETE":
            assert body is not None
            self.deleted.append(body["preconditions"]["uid"])
            self.policies.append(body["propagationPolicy"])
            return {}
        found = super().request(method, path, query=query, **rest)
        if not query:
            labels = {"zeus.energy/recurrence": "1", "zeus.energy/attempt": "1"}
            if self._mark:
                labels["zeus.energy/execution"] = self._mark
            owner = {"uid": JOB.uid, "controller": True}
            found["metadata"] |= {"labels": labels, "ownerReferences": [owner]}
        return found


def started_again(cluster: Finished, of: JobRecord) -> str:
    """Return the UID of the child of an attempt whose first execution was preempted."""
    ended = replace(execution_of(None, uid="pod-0", exit_code=None), outcome=Outcome.PREEMPTED)
    going = replace(attempt(1, executions=(ended,)), recurrence_id=1, child_name=JOB_NAME)
    executor = KubernetesExecutor(
        cluster, World(), ChildSettings, lambda: at(99), lambda _uid, _node: None
    )
    return executor.start(of, going, DECISION)


def test_a_child_whose_rank_0_is_gone_and_stored_makes_room_for_the_next_execution() -> None:
    """What other ranks have left in it does not make it a new one."""
    cluster = Finished(rank(1), rank(2))

    with pytest.raises(ChildNotGone):
        started_again(cluster, job_of("Job", RANKS))

    assert cluster.deleted == [JOB_UID]


def test_a_child_that_makes_room_keeps_its_name_until_all_that_is_named_after_it_is_gone() -> None:
    """A JobSet of the same name would take what is left, its failed Jobs, for its own."""
    cluster = Finished(rank(1), rank(2))

    with pytest.raises(ChildNotGone):
        started_again(cluster, job_of("Job", RANKS))

    assert cluster.policies == ["Foreground"]


JOBSET = job_of("JobSet", {"replicatedJobs": [{"name": "n", "template": {"spec": RANKS}}]})


def marked(pod: Object, execution: str) -> Object:
    pod["metadata"]["labels"] |= {"zeus.energy/execution": execution}
    return pod


@pytest.mark.parametrize(
    "pods",
    [
        (),
        # What is left of a child that was made meanwhile, by another operator, and is gone.
        (marked(rank(0), "1"),),
    ],
    ids=["no pod is left", "pods of another child are left"],
)
def test_a_child_that_its_mark_says_was_stored_makes_room_as_well(pods: tuple[Object, ...]) -> None:
    cluster = Finished(*pods, mark="0")

    with pytest.raises(ChildNotGone):
        started_again(cluster, JOBSET)

    assert cluster.deleted == [JOB_UID]


def test_a_child_that_was_made_for_the_next_execution_is_adopted_though_its_pods_are_gone() -> None:
    """The operator that made it died before it could store so; it has failed since."""
    cluster = Finished(marked(rank(0), "0"), mark="1")

    assert started_again(cluster, JOBSET) == JOB_UID

    assert cluster.deleted == []
