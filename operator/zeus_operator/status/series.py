"""What Prometheus is shown of a job: sums over its whole history, and its conditions.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zeus_operator.api.status import ConditionStatus, ConditionType
from zeus_operator.job_series import JobSeries, LastRun, Saved
from zeus_operator.records import RecurrenceRecord, RecurrenceState
from zeus_operator.report.evidence import recurrence_energy_joules, recurrence_time_seconds
from zeus_operator.report.savings import Comparison, Saving
from zeus_operator.status.history import HistorySummary

_RAN = (RecurrenceState.REACHED, RecurrenceState.FAILED)


def series_of(recurrences: Sequence[RecurrenceRecord], summary: HistorySummary) -> JobSeries:
    """Return the sums over `recurrences`, ascending; `summary` is made of the same.

    What is open is not counted among the recurrences: a counter must never fall.
    """
    attempts = [attempt for each in recurrences for attempt in each.attempts]
    ended = [attempt for attempt in attempts if attempt.outcome is not None]
    costs = [attempt.cost_joules for attempt in ended if attempt.cost_joules is not None]
    savings = dict(_savings(summary.savings.overall))
    return JobSeries(
        decisions=Counter(attempt.decision.policy for attempt in attempts),
        attempts=Counter(attempt.outcome.value for attempt in ended if attempt.outcome),
        recurrences=Counter(
            each.state.value for each in recurrences if each.state is not RecurrenceState.OPEN
        ),
        energy_joules=sum(attempt.energy_joules or 0.0 for attempt in ended),
        time_seconds=sum(attempt.time_seconds or 0.0 for attempt in ended),
        cost_joules=sum(costs) if costs else None,
        saved_ratios={of: saving.fraction for of, saving in savings.items()},
        saved={
            of: Saved(
                # Both sides are of one finished model.
                compared=saving.learned.mean * summary.models,
                default=saving.default.mean * summary.models,
                low=saving.low,
                high=saving.high,
            )
            for of, saving in savings.items()
        },
        failures_in_row=_failures_in_row(recurrences),
        last_run=_last_run(recurrences),
        batch_size=attempts[-1].decision.batch_size if attempts else None,
    )


def with_status(series: JobSeries, status: Mapping[str, Any]) -> JobSeries:
    """Return `series` with the conditions of a status."""
    conditions = {
        str(each["type"]): (each["status"] == ConditionStatus.TRUE.value, str(each["reason"]))
        for each in status.get("conditions") or ()
    }
    converged = conditions.get(ConditionType.CONVERGED.value, (False, ""))[0]
    return replace(series, conditions=conditions, converged=converged)


def _savings(overall: Comparison) -> Iterator[tuple[str, Saving]]:
    for of, saving in (("cost", overall.cost), ("energy", overall.energy), ("time", overall.time)):
        if saving is not None:
            yield of, saving


def _by_end(recurrences: Sequence[RecurrenceRecord]) -> list[RecurrenceRecord]:
    """Return those that ran to an end, by when that was."""
    ran = [each for each in recurrences if each.state in _RAN]
    return sorted(ran, key=lambda each: (each.ended_at or each.scheduled_time, each.id))


def _failures_in_row(recurrences: Sequence[RecurrenceRecord]) -> int:
    failed = 0
    for each in reversed(_by_end(recurrences)):
        if each.state is RecurrenceState.REACHED:
            break
        failed += 1
    return failed


def _last_run(recurrences: Sequence[RecurrenceRecord]) -> LastRun | None:
    ended = [each for each in _by_end(recurrences) if each.ended_at is not None]
    if not ended:
        return None
    last = ended[-1]
    assert last.ended_at is not None
    return LastRun(
        ended_at_seconds=last.ended_at.timestamp(),
        energy_joules=recurrence_energy_joules(last),
        time_seconds=recurrence_time_seconds(last),
        cost_joules=last.cost_joules,
    )
