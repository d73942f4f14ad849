"""The chart gives the rights, the CRD and the policy that the repository's own files give."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart.support.helm import LEAST, NAMESPACE, REPOSITORY, Helm, Rendered, merged

Object = dict[str, Any]

OURS = ("helm.sh/", "app.kubernetes.io/")


def files(*names: str) -> dict[tuple[str, str, str], Object]:
    return by_name(
        [
            each
            for name in names
            for each in yaml.safe_load_all((REPOSITORY / name).read_text())
            if each["kind"] != "Namespace"
        ]
    )


def by_name(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    """Return objects by kind, namespace and name, without what a chart adds to all."""
    found = {}
    for each in objects:
        metadata = each["metadata"]
        labels = {k: v for k, v in metadata.get("labels", {}).items() if not k.startswith(OURS)}
        plain = {k: v for k, v in metadata.items() if k not in ("labels", "annotations")}
        name = (each["kind"], metadata.get("namespace", ""), metadata["name"])
        found[name] = {**each, "metadata": {**plain, **({"labels": labels} if labels else {})}}
    return found


def of_the_operator(rendered: Rendered) -> dict[tuple[str, str, str], Object]:
    kinds = (
        *("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
        *("CustomResourceDefinition", "ValidatingAdmissionPolicy"),
        "ValidatingAdmissionPolicyBinding",
    )
    return by_name(
        [
            each
            for each in rendered.objects
            if each["kind"] in kinds
            and each["metadata"]["name"] not in ("zeus-agent", "zeus-operator-test")
        ]
    )


OTHERS = ("crds/zeusjobs.yaml", "deploy/admission-policy.yaml")


def test_a_release_for_the_cluster_gives_what_deploy_gives(helm: Helm) -> None:
    rendered = helm.render(LEAST, namespace=NAMESPACE)

    assert of_the_operator(rendered) == files("deploy/rbac.yaml", *OTHERS)


def test_a_release_for_some_namespaces_gives_what_deploy_namespaced_gives(helm: Helm) -> None:
    values = merged(LEAST, {"watchNamespaces": ["team-a", "team-b"]})

    rendered = helm.render(values, namespace=NAMESPACE)

    assert of_the_operator(rendered) == files("deploy/namespaced/rbac.yaml", *OTHERS)


def test_rights_follow_the_namespace_of_the_release(helm: Helm) -> None:
    rendered = helm.render(LEAST, namespace="elsewhere")

    namespaces = {each["metadata"].get("namespace") for each in rendered.objects}
    subjects = {
        subject["namespace"] for each in rendered.objects for subject in each.get("subjects", ())
    }
    assert namespaces == {None, "elsewhere"}
    assert subjects == {"elsewhere"}


@pytest.mark.parametrize("watched", [[], ["team-a"]], ids=["cluster", "some namespaces"])
def test_without_agents_the_operator_may_touch_no_secret(helm: Helm, watched: list[str]) -> None:
    values = {"agent": {"enabled": False}, "watchNamespaces": watched}
    rendered = helm.render(merged(LEAST, values))

    resources = {
        resource
        for each in rendered.objects
        for rule in each.get("rules", ())
        for resource in rule["resources"]
    }
    assert "zeusjobs" in resources
    assert "secrets" not in resources


def test_agents_may_review_tokens_see_pods_and_tell_events(helm: Helm) -> None:
    role = helm.render(LEAST).get("ClusterRole", "zeus-agent")

    rights = {
        (*rule["apiGroups"], *rule["resources"]): set(rule["verbs"]) for rule in role["rules"]
    }
    assert rights == {
        ("authentication.k8s.io", "tokenreviews"): {"create"},
        ("", "pods"): {"get", "list", "watch"},
        ("", "events"): {"create", "patch"},
    }


def test_rights_that_somebody_else_gives_are_left_out(helm: Helm) -> None:
    off = {"rbac": {"create": False, "aggregateToDefaultRoles": False}, "tests": {"enabled": False}}

    rendered = helm.render(merged(LEAST, off))

    assert not [each for each in rendered.objects if each["apiVersion"].startswith("rbac.")]


def test_account_and_rights_of_the_check_go_however_it_ends(helm: Helm) -> None:
    objects = helm.render(LEAST).objects
    deleted = {
        each["kind"]: each["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        for each in objects
        if each["metadata"]["name"] == "zeus-operator-test"
    }

    stays = deleted.pop("Pod")
    assert stays == ["before-hook-creation", "hook-succeeded"]
    ends = [*stays, "hook-failed"]
    assert deleted == dict.fromkeys(("ServiceAccount", "Role", "RoleBinding"), ends)


def test_the_crd_outlives_the_release_unless_told_else(helm: Helm) -> None:
    name = ("CustomResourceDefinition", "zeusjobs.zeus.energy")
    kept = helm.render(LEAST).get(*name)
    gone = helm.render(merged(LEAST, {"crds": {"keep": False, "annotations": {"a": "b"}}}))

    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert gone.get(*name)["metadata"]["annotations"] == {"a": "b"}
