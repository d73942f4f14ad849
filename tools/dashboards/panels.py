"""Grafana's dashboards as small values: what is asked and shown, and nothing of how it is stored.

The JSON is for Grafana 10 and later (schema version 39).  `document` alone knows its shape.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = 24
"""Width of Grafana's grid."""
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA_VERSION = 39


class Unit(enum.StrEnum):
    """Grafana's names of units."""

    WATTS = "watt"
    JOULES = "joule"
    SECONDS = "s"
    RATIO = "percentunit"
    COUNT = "short"
    PER_SECOND = "reqps"
    AGO = "dateTimeFromNow"  # takes milliseconds since 1970
    YES_NO = "bool_yes_no"


class Kind(enum.StrEnum):
    """How a panel draws."""

    LINES = "timeseries"
    NUMBER = "stat"
    BARS = "bargauge"
    TABLE = "table"
    STATES = "state-timeline"


@dataclass(frozen=True)
class Query:
    """One expression of PromQL.

    Attributes:
        legend: Grafana's format, with labels in double braces; of a table the column's name.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        description: what is shown and how to read it, for the panel's tooltip.
        width: of 24 columns.
        stacked: lines add up.
        steps: a value holds until the next one.
    """

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    width: int = 12
    height: int = 8
    stacked: bool = False
    steps: bool = False
    least: float | None = 0.0
    columns: tuple[tuple[str, Unit], ...] = ()


@dataclass(frozen=True)
class Variable:
    """A choice at the top of the dashboard, filled from the values of a label."""

    name: str
    title: str
    metric: str
    label: str
    several: bool = True


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, from the top."""
        return tuple(panel for row in self.rows for panel in row.panels)


def document(dashboard: Dashboard) -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["zeus-operator"],
        "editable": True,
        "graphTooltip": 1,  # one cross-hair over all panels
        "refresh": "1m",
        "schemaVersion": _SCHEMA_VERSION,
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), *map(_variable, dashboard.variables)]},
        "annotations": {"list": []},
        "links": [
            {
                "title": "zeus-operator",
                "type": "dashboards",
                "tags": ["zeus-operator"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": _placed(dashboard.rows),
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.metric}, {variable.label})"
    return {
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": variable.several,
        "includeAll": variable.several,
        "allValue": ".*" if variable.several else None,
        "current": {"text": "All", "value": "$__all"} if variable.several else {},
        "hide": 0,
    }


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Place panels from left to right, in lines of the grid's width, under their headings."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "type": "row",
                "title": row.title,
                "id": len(placed) + 1,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        x, y, highest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, highest = 0, y + highest, 0
            position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append({"id": len(placed) + 1, "gridPos": position, **_panel(panel)})
            x, highest = x + panel.width, max(highest, panel.height)
        y += highest
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit.value, "custom": _drawing(panel)}
    if panel.least is not None and panel.kind is Kind.LINES:
        defaults["min"] = panel.least
    made: dict[str, Any] = {
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
        "targets": [
            _target(chr(ord("A") + number), query, panel)
            for number, query in enumerate(panel.queries)
        ],
    }
    if panel.kind is Kind.TABLE:
        made["transformations"] = _as_one_table(panel)
    return made


def _target(letter: str, query: Query, panel: Panel) -> dict[str, Any]:
    over_time = panel.kind in (Kind.LINES, Kind.STATES)
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": over_time,
        "instant": not over_time,
        "format": "table" if panel.kind is Kind.TABLE else "time_series",
    }


def _drawing(panel: Panel) -> dict[str, Any]:
    if panel.kind is not Kind.LINES:
        return {}
    return {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if panel.steps else "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if panel.stacked else 0,
        "showPoints": "auto" if panel.steps else "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }


def _options(panel: Panel) -> dict[str, Any]:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind is Kind.LINES:
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind is Kind.NUMBER:
        return {"reduceOptions": reduced, "colorMode": "none", "graphMode": "none"}
    if panel.kind is Kind.BARS:
        return {"reduceOptions": reduced, "orientation": "horizontal", "displayMode": "basic"}
    if panel.kind is Kind.STATES:
        return {"showValue": "never", "mergeValues": True, "rowHeight": 0.8}
    return {"showHeader": True, "cellHeight": "sm"}


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Return the units of a table's columns, each its own."""
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit.value}],
        }
        for name, unit in panel.columns
    ]


def _as_one_table(panel: Panel) -> list[dict[str, Any]]:
    """Join the queries by their labels, and call each column by its query's legend."""
    names = {
        f"Value #{chr(ord('A') + number)}": query.legend
        for number, query in enumerate(panel.queries)
    }
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {"excludeByName": {"Time": True}, "renameByName": names},
        },
    ]
