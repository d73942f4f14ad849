"""The chart's Grafana dashboards, as files: current, complete, and asking only for what exists."""

from __future__ import annotations

from typing import Any

import pytest

from tests.observability.support.shipped import (
    Target,
    dashboards,
    metrics_in,
    panels,
    recorded,
    targets,
)
from tools.dashboards import DASHBOARDS
from tools.dashboards.__main__ import main as write_or_check
from tools.dashboards.panels import COLUMNS, Unit
from tools.metrics_reference import exported_names

ALL = [(name, panel) for name, dashboard in dashboards().items() for panel in panels(dashboard)]
MOST_PANELS = 20


def test_the_files_are_what_the_generator_writes() -> None:
    assert write_or_check(["--check"]) == 0


def test_there_are_three_and_each_can_be_linked_to() -> None:
    assert {each["uid"] for each in dashboards().values()} == {
        "zeus-fleet",
        "zeus-job",
        "zeus-node",
    }
    assert {each.uid for each in DASHBOARDS} == {each["uid"] for each in dashboards().values()}


@pytest.mark.parametrize(("name", "panel"), ALL, ids=lambda value: _id(value))
def test_a_panel_says_what_it_shows_in_which_unit(name: str, panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in set(Unit)
    assert panel["targets"]


@pytest.mark.parametrize(("name", "panel"), ALL, ids=lambda value: _id(value))
def test_a_panel_asks_the_data_source_that_the_reader_has_chosen(
    name: str, panel: dict[str, Any]
) -> None:
    for each in (panel, *panel["targets"]):
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert dashboards()[name]["templating"]["list"][0]["type"] == "datasource"


@pytest.mark.parametrize("target", list(targets()), ids=str)
def test_a_panel_asks_only_for_what_is_exported_or_recorded(target: Target) -> None:
    assert metrics_in(target.expr) <= exported_names() | recorded()


@pytest.mark.parametrize("name", list(dashboards()))
def test_every_variable_that_is_used_is_chosen_at_the_top(name: str) -> None:
    chosen = {each["name"] for each in dashboards()[name]["templating"]["list"]}
    own = {"__rate_interval", "__range"}
    used = {
        word for target in targets() if target.dashboard == name for word in _variables(target.expr)
    }
    assert used <= chosen | own
    assert chosen - {"datasource"} <= used


@pytest.mark.parametrize("name", list(dashboards()))
def test_panels_are_few_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboards()[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= COLUMNS
        taken |= cells
    assert len(panels(dashboards()[name])) <= MOST_PANELS


def _variables(expr: str) -> set[str]:
    return {part.split('"')[0].split("]")[0] for part in expr.split("$")[1:]}


def _id(value: object) -> str:
    return str(value["title"]) if isinstance(value, dict) else str(value)
