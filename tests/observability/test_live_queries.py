"""Every query of the chart on a real Prometheus that scrapes real agents and recorded jobs."""

from __future__ import annotations

import functools
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.observability.support.becomes import becomes
from tests.observability.support.nodes import BLIND, HEALTHY, SICK
from tests.observability.support.programs import Programs
from tests.observability.support.recorded_operator import (
    IGNORING,
    LOSING,
    NAMESPACE,
    PAUSED,
    SAVING,
    SILENT,
    RecordedOperator,
)
from tests.observability.support.scene import GONE, NOBODY, Scene
from tests.observability.support.server import RUNBOOKS
from tests.observability.support.shipped import (
    Rule,
    Target,
    alerts,
    dashboards,
    metrics_in,
    rules,
    targets,
)
from tests.support.eventually import eventually
from zeus_operator.job_series import JobSeries

MAY_BE_EMPTY: dict[str, str] = {}
"""Panels without data in the scene, and why.  There is none."""

_GRAFANAS = {"__rate_interval": "20s", "__range": "10m"}
_CHOSEN = {
    "fleet": {"namespace": ".*"},
    "job": {"namespace": NAMESPACE, "zeusjob": SAVING},
    "node": {"node": ".*", "gpu": ".*"},
}


def as_grafana_sends_it(target: Target) -> str:
    """Return the expression with the reader's choices in the place of variables."""
    expr = target.expr
    for name, value in {**_GRAFANAS, **_CHOSEN[target.dashboard]}.items():
        expr = re.sub(rf"\${name}\b", value, expr)
    return expr


def over_seconds(expr: str) -> str:
    """Return an alert's expression with its rates over seconds: a scene lasts no ten minutes."""
    return re.sub(r"(rate\([^\[]*)\[10m\]", r"\1[20s]", expr)


def without(alert: str, target: str, on: str = "") -> str:
    """Return a query that finds something where a target answers and an alert does not hold.

    In one query, for where the target does not answer, no alert of its metrics holds either.

    Args:
        alert: its expression.
        target: labels that choose the target.
        on: the label by which the alert is the target's; "": it is, whatever it says.
    """
    return f"up{{{target}}} == 1 unless on ({on}) ({alert})"


def rule_of(name: str) -> Rule:
    (rule,) = [rule for rule in rules() if rule.name == name]
    return rule


@pytest.mark.parametrize("target", list(targets()), ids=str)
def test_every_query_of_a_panel_returns_data(live: Scene, target: Target) -> None:
    expr = as_grafana_sends_it(target)
    if str(target) in MAY_BE_EMPTY:
        live.prometheus.query(expr)
        return
    eventually(lambda: live.prometheus.query(expr), f"{target} has data: {expr}")


@pytest.mark.parametrize("name", list(dashboards()))
def test_every_choice_at_the_top_of_a_dashboard_has_values(live: Scene, name: str) -> None:
    for variable in dashboards()[name]["templating"]["list"][1:]:
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert asked is not None
        metric = asked.group(1)
        for other, value in _CHOSEN[name].items():
            metric = metric.replace(f"${other}", value)
        chosen = _CHOSEN[name][variable["name"]]
        ask = functools.partial(can_choose, live, chosen, metric, asked.group(2))
        eventually(ask, f"{variable['name']} has the value {chosen}")


def can_choose(live: Scene, chosen: str, metric: str, label: str) -> bool:
    values = live.prometheus.label_values(metric, label)
    return chosen in values if chosen != ".*" else bool(values)


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if not rule.is_alert], ids=lambda rule: rule.name
)
def test_every_recording_rule_records(live: Scene, rule: Rule) -> None:
    eventually(lambda: live.prometheus.query(rule.name), f"{rule.name} has data")


def test_what_is_served_follows_the_conventions_of_names_and_units(
    live: Scene, programs: Programs
) -> None:
    for address in live.addresses:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            text = answer.read()
        command = [str(programs.promtool), "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b""), address


def test_prometheus_evaluates_every_rule_without_an_error(live: Scene) -> None:
    eventually(
        lambda: all(rule["health"] == "ok" for rule in live.prometheus.rules()),
        "every rule was evaluated",
    )


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.name)
def test_an_alert_asks_for_metrics_that_a_real_process_shows(live: Scene, rule: Rule) -> None:
    for metric in metrics_in(rule.expr):
        ask = functools.partial(live.prometheus.query, f"count({metric})")
        eventually(ask, f"{metric} is there")


def test_what_is_saved_is_what_the_history_says(live: Scene) -> None:
    """Learned: 1000 + 400 + 640 + 630 + ... + 710 J for 11 models, against 1000 J each."""
    of = f'{{namespace="{NAMESPACE}", zeusjob="{SAVING}"}}'
    spent = 1000 + 400 + 640 + sum(600 + 10 * n for n in range(3, 12))
    name = f"namespace_zeusjob:zeus_job_saved_energy_joules:max{of}"
    ratio = f'zeus_job_saved_ratio{{of="energy", zeusjob="{SAVING}"}}'
    for expr, value in ((name, 11 * 1000 - spent), (ratio, 1 - spent / 11_000)):
        ask = functools.partial(live.prometheus.values, expr)
        becomes(ask, pytest.approx([value]), expr)


# ---- alerts, on what really went wrong -------------------------------------------

OF_A_NODE = {
    "ZeusAgentRestoreFailing": SICK,
    "ZeusAgentNvmlHanging": SICK,
    "ZeusGpuLost": SICK,
    "ZeusForeignLimitChanges": SICK,
    "ZeusGpuLimitNotEnforced": SICK,
    "ZeusAgentCertificateExpiring": SICK,
    "ZeusAgentPolicyRefused": SICK,
    "ZeusAgentMayNotSetLimits": SICK,
    "ZeusAgentRefusals": SICK,
    "ZeusEnergyUnattributed": SICK,
    "ZeusAgentDown": GONE,
    "ZeusAgentSeesNoGpu": BLIND,
    "ZeusAgentCertificateMissing": BLIND,
}


@pytest.mark.parametrize("name", list(OF_A_NODE))
def test_an_alert_is_about_the_node_where_it_happened(live: Scene, name: str) -> None:
    expr = over_seconds(rule_of(name).expr)
    becomes(
        lambda: live.prometheus.labels(expr, "node"),
        {(OF_A_NODE[name],)},
        f"{name} holds there alone",
    )


def test_a_replica_that_does_not_answer_is_named(live: Scene) -> None:
    expr = rule_of("ZeusOperatorReplicaDown").expr
    becomes(lambda: live.prometheus.labels(expr, "instance"), {(NOBODY,)}, "one is down")


def test_every_alert_about_agents_has_really_happened_here() -> None:
    assert set(OF_A_NODE) == {rule.name for rule in alerts() if rule.file == "agent.yaml"}


@pytest.mark.parametrize(
    "rule", [rule for rule in alerts() if rule.file == "agent.yaml"], ids=lambda rule: rule.name
)
def test_where_all_is_well_no_alert_of_an_agent_holds(live: Scene, rule: Rule) -> None:
    """At some moment: an alert that waits with `for` is about what holds all the time.

    The others look back for many minutes, and would hold for as long.
    """
    expr = without(rule.expr, f'node="{HEALTHY}"', on="node")
    eventually(lambda: live.prometheus.query(expr), f"{HEALTHY} answers, and {rule.name} is silent")


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("ZeusJobFailing", PAUSED),
        ("ZeusJobPaused", PAUSED),
        ("ZeusJobDecisionNotApplied", IGNORING),
        ("ZeusJobDegraded", SILENT),
        ("ZeusJobCostsMore", LOSING),
    ],
)
def test_an_alert_is_about_the_job_that_it_is_meant_for(live: Scene, name: str, job: str) -> None:
    expr = rule_of(name).expr
    becomes(
        lambda: live.prometheus.labels(expr, "namespace", "zeusjob"),
        {(NAMESPACE, job)},
        f"{name} holds for it alone",
    )


@contextmanager
def operator_with(live: Scene, **state: object) -> Iterator[RecordedOperator]:
    """Change what the operator says of itself, and have it well again afterwards."""
    before = replace(live.operator.state)
    for name, value in state.items():
        setattr(live.operator.state, name, value)
    try:
        yield live.operator
    finally:
        for name in state:
            setattr(live.operator.state, name, getattr(before, name))
        for of in ("trust", "reports"):
            live.operator.metrics.agents_looked_at(of, 0)
        live.operator.metrics.jobs.remove((NAMESPACE, "one-more"))


Break = Callable[[RecordedOperator], object]
BROKEN: dict[str, tuple[dict[str, object], Break]] = {
    "ZeusOperatorNoLeader": ({"leads": False}, lambda _: None),
    "ZeusOperatorStoreAway": ({"store_is_up": False}, lambda _: None),
    "ZeusOperatorWatchStalled": ({"watch_age_seconds": 800.0}, lambda _: None),
    "ZeusOperatorQueueOld": ({"oldest_seconds": 75.0}, lambda _: None),
    "ZeusOperatorReconcileErrors": ({"fails": True}, lambda _: None),
    "ZeusOperatorInternalErrors": ({}, lambda o: o.metrics.reconcile_failed("internal")),
    "ZeusOperatorJobsWithoutSeries": (
        {},
        lambda o: o.metrics.jobs.show((NAMESPACE, "one-more"), JobSeries()),
    ),
    "ZeusAgentTrustBroken": ({}, lambda o: o.metrics.agents_looked_at("trust", 2)),
    "ZeusAgentReportsNotRead": ({}, lambda o: o.metrics.agents_looked_at("reports", 1)),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_an_alert_holds_while_the_operator_is_in_trouble(live: Scene, name: str) -> None:
    expr = over_seconds(rule_of(name).expr)
    well = without(expr, f'instance="{live.operator.address}"')
    eventually(lambda: live.prometheus.query(well), f"{name} does not hold yet")
    state, make_worse = BROKEN[name]
    with operator_with(live, **state) as operator:
        make_worse(operator)
        eventually(lambda: live.prometheus.query(expr), f"{name} holds")


def test_texts_of_alerts_are_filled_in_and_lead_to_a_runbook(live: Scene) -> None:
    shown = eventually(live.prometheus.alerts, "some alert is there")
    for alert in shown:
        texts = alert["annotations"]
        assert texts["runbook_url"] == f"{RUNBOOKS}/{alert['labels']['alertname']}.md"
        for text in texts.values():
            assert not re.search(r"<no value>|<error|%!|{{|\(\)", text), text
            assert "  " not in text
