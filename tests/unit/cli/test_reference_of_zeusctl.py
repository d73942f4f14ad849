"""The reference of zeusctl names every command, option and exit code."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from zeus_operator.cli.failures import ExitCode
from zeus_operator.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "zeusctl.md"
COMMANDS = main.list_commands(click.Context(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_with_all_its_options(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    command = main.get_command(click.Context(main), name)

    assert command is not None
    assert command.help
    assert f"`zeusctl {name} " in page
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert any(option in page for option in parameter.opts), parameter.opts


def test_every_exit_code_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert all(f"| {code.value} | " in page for code in ExitCode)
