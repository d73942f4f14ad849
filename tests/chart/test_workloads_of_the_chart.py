"""The kinds of children that a release allows: told to the operator, with the rights to them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from tests.chart.support.helm import LEAST, NAMESPACE, Helm, HelmError, Rendered, merged
from zeus_operator.api.rbac import cluster_wide, namespaced
from zeus_operator.workloads.registry import KINDS

Object = dict[str, Any]
WATCHED = ["team-a", "team-b"]
SOME = [[kind] for kind in KINDS] + [list(each) for each in itertools.combinations(KINDS, 2)]
SETS = {"+".join(each): each for each in [*SOME, list(KINDS)]}


def values(kinds: Sequence[str], **more: Any) -> Object:
    return merged(LEAST, {"operator": {"workloads": list(kinds)}, **more})


def rules(manifests: Sequence[Object]) -> dict[tuple[str, str, str], list[Object]]:
    """Return the rules of each role by its kind, namespace and name, without those of people."""
    return {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each[
            "rules"
        ]
        for each in manifests
        if each["kind"] in ("Role", "ClusterRole")
        and each["metadata"]["name"].startswith("zeus-operator")
        and each["metadata"]["name"] != "zeus-operator-test"
    }


def told(rendered: Rendered) -> str:
    pod = rendered.pods()["Deployment/zeus-operator"]["spec"]
    variables = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    return str(variables["ZEUS_OPERATOR_WORKLOADS"])


def test_jobs_alone_are_allowed_unless_something_else_is_said(helm: Helm) -> None:
    rendered = helm.render(LEAST)

    groups = {
        group
        for found in rules(rendered.objects).values()
        for rule in found
        for group in rule["apiGroups"]
    }
    assert told(rendered) == "Job"
    assert "batch" in groups
    assert not groups & {"jobset.x-k8s.io", "kubeflow.org", "trainer.kubeflow.org"}


@pytest.mark.parametrize("watched", [[], WATCHED])
def test_values_kept_from_a_chart_before_this_one_allow_jobs_as_they_did(
    helm: Helm, watched: list[str]
) -> None:
    """As `helm upgrade --reuse-values` does: they do not have this value."""
    more = {"watchNamespaces": watched}

    kept = helm.render(merged(LEAST, {"operator": {"workloads": None}, **more}))

    assert told(kept) == "Job"
    assert rules(kept.objects) == rules(helm.render(merged(LEAST, more)).objects)


@pytest.mark.parametrize("kinds", SETS.values(), ids=SETS)
def test_a_release_gives_the_rights_to_the_kinds_that_it_allows_and_to_no_others(
    helm: Helm, kinds: list[str]
) -> None:
    adapters = tuple(KINDS[each] for each in KINDS if each in kinds)

    everywhere = helm.render(values(kinds), namespace=NAMESPACE)
    somewhere = helm.render(values(kinds, watchNamespaces=WATCHED), namespace=NAMESPACE)

    assert told(everywhere) == ",".join(kinds)
    assert rules(everywhere.objects) == rules(cluster_wide(NAMESPACE, adapters))
    assert rules(somewhere.objects) == rules(namespaced(WATCHED, NAMESPACE, adapters))


def test_runtimes_of_the_whole_cluster_are_only_read(helm: Helm) -> None:
    rendered = helm.render(values(["TrainJob"], watchNamespaces=WATCHED))

    (verbs,) = [
        (key[0], rule["verbs"])
        for key, found in rules(rendered.objects).items()
        for rule in found
        if "clustertrainingruntimes" in rule["resources"]
    ]
    assert verbs == ("ClusterRole", ["get"])


@pytest.mark.parametrize("wrong", [[], ["RayJob"], ["Job", "Job"], "Job"])
def test_what_is_no_set_of_kinds_is_refused(helm: Helm, wrong: Any) -> None:
    with pytest.raises(HelmError) as caught:
        helm.render(merged(LEAST, {"operator": {"workloads": wrong}}))

    assert "workloads" in str(caught.value)


def test_the_rendered_roles_are_yaml_whatever_is_allowed(helm: Helm) -> None:
    text = helm.render(values(["TrainJob", "Job"])).text

    assert list(yaml.safe_load_all(text))
