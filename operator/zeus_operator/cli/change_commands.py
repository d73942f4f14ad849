"""`zeusctl delete` and `zeusctl reset`."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from zeus_operator.cli.context import Settings, command_options, job_in_store, print_json
from zeus_operator.cli.failures import WrongInput
from zeus_operator.executors.retention import remove_runs


@click.command("delete")
@click.argument("job")
@command_options
def delete(settings: Settings, job: str) -> None:
    """Delete JOB. What it has learned is kept and used when it is run again."""
    with job_in_store(settings, job) as (store, record), store.job_lock(record.id):
        store.delete_job(record.id, datetime.now(UTC))
    if settings.is_json:
        print_json({"job": record.key, "deleted": True})
    else:
        click.echo(f"{record.key} deleted. What it has learned is used when it is run again.")


@click.command("reset")
@click.argument("job")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command_options
def reset(settings: Settings, job: str, yes: bool) -> None:
    """Erase the history of JOB and everything that it has learned, also after delete."""
    with (
        job_in_store(settings, job, or_deleted=True) as (store, record),
        store.job_lock(record.id),
    ):
        count = len(store.history(record.id))
        if not yes and not _confirmed(f"Erase {_recurrences(count)} of {record.key} for good?"):
            raise WrongInput("nothing was erased; give --yes to erase without being asked")
        # Files first: once the history is gone, nothing says any more whose they are.
        for uid in store.incarnation_uids(record.id):
            remove_runs(settings.home.runs, uid)
        store.reset_job(record.id, datetime.now(UTC))
    if settings.is_json:
        print_json({"job": record.key, "erased_recurrences": count})
    else:
        click.echo(f"{record.key}: {_recurrences(count)} erased.")


def _recurrences(count: int) -> str:
    return f"{count} recurrence{'' if count == 1 else 's'}"


def _confirmed(question: str) -> bool:
    """Ask on the terminal; an end of the input is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False
