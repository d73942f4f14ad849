"""The operator's reference page holds all that its process can be told, says and counts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from zeus_operator import names
from zeus_operator.api.operator_reference import EVENTS, operator_reference
from zeus_operator.history import projector
from zeus_operator.settings import VARIABLES, OperatorSettings, Variable, load_settings
from zeus_operator.status import events
from zeus_operator.status.conditions import REASONS

PAGE = operator_reference()
DATABASE = "postgresql://zeus@db.example:5432/zeus"


def row_of(first_cell: str) -> list[str]:
    """Return the cells of the table row that begins with `first_cell`."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{first_cell}` |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.field)
def test_every_setting_is_listed(variable: Variable) -> None:
    _, name, _, meaning = row_of(f"--{variable.field.replace('_', '-')}")

    assert (name, meaning) == (f"`{variable.name}`", variable.meaning)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.field)
def test_a_default_that_is_shown_changes_nothing_when_it_is_given(variable: Variable) -> None:
    default = row_of(f"--{variable.field.replace('_', '-')}")[2].strip("`")

    assert settings({variable.name: default} if default else {}) == settings({})


def test_every_reason_of_a_condition_is_listed() -> None:
    table = PAGE[PAGE.index("## Conditions") : PAGE.index("## What a person")]

    assert all(f"| `{reason}` | {text} |" in table for reason, text in REASONS.items())


def test_every_event_that_is_posted_is_listed_and_no_other() -> None:
    assert set(EVENTS) == reasons_in_the_source()
    assert all(row_of_event(reason)[1] == kind for reason, (kind, _) in EVENTS.items())


@pytest.mark.parametrize(
    "name",
    [value for name, value in vars(names).items() if name.startswith(("ANNOTATION_", "LABEL_"))],
)
def test_every_annotation_and_label_is_listed(name: str) -> None:
    assert row_of(name)


def settings(given: dict[str, str]) -> OperatorSettings:
    environment = {"DATABASE_URL": DATABASE, **given}
    return load_settings(environment, host_name=lambda: "host", unique=lambda: 1)


def row_of_event(reason: str) -> list[str]:
    table = PAGE[PAGE.index("## Events") : PAGE.index("## Health")]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| `{reason}` |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def reasons_in_the_source() -> set[str]:
    """Return what looks like a reason in the modules that make Events."""
    trees = [
        ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for module in (events, projector)
    ]
    texts = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    others = {"Degraded", "Event", "True", *(kind.value for kind in events.EventType)}
    return {text for text in texts if re.fullmatch(r"([A-Z][a-z]+)+", text)} - others
