"""The file of a report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from zeus_operator.cli.failures import WrongInput
from zeus_operator.records import JobRecord, RecurrenceRecord
from zeus_operator.report.findings import Findings


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
    path: Path,
    job: JobRecord,
    history: Sequence[RecurrenceRecord],
    now: datetime,
    findings: Findings | None = None,
    missing: str = "",
) -> None:
    """Write the page; a reader sees the old file or the whole new one.

    Args:
        findings: of the whole history; None: `history` is that.
        missing: what is not in `history`, in a sentence; "": nothing is.

    Raises:
        WrongInput: the file can't be written.
    """
    # Matplotlib takes a second to import, which `zeusctl --help` should not.
    from zeus_operator.report.model import gather
    from zeus_operator.report.page import render

    page = render(gather(job, history, now, findings, missing))
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
