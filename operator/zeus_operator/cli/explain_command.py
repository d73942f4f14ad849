"""`zeusctl explain` and `zeusctl replay`."""

from __future__ import annotations

import re

import click

from zeus_operator.cli.context import (
    Settings,
    command_options,
    job_in_store,
    print_json,
    print_lines,
)
from zeus_operator.cli.explaining import (
    Explanation,
    explanation_lines,
    explanation_view,
    replay_all,
    replay_lines,
    replay_view,
)
from zeus_operator.cli.explaining import explain as explain_attempts
from zeus_operator.cli.failures import ExitCode, WrongInput
from zeus_operator.optimizer import POLICY_NAMES
from zeus_operator.records import RecurrenceKind, RecurrenceRecord
from zeus_operator.relearning import StoredHistory

_RUN = re.compile(r"^(?P<recurrence>[1-9][0-9]{0,8})(?:\.(?P<attempt>[1-9][0-9]{0,8}))?$")


@click.command("explain")
@click.argument("job")
@click.argument("run", metavar="[RECURRENCE[.ATTEMPT]]", required=False)
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in RecurrenceKind]),
    default=RecurrenceKind.LEARNED.value,
    show_default=True,
    help="Which recurrences are counted: the learned ones or those of the default configuration.",
)
@command_options
def explain(settings: Settings, job: str, run: str | None, kind: str) -> None:
    """Say why an attempt of JOB has its batch size; without a number, the latest.

    The decision is also made again on the stored history; exit code 1 if it differs.
    """
    with job_in_store(settings, job) as (store, record):
        recurrences = store.history(record.id, kind=RecurrenceKind(kind))
        learned = StoredHistory(store.stored_observations(record.id))
    recurrence, number = _chosen(recurrences, run, kind)
    attempts = [each for each in recurrence.attempts if number in (None, each.number)]
    explanations = explain_attempts(recurrence, attempts, learned)
    if not explanations:
        count = len(recurrence.attempts)
        raise WrongInput(f"recurrence {recurrence.ordinal} has {count} attempts, no {run}")
    if settings.is_json:
        view = [explanation_view(explanation) for explanation in explanations]
        print_json({"job": record.key, "attempts": view})
    else:
        print_lines(_text(explanations))
    if any(explanation.differs for explanation in explanations):
        raise click.exceptions.Exit(int(ExitCode.RUN_FAILED))


def _text(explanations: list[Explanation]) -> list[str]:
    text: list[str] = []
    for explanation in explanations:
        text += [*([""] if text else []), *explanation_lines(explanation)]
    return text


def _chosen(
    recurrences: tuple[RecurrenceRecord, ...], run: str | None, kind: str
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
        raise WrongInput(
            f"there is no {kind} recurrence {ordinal}; allowed: {min(decided)} to {max(decided)}"
        )
    return decided[ordinal], int(match["attempt"]) if match["attempt"] else None


@click.command("replay")
@click.argument("job")
@click.option("--policy", type=click.Choice(POLICY_NAMES), required=True, help="Whom to ask.")
@command_options
def replay(settings: Settings, job: str, policy: str) -> None:
    """Say what another policy would decide on what JOB has seen.

    Each decision is asked for on the observations that were there when it was made.
    """
    with job_in_store(settings, job) as (store, record):
        recurrences = store.history(record.id, kind=RecurrenceKind.LEARNED)
        learned = StoredHistory(store.stored_observations(record.id))
    replayed = replay_all(recurrences, learned, policy)
    if settings.is_json:
        view = [replay_view(item) for item in replayed]
        print_json({"job": record.key, "policy": policy, "decisions": view})
    elif replayed:
        print_lines(replay_lines(replayed, policy))
    else:
        click.echo(f"No policy has decided anything for {record.key} yet.")
