"""What a job's history says of its learned recurrences and of its default.  Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from zeus_operator.accounting import cost_of
from zeus_operator.records import AttemptRecord, RecurrenceRecord, RecurrenceState
from zeus_operator.report.comparable import is_of_the_default
from zeus_operator.report.default_cost import ArmRuns
from zeus_runtime.protocol import Outcome, Result

_WHOLE_RUNS = frozenset({Outcome.REACHED, Outcome.MAX_EPOCHS, Outcome.DIVERGED})
"""Outcomes of a run that nobody stopped."""


@dataclass(frozen=True)
class Sample:
    """A recurrence, or a run of the default as if nothing had been optimized.

    Args:
        cost, energy: joules; None: not known.
        time: seconds.
        reached: whether it ended with a model.
    """

    cost: float | None
    energy: float | None
    time: float | None
    reached: bool


@dataclass(frozen=True)
class Evidence:
    """What savings are computed from.

    Args:
        learned: the recurrences that a policy decided, ascending.
        control: those of the default: control runs, and what ran under Observe or Recommend.
        default: runs of the default that nobody chose for what had been measured:
            `control`, and the job's first run as it would have been at the power limit found.
        arms: all other runs, by batch size.
    """

    learned: tuple[Sample, ...]
    control: tuple[Sample, ...]
    default: tuple[Sample, ...]
    arms: tuple[ArmRuns, ...]


def recurrence_energy_joules(recurrence: RecurrenceRecord) -> float | None:
    """Return the energy of all attempts; None while one of them has none."""
    return _summed(recurrence, lambda attempt: attempt.energy_joules)


def recurrence_time_seconds(recurrence: RecurrenceRecord) -> float | None:
    """Return the seconds of all attempts; None while one of them has none."""
    return _summed(recurrence, lambda attempt: attempt.time_seconds)


def _summed(
    recurrence: RecurrenceRecord, quantity: Callable[[AttemptRecord], float | None]
) -> float | None:
    attempts = [a for a in recurrence.attempts if a.outcome is not Outcome.CANCELLED]
    values = [value for a in attempts if (value := quantity(a)) is not None]
    return sum(values) if values and len(values) == len(attempts) else None


def gather(recurrences: Sequence[RecurrenceRecord]) -> Evidence:
    """Return what `recurrences` say; all of them ended and comparable, in any order."""
    ordered = sorted(recurrences, key=lambda r: r.id)
    control = [r for r in ordered if is_of_the_default(r)]
    learned = [r for r in ordered if not is_of_the_default(r)]
    first = next(filter(None, (_first_run(r, ordered) for r in learned)), None)
    samples = [_sample(r) for r in control]
    default = samples if first is None else [_as_found(first, control), *samples]
    return Evidence(
        learned=tuple(_sample(r) for r in learned),
        control=tuple(samples),
        default=tuple(default),
        arms=arms_of(
            (a.decision.batch_size, a.outcome, a.epochs)
            for r in learned
            for a in r.attempts
            if a is not first
        ),
    )


def _sample(recurrence: RecurrenceRecord) -> Sample:
    return Sample(
        cost=recurrence.cost_joules,
        energy=recurrence_energy_joules(recurrence),
        time=recurrence_time_seconds(recurrence),
        reached=recurrence.state is RecurrenceState.REACHED,
    )


def _first_run(
    recurrence: RecurrenceRecord, ordered: Sequence[RecurrenceRecord]
) -> AttemptRecord | None:
    """Return the job's first run if it was a whole one of what is the default now.

    Nothing had been measured when it was decided, so that nothing chose it.
    """
    attempt = recurrence.attempts[0] if recurrence.attempts else None
    if attempt is None or attempt.outcome not in _WHOLE_RUNS:
        return None
    decision = attempt.decision
    was_chosen = decision.observations_seen > 0
    was_limited = decision.cost_threshold_joules is not None or decision.stop_rule is not None
    if was_chosen or was_limited or decision.batch_size != _default_now(ordered):
        return None
    return attempt


def _default_now(ordered: Sequence[RecurrenceRecord]) -> int | None:
    """Return the default batch size of the newest decision that says what it was."""
    for recurrence in reversed(ordered):
        for attempt in reversed(recurrence.attempts):
            if attempt.decision.problem is not None:
                return attempt.decision.problem.default_batch_size
    return None


def _as_found(attempt: AttemptRecord, control: Sequence[RecurrenceRecord]) -> Sample:
    """Return what the epochs of `attempt` take at the power limit that was found.

    What one takes was measured before a limit was set, or in the control runs.
    """
    result = next((e.result for e in reversed(attempt.executions) if e.result is not None), None)
    energy, time = (None, None) if result is None else _full_power_epoch(result)
    eta = attempt.decision.eta
    cost = None
    if result is not None and time is not None and eta is not None:
        cost = cost_of(energy, time, result.max_power_watts, eta)

    def whole(epoch: float | None, quantity: Callable[[AttemptRecord], float | None]) -> float:
        each = _per_epoch(control, quantity) if epoch is None else epoch
        return math.nan if each is None else each * attempt.epochs

    return Sample(
        cost=_known(whole(cost, lambda a: a.cost_joules)),
        energy=_known(whole(energy, lambda a: a.energy_joules)),
        time=_known(whole(time, lambda a: a.time_seconds)),
        reached=attempt.outcome is Outcome.REACHED,
    )


def _full_power_epoch(result: Result) -> tuple[float | None, float | None]:
    """Return joules and seconds; a result holds whatever its file held."""
    energy, time = result.full_power_epoch_joules, result.full_power_epoch_seconds
    return (
        _known(energy) if isinstance(energy, (int, float)) else None,
        _known(time) if isinstance(time, (int, float)) else None,
    )


def _known(value: float) -> float | None:
    """Return `value` if it is an amount that something can have taken."""
    return float(value) if math.isfinite(value) and value > 0.0 else None


def _per_epoch(
    recurrences: Sequence[RecurrenceRecord], quantity: Callable[[AttemptRecord], float | None]
) -> float | None:
    """Return the mean of one epoch over the whole runs of `recurrences`."""
    total, epochs = 0.0, 0
    for recurrence in recurrences:
        for attempt in recurrence.attempts:
            value = quantity(attempt)
            if attempt.outcome in _WHOLE_RUNS and value is not None and len(attempt.executions) < 2:
                total += value
                epochs += attempt.epochs
    return total / epochs if epochs else None


def arms_of(runs: Iterable[tuple[int, Outcome | None, int]]) -> tuple[ArmRuns, ...]:
    """Return what runs (batch size, outcome, epochs) tell of the spread, by batch size.

    A run that was stopped before its first epoch tells nothing.
    """
    reached: dict[int, list[int]] = defaultdict(list)
    stopped: dict[int, int] = defaultdict(int)
    for size, outcome, epochs in runs:
        if epochs < 1:
            continue
        if outcome is Outcome.REACHED:
            reached[size].append(epochs)
        elif outcome is Outcome.COST_EXCEEDED:
            stopped[size] += 1
    return tuple(ArmRuns(tuple(reached[size]), stopped[size]) for size in sorted(reached))
