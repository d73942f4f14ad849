"""What a status needs of the whole history of a job, in a few small values.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from zeus_operator.api.status import (
    MAX_RUNS,
    MAX_SENTENCE,
    Best,
    EndedRun,
    RunKind,
    RunOutcome,
    Totals,
)
from zeus_operator.records import (
    AttemptRecord,
    DecisionRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.report import units
from zeus_operator.report.comparable import is_of_the_default
from zeus_operator.report.evidence import recurrence_energy_joules, recurrence_time_seconds
from zeus_operator.report.savings import Savings, measure
from zeus_operator.status.text import count, cut, moment, moment_or_none, whole
from zeus_runtime.protocol import Outcome

NEEDED_FOR_CONVERGENCE = 5
"""Learned recurrences in a row that have to agree."""

MAX_RUN_DETAIL = 160
"""Bytes of the words about one run: ten of them must fit."""

_OUTCOMES = {
    Outcome.REACHED: RunOutcome.REACHED,
    Outcome.COST_EXCEEDED: RunOutcome.COST_EXCEEDED,
    Outcome.MAX_EPOCHS: RunOutcome.MAX_EPOCHS,
    Outcome.DIVERGED: RunOutcome.DIVERGED,
    Outcome.OUT_OF_MEMORY: RunOutcome.OUT_OF_MEMORY,
    Outcome.CRASHED: RunOutcome.CRASHED,
    Outcome.PREEMPTED: RunOutcome.PREEMPTED,
    Outcome.NO_TELEMETRY: RunOutcome.NO_TELEMETRY,
    Outcome.DECISION_NOT_APPLIED: RunOutcome.DECISION_NOT_APPLIED,
    Outcome.LOST: RunOutcome.LOST,
    Outcome.CANCELLED: RunOutcome.CANCELLED,
}


@dataclass(frozen=True)
class LearnedRun:
    """What convergence asks of one learned recurrence that has ended.

    Args:
        reached_at_once: its first attempt reached the target.
        batch_size: of its first attempt.
        decision: of its first attempt, which nothing in the recurrence had failed before.
    """

    reached_at_once: bool
    batch_size: int
    decision: DecisionRecord


@dataclass(frozen=True)
class HistorySummary:
    """The whole history of a job in a few values.

    Args:
        models: finished models among the recurrences that the savings are of.
        best: None: no run has reached the target.
        runs: the last that have ended, newest first.
        learned: the last learned recurrences that ended with or without a model, oldest first.
    """

    savings: Savings
    models: int
    totals: Totals
    best: Best | None
    runs: tuple[EndedRun, ...]
    learned: tuple[LearnedRun, ...]


def summarize(recurrences: Sequence[RecurrenceRecord]) -> HistorySummary:
    """Return what the status needs of all `recurrences` of a job, in any order."""
    ended = sorted(
        (each for each in recurrences if each.state is not RecurrenceState.OPEN),
        key=lambda each: (each.ended_at or each.scheduled_time, each.id),
    )
    savings = measure(ended)
    compared = [each for each in ended if each.id in savings.compared]
    return HistorySummary(
        savings=savings,
        models=sum(
            each.state is RecurrenceState.REACHED and not is_of_the_default(each)
            for each in compared
        ),
        totals=_totals(ended),
        best=_best(compared or ended),
        runs=tuple(ended_run(each) for each in reversed(ended[-MAX_RUNS:])),
        learned=_learned(ended),
    )


def run_kind(recurrence: RecurrenceRecord) -> RunKind:
    """Return the kind of a recurrence as the API names it."""
    is_control = recurrence.kind is RecurrenceKind.CONTROL
    return RunKind.CONTROL if is_control else RunKind.LEARNED


def run_outcome(recurrence: RecurrenceRecord) -> RunOutcome:
    """Return how an ended recurrence did, as the API names it."""
    if recurrence.state is RecurrenceState.REACHED:
        return RunOutcome.REACHED
    if recurrence.state is RecurrenceState.SKIPPED:
        return RunOutcome.SKIPPED
    if recurrence.state is RecurrenceState.CANCELLED:
        return RunOutcome.CANCELLED
    last = recurrence.attempts[-1].outcome if recurrence.attempts else None
    return RunOutcome.FAILED if last is None else _OUTCOMES[last]


def attempt_outcome(outcome: Outcome) -> RunOutcome:
    """Return the outcome of an attempt as the API names it."""
    return _OUTCOMES[outcome]


def ended_run(recurrence: RecurrenceRecord) -> EndedRun:
    """Return what the status says of a recurrence that has ended."""
    last = recurrence.attempts[-1] if recurrence.attempts else None
    detail = "; ".join(filter(None, (last.detail if last else "", recurrence.reason)))
    reached = next((a for a in recurrence.attempts if a.outcome is Outcome.REACHED), None)
    return EndedRun(
        recurrence=recurrence.id,
        number=recurrence.number,
        kind=run_kind(recurrence),
        outcome=run_outcome(recurrence),
        scheduled_time=moment(recurrence.scheduled_time),
        ended_at=moment_or_none(recurrence.ended_at),
        attempts=len(recurrence.attempts),
        batch_size=last.decision.batch_size if last else None,
        epochs=sum(a.epochs for a in recurrence.attempts) if last else None,
        energy_joules=whole(recurrence_energy_joules(recurrence)),
        time_seconds=whole(recurrence_time_seconds(recurrence)),
        power_limit_watts=whole(last.power_limit_watts) if last else None,
        child_name=reached.child_name if reached else None,
        detail=cut(detail, MAX_RUN_DETAIL) or None,
    )


def _totals(ended: Sequence[RecurrenceRecord]) -> Totals:
    ran = [each for each in ended if each.state is not RecurrenceState.SKIPPED]
    attempts = [attempt for each in ran for attempt in each.attempts]
    energies = [a.energy_joules for a in attempts if a.energy_joules is not None]
    times = [a.time_seconds for a in attempts if a.time_seconds is not None]
    return Totals(
        recurrences=len(ran),
        failed=sum(each.state is not RecurrenceState.REACHED for each in ran),
        attempts=len(attempts),
        energy_joules=whole(sum(energies)) if energies else None,
        time_seconds=whole(sum(times)) if times else None,
    )


def _best(recurrences: Sequence[RecurrenceRecord]) -> Best | None:
    """Return the batch size whose finished models cost least; where no cost is known, the newest.

    Its failed attempts are paid for, too.  Runs at the power limit found (control runs) say
    nothing of the best limit, so they count only where there are no others.

    Args:
        recurrences: comparable ones, oldest first.
    """
    attempts = [attempt for each in recurrences for attempt in each.attempts]
    optimized = [attempt for attempt in attempts if attempt.decision.optimize_power]
    if any(attempt.outcome is Outcome.REACHED for attempt in optimized):
        attempts = optimized
    arms: defaultdict[int, list[AttemptRecord]] = defaultdict(list)
    for attempt in attempts:
        arms[attempt.decision.batch_size].append(attempt)
    reached = {
        size: runs
        for size, tried in arms.items()
        if (runs := [a for a in tried if a.outcome is Outcome.REACHED])
    }
    if not reached:
        return None
    costs = {
        size: sum(a.cost_joules or 0.0 for a in arms[size]) / len(runs)
        for size, runs in reached.items()
        if all(a.cost_joules is not None for a in runs)
    }
    newest = max(reached, key=lambda size: reached[size][-1].id)
    size = min(costs, key=lambda arm: costs[arm]) if costs else newest
    runs = reached[size]
    energy = _mean([a.energy_joules for a in runs])
    time = _mean([a.time_seconds for a in runs])
    limit = runs[-1].power_limit_watts
    return Best(
        batch_size=size,
        power_limit_watts=whole(limit),
        energy_joules=whole(energy),
        time_seconds=whole(time),
        runs=len(runs),
        sentence=cut(_best_sentence(size, len(runs), energy, time, limit), MAX_SENTENCE),
    )


def _best_sentence(
    size: int, runs: int, energy: float | None, time: float | None, limit: float | None
) -> str:
    at_limit = "" if limit is None else f" at {units.watts(limit)}"
    taken = " and ".join(
        words
        for words in (
            "" if energy is None else units.joules(energy),
            "" if time is None else units.seconds(time),
        )
        if words
    )
    took = f" took {taken} on average and" if taken else ""
    return f"Batch size {size}{at_limit}{took} reached the target in {count(runs, 'run')}."


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _learned(ended: Sequence[RecurrenceRecord]) -> tuple[LearnedRun, ...]:
    learned = [
        each
        for each in ended
        if each.kind is RecurrenceKind.LEARNED
        and each.state in (RecurrenceState.REACHED, RecurrenceState.FAILED)
        and each.attempts
        and not is_of_the_default(each)
    ]
    return tuple(
        LearnedRun(
            reached_at_once=each.attempts[0].outcome is Outcome.REACHED,
            batch_size=each.attempts[0].decision.batch_size,
            decision=each.attempts[0].decision,
        )
        for each in learned[-NEEDED_FOR_CONVERGENCE:]
    )
