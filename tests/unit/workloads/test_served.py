"""Which kinds are served: those that are allowed and installed."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import Configuration

from zeus_operator.kube import KubeClient, KubeUnavailable
from zeus_operator.setting_parsers import workloads
from zeus_operator.watching import look_for_kinds
from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.registry import KINDS
from zeus_operator.workloads.served import ServedKinds
from zeus_operator.world import Resource, resources_of


def test_jobs_alone_are_served_unless_something_else_is_said() -> None:
    kinds = ServedKinds()

    assert kinds.refusal("Job") is None
    assert [each.kind for each in kinds.served] == ["Job"]
    assert kinds.missing == ()


def test_a_kind_that_is_not_allowed_is_refused_with_those_that_are() -> None:
    refused = ServedKinds(("Job", "JobSet")).refusal("TrainJob")

    assert refused is not None
    reason, words = refused
    assert reason == "WorkloadNotAllowed"
    assert "allowed: Job, JobSet" in words
    assert "operator.workloads" in words


def test_a_kind_that_is_not_installed_is_refused_until_it_is() -> None:
    kinds = ServedKinds(("Job", "JobSet", "TrainJob"))
    installed = {"TrainJob"}

    def is_known(kind: WorkloadKind) -> bool:
        return kind.kind in installed

    assert [each.kind for each in kinds.look(is_known)] == ["TrainJob"]
    assert kinds.refusal("TrainJob") is None
    refused = kinds.refusal("JobSet")
    assert refused is not None
    assert refused[0] == "WorkloadNotInstalled"

    installed.add("JobSet")
    assert [each.kind for each in kinds.look(is_known)] == ["JobSet"]
    assert kinds.refusal("JobSet") is None
    assert kinds.look(is_known) == (), "nothing is new any more"


class Halting(KubeClient):
    """An API server that knows all kinds, and does not answer for one group of them just now.

    Attributes:
        silent: the group.
    """

    def __init__(self, silent: str) -> None:
        super().__init__(Configuration())
        self.silent = silent

    def request(self, method: str, path: str, **_rest: Any) -> dict[str, Any]:
        assert method == "GET"
        if self.silent and f"/{self.silent}/" in path:
            raise KubeUnavailable(503, "", "an aggregated API does not answer")
        return {"items": [], "resources": [{"name": kind.plural} for kind in KINDS.values()]}


def test_a_kind_that_cannot_be_asked_for_does_not_hide_the_others_and_is_asked_for_again() -> None:
    kinds = ServedKinds(tuple(KINDS))
    cluster = Halting("kubeflow.org")

    found = look_for_kinds(kinds, cluster)

    assert [each.kind for each in found] == ["JobSet", "TrainJob"]
    assert [each.kind for each in kinds.missing] == ["PyTorchJob"]

    cluster.silent = ""
    assert [each.kind for each in look_for_kinds(kinds, cluster)] == ["PyTorchJob"]


def test_what_is_watched_are_zeusjobs_children_and_their_pods() -> None:
    assert resources_of(ServedKinds().served) == (Resource.ZEUSJOBS, Resource.JOBS, Resource.PODS)
    assert resources_of([KINDS["TrainJob"]]) == (
        Resource.ZEUSJOBS,
        Resource.TRAINJOBS,
        Resource.PODS,
    )


def test_kinds_are_set_by_their_names() -> None:
    assert workloads("JobSet, Job,JobSet") == ("JobSet", "Job")
    for wrong in ("Jobs", "job", ",", "Job;JobSet"):
        with pytest.raises(ValueError, match="must be kinds with commas between, of Job, JobSet"):
            workloads(wrong)
