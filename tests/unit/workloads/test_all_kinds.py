"""What holds for every kind of child, and where kinds are named besides their adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tests.support import kind_manifests
from tests.support.workloads import job_of, made_of, pod_template, said_of
from zeus_operator.api.admission import admission_policy
from zeus_operator.api.checks import problems
from zeus_operator.api.crd import custom_resource_definition
from zeus_operator.api.reference import reference
from zeus_operator.api.types import Workload, ZeusJob, ZeusJobSpec
from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.registry import KINDS, kind_of_child, kind_of_spec
from zeus_operator.world import CHILD_RESOURCES

REPOSITORY = Path(__file__).parents[3]


def test_a_zeusjob_may_have_the_kinds_that_there_are_adapters_for() -> None:
    fields = Workload.model_fields

    assert get_args(fields["kind"].annotation) == tuple(KINDS)
    assert get_args(fields["api_version"].annotation) == tuple(
        kind.api_version for kind in KINDS.values()
    )
    assert {kind.kind for kind in CHILD_RESOURCES.values()} == set(KINDS)


def test_the_chart_offers_the_same_kinds() -> None:
    values = (REPOSITORY / "charts/zeus-operator/values.schema.json").read_text()
    schema = yaml.safe_load(values)["properties"]["operator"]["properties"]["workloads"]

    assert schema["items"]["enum"] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_rule_and_every_note_is_told(kind: WorkloadKind) -> None:
    validations = admission_policy()[0]["spec"]["validations"]
    said = {each.get("message"): each["expression"] for each in validations}
    page = reference()

    for rule in kind.rules:
        assert kind.kind in said[f"{rule.path}: {rule.words}"]
    assert f"### {kind.kind} (`{kind.api_version}`)" in page
    assert all(f"| {note.fields} | {note.happens} |" in page for note in kind.notes)


def test_the_kind_of_a_zeusjob_and_of_a_child_is_a_job_where_it_is_not_said() -> None:
    assert kind_of_spec({"workload": {}}).kind == "Job"
    assert kind_of_child(None).kind == "Job"
    assert kind_of_child({"kind": "JobSet"}).kind == "JobSet"


def test_an_api_version_that_is_not_the_kinds_is_refused_with_the_one_that_is() -> None:
    job = job_of("JobSet", {"replicatedJobs": []}, apiVersion="batch/v1")

    assert said_of(job)["spec.workload.apiVersion"] == (
        "must be jobset.x-k8s.io/v1alpha2 for JobSet"
    )


def test_the_api_server_holds_kinds_to_their_versions_and_keeps_them() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    workload = spec["properties"]["workload"]

    (of_workload,) = workload["x-kubernetes-validations"]
    (of_kind,) = workload["properties"]["kind"]["x-kubernetes-validations"]
    assert "'TrainJob': 'trainer.kubeflow.org/v1alpha1'" in of_workload["rule"]
    assert of_kind["rule"] == "self == oldSelf"
    assert "what was learned is kept" in of_kind["message"]


def fields_of(spec: dict[str, Any]) -> ZeusJobSpec:
    return ZeusJobSpec.model_validate(spec)


def test_a_field_of_another_kind_is_passed_on_as_the_api_server_knows_them_all() -> None:
    job = job_of("Job", {"template": pod_template(), "elasticPolicy": {"minReplicas": 1}})

    assert said_of(job) == {}
    assert made_of(job).child["spec"]["elasticPolicy"] == {"minReplicas": 1}
    assert fields_of(job.spec).workload.kind == "Job"


# The API server's half of these is in `tests/cluster/test_api_validation.py`.


@pytest.mark.parametrize("mistake", kind_manifests.REFUSED)
def test_a_mistake_in_a_template_is_told_with_its_path(mistake: str) -> None:
    kind, spec, path = kind_manifests.REFUSED[mistake]
    found = problems(ZeusJob.model_validate(yaml.safe_load(kind_manifests.zeusjob(kind, spec))))

    assert path in {each.path for each in found}


@pytest.mark.parametrize("what", kind_manifests.TAKEN)
def test_what_is_allowed_is_taken(what: str) -> None:
    text = kind_manifests.zeusjob(*kind_manifests.TAKEN[what])

    assert problems(ZeusJob.model_validate(yaml.safe_load(text))) == []
