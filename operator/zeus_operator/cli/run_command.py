"""`zeusctl run`."""

from __future__ import annotations

import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from zeus_operator import events
from zeus_operator.api.manifest import LoadedManifest, load_manifest
from zeus_operator.cli.context import Settings, command_options
from zeus_operator.cli.failures import ExitCode, WrongInput
from zeus_operator.cli.interrupt import stop_on_signal
from zeus_operator.cli.progress import Display, JsonLines, LiveDisplay, PlainLines
from zeus_operator.cli.summary import outcome_sentence, savings_lines
from zeus_operator.cli.views import counts, savings_view, to_json
from zeus_operator.cli.write_report import check_report, write_report
from zeus_operator.local.gpu import GpuChoice
from zeus_operator.local.runner import run_job
from zeus_operator.local.services import open_store
from zeus_operator.local.summary import RunSummary
from zeus_operator.optimizer import POLICY_NAMES
from zeus_operator.records import RecurrenceRecord
from zeus_operator.report.savings import measure

MAX_RECURRENCES = 100_000


@click.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--recurrences",
    type=click.IntRange(1, MAX_RECURRENCES),
    help="Run so many back to back. Default: spec.runs, else 1; with a schedule: until Ctrl-C.",
)
@click.option("--once", is_flag=True, help="The same as --recurrences 1.")
@click.option(
    "--control",
    type=click.IntRange(0, MAX_RECURRENCES),
    default=0,
    show_default=True,
    help="Then run the default configuration so often, to measure the savings against it.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    help="Seed of decisions and runs. Default: that of the job's last run, else 0.",
)
@click.option("--policy", type=click.Choice(POLICY_NAMES), help="Default: spec.policy.")
@click.option(
    "--gpu",
    type=click.Choice([choice.value for choice in GpuChoice]),
    default=GpuChoice.AUTO.value,
    show_default=True,
    help="Which GPU to use; auto takes a simulated one where there is none.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report to this file at the end.",
)
@command_options
def run(
    settings: Settings,
    file: Path,
    recurrences: int | None,
    once: bool,
    control: int,
    seed: int | None,
    policy: str | None,
    gpu: str,
    report: Path | None,
) -> None:
    """Run the ZeusJob in FILE on this machine.

    A run that was killed goes on where it was when the same command is given again.
    """
    if once and recurrences not in (None, 1):
        raise click.UsageError("--once and --recurrences contradict each other; keep one")
    manifest = load_manifest(file)
    asked = 1 if once else _recurrences(manifest, recurrences)
    if asked is None and control:
        raise WrongInput(
            "--control: the job runs on its schedule until Ctrl-C, so nothing follows; give "
            "--recurrences N as well, to run back to back"
        )
    if report is not None:
        check_report(report)
    stop = threading.Event()
    listener = _Listener(_display(settings), stop)
    # Held for the whole command, so that the embedded server stays between its parts.
    with open_store(settings.home) as store:
        known = store.job(manifest.job.metadata.namespace, manifest.job.metadata.name)
        with stop_on_signal(stop), listener.display:
            summary = run_job(
                settings.home,
                manifest,
                recurrences=asked,
                control=control,
                seed=seed if seed is not None else known.seed if known else 0,
                policy=policy,
                gpu=GpuChoice(gpu),
                listener=listener,
                stop_event=stop,
            )
        history = store.history(summary.job.id)
    failure = None if report is None else _write_report(report, summary, history)
    if not listener.broken:
        # What was measured is told even where the page can't be written any more.
        _conclude(settings, summary, history, None if failure else report)
    if failure is not None:
        raise failure
    raise click.exceptions.Exit(int(_exit_code(summary)))


class _Listener:
    """Shows events until the reader of our output is gone; then asks the run to stop.

    Without that, `zeusctl run … | head` would end in the middle of a recurrence
    with a traceback.
    """

    def __init__(self, display: Display, stop: threading.Event) -> None:
        self.display = display
        self.broken = False
        self._stop = stop

    def __call__(self, event: events.Event) -> None:
        """Show `event`."""
        if self.broken:
            return
        try:
            self.display.show(event)
        except BrokenPipeError:
            self.broken = True
            self._stop.set()
            # What is still buffered has no reader: flushing it at exit would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _display(settings: Settings) -> Display:
    if settings.is_json:
        return JsonLines(sys.stdout)
    console = Console(highlight=False, soft_wrap=True)
    return LiveDisplay(console) if console.is_terminal else PlainLines(sys.stdout)


def _recurrences(manifest: LoadedManifest, asked: int | None) -> int | None:
    """Return how many to run back to back, or None to run on the schedule."""
    spec = manifest.job.spec
    if asked is not None or spec.schedule is not None:
        return asked
    return spec.runs or 1


def _conclude(
    settings: Settings,
    summary: RunSummary,
    history: tuple[RecurrenceRecord, ...],
    report: Path | None,
) -> None:
    savings = measure(history)
    if settings.is_json:
        view = {
            "event": "summary",
            "job": summary.job.key,
            "recurrences": counts((*summary.learned, *summary.control)),
            "stopped": summary.stopped,
            "paused": summary.paused,
            "savings": savings_view(savings),
            "report": None if report is None else str(report),
        }
        click.echo(to_json(view))
        return
    lines = ["", f"{summary.job.key}: {outcome_sentence(summary.learned, summary.control)}", ""]
    lines += savings_lines(savings)
    if report is not None:
        lines += ["", f"Report: {report}"]
    if summary.paused:
        lines += ["", f"No further recurrence starts: {summary.paused}"]
    if summary.stopped:
        lines += ["", "Stopped. The same command goes on where this one was."]
    click.echo("\n".join(lines))


def _write_report(
    path: Path, summary: RunSummary, history: tuple[RecurrenceRecord, ...]
) -> WrongInput | None:
    """Write the page; return why it could not be written."""
    try:
        write_report(path, summary.job, history, datetime.now(UTC))
    except WrongInput as failure:
        return failure
    return None


def _exit_code(summary: RunSummary) -> ExitCode:
    if summary.stopped:
        return ExitCode.INTERRUPTED
    return ExitCode.RUN_FAILED if summary.failed or summary.paused else ExitCode.OK
