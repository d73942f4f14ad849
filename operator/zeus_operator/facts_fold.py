"""Facts after a step, from the facts before and what the store answered.  Pure.

One process at a time reconciles a job, and every step is stored before it is folded in; so this is
what the store would say, without asking it after each step.
"""

from __future__ import annotations

from dataclasses import replace

from zeus_operator.records import AttemptRecord, JobFacts, RecurrenceRecord


def with_recurrence(facts: JobFacts, made: RecurrenceRecord) -> JobFacts:
    """Return facts that hold the recurrence `made`, which is new or has changed."""
    others = [each for each in facts.recurrences if each.id != made.id]
    last_tick = facts.last_scheduled_time
    if made.request_id is None and (last_tick is None or made.scheduled_time > last_tick):
        last_tick = made.scheduled_time
    is_new = len(others) == len(facts.recurrences)
    ordinal = max(facts.last_ordinal.get(made.kind, 0), made.ordinal)
    return replace(
        facts,
        recurrences=tuple(sorted((*others, made), key=lambda each: each.id)),
        requests=tuple(
            replace(request, created=request.created + 1)
            if request.id == made.request_id and is_new
            else request
            for request in facts.requests
        ),
        last_ordinal={**facts.last_ordinal, made.kind: ordinal},
        last_scheduled_time=last_tick,
        recorded=None if facts.recorded is None else facts.recorded + is_new,
    )


def with_attempt(facts: JobFacts, attempt: AttemptRecord) -> JobFacts:
    """Return facts that hold `attempt`, which is new or has changed."""
    return replace(
        facts,
        recurrences=tuple(
            replace(each, attempts=_with(each.attempts, attempt))
            if each.id == attempt.recurrence_id
            else each
            for each in facts.recurrences
        ),
    )


def _with(attempts: tuple[AttemptRecord, ...], one: AttemptRecord) -> tuple[AttemptRecord, ...]:
    others = [each for each in attempts if each.number != one.number]
    return tuple(sorted((*others, one), key=lambda each: each.number))
