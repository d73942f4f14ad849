"""`zeusctl report`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from zeus_operator.cli.context import Settings, command_options, job_in_store, print_json
from zeus_operator.cli.failures import WrongInput
from zeus_operator.cli.views import savings_view
from zeus_operator.records import JobRecord, RecurrenceRecord
from zeus_operator.report.savings import measure
from zeus_operator.report.words import headline


@click.command("report")
@click.argument("job")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: NAME-report.html in this folder.",
)
@command_options
def report(settings: Settings, job: str, out: Path | None) -> None:
    """Write one self-contained HTML page about JOB."""
    with job_in_store(settings, job) as (store, record):
        history = store.history(record.id)
    path = out or Path(f"{record.name}-report.html")
    write_report(path, record, history, datetime.now(UTC))
    savings = measure(history)
    if settings.is_json:
        print_json({"job": record.key, "report": str(path), "savings": savings_view(savings)})
    else:
        click.echo(f"{headline(savings)}\nReport: {path}")


def check_report(path: Path) -> None:
    """Make the folder of `path` and see that a file can be made there: before hours of training.

    Raises:
        WrongInput: it can't.
    """
    with _reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_report(
    path: Path, job: JobRecord, history: Sequence[RecurrenceRecord], now: datetime
) -> None:
    """Write the page; a reader sees the old file or the whole new one.

    Raises:
        WrongInput: the file can't be written.
    """
    # Matplotlib takes a second to import, which `zeusctl --help` should not.
    from zeus_operator.report.model import gather
    from zeus_operator.report.page import render

    page = render(gather(job, history, now))
    with _reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(page)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WrongInput(f"{path}: the report can't be written: {error.strerror}") from None
