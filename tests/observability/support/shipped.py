"""What the chart ships: its rules and dashboards, and the metrics that their queries name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.observability.support.server import REPOSITORY, RULES

DASHBOARDS = REPOSITORY / "charts" / "zeus-operator" / "files" / "dashboards"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
METRICS_PAGE = REPOSITORY / "docs" / "reference" / "metrics.md"

FROM_PROMETHEUS = frozenset({"up"})
"""Made by Prometheus at each scrape."""
FROM_THE_PROCESS = frozenset({"process_start_time_seconds"})
"""Of the operator, by prometheus_client's collector."""

_QUOTED = re.compile(r'"[^"]*"')
_GROUPING = re.compile(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
_LABELS = re.compile(r"\{[^}]*\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_:][A-Za-z0-9_:]*(?!\s*\()\b")
_WORDS = frozenset({"and", "or", "unless", "by", "on", "bool", "vector", "time", "offset"})


@dataclass(frozen=True)
class Rule:
    """One rule of a file."""

    file: str
    name: str
    expr: str
    document: dict[str, Any]

    @property
    def is_alert(self) -> bool:
        """Whether it alerts; else it records."""
        return "alert" in self.document


def rules() -> Iterator[Rule]:
    """Yield all rules of the chart."""
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for each in group["rules"]:
                name = each.get("alert") or each["record"]
                yield Rule(path.name, name, each["expr"], each)


def alerts() -> list[Rule]:
    """Return the rules that alert."""
    return [rule for rule in rules() if rule.is_alert]


def recorded() -> frozenset[str]:
    """Return the names that rules record."""
    return frozenset(rule.name for rule in rules() if not rule.is_alert)


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    dashboard: str
    panel: str
    expr: str

    def __str__(self) -> str:
        """Return where it is, for the name of a test."""
        return f"{self.dashboard}: {self.panel}"


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the dashboards by their file's name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, headings left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Yield all queries of all dashboards."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for each in panel["targets"]:
                yield Target(name, panel["title"], each["expr"])


def metrics_in(expr: str) -> frozenset[str]:
    """Return the names of the metrics in an expression."""
    bare = _QUOTED.sub('""', expr)
    for part in (_LABELS, _RANGE, _GROUPING):
        bare = part.sub(" ", bare)
    return frozenset(_NAME.findall(bare)) - _WORDS
