"""What is made before a child: once, handed over to it, and never a stranger's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.client import Configuration

from tests.support.api_objects import at
from tests.support.plan_facts import JOB
from tests.support.workloads import CHILD_NAME, DECISION, attempt, job_of, pod_template
from zeus_operator.api.problems import TemplateError
from zeus_operator.executors.base import ChildCollision
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.companions import ChildNotGone, Companions
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.kube import (
    AlreadyExists,
    Conflict,
    KubeClient,
    KubeError,
    KubeUnavailable,
    NotFound,
    Refused,
)
from zeus_operator.workloads.registry import KINDS
from zeus_operator.workloads.served import ServedKinds
from zeus_operator.world import World

Object = dict[str, Any]
KIND = KINDS["TrainJob"]
CHILD = {"metadata": {"name": "run", "namespace": "team", "uid": "of-the-child"}}


class Cluster(KubeClient):
    """An API server that keeps TrainingRuntimes.

    Attributes:
        objects: by name.
    """

    def __init__(self) -> None:
        super().__init__(Configuration())
        self._uids = itertools.count(1)
        self.objects: dict[str, Object] = {}

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        **_rest: Any,
    ) -> Object:
        name = path.rsplit("/", 1)[1]
        if method == "POST":
            assert body is not None
            made = body["metadata"]["name"]
            if made in self.objects:
                raise AlreadyExists(409, "AlreadyExists", made)
            found = {**body, "metadata": {**body["metadata"], "uid": f"uid-{next(self._uids)}"}}
            if not query:
                self.objects[made] = found
            return found
        if name not in self.objects:
            raise NotFound(404, "NotFound", path)
        if method == "DELETE":
            assert body is not None
            assert body["preconditions"]["uid"] == self.objects[name]["metadata"]["uid"]
            return self.objects.pop(name)
        if method == "PATCH":
            assert body is not None
            if body["metadata"]["uid"] != self.objects[name]["metadata"]["uid"]:
                raise Conflict(409, "Conflict", "the UID in the precondition is another")
            self.objects[name]["metadata"] |= body["metadata"]
        return self.objects[name]


def manifest(copy: str = "1", execution: str = "0", owner: str = JOB.uid) -> Object:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {
            "name": "run",
            "namespace": "team",
            "labels": {"zeus.energy/job-uid": JOB.uid, "zeus.energy/execution": execution},
            "annotations": {"zeus.energy/copy": copy},
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {},
    }


job = replace(JOB, namespace="team")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def owner_of(cluster: Cluster) -> list[str]:
    return [each["uid"] for each in cluster.objects["run"]["metadata"]["ownerReferences"]]


def test_it_is_made_once_and_handed_over_to_the_child(cluster: Cluster) -> None:
    companions = Companions(cluster)

    made = companions.ensure(job, manifest(), is_in_use=False)
    again = companions.ensure(job, manifest(), is_in_use=False)
    companions.hand_over(made, CHILD, KIND)

    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    assert owner_of(cluster) == ["of-the-child"]


def test_one_that_was_handed_over_stays_as_it_is_while_its_child_is_there(cluster: Cluster) -> None:
    companions = Companions(cluster)
    companions.hand_over(companions.ensure(job, manifest(), is_in_use=False), CHILD, KIND)

    found = companions.ensure(job, manifest(copy="2"), is_in_use=True)
    companions.hand_over(found, CHILD, KIND)

    assert found["metadata"]["annotations"]["zeus.energy/copy"] == "1"


def being_deleted(cluster: Cluster) -> None:
    """Let it be deleted as one that a controller holds: it stays until that lets it go."""
    cluster.objects["run"]["metadata"]["deletionTimestamp"] = "2026-03-02T12:00:00Z"


def test_one_that_is_being_deleted_is_still_that_of_a_child_that_is_there(cluster: Cluster) -> None:
    """Its controller lets it go when the child is gone: to wait for that would be for ever."""
    companions = Companions(cluster)
    made = companions.ensure(job, manifest(), is_in_use=False)
    being_deleted(cluster)

    found = companions.ensure(job, manifest(copy="2"), is_in_use=True)
    companions.hand_over(found, CHILD, KIND)

    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert owner_of(cluster) == ["of-the-child"]


def test_no_child_is_made_from_one_that_is_being_deleted(cluster: Cluster) -> None:
    companions = Companions(cluster)
    companions.ensure(job, manifest(), is_in_use=False)
    being_deleted(cluster)

    with pytest.raises(ChildNotGone, match="is being deleted"):
        companions.ensure(job, manifest(), is_in_use=False)

    assert "run" in cluster.objects, "it goes by itself"


def test_a_later_one_of_that_name_is_not_taken_for_it(cluster: Cluster) -> None:
    companions = Companions(cluster)
    made = companions.ensure(job, manifest(), is_in_use=False)
    del cluster.objects["run"]
    companions.ensure(job, manifest(), is_in_use=False)

    with pytest.raises(Conflict):
        companions.hand_over(made, CHILD, KIND)

    assert owner_of(cluster) == [JOB.uid]


@pytest.mark.parametrize(
    "before", [manifest(copy="2"), manifest(execution="1"), manifest(owner="a-child-before")]
)
def test_one_of_something_else_is_deleted_first(cluster: Cluster, before: Object) -> None:
    companions = Companions(cluster)
    companions.ensure(job, before, is_in_use=False)

    with pytest.raises(ChildNotGone):
        companions.ensure(job, manifest(), is_in_use=False)

    assert cluster.objects == {}
    companions.ensure(job, manifest(), is_in_use=False)
    assert cluster.objects["run"]["metadata"]["annotations"]["zeus.energy/copy"] == "1"


@pytest.mark.parametrize("change", ["labels", "ownerReferences"])
def test_a_strangers_of_the_same_name_is_left_alone(cluster: Cluster, change: str) -> None:
    stranger = manifest()
    del stranger["metadata"][change]
    companions = Companions(cluster)
    companions.ensure(job, stranger, is_in_use=False)

    with pytest.raises(ChildCollision, match="TrainingRuntime team/run exists and is not ours"):
        companions.ensure(job, manifest(), is_in_use=False)

    assert "run" in cluster.objects


def test_a_dry_run_leaves_nothing(cluster: Cluster) -> None:
    Companions(cluster).dry_run("team", manifest())

    assert cluster.objects == {}


# Children that are not made -------------------------------------------------------


class Unwilling(Cluster):
    """The same API server, which makes no TrainJob."""

    def __init__(self, refusal: KubeError, stranger: Object | None = None) -> None:
        super().__init__()
        self._refusal = refusal
        self._stranger = stranger

    def request(self, method: str, path: str, **rest: Any) -> Object:
        if "/clustertrainingruntimes/" in path:
            return RUNTIME
        if "/trainjobs" not in path:
            return super().request(method, path, **rest)
        if method == "POST":
            raise self._refusal
        if self._stranger is None:
            raise NotFound(404, "NotFound", path)
        return self._stranger


RUNTIME = {
    "spec": {
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {
                                "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
                            },
                            "spec": {"template": pod_template("node")},
                        },
                    }
                ]
            }
        }
    }
}


def start(cluster: Cluster) -> str:
    wanted = job_of("TrainJob", {"runtimeRef": {"name": "torch"}})
    served = ServedKinds(("TrainJob",))
    executor = KubernetesExecutor(
        cluster, World(), ChildSettings, lambda: at(0), lambda _uid, _node: None, kinds=served
    )
    return executor.start(wanted, attempt(), DECISION)


def test_it_does_not_stay_where_the_child_is_refused() -> None:
    cluster = Unwilling(Refused(422, "Invalid", "no such field"))

    with pytest.raises(Refused):
        start(cluster)

    assert cluster.objects == {}


def test_it_does_not_stay_where_the_childs_name_is_a_strangers() -> None:
    stranger = {"metadata": {"name": CHILD_NAME, "uid": "of-a-stranger"}}
    cluster = Unwilling(AlreadyExists(409, "AlreadyExists", CHILD_NAME), stranger)

    with pytest.raises(ChildCollision):
        start(cluster)

    assert cluster.objects == {}


def test_it_stays_for_the_next_try_where_the_api_server_only_does_not_answer() -> None:
    cluster = Unwilling(KubeUnavailable(0, "", "the API server does not answer"))

    with pytest.raises(KubeUnavailable):
        start(cluster)

    assert list(cluster.objects) == [CHILD_NAME]


def test_one_that_a_child_has_stays_whatever_becomes_of_another_try(cluster: Cluster) -> None:
    companions = Companions(cluster)
    companions.hand_over(companions.ensure(job, manifest(), is_in_use=False), CHILD, KIND)

    companions.drop(companions.ensure(job, manifest(), is_in_use=True), job)

    assert owner_of(cluster) == ["of-the-child"]


# Children that are there -----------------------------------------------------------


class Left(Cluster):
    """The same API server, with what an operator has left that died before it could store so.

    Attributes:
        children: by name.
        made: kinds of what it was asked to make.
    """

    def __init__(self, runtime: Object = RUNTIME) -> None:
        super().__init__()
        self._runtime = runtime
        self.children: dict[str, Object] = {CHILD_NAME: left()}
        self.made: list[str] = []
        self.objects[CHILD_NAME] = manifest()
        self.objects[CHILD_NAME]["metadata"] |= {"name": CHILD_NAME, "uid": "of-the-runtime"}

    def request(self, method: str, path: str, **rest: Any) -> Object:
        if "/clustertrainingruntimes/" in path:
            return self._runtime
        if method == "POST":
            self.made.append(rest["body"]["kind"])
        if "/trainjobs" not in path:
            return super().request(method, path, **rest)
        if method == "POST":
            raise AlreadyExists(409, "AlreadyExists", CHILD_NAME)
        if CHILD_NAME not in self.children:
            raise NotFound(404, "NotFound", path)
        return self.children[CHILD_NAME]


def left(owner: str = JOB.uid) -> Object:
    """Return a child, as that operator has made it."""
    labels = {"zeus.energy/recurrence": "7", "zeus.energy/attempt": "1"}
    metadata = {"name": CHILD_NAME, "namespace": JOB.namespace, "uid": "of-the-child"}
    owners = [{"kind": "ZeusJob", "name": "x", "uid": owner, "controller": True}]
    return {"metadata": {**metadata, "labels": labels, "ownerReferences": owners}}


REFUSED_NOW = {"spec": {**RUNTIME["spec"], "mlPolicy": {"mpi": {}}}}


def test_a_child_of_what_is_refused_by_now_is_adopted_with_its_companion() -> None:
    """Nobody else would know of it: it would train on, and a next one beside it."""
    cluster = Left(REFUSED_NOW)

    assert start(cluster) == "of-the-child"

    assert cluster.made == []
    owners = cluster.objects[CHILD_NAME]["metadata"]["ownerReferences"]
    assert [each["uid"] for each in owners] == ["of-the-child"]


def test_a_child_whose_companion_is_gone_is_adopted_all_the_same() -> None:
    cluster = Left(REFUSED_NOW)
    del cluster.objects[CHILD_NAME]

    assert start(cluster) == "of-the-child"


@pytest.mark.parametrize("there", [[], [left("a-stranger")]], ids=["none", "a stranger's"])
def test_what_is_refused_is_told_where_there_is_no_child_of_ours(there: list[Object]) -> None:
    cluster = Left(REFUSED_NOW)
    cluster.children = dict(zip([CHILD_NAME], there, strict=False))

    with pytest.raises(TemplateError, match="mpirun"):
        start(cluster)

    assert list(cluster.children.values()) == there


def test_a_child_that_was_found_is_not_made_again() -> None:
    """It may go in between, and another would be made beside a companion that goes with it."""
    cluster = Left()

    assert start(cluster) == "of-the-child"

    assert cluster.made == ["TrainingRuntime"]
