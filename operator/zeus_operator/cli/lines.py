"""What happens in a run, as plain lines.  Pure."""

from __future__ import annotations

from zeus_operator import events
from zeus_operator.records import AttemptRecord, RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.report import units
from zeus_operator.report.words import outcome_words
from zeus_runtime.protocol import Outcome, Result

EXPLAINED_BY_OUTPUT = frozenset(
    {Outcome.CRASHED, Outcome.DIVERGED, Outcome.NO_TELEMETRY, Outcome.LOST, Outcome.OUT_OF_MEMORY}
)
"""Outcomes after which the end of the script's output is shown."""

TAIL_LINES = 12


def recurrence_label(recurrence: RecurrenceRecord) -> str:
    """Return `recurrence 3`, or `default 2` for a control recurrence."""
    kind = "default" if recurrence.kind is RecurrenceKind.CONTROL else "recurrence"
    return f"{kind} {recurrence.ordinal}"


def attempt_label(recurrence: RecurrenceRecord, attempt: AttemptRecord) -> str:
    """Return `recurrence 3.1`: the attempt's number stands after the recurrence's."""
    return f"{recurrence_label(recurrence)}.{attempt.number}"


def decided(attempt: AttemptRecord) -> str:
    """Return the batch size and why."""
    return f"batch size {attempt.decision.batch_size}: {attempt.decision.sentence}"


def progress(result: Result, batch_size: int) -> str:
    """Return where a running attempt stands."""
    parts = [
        f"batch size {batch_size}",
        f"epoch {result.epochs}",
        f"metric {units.number(result.last_metric)}",
        units.joules(result.energy_joules),
        units.seconds(result.time_seconds),
        f"limit {units.watts(result.power_limit_watts)}",
    ]
    return ", ".join(parts)


def limit(attempt: AttemptRecord) -> str:
    """Return the power limit held, or that it was left as found."""
    if attempt.power_limit_watts is None and not attempt.decision.optimize_power:
        return "as found"
    return units.watts(attempt.power_limit_watts)


def ended(attempt: AttemptRecord) -> str:
    """Return how an attempt ended, with what it took."""
    words = outcome_words(attempt.outcome)
    # The detail of a success only repeats the outcome.
    if attempt.detail and attempt.outcome is not Outcome.REACHED:
        words = f"{words} ({attempt.detail})"
    parts = [
        f"batch size {attempt.decision.batch_size}",
        f"{attempt.epochs} epoch{'' if attempt.epochs == 1 else 's'}",
        units.joules(attempt.energy_joules),
        units.seconds(attempt.time_seconds),
        f"limit {limit(attempt)}",
        f"cost {units.joules(attempt.cost_joules)}",
        f"metric {units.number(attempt.best_metric)}",
    ]
    return f"{words}: {', '.join(parts)}"


def output_tail(attempt: AttemptRecord) -> list[str]:
    """Return the last lines of the script's output where they explain the outcome."""
    if attempt.outcome not in EXPLAINED_BY_OUTPUT or not attempt.executions:
        return []
    last = attempt.executions[-1]
    tail = [f"  | {line}" for line in last.output_tail.splitlines()[-TAIL_LINES:]]
    if last.output_path:
        tail.append(f"  whole output: {last.output_path}")
    return tail


def recurrence_ended(recurrence: RecurrenceRecord) -> str:
    """Return how a recurrence ended."""
    label = recurrence_label(recurrence)
    count = len(recurrence.attempts)
    attempts = f"{count} attempt{'' if count == 1 else 's'}"
    cost = units.joules(recurrence.cost_joules)
    match recurrence.state:
        case RecurrenceState.REACHED:
            return f"{label}: target reached after {attempts}, cost {cost}"
        case RecurrenceState.FAILED:
            return f"{label}: FAILED after {attempts}, cost {cost}"
        case state:
            return f"{label}: {state.value}"


def event_lines(event: events.Event) -> list[str]:
    """Return the lines of an event; none for one that another line covers."""
    match event:
        case events.RequestResumed(request=request):
            kind = "default " if request.kind is RecurrenceKind.CONTROL else ""
            return [
                f"Going on with the {request.recurrences} {kind}recurrences asked for before: "
                f"{request.finished} are done."
            ]
        case events.AttemptDecided(recurrence=recurrence, attempt=attempt):
            return [f"{attempt_label(recurrence, attempt)}: {decided(attempt)}"]
        case events.AttemptStarted(recurrence=recurrence, attempt=attempt, adopted=True):
            return [f"{attempt_label(recurrence, attempt)}: found running, taken over"]
        case events.AttemptProgress(recurrence=recurrence, attempt=attempt, result=result):
            return [
                f"{attempt_label(recurrence, attempt)}: "
                f"{progress(result, attempt.decision.batch_size)}"
            ]
        case events.AttemptEnded(recurrence=recurrence, attempt=attempt):
            return [
                f"{attempt_label(recurrence, attempt)}: {ended(attempt)}",
                *output_tail(attempt),
            ]
        case events.RecurrenceEnded(recurrence=recurrence):
            # One attempt that reached the target has said it all.
            if len(recurrence.attempts) == 1 and recurrence.state is RecurrenceState.REACHED:
                return []
            return [recurrence_ended(recurrence)]
        case events.Waiting(until=until):
            when = "" if until is None else f" before {until:%Y-%m-%d %H:%M:%S %Z}"
            return [f"Nothing to do{when}."] if until is not None else []
        case events.Notice(text=text):
            return [text]
        case _:
            return []
