"""The reference of kubectl zeus names every command and option, and all that can be left out."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click
import pytest

from zeus_operator.cli.cluster import main
from zeus_operator.history.document import LeftOut

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "kubectl-zeus.md"


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_a_command_is_documented_with_all_its_options(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    command = main.commands[name]

    assert command.help
    assert f"`kubectl zeus {name} " in page
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert any(option in page for option in parameter.opts), parameter.opts


def test_what_can_be_left_out_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert all(f"| `{field.name}` | " in page for field in fields(LeftOut))
