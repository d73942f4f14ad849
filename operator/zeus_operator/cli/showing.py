"""`history`, `explain` and `report`, the same for `zeusctl` and `kubectl zeus`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from zeus_operator.cli.context import print_lines
from zeus_operator.cli.explaining import Explanation, explanation_lines, explanation_view
from zeus_operator.cli.explaining import explain as explain_attempts
from zeus_operator.cli.failures import ExitCode, WrongInput
from zeus_operator.cli.history import history_table
from zeus_operator.cli.source import JobHistory, left_out_words
from zeus_operator.cli.views import recurrence_view, savings_view, to_json
from zeus_operator.cli.write_report import write_report
from zeus_operator.history.document import LeftOut
from zeus_operator.records import RecurrenceKind, RecurrenceRecord
from zeus_operator.report.words import headline

_RUN = re.compile(r"^(?P<recurrence>[1-9][0-9]{0,8})(?:\.(?P<attempt>[1-9][0-9]{0,8}))?$")

Command = TypeVar("Command", bound=Callable[..., Any])


def history_options(command: Command) -> Command:
    """Give a command the options of `history`: `limit` and `kind`."""
    kind = click.option(
        "--kind",
        type=click.Choice([kind.value for kind in RecurrenceKind]),
        help="Only the learned ones, or only those of the default configuration.",
    )
    limit = click.option(
        "--limit", type=click.IntRange(1), help="Only so many of the latest recurrences."
    )
    return limit(kind(command))


def show_history(source: JobHistory, limit: int | None, kind: str | None, *, is_json: bool) -> None:
    """Print the attempts of a job."""
    wanted = None if kind is None else RecurrenceKind(kind)
    recurrences = source.recurrences(limit, wanted)
    if is_json:
        view = [recurrence_view(recurrence) for recurrence in recurrences]
        _print_json(source, {"recurrences": view})
    elif recurrences:
        print_lines(history_table(recurrences))
        _say_left_out(source)
    else:
        print_lines([f"{source.job.key} has no recurrence yet."])


def explain_options(command: Command) -> Command:
    """Give a command argument and option of `explain`: `run` and `kind`."""
    kind = click.option(
        "--kind",
        type=click.Choice([kind.value for kind in RecurrenceKind]),
        default=RecurrenceKind.LEARNED.value,
        show_default=True,
        help="Which recurrences are counted: the learned ones or those of the default "
        "configuration.",
    )
    run = click.argument("run", metavar="[RECURRENCE[.ATTEMPT]]", required=False)
    return run(kind(command))


def show_explanation(source: JobHistory, run: str | None, kind: str, *, is_json: bool) -> None:
    """Print why an attempt has its batch size; without `run`, the latest.

    Raises:
        WrongInput: there is no such attempt; the text names those there are.
        click.exceptions.Exit: made again, a decision differs.
    """
    recurrences = source.recurrences(kind=RecurrenceKind(kind))
    recurrence, number = _chosen(recurrences, run, kind, source.left_out)
    attempts = [each for each in recurrence.attempts if number in (None, each.number)]
    explanations = explain_attempts(recurrence, attempts, source.learned())
    if not explanations:
        count = len(recurrence.attempts)
        raise WrongInput(f"recurrence {recurrence.ordinal} has {count} attempts, no {run}")
    if is_json:
        view = [explanation_view(explanation) for explanation in explanations]
        _print_json(source, {"attempts": view})
    else:
        print_lines(_text(explanations))
        _say_left_out(source)
    if any(explanation.differs for explanation in explanations):
        raise click.exceptions.Exit(int(ExitCode.RUN_FAILED))


def _text(explanations: list[Explanation]) -> list[str]:
    text: list[str] = []
    for explanation in explanations:
        text += [*([""] if text else []), *explanation_lines(explanation)]
    return text


def _chosen(
    recurrences: tuple[RecurrenceRecord, ...], run: str | None, kind: str, left_out: LeftOut
) -> tuple[RecurrenceRecord, int | None]:
    """Return the recurrence asked for, and the number of the attempt if one was given."""
    decided = {r.ordinal: r for r in recurrences if r.attempts}
    if not decided:
        raise WrongInput(f"nothing has been decided yet for a {kind} recurrence")
    if run is None:
        return decided[max(decided)], None
    match = _RUN.match(run)
    if match is None:
        raise WrongInput(f"{run!r} is no run; allowed: a recurrence such as 3, or an attempt 3.1")
    ordinal = int(match["recurrence"])
    if ordinal not in decided:
        older = "; older ones are in the operator's database alone" if left_out.recurrences else ""
        raise WrongInput(
            f"there is no {kind} recurrence {ordinal}; allowed: {min(decided)} to "
            f"{max(decided)}{older}"
        )
    return decided[ordinal], int(match["attempt"]) if match["attempt"] else None


def report_options(command: Command) -> Command:
    """Give a command the option of `report`: `out`."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File to write. Default: NAME-report.html in this folder.",
    )(command)


def show_report(source: JobHistory, out: Path | None, *, is_json: bool) -> None:
    """Write the page about a job, and print what it saved.

    Raises:
        WrongInput: the file can't be written.
    """
    job, findings = source.job, source.findings()
    path = out or Path(f"{job.name}-report.html")
    missing = left_out_words(source.left_out)
    write_report(path, job, source.recurrences(), datetime.now(UTC), findings, missing)
    if is_json:
        view = {"report": str(path), "savings": savings_view(findings.savings)}
        _print_json(source, view)
    else:
        print_lines([headline(findings.savings), f"Report: {path}"])
        _say_left_out(source)


def _print_json(source: JobHistory, view: dict[str, Any]) -> None:
    left_out = asdict(source.left_out) if source.left_out else None
    click.echo(to_json({"job": source.job.key, **view, "left_out": left_out}, indent=2))


def _say_left_out(source: JobHistory) -> None:
    """Say it beside the result: whoever reads that by a program has it in JSON."""
    if words := left_out_words(source.left_out):
        click.echo(words, err=True)
