"""`zeusctl run` as a program that kills its whole process group at a given moment.

    python -m tests.support.run_program HOME MANIFEST --recurrences 2 --control 1

With ZEUS_TEST_KILL_AT=name:n it sends SIGKILL to its process group when it passes the checkpoint
`name` for the n-th time.  Prints one JSON object per event and a last one with the summary; the
exit code is that of `zeusctl`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import click

from zeus_operator.api.manifest import load_manifest
from zeus_operator.cli.context import errors_reported
from zeus_operator.cli.interrupt import stop_on_signal
from zeus_operator.cli.views import event_view
from zeus_operator.events import Event
from zeus_operator.executors.checkpoints import Checkpoint
from zeus_operator.local.gpu import GpuChoice
from zeus_operator.local.home import Home
from zeus_operator.local.runner import run_job

KILL_VARIABLE = "ZEUS_TEST_KILL_AT"
TRACE_VARIABLE = "ZEUS_TEST_TRACE"


class Killer:
    """Counts checkpoints, writes them down, and kills at the wanted one."""

    def __init__(self, kill_at: str, trace: str) -> None:
        name, _, count = kill_at.partition(":")
        self._wanted = (name, int(count or 1))
        self._trace = trace
        self._passed: Counter[str] = Counter()

    def __call__(self, moment: Checkpoint) -> None:
        """Pass `moment`, or die there."""
        self._passed[moment.value] += 1
        if self._trace:
            with Path(self._trace).open("a", encoding="utf-8") as file:
                file.write(f"{moment.value}:{self._passed[moment.value]}\n")
        if (moment.value, self._passed[moment.value]) == self._wanted:
            os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--recurrences", type=int)
    parser.add_argument("--control", type=int, default=0)
    options = parser.parse_args()
    stop = threading.Event()
    lock = threading.Lock()

    def show(event: Event) -> None:
        with lock:
            sys.stdout.write(json.dumps(event_view(event)) + "\n")
            sys.stdout.flush()

    try:
        with errors_reported(), stop_on_signal(stop):
            summary = run_job(
                Home(options.home),
                load_manifest(options.manifest),
                recurrences=options.recurrences,
                control=options.control,
                gpu=GpuChoice.SIMULATED,
                listener=show,
                stop_event=stop,
                checkpoint=Killer(
                    os.environ.get(KILL_VARIABLE, ""), os.environ.get(TRACE_VARIABLE, "")
                ),
            )
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    print(
        json.dumps(
            {
                "event": "summary",
                "learned": [recurrence.state.value for recurrence in summary.learned],
                "control": [recurrence.state.value for recurrence in summary.control],
                "stopped": summary.stopped,
                "paused": summary.paused,
            }
        )
    )
    sys.exit(130 if summary.stopped else 1 if summary.failed or summary.paused else 0)


def run_forked(
    arguments: list[str], environment: dict[str, str], streams: tuple[Path, Path]
) -> None:
    """Become the program, in a forked process: session, environment and streams of its own."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv[1:] = arguments
    main()


if __name__ == "__main__":
    main()
