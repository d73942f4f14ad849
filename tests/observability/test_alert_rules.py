"""The chart's rules: promtool takes them, and each alert fires when it should and not else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.support.agent_alert_cases import AGENT_CASES
from tests.observability.support.alert_case import Case, promtool_tests
from tests.observability.support.operator_alert_cases import OPERATOR_CASES
from tests.observability.support.programs import Programs
from tests.observability.support.server import RULES, rules_as_the_chart_has_them
from tests.observability.support.server import RUNBOOKS as SHOWN_RUNBOOKS
from tests.observability.support.shipped import (
    FROM_PROMETHEUS,
    FROM_THE_PROCESS,
    RUNBOOKS,
    Rule,
    alerts,
    metrics_in,
    recorded,
    rules,
)
from tools.metrics_reference import exported_names

CASES = (*OPERATOR_CASES, *AGENT_CASES)
LEVELS = ("node", "namespace", "namespace_zeusjob", "reason", "cluster")


def promtool(programs: Programs, *arguments: str) -> None:
    done = subprocess.run(
        [str(programs.promtool), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def hold(programs: Programs, folder: Path, groups: list[dict[str, Any]], *names: str) -> None:
    """Let promtool run test groups against these of the chart's rule files."""
    files = [str(path) for path in rules_as_the_chart_has_them(folder) if path.stem in names]
    path = folder / "rules.test.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": groups})
    )
    promtool(programs, "test", "rules", str(path))


def test_promtool_takes_each_file_as_it_is_and_as_the_chart_has_it(
    programs: Programs, tmp_path: Path
) -> None:
    shipped = sorted(RULES.glob("*.yaml"))
    promtool(programs, "check", "rules", *map(str, shipped))
    promtool(programs, "check", "rules", *map(str, rules_as_the_chart_has_them(tmp_path)))


@pytest.mark.parametrize(
    ("cases", "files"),
    [(OPERATOR_CASES, ("operator", "jobs")), (AGENT_CASES, ("agent",))],
    ids=["operator and jobs", "agents"],
)
def test_each_alert_fires_when_it_should_and_is_silent_when_not(
    programs: Programs, tmp_path: Path, cases: Sequence[Case], files: tuple[str, ...]
) -> None:
    hold(programs, tmp_path, list(promtool_tests(cases)), *files)


def test_what_a_job_costs_more_is_said_without_a_sign(programs: Programs, tmp_path: Path) -> None:
    """The upper bound of what it has saved is -0.2: it has cost 1.2 times the default or more."""
    (rule,) = [rule for rule in alerts() if rule.name == "ZeusJobCostsMore"]
    (case,) = [case for case in CASES if case.alert == rule.name]
    group = {
        "name": rule.name,
        "interval": "1m",
        "input_series": [{"series": key, "values": text} for key, text in case.fires.items()],
        "alert_rule_test": [
            {
                "alertname": rule.name,
                "eval_time": f"{case.after}m",
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": "info",
                            "namespace": "vision",
                            "zeusjob": "cifar100",
                        },
                        "exp_annotations": {
                            "summary": "ZeusJob vision/cifar100 costs more than its default",
                            "description": "The whole 95 % interval of what it has saved lies "
                            "below 0: it has cost at least 20% more than the default would have.",
                            "runbook_url": f"{SHOWN_RUNBOOKS}/{rule.name}.md",
                        },
                    }
                ],
            }
        ],
    }
    hold(programs, tmp_path, [group], "jobs")


def test_each_alert_has_its_cases() -> None:
    assert sorted(case.alert for case in CASES) == sorted(rule.name for rule in alerts())
    assert all(case.silent for case in CASES)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.name)
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_its_runbook_is(rule: Rule) -> None:
    document = rule.document
    assert document["labels"]["severity"] in ("critical", "warning", "info")
    annotations = document["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert len(annotations["summary"]) < 100
    assert annotations["description"].endswith((".", ")."))
    assert annotations["runbook_url"] == f"RUNBOOK_BASE_URL/{rule.name}.md"


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule.name)
def test_a_rule_asks_only_for_what_is_exported_or_recorded(rule: Rule) -> None:
    known = exported_names() | recorded() | FROM_PROMETHEUS | FROM_THE_PROCESS
    assert metrics_in(rule.expr) <= known


def test_recorded_names_say_level_metric_and_operation() -> None:
    for name in recorded():
        level, metric, operation = name.split(":")
        assert level in LEVELS, name
        assert metric.startswith("zeus_"), name
        assert re.fullmatch("max|sum|ratio|rate5m|increase1d", operation), name


def test_names_of_groups_are_unique_over_all_files() -> None:
    names = [
        group["name"]
        for path in RULES.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert len(names) == len(set(names))


def test_nothing_in_a_rule_is_for_helm_but_the_runbooks_address() -> None:
    """Helm puts files in as they are; the words in braces must be Prometheus' own."""
    for path in RULES.glob("*.yaml"):
        for inside in re.findall(r"{{(.*?)}}", path.read_text()):
            assert re.match(r" \$(labels|value)\b", inside), f"{path.name}: {inside}"


def test_each_runbook_belongs_to_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {rule.name for rule in alerts()}


# ---- what is recorded -----------------------------------------------------------

_A = 'namespace="vision", zeusjob="a"'
_B = 'namespace="vision", zeusjob="b"'
_C = 'namespace="speech", zeusjob="c"'


def samples(expr: str, minutes: int, values: dict[str, float]) -> dict[str, Any]:
    """Expect these values of a query, by labels."""
    return {
        "expr": expr,
        "eval_time": f"{minutes}m",
        "exp_samples": [
            {"labels": f"{expr}{{{labels}}}", "value": value} for labels, value in values.items()
        ],
    }


def test_savings_add_up_over_jobs_and_a_job_counts_by_its_size(
    programs: Programs, tmp_path: Path
) -> None:
    """Job a saves 400 of 1000 J, job b loses 100 of 100 J, job c saves 500 of 1000 J."""
    sizes = {_A: (1000, 600), _B: (100, 200), _C: (1000, 500)}
    series = {}
    for job, (default, compared) in sizes.items():
        for of in ("energy", "cost"):
            series[f'zeus_job_default_{of}_joules{{{job}, instance="x"}}'] = f"{default}x30"
            series[f'zeus_job_compared_{of}_joules{{{job}, instance="x"}}'] = f"{compared}x30"
    group = {
        "name": "savings",
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            check
            for of in ("energy", "cost")
            for check in (
                samples(
                    f"namespace:zeus_job_saved_{of}_joules:sum",
                    5,
                    {'namespace="vision"': 300, 'namespace="speech"': 500},
                ),
                samples(f"cluster:zeus_job_saved_{of}_joules:sum", 5, {"": 800}),
                samples(
                    f"namespace:zeus_job_saved_{of}:ratio",
                    5,
                    {'namespace="vision"': 300 / 1100, 'namespace="speech"': 0.5},
                ),
                samples(f"cluster:zeus_job_saved_{of}:ratio", 5, {"": 800 / 2100}),
            )
        ],
    }
    hold(programs, tmp_path, [group], "recording")


def test_energy_is_counted_once_while_leaders_change(programs: Programs, tmp_path: Path) -> None:
    """100 J a minute, shown by the first replica, for a moment by both, then by the second."""
    first = f'zeus_job_energy_joules_total{{{_A}, instance="first"}}'
    second = f'zeus_job_energy_joules_total{{{_A}, instance="second"}}'
    group = {
        "name": "two leaders",
        "interval": "1m",
        "input_series": [
            {"series": first, "values": "0+100x30 stale"},
            {"series": second, "values": "_x29 2900+100x40"},
        ],
        "promql_expr_test": [
            samples(
                "namespace_zeusjob:zeus_job_energy_joules_total:max",
                30,
                {'namespace="vision", zeusjob="a"': 3000},
            ),
            samples(
                "namespace_zeusjob:zeus_job_energy_joules_total:max",
                60,
                {'namespace="vision", zeusjob="a"': 6000},
            ),
        ],
    }
    hold(programs, tmp_path, [group], "recording")


def test_energy_is_recorded_by_node_and_by_namespace(programs: Programs, tmp_path: Path) -> None:
    """Two GPUs of 100 W and one of 50 W; a joule a second is a watt."""
    energies = {("n1", "g1"): 6000, ("n1", "g2"): 6000, ("n2", "g3"): 3000}
    group = {
        "name": "energy",
        "interval": "1m",
        "input_series": [
            *(
                {
                    "series": f'zeus_agent_gpu_energy_joules_total{{node="{node}", gpu="{gpu}"}}',
                    "values": f"0+{joules}x60",
                }
                for (node, gpu), joules in energies.items()
            ),
            *(
                {
                    "series": "zeus_agent_namespace_energy_joules_total"
                    f'{{node="{node}", namespace="vision"}}',
                    "values": "0+3000x60",
                }
                for node in ("n1", "n2")
            ),
        ],
        "promql_expr_test": [
            samples(
                "node:zeus_agent_gpu_energy_joules:rate5m", 20, {'node="n1"': 200, 'node="n2"': 50}
            ),
            samples("cluster:zeus_agent_gpu_energy_joules:rate5m", 20, {"": 250}),
            samples(
                "namespace:zeus_agent_namespace_energy_joules:rate5m",
                20,
                {'namespace="vision"': 100},
            ),
        ],
    }
    hold(programs, tmp_path, [group], "recording")
