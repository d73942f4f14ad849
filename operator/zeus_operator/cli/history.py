"""The tables of `status` and `history`.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zeus_operator.cli.lines import attempt_label, limit, recurrence_label
from zeus_operator.cli.tables import pairs, table
from zeus_operator.cli.views import counts, job_view, recurrence_view, savings_view
from zeus_operator.records import (
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
    RunRequestRecord,
)
from zeus_operator.report import units
from zeus_operator.report.savings import measure
from zeus_operator.report.words import headline, outcome_words, saving_words


@dataclass(frozen=True)
class JobState:
    """A job with what happened to it."""

    job: JobRecord
    recurrences: tuple[RecurrenceRecord, ...]
    requests: tuple[RunRequestRecord, ...]
    paused: str = ""  # why no new recurrence starts after failures; "": they may

    @property
    def open(self) -> tuple[RecurrenceRecord, ...]:
        """Recurrences that have not ended."""
        return tuple(r for r in self.recurrences if r.state is RecurrenceState.OPEN)


def status_view(state: JobState) -> dict[str, Any]:
    """Return a job's status as JSON values."""
    return {
        **job_view(state.job),
        "paused": state.paused,
        "mode": state.job.spec.get("mode", "Optimize"),
        "control_fraction": _control_fraction(state.job),
        "recurrences": counts(state.recurrences),
        "open": [recurrence_view(r) for r in state.open],
        "requests": [
            {"kind": r.kind.value, "recurrences": r.recurrences, "finished": r.finished}
            for r in state.requests
        ],
        "savings": savings_view(measure(state.recurrences)),
    }


def status_table(states: Sequence[JobState]) -> list[str]:
    """Return one line for each job."""
    rows = []
    for state in states:
        seen = counts(state.recurrences)
        overall = measure(state.recurrences).overall
        rows.append(
            (
                state.job.key,
                state.job.policy,
                str(state.job.spec.get("mode", "Optimize")),
                str(seen["reached"]),
                str(seen["failed"]),
                str(len(state.open)),
                saving_words(overall),
            )
        )
    header = ("job", "policy", "mode", "reached", "failed", "open", "cost saved")
    return table(header, rows, left=frozenset({0, 1, 2, 6}))


def status_lines(state: JobState) -> list[str]:
    """Return everything about one job."""
    job, seen = state.job, counts(state.recurrences)
    rows = [
        ("job", job.key),
        ("manifest", job.manifest_path),
        ("policy", job.policy),
        ("mode", str(job.spec.get("mode", "Optimize"))),
        ("recurrences", f"{seen['reached']} reached the target, {seen['failed']} failed"),
        ("control runs", str(seen["control"])),
    ]
    share = _control_fraction(job)
    if float(share) and job.spec.get("mode", "Optimize") == "Optimize":
        rows.append(("control share", f"{share} of the recurrences run the default"))
    rows += [("open", _open(r)) for r in state.open]
    rows += [
        ("asked for", f"{r.recurrences} {r.kind.value} recurrences, {r.finished} are done")
        for r in state.requests
    ]
    if job.suspended:
        rows.append(("suspended", "yes: no new recurrence starts"))
    if state.paused:
        rows.append(("paused", state.paused))
    rows.append(("savings", headline(measure(state.recurrences))))
    return pairs(rows)


def _control_fraction(job: JobRecord) -> str:
    return str(job.spec.get("savings", {}).get("controlFraction", "0"))


def _open(recurrence: RecurrenceRecord) -> str:
    label = recurrence_label(recurrence)
    if not recurrence.attempts:
        return f"{label}, no attempt decided yet"
    attempt = recurrence.attempts[-1]
    return (
        f"{attempt_label(recurrence, attempt)}, batch size {attempt.decision.batch_size}, "
        f"{attempt.state.value}"
    )


def _state(recurrence: RecurrenceRecord) -> str:
    state = recurrence.state.value
    return f"{state}: {recurrence.reason}" if recurrence.reason else state


def history_table(recurrences: Sequence[RecurrenceRecord]) -> list[str]:
    """Return one line for each attempt."""
    rows = []
    for recurrence in recurrences:
        kind = "default" if recurrence.kind is RecurrenceKind.CONTROL else "learned"
        if not recurrence.attempts:
            # A tick that was skipped has no number of its own.
            number = str(recurrence.ordinal) if recurrence.ordinal else "-"
            rows.append((number, kind, "-", _state(recurrence), *["-"] * 6))
        rows += [
            (
                f"{recurrence.ordinal}.{attempt.number}",
                kind,
                str(attempt.decision.batch_size),
                outcome_words(attempt.outcome) if attempt.outcome else attempt.state.value,
                str(attempt.epochs),
                units.number(attempt.best_metric),
                units.joules(attempt.energy_joules),
                units.seconds(attempt.time_seconds),
                limit(attempt),
                units.joules(attempt.cost_joules),
            )
            for attempt in recurrence.attempts
        ]
    header = (
        *("run", "kind", "batch size", "outcome", "epochs"),
        *("metric", "energy", "time", "limit", "cost"),
    )
    return table(header, rows, left=frozenset({0, 1, 3}))
