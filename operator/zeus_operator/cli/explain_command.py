"""`zeusctl explain` and `zeusctl replay`."""

from __future__ import annotations

import click

from zeus_operator.cli.context import (
    Settings,
    command_options,
    job_in_store,
    print_json,
    print_lines,
)
from zeus_operator.cli.explaining import replay_all, replay_lines, replay_view
from zeus_operator.cli.showing import explain_options, show_explanation
from zeus_operator.cli.source import HistoryInStore
from zeus_operator.optimizer import POLICY_NAMES
from zeus_operator.records import RecurrenceKind
from zeus_operator.relearning import StoredHistory


@click.command("explain")
@click.argument("job")
@explain_options
@command_options
def explain(settings: Settings, job: str, run: str | None, kind: str) -> None:
    """Say why an attempt of JOB has its batch size; without a number, the latest.

    The decision is also made again on the stored history; exit code 1 if it differs.
    """
    with job_in_store(settings, job) as (store, record):
        show_explanation(HistoryInStore(store, record), run, kind, is_json=settings.is_json)


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
