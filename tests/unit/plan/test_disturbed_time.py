"""What a schedule starts while time does what it should not, with each policy and deadline.

Each row is a story: when the operator looks at the job, and what has become of its ticks at the
end.  Downtime is a long pause between two looks.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.jobs import apply, execution_of, spec_document
from tests.support.plan_facts import ScriptedPolicy, attempt, facts
from zeus_operator.actions import (
    CloseAttempt,
    CloseRecurrence,
    CreateRecurrence,
    DecideAttempt,
    StartAttempt,
    StopAttempt,
    Wait,
)
from zeus_operator.facts_fold import with_recurrence
from zeus_operator.plan import plan
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import JobFacts, RecurrenceRecord, RecurrenceState
from zeus_operator.schedule import CLOCK_TOLERANCE
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

ALLOW, FORBID, REPLACE = "Allow", "Forbid", "Replace"
EVERY = (ALLOW, FORBID, REPLACE)
RUNNING = execution_of(None, ended_at=None, exit_code=None)
STOPPED = execution_of(None, exit_code=-15, outcome=Outcome.PREEMPTED)


def moment(text: str) -> datetime:
    """Return "29 01:00" as a time of the month that the tests are in, in UTC."""
    return datetime.strptime(f"{text} +0000", "%Y-%m-%d %H:%M %z")


class Story:
    """One job whose plans are carried out at once, as the store and an executor would."""

    def __init__(self, created: datetime, policy: str, deadline: int | None, **spec: Any) -> None:
        if deadline is not None:
            spec["startingDeadlineSeconds"] = deadline
        self._spec = JobPlanSpec.from_document(spec_document(concurrencyPolicy=policy, **spec))
        self._policy = ScriptedPolicy()
        self._facts: JobFacts = facts(job={"created_at": created, "resumed_at": created})
        self._ids = itertools.count(1)
        self.said: list[str] = []
        self.reasons: list[str] = []

    def look(self, now: datetime) -> None:
        """Plan and apply until nothing changes."""
        for _ in range(20):
            *actions, last = plan(self._facts, self._spec, self._policy, now, max_parallel=9)
            assert isinstance(last, Wait)
            if not actions:
                return
            for action in actions:
                self._apply(action, now)
        raise AssertionError(f"still busy at {now}: {actions}")

    @property
    def last_scheduled_time(self) -> datetime | None:
        return self._facts.last_scheduled_time

    def end_runs(self) -> None:
        """Let everything that runs reach its target."""
        for each in self._facts.recurrences:
            if each.state is RecurrenceState.OPEN:
                self._change(each.id, state=RecurrenceState.REACHED, ended_at=each.scheduled_time)

    def _apply(self, action: object, now: datetime) -> None:
        match action:
            case CreateRecurrence():
                self._create(action, now)
            case DecideAttempt():
                decided = attempt(
                    1, id=action.recurrence_id, recurrence_id=action.recurrence_id, decided_at=now
                )
                self._change(action.recurrence_id, attempts=(decided,))
            case StartAttempt():
                self._change_attempt(action.attempt_id, executions=(RUNNING,))
            case StopAttempt():
                self._change_attempt(action.attempt_id, executions=(STOPPED,))
            case CloseAttempt():
                self._change_attempt(action.attempt_id, outcome=action.outcome)
            case CloseRecurrence():
                closed = self._change(action.recurrence_id, state=action.state, ended_at=now)
                self.said.append(f"{action.state.value} {closed.scheduled_time:%d %H:%M}")

    def _create(self, action: CreateRecurrence, now: datetime) -> None:
        is_skipped = action.state is RecurrenceState.SKIPPED
        made = RecurrenceRecord(
            id=next(self._ids),
            job_id=1,
            ordinal=action.ordinal,
            kind=action.kind,
            scheduled_time=action.scheduled_time,
            state=action.state,
            attempts=(),
            ended_at=now if is_skipped else None,
            reason=action.reason,
        )
        last = self._facts.last_scheduled_time
        self._facts = with_recurrence(self._facts, made)
        if last is not None and last > now + CLOCK_TOLERANCE:  # as the store does
            self._facts = replace(self._facts, last_scheduled_time=action.scheduled_time)
        if is_skipped:  # facts of the store hold none
            kept = tuple(each for each in self._facts.recurrences if each.id != made.id)
            self._facts = replace(self._facts, recurrences=kept)
        self.said.append(
            f"{'skipped' if is_skipped else 'started'} {action.scheduled_time:%d %H:%M}"
        )
        self.reasons.append(action.reason)

    def _change(self, recurrence_id: int, **changes: Any) -> RecurrenceRecord:
        found = next(each for each in self._facts.recurrences if each.id == recurrence_id)
        changed = replace(found, **changes)
        self._facts = with_recurrence(self._facts, changed)
        return changed

    def _change_attempt(self, attempt_id: int, **changes: Any) -> None:
        """Change the only attempt of a recurrence; both have the same id here."""
        self._change(
            attempt_id, attempts=(attempt(1, id=attempt_id, recurrence_id=attempt_id, **changes),)
        )


def told(
    looks: str,
    policy: str,
    deadline: int | None,
    *,
    idle: bool,
    month: str = "2026-03",
    **spec: Any,
) -> Story:
    """Return the story of `looks`: days and times of the month, separated by commas.

    Args:
        idle: every run ends before the next look; else none ends.
    """
    first, *rest = (moment(f"{month}-{each.strip()}") for each in looks.split(","))
    story = Story(first - timedelta(minutes=30), policy, deadline, **spec)
    for now in (first, *rest):
        if idle:
            story.end_runs()
        story.look(now)
    return story


HOURLY: dict[str, Any] = {"schedule": "0 * * * *"}
BERLIN_NIGHTLY = {"schedule": "30 2 * * *", "timeZone": "Europe/Berlin"}
BERLIN_HOURLY = {"schedule": "0 * * * *", "timeZone": "Europe/Berlin"}

SHORT, LONG = 300, 3600  # a tick that is seen ten minutes late: too late, and in time


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize(
    ("deadline", "expected"),
    [
        (None, ["started 02 09:00", "started 03 09:00", "started 03 10:00"]),
        (LONG, ["started 02 09:00", "started 03 09:00", "started 03 10:00"]),
        (SHORT, ["started 02 09:00", "skipped 03 09:00", "started 03 10:00"]),
    ],
)
def test_a_day_of_downtime_of_a_job_that_was_idle(
    policy: str, deadline: int | None, expected: list[str]
) -> None:
    story = told("02 09:00, 03 09:10, 03 10:00", policy, deadline, idle=True, **HOURLY)

    assert story.said == expected
    assert "23 earlier ticks were missed" in story.reasons[1]


@pytest.mark.parametrize(
    ("policy", "deadline", "expected"),
    [
        (ALLOW, None, ["started 02 09:00", "started 03 09:00", "started 03 10:00"]),
        (ALLOW, LONG, ["started 02 09:00", "started 03 09:00", "started 03 10:00"]),
        (ALLOW, SHORT, ["started 02 09:00", "skipped 03 09:00", "started 03 10:00"]),
        (FORBID, None, ["started 02 09:00"]),
        (FORBID, LONG, ["started 02 09:00"]),
        (FORBID, SHORT, ["started 02 09:00", "skipped 03 09:00"]),
        (
            REPLACE,
            None,
            [
                "started 02 09:00",
                *("cancelled 02 09:00", "started 03 09:00"),
                *("cancelled 03 09:00", "started 03 10:00"),
            ],
        ),
        (
            REPLACE,
            LONG,
            [
                "started 02 09:00",
                *("cancelled 02 09:00", "started 03 09:00"),
                *("cancelled 03 09:00", "started 03 10:00"),
            ],
        ),
        # What is too late to start makes no room for itself either.
        (
            REPLACE,
            SHORT,
            ["started 02 09:00", "skipped 03 09:00", "cancelled 02 09:00", "started 03 10:00"],
        ),
    ],
)
def test_a_day_of_downtime_while_a_run_goes_on(
    policy: str, deadline: int | None, expected: list[str]
) -> None:
    story = told("02 09:00, 03 09:10, 03 10:00", policy, deadline, idle=False, **HOURLY)

    assert story.said == expected


@pytest.mark.parametrize(
    ("deadline", "expected"),
    [
        (None, ["started 02 09:00", "started 03 10:00"]),
        (LONG, ["started 02 09:00", "started 03 10:00"]),
        (SHORT, ["started 02 09:00", "skipped 03 09:00", "skipped 03 10:00"]),
    ],
)
def test_what_forbid_had_to_hold_back_after_a_day_of_downtime(
    deadline: int | None, expected: list[str]
) -> None:
    """Only the latest tick is made up for, if it is not too late by then."""
    story = told("02 09:00, 03 09:10, 03 10:00", FORBID, deadline, idle=False, **HOURLY)

    story.end_runs()
    story.look(moment("2026-03-03 10:20"))

    assert story.said == expected


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("deadline", [None, LONG, SHORT])
@pytest.mark.parametrize(
    ("looks", "spec", "month", "expected"),
    [
        pytest.param(
            "28 01:30, 29 00:59, 29 01:00, 29 01:30, 30 00:30",
            BERLIN_NIGHTLY,
            "2026-03",
            ["started 28 01:30", "started 29 01:00", "started 30 00:30"],
            id="forward: a time that is skipped comes right after the gap, once",
        ),
        pytest.param(
            "28 23:00, 29 00:00, 29 01:00, 29 02:00",
            BERLIN_HOURLY,
            "2026-03",
            ["started 28 23:00", "started 29 00:00", "started 29 01:00", "started 29 02:00"],
            id="forward: an hourly one comes each real hour",
        ),
        pytest.param(
            "24 00:30, 25 00:30, 25 01:00, 25 01:30, 25 02:00, 26 01:30",
            BERLIN_NIGHTLY,
            "2026-10",
            ["started 24 00:30", "started 25 00:30", "started 26 01:30"],
            id="back: a time that is repeated comes once",
        ),
        pytest.param(
            "24 23:00, 25 00:00, 25 01:00, 25 02:00",
            BERLIN_HOURLY,
            "2026-10",
            ["started 24 23:00", "started 25 00:00", "started 25 01:00", "started 25 02:00"],
            id="back: an hourly one comes each real hour",
        ),
    ],
)
def test_daylight_saving(
    policy: str,
    deadline: int | None,
    looks: str,
    spec: dict[str, str],
    month: str,
    expected: list[str],
) -> None:
    assert told(looks, policy, deadline, idle=True, month=month, **spec).said == expected


@pytest.mark.parametrize(
    ("month", "before", "tick"),
    [("2026-03", "28 01:30", "29 01:00"), ("2026-10", "24 00:30", "25 00:30")],
    ids=["forward", "back"],
)
@pytest.mark.parametrize(
    ("policy", "deadline", "idle", "expected"),
    [
        *((policy, None, True, ["started {tick}"]) for policy in EVERY),
        *((policy, LONG, True, ["started {tick}"]) for policy in EVERY),
        *((policy, SHORT, True, ["skipped {tick}"]) for policy in EVERY),
        *((policy, SHORT, False, ["skipped {tick}"]) for policy in EVERY),
        *((ALLOW, deadline, False, ["started {tick}"]) for deadline in (None, LONG)),
        *((FORBID, deadline, False, []) for deadline in (None, LONG)),
        *(
            (REPLACE, deadline, False, ["cancelled {before}", "started {tick}"])
            for deadline in (None, LONG)
        ),
    ],
)
def test_the_night_of_a_change_of_the_clock_slept_through_for_ten_minutes(
    month: str,
    before: str,
    tick: str,
    policy: str,
    deadline: int | None,
    idle: bool,
    expected: list[str],
) -> None:
    """The deadline counts real seconds, also where the wall clock jumps by an hour."""
    late = (moment(f"{month}-{tick}") + timedelta(minutes=10)).astimezone(UTC)
    looks = f"{before}, {late:%d %H:%M}"

    story = told(looks, policy, deadline, idle=idle, month=month, **BERLIN_NIGHTLY)

    said = [each.format(before=before, tick=tick) for each in expected]
    assert story.said == [f"started {before}", *said]


JUMPS = pytest.mark.parametrize(
    ("looks", "expected"),
    [
        pytest.param(
            "02 09:00, 02 10:00, 02 09:10, 02 10:00, 02 11:00",
            ["started 02 09:00", "started 02 10:00", "started 02 11:00"],
            id="back by an hour: no tick is repeated, and the next one comes",
        ),
        pytest.param(
            "02 09:00, 20 09:00, 02 09:10, 02 10:00, 20 09:00, 20 10:00",
            ["started 02 09:00", "started 20 09:00", "started 02 10:00", "started 20 10:00"],
            id="ahead for a while: the schedule is not silent until then",
        ),
        pytest.param(
            "02 09:00, 02 10:00, 02 09:59, 02 10:00",
            ["started 02 09:00", "started 02 10:00"],
            id="back by seconds, as every clock does that is kept right",
        ),
    ],
)


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("deadline", [None, LONG, SHORT])
@JUMPS
def test_a_clock_that_jumps(
    policy: str, deadline: int | None, looks: str, expected: list[str]
) -> None:
    assert told(looks, policy, deadline, idle=True, **HOURLY).said == expected


@pytest.mark.postgres
@JUMPS
def test_the_store_remembers_the_ticks_of_a_clock_that_jumps_as_these_stories_do(
    store: Store, looks: str, expected: list[str]
) -> None:
    """The rule of the last tick is the store's; `Story` repeats it."""
    first, *rest = (moment(f"2026-03-{each.strip()}") for each in looks.split(","))
    created = first - timedelta(minutes=30)
    story = Story(created, ALLOW, None, **HOURLY)
    job = apply(store, now=created, concurrencyPolicy=ALLOW, **HOURLY)
    spec = JobPlanSpec.from_document(job.spec)
    started: list[str] = []
    for now in (first, *rest):
        known = store.facts(job.id)
        for action in plan(known, spec, ScriptedPolicy(), now, max_parallel=9):
            if isinstance(action, CreateRecurrence):
                store.create_recurrence(action, now)
                started.append(f"started {action.scheduled_time:%d %H:%M}")
        story.look(now)
        assert store.facts(job.id).last_scheduled_time == story.last_scheduled_time

    assert started == expected == story.said


def test_a_clock_that_was_ahead_is_said_once() -> None:
    looks = "02 09:00, 20 09:00, 02 09:10, 02 10:00, 02 11:00"

    story = told(looks, FORBID, None, idle=True, **HOURLY)

    words = "the operator's clock was ahead: the tick of 2026-03-20T09:00:00+00:00"
    assert [words in reason for reason in story.reasons] == [False, False, True, False]


def test_a_job_that_was_made_by_a_clock_that_was_ahead_runs_on_time() -> None:
    story = Story(moment("2026-03-20 09:00"), FORBID, None, **HOURLY)
    story.look(moment("2026-03-02 09:10"))
    assert story.said == []

    story.look(moment("2026-03-02 10:00"))

    assert story.said == ["started 02 10:00"]
