"""`zeusctl status` and `zeusctl history`."""

from __future__ import annotations

import click

from zeus_operator.cli.context import (
    Settings,
    command_options,
    job_in_store,
    print_json,
    print_lines,
)
from zeus_operator.cli.history import JobState, status_lines, status_table, status_view
from zeus_operator.cli.showing import history_options, show_history
from zeus_operator.cli.source import HistoryInStore
from zeus_operator.local.services import open_store
from zeus_operator.plan import paused_reason
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import JobRecord
from zeus_operator.store.store import Store


@click.command("status")
@click.argument("job", required=False)
@command_options
def status(settings: Settings, job: str | None) -> None:
    """Show all jobs, or one in detail."""
    if job is not None:
        with job_in_store(settings, job) as (store, record):
            state = _state(store, record)
        if settings.is_json:
            print_json(status_view(state))
        else:
            print_lines(status_lines(state))
        return
    with open_store(settings.home) as store:
        states = [_state(store, record) for record in store.jobs()]
    if settings.is_json:
        print_json({"jobs": [status_view(state) for state in states]})
    elif states:
        print_lines(status_table(states))
    else:
        click.echo("No job has been run yet: zeusctl run FILE")


def _state(store: Store, job: JobRecord) -> JobState:
    facts = store.facts(job.id)
    return JobState(
        job=facts.job,
        recurrences=store.history(job.id),
        requests=facts.requests,
        paused=paused_reason(facts, JobPlanSpec.from_document(facts.job.spec)),
    )


@click.command("history")
@click.argument("job")
@history_options
@command_options
def history(settings: Settings, job: str, limit: int | None, kind: str | None) -> None:
    """List the attempts of JOB: batch size, outcome, energy, time and cost."""
    with job_in_store(settings, job) as (store, record):
        show_history(HistoryInStore(store, record), limit, kind, is_json=settings.is_json)
