"""What happens next to a job: a pure function of its facts and the time.

The levels, from the innermost out: end what has ended, go on with what is open,
decide and start the next attempts, create the recurrences that are due.  Every
action is decided on stored facts only and may be applied any number of times,
so a crash between any two actions is repaired by planning again
(`docs/explanation/engine.md`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from zeus_operator.actions import (
    Action,
    CloseAttempt,
    CloseRecurrence,
    CreateRecurrence,
    DecideAttempt,
    StartAttempt,
    StopAttempt,
    Wait,
)
from zeus_operator.classify import RunIdentity, classify, is_signal_death
from zeus_operator.control_share import next_kind
from zeus_operator.deciding import child_name, decide, decision_for, replay, seed_of
from zeus_operator.optimizer.types import Policy
from zeus_operator.plan_spec import ConcurrencyPolicy, JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    JobFacts,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.schedule import (
    CLOCK_TOLERANCE,
    MAX_MISSED_TICKS,
    DueTick,
    TickVerdict,
    judge_ticks,
    parse_schedule,
)
from zeus_operator.sweeps import may_have_derailed
from zeus_runtime.protocol import LEARNED_FROM, NEXT_ATTEMPT, Outcome

__all__ = ["child_name", "decision_for", "paused_reason", "plan", "replay", "seed_of"]

MAX_SIGNAL_DEATHS = 3
"""A run killed so often by nobody knows whom (the kernel, out of memory?) has crashed."""

_SAME_AGAIN = frozenset({Outcome.CRASHED, Outcome.LOST})
"""After these the default configuration is worth another attempt; it would only repeat others."""

_ENDED_BY_US = frozenset({Outcome.PREEMPTED, Outcome.CANCELLED})
"""How a run that was stopped to make room looks: ended from outside, or its child is gone."""


@dataclass(frozen=True)
class _Tick:
    """What the schedule asks for now."""

    due: DueTick
    replaced: frozenset[int]  # ids of recurrences that make room for the due tick


def plan(
    facts: JobFacts,
    spec: JobPlanSpec,
    policy: Policy,
    now: datetime,
    *,
    max_parallel: int = 1,
) -> list[Action]:
    """Return what to do now, ending with a `Wait` for what comes next.

    Args:
        spec: of `facts.job`, read by `JobPlanSpec.from_document`.
        policy: chooses batch sizes; a pure function.
        now: aware time.
        max_parallel: most open recurrences of the job at a time.
    """
    opened = [item for item in facts.recurrences if item.state is RecurrenceState.OPEN]
    tick = _tick(facts, spec, now, opened, max_parallel)
    actions: list[Action] = []
    has_decided = False
    for recurrence in opened:
        if recurrence.id in tick.replaced:
            steps = list(_replace(facts, recurrence, spec, tick.due))
        else:
            steps = list(_advance(facts, recurrence, spec, policy))
        decides = any(isinstance(step, DecideAttempt) for step in steps)
        if decides and has_decided:
            continue  # on the next facts: a decision knows which others are in flight
        has_decided |= decides
        actions += steps
    paused = paused_reason(facts, spec)
    if not facts.job.suspended and not paused:
        actions += _create(facts, spec, now, opened, tick.due, max_parallel)
    return [*actions, _wait(facts, tick.due, paused)]


def paused_reason(facts: JobFacts, spec: JobPlanSpec) -> str:
    """Return why no new recurrence starts after failures in a row; "" while they may.

    Only failures since the job was applied, changed, resumed or asked to run count.
    """
    failed = 0
    for recurrence in reversed(facts.recurrences):
        if recurrence.state is RecurrenceState.REACHED:
            break
        if recurrence.state is not RecurrenceState.FAILED or recurrence.ended_at is None:
            continue
        if facts.job.resumed_at is not None and recurrence.ended_at <= facts.job.resumed_at:
            break
        failed += 1
    if failed < spec.pause_after_failures:
        return ""
    last = [item for item in facts.recurrences if item.state is RecurrenceState.FAILED][-1]
    why = ""
    if last.attempts and last.attempts[-1].outcome is not None:
        ended = last.attempts[-1]
        why = f"; the last attempt ended as {last.attempts[-1].outcome.value}: {ended.detail}"
    return (
        f"paused after {failed} failed recurrences in a row "
        f"(retry.pauseAfterFailures is {spec.pause_after_failures}){why}. "
        "Repair the job and apply it again, or run it again."
    )


# Open recurrences ----------------------------------------------------------


def _advance(
    facts: JobFacts, recurrence: RecurrenceRecord, spec: JobPlanSpec, policy: Policy
) -> Iterator[Action]:
    """Yield the one next step of an open recurrence, if there is one now."""
    if not recurrence.attempts:
        yield decide(facts, recurrence, spec, policy)
        return
    attempt = recurrence.attempts[-1]
    if attempt.state is not AttemptState.ENDED:
        yield from _advance_attempt(facts, recurrence, attempt, spec)
    elif attempt.outcome is Outcome.REACHED:
        yield CloseRecurrence(recurrence.id, RecurrenceState.REACHED)
    elif attempt.outcome is Outcome.CANCELLED:
        yield CloseRecurrence(recurrence.id, RecurrenceState.CANCELLED)
    elif _may_try_again(recurrence, attempt, spec):
        yield decide(facts, recurrence, spec, policy)
    else:
        yield CloseRecurrence(recurrence.id, RecurrenceState.FAILED)


def _may_try_again(recurrence: RecurrenceRecord, attempt: AttemptRecord, spec: JobPlanSpec) -> bool:
    # As it was decided: a mode that has changed since must not take the default away from it.
    again = NEXT_ATTEMPT if attempt.decision.optimize_power else _SAME_AGAIN
    return attempt.outcome in again and len(recurrence.attempts) < spec.max_attempts


def _advance_attempt(
    facts: JobFacts, recurrence: RecurrenceRecord, attempt: AttemptRecord, spec: JobPlanSpec
) -> Iterator[Action]:
    if _goes_on(attempt):
        return
    if not attempt.executions:
        yield StartAttempt(attempt.id)
        return
    outcome, detail = _judged(facts, recurrence, attempt, spec)
    if outcome is Outcome.PREEMPTED:
        if len(attempt.executions) < spec.max_executions:
            yield StartAttempt(attempt.id)  # the same decision goes on
            return
        detail = f"preempted {len(attempt.executions)} times, given up; {detail}"
    yield CloseAttempt(attempt.id, outcome, detail, _teaches(recurrence, attempt, outcome))


def _teaches(recurrence: RecurrenceRecord, attempt: AttemptRecord, outcome: Outcome) -> bool:
    is_learned = outcome in LEARNED_FROM and recurrence.kind is RecurrenceKind.LEARNED
    return is_learned and not may_have_derailed(attempt, outcome)


def _judged(
    facts: JobFacts, recurrence: RecurrenceRecord, attempt: AttemptRecord, spec: JobPlanSpec
) -> tuple[Outcome, str]:
    identity = RunIdentity(facts.job.key, str(recurrence.id), attempt.number)
    outcome, detail = classify(
        attempt.executions[-1], attempt.decision, spec.as_decided(attempt.decision), identity
    )
    if may_have_derailed(attempt, outcome):
        detail += "; not learned from: steps at other batch sizes came before, which may be why"
    deaths = sum(is_signal_death(execution) for execution in attempt.executions)
    if outcome is Outcome.PREEMPTED and deaths >= MAX_SIGNAL_DEATHS:
        return Outcome.CRASHED, f"{detail}, {deaths} times: is the machine out of memory?"
    return outcome, detail


def _goes_on(attempt: AttemptRecord) -> bool:
    """Whether an execution runs, or a child lives that may bring another one."""
    runs = any(execution.ended_at is None for execution in attempt.executions)
    return runs or bool(attempt.child_uid)


def _replace(
    facts: JobFacts, recurrence: RecurrenceRecord, spec: JobPlanSpec, due: DueTick
) -> Iterator[Action]:
    """Yield the next step of making room for a due tick (concurrencyPolicy Replace)."""
    reason = f"replaced by the recurrence of {due.tick:%Y-%m-%d %H:%M} UTC"
    attempt = recurrence.attempts[-1] if recurrence.attempts else None
    if attempt is None or attempt.state is AttemptState.ENDED:
        reached = attempt is not None and attempt.outcome is Outcome.REACHED
        state = RecurrenceState.REACHED if reached else RecurrenceState.CANCELLED
        yield CloseRecurrence(recurrence.id, state)
    elif _goes_on(attempt):
        yield StopAttempt(attempt.id, reason)
    else:
        outcome, detail = Outcome.CANCELLED, reason
        if attempt.executions:
            ended_as, how = _judged(facts, recurrence, attempt, spec)
            if ended_as not in _ENDED_BY_US:  # it had ended before it was asked to
                outcome, detail = ended_as, how
        yield CloseAttempt(attempt.id, outcome, detail, _teaches(recurrence, attempt, outcome))


# New recurrences -----------------------------------------------------------


def _tick(
    facts: JobFacts,
    spec: JobPlanSpec,
    now: datetime,
    opened: list[RecurrenceRecord],
    max_parallel: int,
) -> _Tick:
    if spec.schedule is None:
        return _Tick(DueTick(TickVerdict.NONE), frozenset())
    due = judge_ticks(
        parse_schedule(spec.schedule, spec.time_zone),
        _last_dealt_with(facts, now),
        now,
        concurrency_policy=spec.concurrency_policy,
        starting_deadline_seconds=spec.starting_deadline_seconds,
        active=len(opened),
    )
    by_schedule = all(recurrence.request_id is None for recurrence in opened)
    must_wait = (due.verdict is TickVerdict.START and len(opened) >= max_parallel) or (
        # What a person asked for is not cancelled by a tick.
        due.verdict is TickVerdict.REPLACE and not by_schedule
    )
    if must_wait:
        due = DueTick(TickVerdict.WAIT, due.tick, due.missed, due.next_tick)
    may_replace = not facts.job.suspended and not paused_reason(facts, spec)
    if due.verdict is TickVerdict.REPLACE and may_replace:
        return _Tick(due, frozenset(recurrence.id for recurrence in opened))
    return _Tick(due, frozenset())


def _last_dealt_with(facts: JobFacts, now: datetime) -> datetime:
    """Return the time up to which no tick is due any more.

    A clock that was ahead once may have dealt with a tick of next year.  That one is not run
    again; but it must not silence the schedule until then, so the latest before it counts.
    """
    known = [
        # A new incarnation makes up for no tick before its time, and repeats none of the old one.
        facts.job.created_at,
        *((facts.last_scheduled_time,) if facts.last_scheduled_time is not None else ()),
        *(item.scheduled_time for item in facts.recurrences if item.request_id is None),
    ]
    latest = now + CLOCK_TOLERANCE
    return max((each for each in known if each <= latest), default=now - CLOCK_TOLERANCE)


def _create(
    facts: JobFacts,
    spec: JobPlanSpec,
    now: datetime,
    opened: list[RecurrenceRecord],
    due: DueTick,
    max_parallel: int,
) -> Iterator[Action]:
    """Yield at most one new recurrence: the next one is planned on the facts that it changes."""
    if due.tick is not None and due.verdict in (TickVerdict.START, TickVerdict.SKIP):
        skip = due.verdict is TickVerdict.SKIP
        kind = RecurrenceKind.LEARNED if skip else next_kind(facts, spec)
        yield CreateRecurrence(
            facts.job.id,
            kind,
            0 if skip else _next_ordinal(facts, kind),
            due.tick,
            state=RecurrenceState.SKIPPED if skip else RecurrenceState.OPEN,
            reason=_tick_reason(facts, spec, due, now, skip),
        )
        return
    has_room = len(opened) < max_parallel and (
        not opened or spec.concurrency_policy is ConcurrencyPolicy.ALLOW
    )
    request = next((item for item in facts.requests if not item.complete), None)
    if request is None or not has_room or request.created >= request.recurrences:
        return
    if any(recurrence.request_id == request.id for recurrence in opened):
        return  # back to back: one after the other
    asks_for_control = request.kind is RecurrenceKind.CONTROL
    kind = request.kind if asks_for_control else next_kind(facts, spec)
    yield CreateRecurrence(
        facts.job.id,
        kind,
        _next_ordinal(facts, kind),
        _time_of_request(facts, now),
        request_id=request.id,
    )


def _next_ordinal(facts: JobFacts, kind: RecurrenceKind) -> int:
    return facts.last_ordinal.get(kind, 0) + 1


def _time_of_request(facts: JobFacts, now: datetime) -> datetime:
    """Return a time that no other recurrence has or will have.

    Whole milliseconds, because child names hold no more; after every other one,
    even if the clock was set back; and never a whole second, which is a tick's.
    """
    latest = max((item.scheduled_time for item in facts.recurrences), default=now)
    moment = now.replace(microsecond=now.microsecond // 1000 * 1000)
    if facts.recurrences and moment <= latest:
        moment = latest.replace(microsecond=latest.microsecond // 1000 * 1000)
        moment += timedelta(milliseconds=1)
    if moment.microsecond == 0:
        moment += timedelta(milliseconds=1)
    return moment


def _tick_reason(
    facts: JobFacts, spec: JobPlanSpec, due: DueTick, now: datetime, skip: bool
) -> str:
    """Return what is unusual about a recurrence; "" where nothing is."""
    reasons = []
    if skip:
        reasons.append(f"could not start within {spec.starting_deadline_seconds:g} s of its time")
    if due.missed is None:
        reasons.append(f"at least {MAX_MISSED_TICKS} earlier ticks were missed")
    elif due.missed == 1:
        reasons.append("1 earlier tick was missed")
    elif due.missed:
        reasons.append(f"{due.missed} earlier ticks were missed")
    last = facts.last_scheduled_time
    if last is not None and last > now + CLOCK_TOLERANCE:
        reasons.append(
            f"the operator's clock was ahead: the tick of {last.isoformat(timespec='seconds')} "
            "has had its turn before its time and is not repeated"
        )
    return "; ".join(reasons)


def _wait(facts: JobFacts, due: DueTick, paused: str) -> Wait:
    if facts.job.suspended:
        return Wait(None, "suspended: no new recurrence starts")
    if paused:
        return Wait(None, paused)
    return Wait(due.next_tick)
