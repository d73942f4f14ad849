"""The program `zeusctl`: jobs on one machine, and simulation."""

from __future__ import annotations

from importlib import import_module

import click

_COMMANDS = {
    "run": "zeus_operator.cli.run_command:run",
    "status": "zeus_operator.cli.look_commands:status",
    "history": "zeus_operator.cli.look_commands:history",
    "explain": "zeus_operator.cli.explain_command:explain",
    "report": "zeus_operator.cli.report_command:report",
    "replay": "zeus_operator.cli.explain_command:replay",
    "simulate": "zeus_operator.cli.simulate_command:simulate",
    "simulate-arrivals": "zeus_operator.cli.simulate_arrivals_command:simulate_arrivals",
    "delete": "zeus_operator.cli.change_commands:delete",
    "reset": "zeus_operator.cli.change_commands:reset",
}


class _LazyGroup(click.Group):
    """Imports a command when it is asked for: together they take seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of a first use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="zeus-operator", prog_name="zeusctl")
def main() -> None:
    """Learn the batch size and the GPU power limit of a recurring training job.

    Exit codes: 0 done; 1 a recurrence reached no target, or a run could not go on; 2 wrong file,
    option or job; 3 the database can't be used; 4 another process runs this job; 130 interrupted.
    """


if __name__ == "__main__":
    main()
