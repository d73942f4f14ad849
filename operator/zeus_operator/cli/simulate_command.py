"""`zeusctl simulate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from rich.console import Console

from zeus_operator.cli.context import Output, errors_reported, print_lines
from zeus_operator.cli.failures import CommandError, ExitCode, WrongInput
from zeus_operator.cli.simulate_files import check_writable, write_whole
from zeus_operator.cli.simulate_inputs import read_groups, read_workloads
from zeus_operator.cli.simulate_progress import SimulationProgress
from zeus_operator.cli.simulate_text import group_lines, pair_lines
from zeus_operator.cli.views import to_json
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.plan_spec import Bound
from zeus_operator.simulate.group_summary import GroupSummary, arrivals_of
from zeus_operator.simulate.groups import JobGroup
from zeus_operator.simulate.output import group_view, summary_view
from zeus_operator.simulate.study import Effort, PairResult, compare, compare_groups
from zeus_operator.simulate.terms import OnTerms, Terms
from zeus_operator.simulate.workload import Workload

P = ParamSpec("P")
R = TypeVar("R")

MAX_RECURRENCES = 100_000
MAX_SEEDS = 1_000_000
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_STDOUT = Path("-")
_INPUT_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class ManyValues(click.Command):
    """Takes `--gpu a b` for `--gpu a --gpu b`; for commands without positional arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of an option before each further value that follows it."""
        many = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        spread: list[str] = []
        option, values = "", 0
        for argument in args:
            if argument.startswith("-") and argument != "-":
                name = argument.partition("=")[0]
                # `--gpu=a b`: the first value came with the option.
                option, values = (name, int("=" in argument)) if name in many else ("", 0)
            elif option:
                if values:
                    spread.append(option)
                values += 1
            spread.append(argument)
        return super().parse_args(ctx, spread)


def output_option(function: Callable[P, R]) -> Callable[P, R]:
    """Give a command `-o`; these commands have no home, which the others take along."""
    decorate = click.option(
        "-o",
        "--output",
        type=click.Choice([output.value for output in Output]),
        default=Output.TEXT.value,
        show_default=True,
        help="How to print the result.",
    )
    return decorate(function)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


@click.command("simulate", cls=ManyValues)
@click.option(
    "--traces",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with summary_train.csv and summary_power_<gpu>.csv.",
)
@click.option("--workload", "workloads", multiple=True, help="Only this one; may be repeated.")
@click.option("--gpu", "gpus", multiple=True, help="Only this GPU model; may be repeated.")
@click.option(
    "--policy",
    "policies",
    type=click.Choice(POLICY_NAMES),
    multiple=True,
    required=True,
    help="Policy to simulate; repeat it to compare on the same luck.",
)
@click.option(
    "--recurrences",
    type=click.IntRange(1, MAX_RECURRENCES),
    multiple=True,
    help="Sum up after so many; may be repeated. Required without --groups.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MAX_SEEDS),
    default=100,
    show_default=True,
    help="Histories of each workload, GPU model and policy.",
)
@click.option(
    "--eta",
    type=click.FloatRange(0.0, 1.0),
    default=0.5,
    show_default=True,
    help="Energy preference: 1 counts only energy, 0 only time.",
)
@click.option(
    "--max-extra-cost-percent",
    type=click.FloatRange(0.0, 100.0),
    default=5.0,
    show_default=True,
    help="What exploring may cost over always running the default (policy structured).",
)
@click.option(
    "--bound",
    type=click.Choice([bound.value for bound in Bound]),
    default=Bound.EXPECTED.value,
    show_default=True,
    help="Whether that holds on average or in every single history.",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help=f"Draw the figure to this file ({', '.join(PLOT_SUFFIXES)}).",
)
@click.option(
    "--jobs",
    type=_INPUT_FILE,
    help="JSON: what the traces do not say of each workload. Default: the folder's jobs.json, "
    "else the jobs of the paper.",
)
@click.option(
    "--groups",
    "groups_file",
    type=_INPUT_FILE,
    help="Replay these job groups in time (CSV, or CSV packed by xz).",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    default=processors,
    show_default="all processors",
    help="Processes that share the work; the figures do not depend on it.",
)
@output_option
def simulate(
    traces: Path,
    workloads: tuple[str, ...],
    gpus: tuple[str, ...],
    policies: tuple[str, ...],
    recurrences: tuple[int, ...],
    seeds: int,
    eta: float,
    max_extra_cost_percent: float,
    bound: str,
    json_file: Path | None,
    plot: Path | None,
    jobs: Path | None,
    groups_file: Path | None,
    processes: int,
    output: str,
) -> None:
    """Say what policies would have cost on recorded training runs.

    Nothing is trained: each run of the simulated job draws one of the recorded runs.
    """
    with errors_reported():
        if not recurrences and groups_file is None:
            raise WrongInput("--recurrences N is needed, or --groups FILE")
        if json_file is not None and json_file != _STDOUT:
            check_writable("--json", json_file)
        if plot is not None:
            check_writable("--plot", plot, PLOT_SUFFIXES)
        chosen, notes = read_workloads(traces, jobs, workloads, gpus, eta)
        groups: list[JobGroup] = []
        if groups_file is not None:
            groups, more = read_groups(groups_file, chosen, workloads)
            notes += more
        for note in notes:
            click.echo(note, err=True)
        terms = Terms(max_extra_cost_percent / 100.0, Bound(bound) is Bound.EVERY_HISTORY)
        asked = [OnTerms(policy(name), terms) for name in dict.fromkeys(policies)]
        pairs, replayed = _simulated(chosen, asked, recurrences, groups, Effort(seeds, processes))
        view = [summary_view(s) for result in pairs for s in result.summaries]
        view += [group_view(summary) for summary in replayed]
        text = to_json(view, indent=2)
        if json_file is not None and json_file != _STDOUT:
            write_whole("--json", json_file, lambda path: _write_text(path, text))
        if plot is not None:
            _draw(plot, pairs, replayed)
        if output == Output.JSON.value or json_file == _STDOUT:
            click.echo(text)
        else:
            print_lines(_text(pairs, replayed, seeds))


def _simulated(
    workloads: Sequence[Workload],
    policies: Sequence[FoldingPolicy],
    recurrences: Sequence[int],
    groups: Sequence[JobGroup],
    effort: Effort,
) -> tuple[list[PairResult], list[GroupSummary]]:
    console = Console(stderr=True)
    pairs: list[PairResult] = []
    replayed: list[GroupSummary] = []
    try:
        if recurrences:
            with SimulationProgress("simulated", console) as progress:
                pairs = compare(workloads, policies, recurrences, effort, progress)
        if groups:
            label = f"groups replayed ({arrivals_of(groups)} arrivals)"
            with SimulationProgress(label, console) as progress:
                replayed = compare_groups(workloads, policies, groups, effort, progress)
    except BrokenProcessPool:
        raise CommandError(
            "a process of the simulation was ended from outside, perhaps for want of memory; "
            "try fewer --processes or --seeds",
            ExitCode.RUN_FAILED,
        ) from None
    return pairs, replayed


def _text(pairs: Sequence[PairResult], groups: Sequence[GroupSummary], seeds: int) -> list[str]:
    lines = pair_lines(pairs, seeds) if pairs else []
    if groups:
        lines += [*([""] if lines else []), *group_lines(groups)]
    return lines


def _draw(path: Path, pairs: Sequence[PairResult], groups: Sequence[GroupSummary]) -> None:
    # Matplotlib takes a second to import, which a simulation without a figure should not.
    from zeus_operator.simulate.figure import draw

    write_whole("--plot", path, lambda temporary: draw(temporary, pairs, groups))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
