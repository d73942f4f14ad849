"""The operator's rights: what it does, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from zeus_operator.api.rbac import cluster_wide, namespaced, user_roles

BOTH = {"cluster-wide": cluster_wide("here"), "namespaced": namespaced(["a", "b"], "here")}


def rights(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind of role, resource, verb) of what the operator itself may do."""
    for manifest in manifests:
        if manifest["metadata"]["name"].startswith("zeusjobs-"):
            continue
        for rule in manifest.get("rules", ()):
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield manifest["kind"], resource, verb


@pytest.mark.parametrize("manifests", BOTH.values(), ids=BOTH)
def test_no_right_is_wider_than_the_work(manifests: list[dict[str, Any]]) -> None:
    found = {(resource, verb) for _, resource, verb in rights(manifests)}

    assert not any("*" in right for right in found)
    assert {verb for resource, verb in found if resource == "zeusjobs"} == {"get", "list", "watch"}
    assert {verb for resource, verb in found if resource == "zeusjobs/status"} == {"patch"}
    assert {verb for resource, verb in found if resource == "jobs"} == {
        *("get", "list", "watch", "create", "delete")
    }
    assert "customresourcedefinitions" not in {resource for resource, _ in found}


@pytest.mark.parametrize("manifests", BOTH.values(), ids=BOTH)
def test_secrets_are_its_own_by_name(manifests: list[dict[str, Any]]) -> None:
    rules = rules_on("secrets", manifests)
    unnamed = [
        (kind, namespace, rule["resources"], rule["verbs"])
        for kind, namespace, rule in rules
        if "resourceNames" not in rule
    ]
    names = {name for _, _, rule in rules for name in rule.get("resourceNames", ())}

    assert unnamed == [("Role", "here", ["secrets"], ["create"])]
    assert names == {"zeus-agent-ca", "zeus-agent-tls"}
    assert not [kind for kind, _, _ in rules if kind != "Role"]


@pytest.mark.parametrize(
    ("manifests", "where"),
    [(BOTH["cluster-wide"], {None}), (BOTH["namespaced"], {"a", "b"})],
    ids=BOTH,
)
def test_config_maps_are_listed_and_deleted_by_name_and_those_of_histories_only_written(
    manifests: list[dict[str, Any]], where: set[str | None]
) -> None:
    rules = rules_on("configmaps", manifests)
    unnamed = [(namespace, rule) for _, namespace, rule in rules if "resourceNames" not in rule]
    named = [rule["resourceNames"] for _, _, rule in rules if "resourceNames" in rule]

    # A history's name is made of the ZeusJob's, which nobody knows beforehand.
    assert {namespace for namespace, _ in unnamed} == where
    assert all(rule["verbs"] == ["get", "create", "patch"] for _, rule in unnamed)
    assert all(names == ["zeus-agent-ca"] for names in named)


def rules_on(
    resource: str, manifests: list[dict[str, Any]]
) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Return (kind of role, its namespace, rule) of each rule that names `resource`."""
    return [
        (manifest["kind"], manifest["metadata"].get("namespace"), rule)
        for manifest in manifests
        for rule in manifest.get("rules", ())
        if resource in rule["resources"]
    ]


def test_with_namespaces_given_only_their_names_are_read_outside_them() -> None:
    cluster_rights = {
        (resource, verb) for kind, resource, verb in rights(BOTH["namespaced"]) if "Cluster" in kind
    }
    role = next(m for m in BOTH["namespaced"] if m["kind"] == "ClusterRole")

    assert cluster_rights == {("namespaces", "get")}
    assert role["rules"][0]["resourceNames"] == ["a", "b"]
    roles = [m["metadata"]["namespace"] for m in BOTH["namespaced"] if m["kind"] == "Role"]
    assert roles == ["a", "b", "here", "here"]


@pytest.mark.parametrize("manifests", BOTH.values(), ids=BOTH)
def test_every_role_of_the_operator_is_bound_to_its_account(
    manifests: list[dict[str, Any]],
) -> None:
    def names(kind: str) -> set[tuple[str | None, str]]:
        found = [m["metadata"] for m in manifests if m["kind"] == kind]
        return {(m.get("namespace"), m["name"]) for m in found if m["name"][:8] != "zeusjobs"}

    assert names("Role") == names("RoleBinding")
    assert names("ClusterRole") == names("ClusterRoleBinding")
    subjects = [s for m in manifests for s in m.get("subjects", ())]
    assert {(s["name"], s["namespace"]) for s in subjects} == {("zeus-operator", "here")}


def test_people_who_view_or_edit_a_namespace_may_do_the_same_with_its_zeusjobs() -> None:
    view, edit = user_roles()
    prefix = "rbac.authorization.k8s.io/aggregate-to-"

    assert view["metadata"]["labels"] == {f"{prefix}view": "true"}
    assert edit["metadata"]["labels"] == {f"{prefix}edit": "true", f"{prefix}admin": "true"}
    assert all(rule["resources"] == ["zeusjobs"] for role in (view, edit) for rule in role["rules"])
