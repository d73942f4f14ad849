"""Which recurrences can be compared with the newest ones.  Pure.

A cost on another GPU, for another target or by another energy preference is
another quantity; a mean over both would say nothing.  So savings are those of
the newest terms, and what has others is left out and counted.

What is not stored can't tell recurrences apart: a script or data set that was
changed under the same name, or a simulated GPU with other settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from zeus_operator.deciding import DEFAULT_POLICY
from zeus_operator.records import AttemptRecord, RecurrenceKind, RecurrenceRecord


@dataclass(frozen=True)
class LeftOut:
    """Recurrences that can't be compared with the newest, for one reason.

    Args:
        terms: theirs, as it reads after "12 recurrences": `with target 0.9 (now 0.97)`.
    """

    recurrences: int
    terms: str


@dataclass(frozen=True)
class _Term:
    """One thing that has to be the same.

    Args:
        name: put before a value.
        values: what a recurrence had of it, as text; none: not known, which is no difference.
        binds: whether a recurrence has to agree with the newest.
    """

    name: str
    values: Callable[[RecurrenceRecord], Iterator[str]]
    binds: Callable[[RecurrenceRecord], bool] = lambda _: True


def is_of_the_default(recurrence: RecurrenceRecord) -> bool:
    """Whether it ran the default configuration: a control run, or under Observe or Recommend."""
    if recurrence.kind is RecurrenceKind.CONTROL:
        return True
    policies = {attempt.decision.policy for attempt in recurrence.attempts}
    return policies == {DEFAULT_POLICY}


def comparable(
    recurrences: Sequence[RecurrenceRecord],
) -> tuple[tuple[RecurrenceRecord, ...], tuple[LeftOut, ...]]:
    """Return those of `recurrences` with the terms of the newest, and what was left out.

    Args:
        recurrences: of one job and both kinds, in any order, all of them measured.
    """
    newest_first = sorted(recurrences, key=lambda r: r.id, reverse=True)
    now = {term.name: _newest(term, newest_first) for term in _TERMS}
    kept: list[RecurrenceRecord] = []
    others: Counter[str] = Counter()
    for recurrence in recurrences:
        difference = _difference(recurrence, now)
        if difference:
            others[difference] += 1
        else:
            kept.append(recurrence)
    return tuple(kept), tuple(LeftOut(count, terms) for terms, count in others.items())


def _newest(term: _Term, newest_first: Sequence[RecurrenceRecord]) -> str | None:
    """Return the last value that the newest recurrence with a known one had."""
    for recurrence in newest_first:
        values = list(term.values(recurrence))
        if values:
            return values[-1]
    return None


def _difference(recurrence: RecurrenceRecord, now: dict[str, str | None]) -> str:
    """Return the first term that is not as it is now, in words; "": all are."""
    for term in _TERMS:
        current = now[term.name]
        if not term.binds(recurrence):
            continue
        other = next((value for value in term.values(recurrence) if value != current), None)
        if other is not None:
            return f"{term.name} {other} (now {current})"
    return ""


def _gpus(recurrence: RecurrenceRecord) -> Iterator[str]:
    for attempt in recurrence.attempts:
        results = [e.result for e in attempt.executions if e.result is not None]
        placed = [(r.gpu_model, r.gpu_count) for r in results] or [(attempt.gpu_model, 1)]
        for model, count in placed:
            if model:
                yield model if count <= 1 else f"{count} x {model}"


def _targets(recurrence: RecurrenceRecord) -> Iterator[str]:
    yield from _numbers(recurrence, lambda attempt: attempt.decision.target)


def _modes(recurrence: RecurrenceRecord) -> Iterator[str]:
    for attempt in recurrence.attempts:
        if attempt.decision.metric_mode is not None:
            yield attempt.decision.metric_mode


def _preferences(recurrence: RecurrenceRecord) -> Iterator[str]:
    yield from _numbers(recurrence, lambda attempt: attempt.decision.eta)


def _defaults(recurrence: RecurrenceRecord) -> Iterator[str]:
    for attempt in recurrence.attempts:
        if attempt.decision.problem is not None:
            yield str(attempt.decision.problem.default_batch_size)


def _numbers(
    recurrence: RecurrenceRecord, value: Callable[[AttemptRecord], float | None]
) -> Iterator[str]:
    for attempt in recurrence.attempts:
        number = value(attempt)
        if number is not None:
            yield f"{number:.10g}"


_TERMS = (
    _Term("on", _gpus),
    _Term("with target", _targets),
    _Term("with metric mode", _modes),
    _Term("with energy preference", _preferences),
    # What was learned stays what it cost; only what it is compared with is another.
    _Term("of the default batch size", _defaults, binds=is_of_the_default),
)
