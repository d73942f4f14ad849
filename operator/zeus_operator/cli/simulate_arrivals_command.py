"""`zeusctl simulate-arrivals`."""

from __future__ import annotations

from pathlib import Path

import click

from zeus_operator.cli.context import Output, errors_reported, print_json
from zeus_operator.cli.failures import WrongInput
from zeus_operator.cli.simulate_command import ManyValues, output_option
from zeus_operator.cli.simulate_files import check_writable, write_whole
from zeus_operator.simulate.arrivals import ArrivalProcess, synthetic_groups
from zeus_operator.simulate.group_summary import arrivals_of
from zeus_operator.simulate.groups import write_groups

_DEFAULTS = ArrivalProcess()


@click.command("simulate-arrivals", cls=ManyValues)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write; packed where its name ends in .xz.",
)
@click.option(
    "--workload", "workloads", multiple=True, required=True, help="Of the groups, in turn."
)
@click.option(
    "--groups",
    type=click.IntRange(1, 1_000_000),
    default=_DEFAULTS.groups,
    show_default=True,
    help="Job groups.",
)
@click.option(
    "--runs", type=float, default=_DEFAULTS.runs, show_default=True, help="Of a group, on average."
)
@click.option(
    "--load",
    type=float,
    default=_DEFAULTS.load,
    show_default=True,
    help="Mean run time over the mean time between two starts; more makes more runs overlap.",
)
@click.option(
    "--jitter",
    type=float,
    default=_DEFAULTS.jitter,
    show_default=True,
    help="Of the time between two starts, as a share of the period, 0 to 1.",
)
@click.option(
    "--spread",
    type=float,
    default=_DEFAULTS.spread,
    show_default=True,
    help="Of run times: standard deviation of their logarithm, 0 to 3.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=_DEFAULTS.seed,
    show_default=True,
    help="The same seed makes the same file.",
)
@output_option
def simulate_arrivals(
    out: Path,
    workloads: tuple[str, ...],
    groups: int,
    runs: float,
    load: float,
    jitter: float,
    spread: float,
    seed: int,
    output: str,
) -> None:
    """Make synthetic job groups for `simulate --groups`.

    They are no recording of any cluster, and every output of a simulation that uses them says so.
    """
    with errors_reported():
        check_writable("--out", out)
        process = ArrivalProcess(groups, runs, load, jitter, spread, seed)
        try:
            made = synthetic_groups(tuple(dict.fromkeys(workloads)), process)
        except ValueError as error:
            raise WrongInput(str(error)) from None
        write_whole("--out", out, lambda path: write_groups(path, made))
        total = sum(len(group.runs) for group in made)
        overlapping = sum(group.overlapping_runs for group in made)
        if output == Output.JSON.value:
            print_json(
                {
                    "file": str(out),
                    "arrivals": arrivals_of(made),
                    "groups": len(made),
                    "runs": total,
                    "overlapping_runs": overlapping,
                }
            )
        else:
            click.echo(
                f"{out}: {len(made)} synthetic groups, {total} runs, {overlapping} of them "
                "overlapping"
            )
