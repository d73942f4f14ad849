"""Whatever is switched, a real API server takes the objects, and Pod Security says where."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.chart.support.cases import CASES
from tests.chart.support.helm import LEAST, Helm, Values
from tests.cluster.support.control_plane import ControlPlane, KubectlError
from tests.cluster.support.namespaces import create_namespace


@pytest.fixture(scope="module")
def taken(cluster: ControlPlane) -> set[str]:
    """The objects that the API server has taken already: most cases have most of them in common."""
    for name in ("dry-run", "team-a", "team-b"):
        create_namespace(cluster, name)
    return set()


def templates_of_pods(objects: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Return the objects with each pod as a PodTemplate.

    The API server checks the same of it, and does not ask for its account and its runtime class.
    """
    return [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": each["metadata"],
            "template": {"metadata": {"labels": each["metadata"]["labels"]}, "spec": each["spec"]},
        }
        if each["kind"] == "Pod"
        else each
        for each in objects
    ]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_api_server_takes_every_object_to_the_last_field(
    helm: Helm, cluster: ControlPlane, taken: set[str], values: Values
) -> None:
    rendered = helm.render(values, namespace="dry-run")
    objects = {json.dumps(each) for each in templates_of_pods(rendered.objects)} - taken

    if objects:
        said = cluster.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict"),
            *("--force-conflicts", "--warnings-as-errors", "-f", "-"),
            input="\n---\n".join(sorted(objects)),
        )
        assert said.count("serverside-applied") == len(objects)
        taken |= objects


def test_a_field_that_does_not_exist_would_be_found(cluster: ControlPlane) -> None:
    """The test above is worth something."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"ports": [{"port": 1}], "internalTrafficPolcy": "Local"},
    }

    with pytest.raises(KubectlError, match="internalTrafficPolcy"):
        cluster.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
            input=yaml.safe_dump(service),
        )


def create_pod_of(template: dict[str, Any], namespace: str, cluster: ControlPlane) -> None:
    spec = {k: v for k, v in template["spec"].items() if k not in ("serviceAccountName",)}
    spec = {**spec, "automountServiceAccountToken": False}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    cluster.kubectl(
        *("create", "--dry-run=server", "-n", namespace, "-f", "-"), input=yaml.safe_dump(pod)
    )


def test_pod_security_lets_all_but_agents_into_a_restricted_namespace(
    helm: Helm, cluster: ControlPlane, namespace: str
) -> None:
    cluster.kubectl(
        *("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    )
    values = {
        "image": LEAST["image"],
        "agent": {"nvidia": {"mode": "hostPath"}},
        "postgresql": {"enabled": True, "persistence": {"enabled": False}},
    }
    pods = helm.render(values).pods()
    agent = pods.pop("DaemonSet/zeus-agent")

    assert set(pods) == {
        "Deployment/zeus-operator",
        "StatefulSet/zeus-postgresql",
        "Pod/zeus-operator-test",
    }
    for pod in pods.values():
        create_pod_of(pod, namespace, cluster)
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted'):
        create_pod_of(agent, namespace, cluster)
