"""The operator's Deployment: its settings, its database, its place in the cluster."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import yaml

from tests.chart.support.helm import CHART, LEAST, NAMESPACE, Helm, Rendered, merged
from zeus_operator.api.rbac import SERVICE_ACCOUNT
from zeus_operator.history.fitting import MAX_KIBIBYTES, MIN_KIBIBYTES
from zeus_operator.lease import LeaseTimes
from zeus_operator.plan_spec import Mode
from zeus_operator.settings import AGENT_PORT, VARIABLES, OperatorSettings, load_settings
from zeus_runtime.protocol import AGENT_AUDIENCE

URL = "postgresql://zeus:secret@db.example:5432/zeus"
FROM_ELSEWHERE = {
    "DATABASE_URL": URL,
    "ZEUS_OPERATOR_POD_NAME": "zeus-operator-0",
    "ZEUS_OPERATOR_LEASE_NAMESPACE": NAMESPACE,
}
"""What the API server puts in: a Secret's value, and what the pod is called."""

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())["operator"][
    "settings"
]


def pod(rendered: Rendered) -> dict[str, Any]:
    spec: dict[str, Any] = rendered.pods()["Deployment/zeus-operator"]["spec"]
    return spec


def environment(rendered: Rendered) -> dict[str, str]:
    """Return the container's variables as it will find them."""
    (container,) = pod(rendered)["containers"]
    return {
        each["name"]: FROM_ELSEWHERE[each["name"]] if "valueFrom" in each else each["value"]
        for each in container["env"]
    }


def settings(rendered: Rendered) -> OperatorSettings:
    return load_settings(environment(rendered), unique=lambda: "1")


def camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(part.capitalize() for part in rest)


def test_every_setting_of_the_program_is_set(helm: Helm) -> None:
    assert set(environment(helm.render())) == {variable.name for variable in VARIABLES}


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_setting_that_is_not_given_is_what_the_program_has_itself(key: str, helm: Helm) -> None:
    ours, theirs = settings(helm.render()), OperatorSettings(URL, "x")
    names = {camel(each.name): each.name for each in dataclasses.fields(OperatorSettings)}
    times = {camel(each.name): each.name for each in dataclasses.fields(LeaseTimes)}

    if key == "logFormat":  # in a cluster programs read it
        assert (ours.log_format, theirs.log_format) == ("json", "text")
    elif key in times:
        assert getattr(ours.lease_times, times[key]) == getattr(theirs.lease_times, times[key])
    else:
        assert getattr(ours, names[key]) == getattr(theirs, names[key])


OTHER = {
    "leaseDurationSeconds": 20.5,
    "renewDeadlineSeconds": 9,
    "retryPeriodSeconds": 1.5,
    "httpHost": "::",
    "httpPort": 9000,
    "workers": 9,
    "resyncSeconds": 60,
    "absenceConfirmSeconds": 61,
    "retentionDays": 0,
    "statementTimeoutSeconds": 5.5,
    "transactionIdleTimeoutSeconds": 6,
    "metricsJobs": 1_000_000,
    "maxMode": "Observe",
    "maxModeByNamespace": [
        {"namespace": "team-a", "mode": "Optimize"},
        {"namespace": "team-*", "mode": "Recommend"},
    ],
    "historyKibibytes": 0,
    "agentTrustSeconds": 31,
    "agentReportsSeconds": 16,
    "logFormat": "text",
}
TEXTS = {"maxModeByNamespace": "team-a=Optimize,team-*=Recommend"}
"""Of what is not its own text."""


def test_the_test_below_has_another_value_for_each_setting() -> None:
    assert OTHER.keys() == DEFAULTS.keys()
    assert not [key for key, value in OTHER.items() if DEFAULTS[key] == value]


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_setting_that_is_given_reaches_the_program_and_changes_no_other(
    key: str, helm: Helm
) -> None:
    before = environment(helm.render())
    values = merged(LEAST, {"operator": {"settings": {key: OTHER[key]}}})

    after = environment(helm.render(values))

    changed = {name: after[name] for name in after if after[name] != before[name]}
    variable = next(each for each in VARIABLES if camel(each.field) == key)
    assert changed == {variable.name: TEXTS.get(key, str(OTHER[key]))}
    load_settings(after)


def test_the_chart_takes_the_modes_and_sizes_that_the_program_takes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    said = schema["operator"]["properties"]["settings"]["properties"]
    of_namespace = said["maxModeByNamespace"]["items"]["properties"]["mode"]
    room = said["historyKibibytes"]

    assert said["maxMode"]["enum"] == of_namespace["enum"] == list(Mode)
    assert (room["anyOf"], room["maximum"]) == (
        [{"const": 0}, {"minimum": MIN_KIBIBYTES}],
        MAX_KIBIBYTES,
    )


def test_the_program_takes_what_the_rest_of_the_chart_says(helm: Helm) -> None:
    values = merged(LEAST, {"watchNamespaces": ["team-a", "team-b"]})

    found = settings(helm.render(values))

    assert found.watch_namespaces == ("team-a", "team-b")
    assert (found.lease_namespace, found.lease_name) == (NAMESPACE, "zeus-operator")
    assert found.identity == "zeus-operator-0_1"
    assert found.agent_url == f"https://zeus-agent.{NAMESPACE}.svc:{AGENT_PORT}"
    assert found.runtime_image == "registry.example/zeus/runtime:0.1.0"


def test_without_agents_and_runtime_the_program_is_told_of_none(helm: Helm) -> None:
    values = merged(LEAST, {"agent": {"enabled": False}, "runtime": {"enabled": False}})

    found = settings(helm.render(values))

    assert (found.agent_url, found.runtime_image) == (None, None)


@pytest.mark.parametrize(
    ("agent", "url"),
    [
        ({"service": {"port": 9443}}, f"https://zeus-agent.{NAMESPACE}.svc:9443"),
        ({"address": "agents.example:443"}, "https://agents.example:443"),
    ],
)
def test_runs_are_told_where_agents_really_are(helm: Helm, agent: dict[str, Any], url: str) -> None:
    assert settings(helm.render(merged(LEAST, {"agent": agent}))).agent_url == url


def test_the_token_for_agents_is_where_the_program_looks(helm: Helm) -> None:
    rendered = helm.render()
    spec = pod(rendered)
    volume = next(each for each in spec["volumes"] if each["name"] == "agent-token")
    (source,) = volume["projected"]["sources"]
    token = source["serviceAccountToken"]
    (container,) = spec["containers"]
    mount = next(each for each in container["volumeMounts"] if each["name"] == "agent-token")

    assert token["audience"] == AGENT_AUDIENCE
    assert f"{mount['mountPath']}/{token['path']}" == OperatorSettings(URL, "x").agent_token_file
    assert settings(rendered).agent_token_file == OperatorSettings(URL, "x").agent_token_file
    assert spec["serviceAccountName"] == SERVICE_ACCOUNT


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ({}, {"name": "zeus-database", "key": "url"}),
        ({"database": {"key": "dsn"}}, {"name": "zeus-database", "key": "dsn"}),
        (
            {"database": {"existingSecret": ""}, "postgresql": {"enabled": True}},
            {"name": "zeus-postgresql", "key": "url"},
        ),
    ],
)
def test_the_database_is_that_of_a_secret(
    helm: Helm, values: dict[str, Any], secret: dict[str, str]
) -> None:
    (container,) = pod(helm.render(merged(LEAST, values)))["containers"]
    variable = next(each for each in container["env"] if each["name"] == "DATABASE_URL")

    assert variable["valueFrom"]["secretKeyRef"] == secret


def test_the_evaluation_database_is_reached_by_the_url_of_its_secret(helm: Helm) -> None:
    values = {"image": LEAST["image"], "postgresql": {"enabled": True, "password": "abc"}}
    rendered = helm.render(values)
    secret = rendered.get("Secret", "zeus-postgresql")["stringData"]
    service = rendered.get("Service", "zeus-postgresql")

    assert secret["password"] == "abc"
    assert secret["url"] == (
        f"postgresql://zeus:abc@{service['metadata']['name']}.{NAMESPACE}.svc:"
        f"{service['spec']['ports'][0]['port']}/zeus"
    )


def test_replicas_are_spread_and_nodes_are_emptied_one_at_a_time(helm: Helm) -> None:
    rendered = helm.render()
    deployment = rendered.get("Deployment", "zeus-operator")["spec"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    budget = rendered.get("PodDisruptionBudget", "zeus-operator")["spec"]

    assert deployment["replicas"] == 2
    assert [each["topologyKey"] for each in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert all(each["labelSelector"] == deployment["selector"] for each in spread)
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["selector"]


@pytest.mark.parametrize(
    ("component", "workload", "field", "other"),
    [
        ("operator", "Deployment/zeus-operator", "strategy", "Recreate"),
        ("agent", "DaemonSet/zeus-agent", "updateStrategy", "OnDelete"),
    ],
)
def test_another_way_to_replace_pods_takes_nothing_from_the_default_one(
    helm: Helm, component: str, workload: str, field: str, other: str
) -> None:
    kind, _, name = workload.partition("/")
    values = merged(LEAST, {component: {"updateStrategy": {"type": other}}})

    default, changed = (helm.render(each).get(kind, name)["spec"] for each in (LEAST, values))

    assert default[field].keys() == {"type", "rollingUpdate"}
    assert changed[field] == {"type": other}


def test_probes_ask_what_the_program_serves(helm: Helm) -> None:
    (container,) = pod(helm.render())["containers"]

    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
