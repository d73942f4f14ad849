"""Whatever is switched: what refers to something refers to what is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.support.cases import CASES
from tests.chart.support.helm import LEAST, Helm, Rendered, Values, containers_of, merged

Object = dict[str, Any]

MADE_BY_THE_OPERATOR = {"zeus-agent-tls"}
GIVEN_BY_THE_USER = {"zeus-database", "database-ca", "registry"}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def rendered(request: pytest.FixtureRequest, helm: Helm) -> Rendered:
    """What each case renders."""
    values: Values = request.param
    return helm.render(values)


def selectors(rendered: Rendered) -> Iterator[tuple[str, dict[str, str], list[str | int]]]:
    """Yield who selects pods, by which labels, and the ports that it names."""
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"):
        for each in rendered.of_kind(kind):
            spec, name = each["spec"], f"{kind} {each['metadata']['name']}"
            if kind == "Service":
                yield name, spec["selector"], [port["targetPort"] for port in spec["ports"]]
            elif kind == "NetworkPolicy":
                ports = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
                yield name, spec["podSelector"]["matchLabels"], ports
                for rule in (*spec["ingress"], *spec.get("egress", ())):
                    for peer in (*rule.get("from", ()), *rule.get("to", ())):
                        if "podSelector" in peer:
                            yield name, peer["podSelector"]["matchLabels"], []
            else:
                endpoints = spec.get("podMetricsEndpoints", ())
                ports = [port["port"] for port in endpoints]
                yield name, spec["selector"]["matchLabels"], ports


def test_every_selector_finds_the_pods_of_one_workload_and_its_ports(rendered: Rendered) -> None:
    pods = rendered.pods()
    for who, labels, ports in selectors(rendered):
        found = [
            pod for pod in pods.values() if labels.items() <= pod["metadata"]["labels"].items()
        ]
        assert len(found) == 1, f"{who} selects {len(found)} of {', '.join(pods)}"
        named = {port["name"] for each in containers_of(found[0]) for port in each.get("ports", ())}
        assert {port for port in ports if isinstance(port, str)} <= named, who


def test_the_service_monitor_finds_the_service(rendered: Rendered) -> None:
    for monitor in rendered.of_kind("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [
            each
            for each in rendered.of_kind("Service")
            if labels.items() <= each["metadata"]["labels"].items()
        ]
        named = {port["name"] for port in service["spec"]["ports"]}
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= named


def test_pods_name_accounts_secrets_and_config_maps_that_are_there(rendered: Rendered) -> None:
    there = {
        kind: {each["metadata"]["name"] for each in rendered.of_kind(kind)}
        for kind in ("ServiceAccount", "Secret", "ConfigMap")
    }
    known = MADE_BY_THE_OPERATOR | GIVEN_BY_THE_USER
    for name, pod in rendered.pods().items():
        spec = pod["spec"]
        account = spec.get("serviceAccountName")
        assert account in {None, *there["ServiceAccount"]}, name
        assert account or spec["automountServiceAccountToken"] is False, name
        for volume in spec.get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["secretName"] in there["Secret"] | known, name
            if "configMap" in volume:
                assert volume["configMap"]["name"] in there["ConfigMap"] | known, name
        for container in containers_of(pod):
            for variable in container.get("env", ()):
                source = variable.get("valueFrom", {}).get("secretKeyRef")
                assert source is None or source["name"] in there["Secret"] | known, name


def test_every_mount_has_its_volume_and_every_volume_its_mount(rendered: Rendered) -> None:
    claims = {
        f"StatefulSet/{each['metadata']['name']}": [
            claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())
        ]
        for each in rendered.of_kind("StatefulSet")
    }
    for name, pod in rendered.pods().items():
        volumes = [each["name"] for each in pod["spec"].get("volumes", ())] + claims.get(name, [])
        mounts = {
            each["name"] for one in containers_of(pod) for each in one.get("volumeMounts", ())
        }
        assert sorted(volumes) == sorted(mounts), name


def test_all_but_who_works_on_the_node_runs_restricted(rendered: Rendered) -> None:
    for name, pod in rendered.pods().items():
        if name in ("DaemonSet/zeus-agent", "DaemonSet/zeus-gpu-simulator"):
            continue
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        for container in containers_of(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_every_root_filesystem_is_read_only_and_every_container_is_bounded(
    rendered: Rendered,
) -> None:
    for name, pod in rendered.pods().items():
        for container in containers_of(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert {"cpu", "memory"} == container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name


def test_no_variable_of_a_service_is_mistaken_for_a_setting(rendered: Rendered) -> None:
    """That of the Service zeus-agent would be ZEUS_AGENT_PORT."""
    for name, pod in rendered.pods().items():
        assert pod["spec"]["enableServiceLinks"] is False, name


def test_everything_says_which_release_it_belongs_to(rendered: Rendered) -> None:
    for each in rendered.objects:
        if each["metadata"]["name"] != "of-the-user":
            labels = each["metadata"]["labels"]
            assert labels["app.kubernetes.io/instance"] == "zeus"
            assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_no_key_is_there_twice(rendered: Rendered) -> None:
    """Programs would take the last one, or refuse the object."""
    assert repeated_keys(rendered) == []


def repeated_keys(rendered: Rendered) -> list[str]:
    """Return each key that its mapping has twice, with its line."""
    return [
        f"{key.value}, line {key.start_mark.line + 1}"
        for document in yaml.compose_all(rendered.text, yaml.CSafeLoader)
        for key in _repeated(document)
    ]


def _repeated(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield key
            seen.add(key.value)
            yield from _repeated(value)


def test_labels_of_one_object_count_before_those_of_all(helm: Helm) -> None:
    of_one = {"labels": {"team": "ops"}, "enabled": True}
    kinds = {
        "serviceMonitor": "ServiceMonitor",
        "podMonitor": "PodMonitor",
        "prometheusRule": "PrometheusRule",
        "dashboards": "ConfigMap",
    }
    rendered = helm.render(
        merged(
            LEAST,
            {
                "commonLabels": {"team": "ml"},
                "operator": {"podLabels": {"team": "ops"}},
                "agent": {"podLabels": {"team": "ops"}},
                "monitoring": dict.fromkeys(kinds, of_one),
            },
        )
    )

    pods = rendered.pods()
    own = [pods["Deployment/zeus-operator"], pods["DaemonSet/zeus-agent"]]
    objects = [each for kind in kinds.values() for each in rendered.of_kind(kind)]
    assert {
        each["metadata"]["labels"]["team"]
        for each in (*own, *objects)
        if each["metadata"].get("name") != "zeus-agent-policy"
    } == {"ops"}
    assert rendered.get("Deployment", "zeus-operator")["metadata"]["labels"]["team"] == "ml"
    assert repeated_keys(rendered) == []


def test_labels_of_the_user_are_everywhere(helm: Helm) -> None:
    values = next(each for each in CASES.values() if "commonLabels" in each)
    rendered = helm.render(values)

    own = [each for each in rendered.objects if each["metadata"]["name"] != "of-the-user"]
    pods = rendered.pods().values()
    assert {each["metadata"]["labels"].get("team") for each in (*own, *pods)} == {"ml"}


def test_a_more_object_is_rendered(helm: Helm) -> None:
    values = next(each for each in CASES.values() if "extraObjects" in each)

    assert helm.render(values).get("ConfigMap", "of-the-user")["data"] == {"release": "zeus"}


def test_images_are_named_by_tag_or_digest_and_pulled_with_the_secrets(helm: Helm) -> None:
    digest = f"sha256:{'a' * 64}"
    rendered = helm.render(
        {
            "image": {"registry": "r.example/ml/", "tag": "1.2", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
            "operator": {"image": {"digest": digest, "registry": "other.example"}},
            "agent": {"image": {"tag": "1.3"}},
            "postgresql": {"enabled": True, "image": {"digest": digest}},
            "gpuSimulator": {"enabled": True},
        }
    )

    images = {
        name: {each["image"] for each in containers_of(pod)}
        for name, pod in rendered.pods().items()
    }
    assert images == {
        "Deployment/zeus-operator": {f"other.example/operator@{digest}"},
        "Pod/zeus-operator-test": {f"other.example/operator@{digest}"},
        "DaemonSet/zeus-agent": {"r.example/ml/agent:1.3"},
        "DaemonSet/zeus-gpu-simulator": {"r.example/ml/agent:1.3"},
        "StatefulSet/zeus-postgresql": {f"docker.io/library/postgres@{digest}"},
    }
    for pod in rendered.pods().values():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
