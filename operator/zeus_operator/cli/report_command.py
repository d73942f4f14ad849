"""`zeusctl report`."""

from __future__ import annotations

from pathlib import Path

import click

from zeus_operator.cli.context import Settings, command_options, job_in_store
from zeus_operator.cli.showing import report_options, show_report
from zeus_operator.cli.source import HistoryInStore


@click.command("report")
@click.argument("job")
@report_options
@command_options
def report(settings: Settings, job: str, out: Path | None) -> None:
    """Write one self-contained HTML page about JOB."""
    with job_in_store(settings, job) as (store, record):
        show_report(HistoryInStore(store, record), out, is_json=settings.is_json)
