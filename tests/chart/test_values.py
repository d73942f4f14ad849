"""What may be given, what must be, and how the chart says no."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.support.cases import CASES
from tests.chart.support.helm import CHART, LEAST, REPOSITORY, Helm, HelmError, Values, merged
from tools.chart_values import GENERATED, ValuesError, read_values
from zeus_agent.metrics import agent_version
from zeus_operator.api.manifest import load_manifest

TEAM_A = {"namespace": "team-a", "mode": "Observe"}

LINTED = {name: CASES[name] for name in list(CASES)[:4]}


@pytest.mark.parametrize("values", LINTED.values(), ids=LINTED)
def test_helm_finds_no_fault_with_the_chart(helm: Helm, values: Values) -> None:
    assert "0 chart(s) failed" in helm.lint(values)


def refused(helm: Helm, values: Values) -> str:
    with pytest.raises(HelmError) as caught:
        helm.render(values)
    return str(caught.value)


def test_a_registry_is_required_in_a_clear_sentence(helm: Helm) -> None:
    said = refused(helm, {"database": LEAST["database"]})

    assert "image.registry is not set: say where the image" in said
    assert "--set image.registry=registry.example/zeus" in said


def test_images_that_name_their_own_registry_need_no_other(helm: Helm) -> None:
    own = {"image": {"registry": "r.example"}}
    values = dict.fromkeys(("operator", "agent", "runtime"), own)

    rendered = helm.render({**values, "database": LEAST["database"]})

    assert "r.example/agent:" in rendered.text


def test_a_database_is_required_in_a_clear_sentence(helm: Helm) -> None:
    said = refused(helm, {"image": LEAST["image"]})

    assert "database.existingSecret is not set: name a Secret" in said
    assert "--set postgresql.enabled=true" in said


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        pytest.param(
            {"postgresql": {"enabled": True}},
            "database.existingSecret and postgresql.enabled are both given",
            id="two databases",
        ),
        pytest.param(
            {"agent": {"nvidia": {"mode": "simulator"}}},
            "set gpuSimulator.enabled=true",
            id="simulated GPUs that nobody makes",
        ),
        pytest.param(
            {"agent": {"nvidia": {"mode": "hostPath"}, "privileged": False}},
            "agent.nvidia.mode hostPath needs agent.privileged=true",
            id="the host's driver without its devices",
        ),
        pytest.param(
            {"agent": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}},
            "agent.updateStrategy.rollingUpdate.maxSurge is 1, and must be 0",
            id="two agents on a node",
        ),
        pytest.param(
            {"operator": {"settings": {"maxModeByNamespace": [TEAM_A, TEAM_A]}}},
            "operator.settings.maxModeByNamespace names team-a twice",
            id="two modes of a namespace",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(
    helm: Helm, values: Values, sentence: str
) -> None:
    assert sentence in refused(helm, merged(LEAST, values))


@pytest.mark.parametrize(
    ("values", "where", "what"),
    [
        pytest.param({"agnet": {}}, "", "'agnet'", id="at the top"),
        pytest.param(
            {"operator": {"settings": {"worker": 3}}},
            "/operator/settings",
            "'worker'",
            id="setting",
        ),
        pytest.param(
            {"agent": {"policy": {"dryrun": True}}}, "/agent/policy", "'dryrun'", id="policy"
        ),
        pytest.param(
            {"agent": {"policy": {"gpus": [{"model": "*", "watts": 3}]}}},
            "/agent/policy/gpus/0",
            "'watts'",
            id="in a list",
        ),
        pytest.param(
            {"monitoring": {"serviceMonitor": {"enable": True}}},
            "/monitoring/serviceMonitor",
            "'enable'",
            id="deep below",
        ),
    ],
)
def test_an_unknown_key_is_refused_by_its_name(
    helm: Helm, values: Values, where: str, what: str
) -> None:
    said = refused(helm, merged(LEAST, values))

    assert f"at '{where}'" in said
    assert f"additional properties {what} not allowed" in said


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"operator": {"replicas": 0}}, "/operator/replicas"),
        ({"operator": {"replicas": "two"}}, "/operator/replicas"),
        ({"operator": {"settings": {"resyncSeconds": 5}}}, "/operator/settings/resyncSeconds"),
        ({"operator": {"settings": {"resyncSeconds": "9.5"}}}, "/operator/settings/resyncSeconds"),
        ({"operator": {"settings": {"resyncSeconds": "1m"}}}, "/operator/settings/resyncSeconds"),
        ({"operator": {"settings": {"maxMode": "None"}}}, "/operator/settings/maxMode"),
        (
            {"operator": {"settings": {"maxModeByNamespace": [{**TEAM_A, "mode": "observe"}]}}},
            "/operator/settings/maxModeByNamespace/0/mode",
        ),
        (
            {"operator": {"settings": {"maxModeByNamespace": [{**TEAM_A, "namespace": "A"}]}}},
            "/operator/settings/maxModeByNamespace/0/namespace",
        ),
        (
            {"operator": {"settings": {"historyKibibytes": 8}}},
            "/operator/settings/historyKibibytes",
        ),
        (
            {"operator": {"settings": {"historyKibibytes": 257}}},
            "/operator/settings/historyKibibytes",
        ),
        ({"gpuSimulator": {"timeScale": "0.0"}}, "/gpuSimulator/timeScale"),
        ({"gpuSimulator": {"noise": "1.5"}}, "/gpuSimulator/noise"),
        ({"agent": {"nvidia": {"mode": "gpu"}}}, "/agent/nvidia/mode"),
        ({"agent": {"terminationGracePeriodSeconds": 5}}, "/agent/terminationGracePeriodSeconds"),
        ({"agent": {"stateDirectory": "state"}}, "/agent/stateDirectory"),
        ({"operator": {"image": {"digest": "sha256:12"}}}, "/operator/image/digest"),
        ({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0"),
        ({"postgresql": {"password": "a b"}}, "/postgresql/password"),
        ({"gpuSimulator": {"gpus": ["V200"]}}, "/gpuSimulator/gpus/0"),
        ({"crds": {"enabled": "yes"}}, "/crds/enabled"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(helm: Helm, values: Values, path: str) -> None:
    assert f"at '{path}'" in refused(helm, merged(LEAST, values))


def _keys(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    for key, child in schema.get("properties", {}).items():
        found += [(f"{path}.{key}".strip("."), child), *_keys(child, f"{path}.{key}")]
    return found


NUMBERS = {
    name: child
    for name, child in _keys(json.loads((CHART / "values.schema.json").read_text()))
    if child.get("type") == ["number", "string"]
}


def test_the_command_line_takes_decimals_and_they_reach_the_programs(helm: Helm) -> None:
    """Helm makes a number only of what is whole; the rest it hands on as a text."""
    given = {
        "operator.settings.leaseDurationSeconds": "15.5",
        "operator.settings.resyncSeconds": "60.0",
        "agent.settings.pollSeconds": "0.5",
        "agent.policy.maxChangesPerMinute": "0.5",
        "gpuSimulator.timeScale": "0.2",
        "gpuSimulator.noise": "0.05",
        "gpuSimulator.enabled": "true",
    }
    options = [part for name, text in given.items() for part in ("--set", f"{name}={text}")]

    text = helm.run("template", "zeus", str(CHART), *options, values=LEAST)

    for expected in (
        '- name: ZEUS_OPERATOR_LEASE_DURATION_SECONDS\n              value: "15.5"',
        '- name: ZEUS_OPERATOR_RESYNC_SECONDS\n              value: "60.0"',
        "- --poll-seconds=0.5",
        "    maxChangesPerMinute: 0.5\n",
        "--time-scale=0.2",
        "--noise=0.05",
    ):
        assert expected in text


def test_a_wrong_decimal_of_the_command_line_is_refused_by_its_name(helm: Helm) -> None:
    with pytest.raises(HelmError, match="at '/gpuSimulator/noise'"):
        helm.run("template", "zeus", str(CHART), "--set", "gpuSimulator.noise=1.01", values=LEAST)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_decimal_is_bounded_as_a_number_is(name: str) -> None:
    bounds = NUMBERS[name]
    keys = bounds.keys() & {"minimum", "exclusiveMinimum", "maximum"}
    edges = {Decimal(str(bounds[key])) for key in keys}
    near = {edge + step for edge in edges for step in map(Decimal, STEPS)}
    tried = sorted(near | {Decimal(10) ** power * 9 for power in range(-3, 7)})

    for value in tried:
        is_allowed = (
            value >= Decimal(str(bounds.get("minimum", 0)))
            and value > Decimal(str(bounds.get("exclusiveMinimum", -1)))
            and value <= bounds.get("maximum", value)
        )
        for text in {f"{value:f}", f"{value:.6f}"}:
            assert bool(re.search(bounds["pattern"], text)) is is_allowed, text


STEPS = ("-100", "-10", "-1", "-0.5", "-0.01", "0", "0.000001", "0.01", "0.5", "1", "9", "99.25")


@pytest.mark.parametrize("text", ["", ".5", "5.", "1e3", "+1.5", "-1.5", "1.5s", "0x1.8", "1,5"])
def test_what_is_no_decimal_is_none(text: str) -> None:
    assert NUMBERS.keys() >= {"gpuSimulator.timeScale", "operator.settings.resyncSeconds"}
    assert not [name for name, said in NUMBERS.items() if re.search(said["pattern"], text)]


@pytest.mark.parametrize(
    "label",
    [
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "helm.sh/chart",
        # With it people would get the rights of operator and agents.
        "rbac.authorization.k8s.io/aggregate-to-view",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        "commonLabels",
        "operator.podLabels",
        "agent.podLabels",
        "monitoring.serviceMonitor.labels",
        "monitoring.podMonitor.labels",
        "monitoring.prometheusRule.labels",
        "monitoring.dashboards.labels",
    ],
)
def test_labels_of_the_charts_own_are_refused_by_their_name(
    helm: Helm, place: str, label: str
) -> None:
    said = refused(helm, merged(LEAST, below(place, {label: "mine"})))

    assert f"at '/{place.replace('.', '/')}/{label.replace('/', '~1')}'" in said


@pytest.mark.parametrize("place", ["operator", "agent"])
def test_the_annotation_of_the_charts_own_is_refused_by_its_name(helm: Helm, place: str) -> None:
    own = {"kubectl.kubernetes.io/default-container": "other"}

    said = refused(helm, merged(LEAST, below(f"{place}.podAnnotations", own)))

    assert f"at '/{place}/podAnnotations/kubectl.kubernetes.io~1default-container'" in said


def below(place: str, value: Values) -> Values:
    """Return values that have `value` at `place`, e.g. "operator.podLabels"."""
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


def test_a_chart_that_has_this_one_in_it_may_have_globals(helm: Helm) -> None:
    helm.render(merged(LEAST, {"global": {"imageRegistry": "x"}}))


def test_a_key_without_a_description_is_found_when_the_schema_is_made() -> None:
    with pytest.raises(ValuesError, match=r"a\.b has no description above it"):
        read_values("# Something.\na:\n  b: 1\n")


def test_schema_and_page_are_what_the_values_say() -> None:
    stale = [path for path, text in GENERATED.items() if (REPOSITORY / path).read_text() != text()]

    assert stale == []


def test_every_key_has_a_description_where_editors_look() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    assert [name for name, child in _keys(schema) if not child.get("description")] == [
        name for name, _ in _keys(schema) if name.startswith("agent.policy.gpus.")
    ]


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (agent_version(), agent_version())


def test_the_example_of_artifact_hub_is_one_that_is_taken(tmp_path: Path) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (example,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    file = tmp_path / "example.yaml"
    file.write_text(yaml.safe_dump(example))

    assert load_manifest(file, local=False).job.metadata.name == "cifar100"


ADDRESS = re.compile(r"https?://([^/\s\"'{}]+)|\b((?:\d{1,3}\.){3}\d{1,3})\b")
ANYBODYS = {"json-schema.org", "127.0.0.1", "0.0.0.0"}


def test_no_folder_host_or_registry_of_who_made_it_is_in_the_chart() -> None:
    texts = {path: path.read_text() for path in CHART.rglob("*") if path.is_file()}
    addresses = {
        url or ip for text in texts.values() for url, ip in ADDRESS.findall(text)
    } - ANYBODYS
    values = yaml.safe_load(texts[CHART / "values.yaml"])

    assert not [path for path, text in texts.items() if str(REPOSITORY) in text]
    assert not {each for each in addresses if not each.endswith(".example")}
    assert set(_registries(values)) == {"", "docker.io"}


def _registries(values: Any) -> Iterator[str]:
    for key, value in values.items() if isinstance(values, dict) else ():
        if key == "registry":
            yield value
        yield from _registries(value)
