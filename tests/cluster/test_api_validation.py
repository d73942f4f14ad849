"""The API as a user meets it through kubectl: what is refused, in which words, and what is shown.

The CustomResourceDefinition and the ValidatingAdmissionPolicy of this repository, on a real API
server.  No operator runs: whatever is refused here is refused whether or not one does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane, KubectlError
from tests.cluster.support.judged import (
    dry_run,
    left_out,
    plain,
    refusal,
    unquoted,
    without_empty,
)
from tests.support import kind_manifests, manifests
from tests.support.allowed_manifests import ALLOWED
from tests.support.eventually import eventually
from zeus_operator.api.checks import problems
from zeus_operator.api.types import ZeusJob

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/digits/zeusjob.yaml"
POLICY = ROOT / "deploy/admission-policy.yaml"
ANOTHER_KIND = {"another kind of object", "another version"}
TAKEN = manifests.ONLY_ON_ONE_MACHINE | manifests.ONLY_THE_OPERATOR
REFUSED = [name for name in manifests.WRONG_FILES if name not in TAKEN | ANOTHER_KIND]


def found_by_rules(name: str) -> str:
    """Return what our rules say of a mistake; empty where the types or a schema find it."""
    try:
        found = problems(ZeusJob.model_validate(yaml.safe_load(manifests.WRONG_FILES[name][0])))
    except ValidationError:
        return ""
    return found[0].message


# Of a schedule and a time zone zeusctl says more: it also knows which part is wrong.
SAID_ALIKE = [
    name
    for name in REFUSED
    if found_by_rules(name)
    and manifests.WRONG_FILES[name][1] not in ("spec.schedule", "spec.timeZone")
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("api") / "plane", find_binaries()) as plane:
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd/zeusjobs.zeus.energy")
        plane.kubectl("apply", "-f", str(POLICY))
        eventually(lambda: refusal(plane, retried()), "the policy is in force")
        yield plane


def retried(name: str = "probe") -> str:
    """Return a ZeusJob that only the policy refuses."""
    return manifests.WRONG_FILES["restarts by the Job"][0].replace("digits", name)


@pytest.fixture
def stored(cluster: ControlPlane) -> Iterator[ControlPlane]:
    """A cluster with the valid ZeusJob `digits` in it."""
    cluster.kubectl("apply", "-f", "-", input=manifests.VALID)
    yield cluster
    cluster.kubectl("delete", "zj", "digits", "--ignore-not-found")


# What is refused -----------------------------------------------------------------


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused_at_apply_with_its_path(cluster: ControlPlane, mistake: str) -> None:
    text, path, _ = manifests.WRONG_FILES[mistake]

    said = refusal(cluster, text)

    assert path in said, said


@pytest.mark.parametrize("mistake", SAID_ALIKE)
def test_the_api_server_says_what_zeusctl_says(cluster: ControlPlane, mistake: str) -> None:
    ours = found_by_rules(mistake)

    theirs = refusal(cluster, manifests.WRONG_FILES[mistake][0])

    assert plain(ours) in plain(theirs), theirs


@pytest.mark.parametrize("mistake", sorted(TAKEN))
def test_what_only_others_can_find_is_taken(cluster: ControlPlane, mistake: str) -> None:
    assert refusal(cluster, manifests.WRONG_FILES[mistake][0]) == ""


def test_a_target_that_is_no_decimal_is_refused_in_plain_words(cluster: ControlPlane) -> None:
    said = refusal(cluster, manifests.WRONG_FILES["energy preference out of range"][0])

    assert 'spec.objective.energyPreference: Invalid value: must be from "0" to "1"' in unquoted(
        said
    )


def test_an_unknown_field_is_refused_by_kubectl_with_its_path(cluster: ControlPlane) -> None:
    said = refusal(cluster, manifests.with_spec("batchsize: 8"))

    assert 'unknown field "spec.batchsize"' in said


@pytest.mark.parametrize(
    "template",
    [
        "3",
        "{}",
        "{spec: 3}",
        "{spec: {containers: 5}}",
        "{spec: {containers: [a, null]}}",
        "{spec: {containers: [{name: a, command: 3, args: {}, env: {A: b}, resources: many}]}}",
        "{spec: {containers: [{name: a, env: [A=1, {value: a}, {name: 3}, {name: A, value: 3}]}]}}",
        "{spec: {containers: [{command: [3, null, {}]}, {name: b}], initContainers: x}}",
        "{metadata: {labels: many}, spec: {containers: [{name: a}], restartPolicy: 3}}",
    ],
)
@pytest.mark.parametrize("more", ["", "injectRuntime: true", "container: a"])
def test_a_template_of_any_shape_is_judged_and_never_stumbled_over(
    cluster: ControlPlane, template: str, more: str
) -> None:
    job = yaml.safe_load(manifests.VALID)
    job["spec"]["workload"] |= yaml.safe_load(more) or {}
    job["spec"]["workload"]["template"]["spec"]["template"] = yaml.safe_load(template)

    said = refusal(cluster, yaml.safe_dump(job))

    assert not said or f"{manifests.TEMPLATE}." in said or "spec.workload.container: " in said, said
    assert "resulted in error" not in said, said
    assert problems(ZeusJob.model_validate(job)) or not said, "refused, and fine for zeusctl"


# Kinds besides Job ---------------------------------------------------------------


@pytest.mark.parametrize("mistake", kind_manifests.REFUSED)
def test_a_mistake_in_a_child_of_another_kind_is_refused_in_the_same_words(
    cluster: ControlPlane, mistake: str
) -> None:
    kind, spec, path = kind_manifests.REFUSED[mistake]
    text = kind_manifests.zeusjob(kind, spec)
    found = problems(ZeusJob.model_validate(yaml.safe_load(text)))
    (words,) = [each.message for each in found if each.path == path]

    said = refusal(cluster, text)

    # Of a list in a policy, and of what an entry is called, CEL says no more than that.
    place = re.sub(r"rules\[0\]", "rules[]", path)
    assert place in said, said
    if "targetReplicatedJobs" not in path:
        assert plain(words) in plain(said) or words.startswith("must be a mapping"), said


@pytest.mark.parametrize("what", kind_manifests.TAKEN)
def test_what_zeusctl_takes_of_another_kind_the_api_server_takes(
    cluster: ControlPlane, what: str
) -> None:
    assert refusal(cluster, kind_manifests.zeusjob(*kind_manifests.TAKEN[what])) == ""


@pytest.mark.parametrize(("kind", "shape"), kind_manifests.SHAPES, ids=str)
def test_a_child_of_another_kind_of_any_shape_is_judged_and_never_stumbled_over(
    cluster: ControlPlane, kind: str, shape: dict[str, Any]
) -> None:
    text = kind_manifests.zeusjob(kind, shape)

    said = refusal(cluster, text)

    assert "resulted in error" not in said, said
    assert not said or f"{manifests.TEMPLATE}." in said, said
    assert problems(ZeusJob.model_validate(yaml.safe_load(text))) or not said


# What is allowed -----------------------------------------------------------------


def test_the_example_is_taken_as_it_is_and_gets_the_defaults_of_the_types(
    cluster: ControlPlane,
) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")

    taken = yaml.safe_load(dry_run(cluster, text))["spec"]

    given = yaml.safe_load(text)["spec"]
    assert left_out(given, taken) == []
    ours = ZeusJob.model_validate(yaml.safe_load(text)).spec_document()
    # A mapping without fields is not written by the API server, and is by the types.
    assert without_empty(taken) == without_empty(ours)


@pytest.mark.parametrize("what", ALLOWED)
def test_what_zeusctl_takes_the_api_server_takes(cluster: ControlPlane, what: str) -> None:
    assert problems(ZeusJob.model_validate(yaml.safe_load(ALLOWED[what]))) == []
    assert refusal(cluster, ALLOWED[what]) == ""


@pytest.mark.parametrize(
    "schedule",
    [
        "*/5 * * * *",
        "0 2 * * MON-FRI",
        "@daily",
        "@Hourly",
        "0 0 L * *",
        "0 9 * * mon#1",
        " 1 2 3 4 5 ",
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"])
def test_schedules_that_the_operator_takes_are_taken(
    cluster: ControlPlane, schedule: str, zone: str
) -> None:
    text = manifests.with_spec(f'schedule: "{schedule}"\n  timeZone: {zone}')

    assert refusal(cluster, text) == ""


# What may be changed -------------------------------------------------------------


def change(cluster: ControlPlane, patch: dict[str, Any], *more: str) -> str:
    return cluster.kubectl("patch", "zj", "digits", "--type=merge", "-p", json.dumps(patch), *more)


def test_the_direction_of_the_metric_cannot_be_changed(stored: ControlPlane) -> None:
    with pytest.raises(KubectlError) as refused:
        change(stored, {"spec": {"objective": {"metric": {"mode": "Min"}}}})

    said = unquoted(str(refused.value))
    assert "spec.objective.metric.mode: Invalid value: can't be changed, because" in said


def test_everything_else_that_is_learned_about_can_be_changed(stored: ControlPlane) -> None:
    change(
        stored,
        {
            "spec": {
                "objective": {
                    "metric": {"target": "0.9"},
                    "maxEpochs": 40,
                    "energyPreference": "0.1",
                },
                "batchSize": {"default": 64, "choices": [64, 128]},
                "suspend": True,
                "schedule": "@daily",
            }
        },
    )


def test_an_invalid_object_that_is_stored_can_still_be_labelled_reported_on_and_deleted(
    cluster: ControlPlane,
) -> None:
    cluster.kubectl("delete", "-f", str(POLICY))
    eventually(lambda: not refusal(cluster, retried()), "the policy is no longer in force")
    cluster.kubectl("create", "-f", "-", input=retried("digits"))
    cluster.kubectl("apply", "-f", str(POLICY))
    eventually(lambda: refusal(cluster, retried()), "the policy is in force again")

    cluster.kubectl("annotate", "zj", "digits", "zeus.energy/run=1")
    change(cluster, {"metadata": {"finalizers": ["example.org/held"]}})
    change(cluster, {"metadata": {"finalizers": None}})
    change(cluster, {"status": {"lastOutcome": "Reached"}}, "--subresource=status")
    with pytest.raises(KubectlError, match="backoffLimit: must be 0 or left out"):
        change(cluster, {"spec": {"suspend": True}})
    change(
        cluster,
        {"spec": {"suspend": True, "workload": {"template": {"spec": {"backoffLimit": 0}}}}},
    )
    cluster.kubectl("delete", "zj", "digits")


# What is shown -------------------------------------------------------------------


def test_kubectl_get_shows_what_a_user_looks_for(stored: ControlPlane) -> None:
    status = {
        "lastOutcome": "Reached",
        "nextScheduleTime": "2030-01-01T02:00:00Z",
        "best": {"batchSize": 64, "runs": 4, "sentence": "64 costs least."},
        "savings": {"costPercent": "23.4", "recurrences": 9, "sentence": "23 % saved."},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Valid",
                "message": "",
                "lastTransitionTime": "2030-01-01T02:00:00Z",
                "observedGeneration": 1,
            }
        ],
    }
    change(stored, {"spec": {"schedule": "@daily"}})
    change(stored, {"status": status}, "--subresource=status")

    head, row = stored.kubectl("get", "zj").splitlines()

    assert head.split("  ")[0] == "NAME"
    assert row.split()[:-1] == ["digits", "@daily", "false", "True", "Reached", "64", "23.4"]
    assert "2030-01-01T02:00:00Z" in stored.kubectl("get", "zj", "-o", "wide")
    assert "digits" in stored.kubectl("get", "ml")


def test_a_status_that_the_types_do_not_know_is_refused(stored: ControlPlane) -> None:
    with pytest.raises(KubectlError, match=r"status\.lastOutcome: Unsupported value"):
        change(stored, {"status": {"lastOutcome": "Fine"}}, "--subresource=status")


def test_kubectl_explain_reads_like_documentation(cluster: ControlPlane) -> None:
    whole = cluster.kubectl("explain", "zeusjob")
    spec = cluster.kubectl("explain", "zeusjob.spec")
    everything = cluster.kubectl("explain", "zeusjob", "--recursive")

    assert "recurring training job" in whole
    assert "enum: Retain, Delete" in spec
    assert "What becomes of what was learned when the ZeusJob is deleted." in spec
    assert "<no description>" not in whole + spec
    assert "injectRuntime" in everything


def test_the_definition_fits_into_the_annotation_of_a_client_side_apply(
    cluster: ControlPlane,
) -> None:
    stored = yaml.safe_load(cluster.kubectl("get", "crd", "zeusjobs.zeus.energy", "-o", "yaml"))
    applied = stored["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]

    assert len(applied) < 128 * 1024
    assert "unchanged" in cluster.kubectl("apply", "-f", str(ROOT / "crds"))


# Who may do it -------------------------------------------------------------------


@pytest.mark.parametrize("file", ["rbac.yaml", "namespaced/rbac.yaml"])
def test_the_operator_may_do_its_work_and_no_more(cluster: ControlPlane, file: str) -> None:
    for namespace in ("team-a", "team-b", "other"):
        if not cluster.kubectl("get", "ns", namespace, "--ignore-not-found"):
            cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("apply", "-f", str(ROOT / "deploy" / file))

    def may(verb: str, resource: str, namespace: str = "team-a", *more: str) -> bool:
        user = "--as=system:serviceaccount:zeus-system:zeus-operator"
        try:
            cluster.kubectl("auth", "can-i", verb, resource, "-n", namespace, user, *more)
        except KubectlError:
            return False
        return True

    eventually(lambda: may("create", "jobs.batch"), "the role is in force")
    assert may("watch", "zeusjobs.zeus.energy")
    assert may("patch", "zeusjobs.zeus.energy", "team-a", "--subresource=status")
    assert may("delete", "jobs.batch")
    assert may("get", "namespaces/team-a")
    assert may("create", "leases.coordination.k8s.io", "zeus-system")
    assert may("update", "leases.coordination.k8s.io/zeus-operator", "zeus-system")
    assert may("create", "jobs.batch", "other") is (file == "rbac.yaml")
    for verb, resource in (
        ("update", "zeusjobs.zeus.energy"),
        ("patch", "zeusjobs.zeus.energy"),
        ("delete", "zeusjobs.zeus.energy"),
        ("patch", "jobs.batch"),
        ("delete", "pods"),
        ("get", "secrets"),
        ("list", "configmaps"),
        ("delete", "configmaps"),
        ("create", "leases.coordination.k8s.io"),
    ):
        assert not may(verb, resource), f"{verb} {resource}"
    # To find those that may reach the agents; where it serves a few, it is told their names.
    assert may("list", "namespaces") is (file == "rbac.yaml")
    cluster.kubectl("delete", "--wait=false", "-f", str(ROOT / "deploy" / file))
    eventually(
        lambda: not cluster.kubectl("get", "ns", "zeus-system", "--ignore-not-found"),
        "its namespace is gone",
    )
