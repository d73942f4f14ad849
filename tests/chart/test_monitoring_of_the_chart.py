"""What Prometheus and Grafana are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.chart.support.helm import LEAST, REPOSITORY, Helm, Values, merged

RULES = {
    "groups": [
        {
            "name": "example",
            "rules": [
                {
                    "alert": "Example",
                    "expr": "zeus_operator_leader == 0",
                    "annotations": {"summary": "{{ $labels.pod }} does not lead"},
                }
            ],
        }
    ]
}
DASHBOARD = {"title": "Example", "panels": [{"title": "{{ job }}"}]}


def on(**switches: Any) -> dict[str, Any]:
    return merged(LEAST, {"monitoring": {k: {"enabled": True, **v} for k, v in switches.items()}})


def test_nothing_of_the_prometheus_operator_is_made_unless_asked_for(helm: Helm) -> None:
    groups = {each["apiVersion"].partition("/")[0] for each in helm.render().objects}

    assert "monitoring.coreos.com" not in groups


def test_monitors_keep_the_labels_of_the_series(helm: Helm) -> None:
    """`namespace` and `pod` in them are those of jobs, not of who tells."""
    labels: Values = {"labels": {"release": "prometheus"}}
    rendered = helm.render(on(serviceMonitor=labels, podMonitor=labels))
    service = rendered.get("ServiceMonitor", "zeus-operator")
    pod = rendered.get("PodMonitor", "zeus-agent")

    (endpoint,) = service["spec"]["endpoints"]
    (pod_endpoint,) = pod["spec"]["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is pod_endpoint["honorLabels"] is True
    assert {each["metadata"]["labels"]["release"] for each in (service, pod)} == {"prometheus"}


def test_without_agents_none_are_scraped(helm: Helm) -> None:
    values = merged(on(podMonitor={}), {"agent": {"enabled": False}})

    assert helm.render(values).of_kind("PodMonitor") == []


def test_every_rule_file_becomes_an_object_word_for_word(helm: Helm, chart_copy: Path) -> None:
    folder = chart_copy / "files" / "rules"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("one", "two"):
        (folder / f"of-the-test-{name}.yaml").write_text(yaml.safe_dump(RULES))

    rendered = helm.render(on(prometheusRule={"labels": {"a": "b"}}), chart=chart_copy)

    for name in ("one", "two"):
        rule = rendered.get("PrometheusRule", f"zeus-operator-of-the-test-{name}")
        assert rule["spec"] == RULES
        assert rule["metadata"]["labels"]["a"] == "b"


def test_alerts_point_to_the_runbooks_where_they_are(helm: Helm) -> None:
    def urls(rule: Values) -> set[str]:
        alerts = [
            alert
            for each in helm.render(on(prometheusRule=rule)).of_kind("PrometheusRule")
            for group in each["spec"]["groups"]
            for alert in group["rules"]
            if "alert" in alert
        ]
        return {alert["annotations"]["runbook_url"] for alert in alerts}

    assert urls({})
    assert all((REPOSITORY / url).is_file() for url in urls({}))
    published = urls({"runbookBaseUrl": "https://example.org/books/"})
    assert all(url.startswith("https://example.org/books/Zeus") for url in published)


def test_every_dashboard_becomes_a_config_map_word_for_word(helm: Helm, chart_copy: Path) -> None:
    folder = chart_copy / "files" / "dashboards"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "of-the-test.json").write_text(json.dumps(DASHBOARD, indent=2))

    values = on(dashboards={"namespace": "grafana", "annotations": {"grafana_folder": "Zeus"}})
    found = helm.render(values, chart=chart_copy)

    made = found.get("ConfigMap", "zeus-operator-dashboard-of-the-test")
    assert json.loads(made["data"]["of-the-test.json"]) == DASHBOARD
    assert made["metadata"]["namespace"] == "grafana"
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Zeus"}


def test_a_chart_without_rules_and_dashboards_makes_none(helm: Helm, chart_copy: Path) -> None:
    for file in (*chart_copy.glob("files/rules/*"), *chart_copy.glob("files/dashboards/*")):
        file.unlink()

    rendered = helm.render(on(prometheusRule={}, dashboards={}), chart=chart_copy)

    assert rendered.of_kind("PrometheusRule") == []
    assert not [x for x in rendered.of_kind("ConfigMap") if "dashboard" in x["metadata"]["name"]]
