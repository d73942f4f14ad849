"""What a run shows: live on a terminal, lines in a pipe, JSON for programs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console

from tests.support.histories import START, Try, job_record, recurrence
from zeus_operator import events
from zeus_operator.cli.progress import JsonLines, LiveDisplay, PlainLines
from zeus_operator.records import ExecutionRecord, RecurrenceKind, RunRequestRecord
from zeus_runtime.protocol import Outcome, Result

CRASHED = recurrence(3, [Try(64, Outcome.CRASHED, 0, None)])
REACHED = recurrence(4, [Try(512, Outcome.COST_EXCEEDED), Try(128)])


def epoch(number: int) -> events.AttemptProgress:
    result = Result(epochs=number, last_metric=0.9, energy_joules=1500.0, time_seconds=3.0)
    return events.AttemptProgress(REACHED, REACHED.attempts[1], result)


def every_event() -> list[events.Event]:
    attempt = CRASHED.attempts[0]
    execution = ExecutionRecord("u", START, output_path="/x/output.log", output_tail="one\ntwo\n")
    crashed = replace(attempt, executions=(execution,), detail="exit code 3")
    request = RunRequestRecord(1, 1, RecurrenceKind.LEARNED, 12, 4, 3, START)
    return [
        events.Notice("using a simulated V100"),
        events.RequestResumed(job_record(), request),
        events.RecurrenceStarted(job_record(), CRASHED),
        events.AttemptDecided(CRASHED, attempt),
        events.AttemptStarted(CRASHED, attempt, adopted=False),
        epoch(2),
        events.AttemptEnded(CRASHED, crashed),
        events.RecurrenceEnded(CRASHED),
        events.AttemptStarted(REACHED, REACHED.attempts[1], adopted=True),
        events.AttemptEnded(REACHED, REACHED.attempts[1]),
        events.RecurrenceEnded(REACHED),
        events.Waiting(datetime(2026, 1, 6, 2, 0, tzinfo=UTC)),
    ]


def test_plain_lines_say_everything_that_happened_once() -> None:
    stream = io.StringIO()
    with PlainLines(stream, clock=lambda: 0.0) as display:
        for event in every_event():
            display.show(event)

    assert stream.getvalue().splitlines() == [
        "using a simulated V100",
        "Going on with the 12 recurrences asked for before: 3 are done.",
        "recurrence 3.1: batch size 64: Because it is expected to cost least.",
        "recurrence 3.1: crashed (exit code 3): batch size 64, 0 epochs, -, 8.00 s, limit 175 W, "
        "cost -, metric 0.971",
        "  | one",
        "  | two",
        "  whole output: /x/output.log",
        "recurrence 3: FAILED after 1 attempt, cost -",
        "recurrence 4.2: found running, taken over",
        "recurrence 4.2: reached the target: batch size 128, 10 epochs, 1.00 kJ, 8.00 s, "
        "limit 175 W, cost 1.50 kJ, metric 0.971",
        "recurrence 4: target reached after 2 attempts, cost 3.00 kJ",
        "Nothing to do before 2026-01-06 02:00:00 UTC.",
    ]


def test_epochs_appear_in_a_pipe_at_most_every_few_seconds() -> None:
    now = [0.0]
    stream = io.StringIO()
    display = PlainLines(stream, clock=lambda: now[0], progress_every_seconds=5.0)
    for number in range(1, 13):
        now[0] += 1.0
        display.show(epoch(number))

    shown = [line.split(", ")[1] for line in stream.getvalue().splitlines()]
    assert shown == ["epoch 1", "epoch 6", "epoch 11"]


def test_json_has_one_object_for_every_event() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as display:
        for event in every_event():
            display.show(event)

    objects = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [o["event"] for o in objects] == [
        "notice",
        "request_resumed",
        "recurrence_started",
        "attempt_decided",
        "attempt_started",
        "attempt_progress",
        "attempt_ended",
        "recurrence_ended",
        "attempt_started",
        "attempt_ended",
        "recurrence_ended",
        "waiting",
    ]
    assert objects[6]["output_tail"] == "one\ntwo\n"
    assert objects[3]["reason"] == "Because it is expected to cost least."


def test_a_number_that_is_not_finite_becomes_null() -> None:
    stream = io.StringIO()
    result = Result(epochs=1, last_metric=float("nan"))
    JsonLines(stream).show(events.AttemptProgress(REACHED, REACHED.attempts[1], result))

    assert json.loads(stream.getvalue())["last_metric"] is None


def test_a_terminal_keeps_the_finished_attempts_and_drops_the_running_line() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, highlight=False)
    with LiveDisplay(console) as display:
        for event in every_event():
            display.show(event)

    text = stream.getvalue()
    assert "reached the target: batch size 128" in text
    assert "recurrence 3: FAILED" in text
    assert "Traceback" not in text
    assert text.endswith("\x1b[?25h") or "\x1b[?25h" in text  # the cursor is back


def test_a_terminal_shows_the_epoch_of_what_runs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, record=True)
    display = LiveDisplay(console)
    display.show(events.AttemptStarted(REACHED, REACHED.attempts[1], adopted=False))
    display.show(epoch(7))

    console.print(display.renderable())

    shown = console.export_text()
    assert "recurrence 4.2: batch size 128, epoch 7, metric 0.9, 1.50 kJ, 3.00 s" in shown
