"""When recurrences are due: cron, time zones, daylight saving, missed ticks, concurrency."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeus_operator.plan_spec import ConcurrencyPolicy
from zeus_operator.schedule import (
    MAX_MISSED_TICKS,
    ScheduleError,
    TickVerdict,
    due_ticks,
    judge_ticks,
    next_tick,
    parse_schedule,
)

ALLOW, FORBID, REPLACE = (
    ConcurrencyPolicy.ALLOW,
    ConcurrencyPolicy.FORBID,
    ConcurrencyPolicy.REPLACE,
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(expression: str, zone: str, after: str, count: int) -> list[str]:
    schedule = parse_schedule(expression, zone)
    return [f"{tick:%m-%d %H:%M}" for tick in islice(schedule.after(utc(after)), count)]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("*/15 * * * *", "2026-03-02 12:01", ["03-02 12:15", "03-02 12:30"]),
        ("0 2 * * *", "2026-03-02 02:00", ["03-03 02:00", "03-04 02:00"]),  # strictly after
        ("30 9 * * MON-FRI", "2026-03-06 10:00", ["03-09 09:30", "03-10 09:30"]),
        ("0 0 1,15 * *", "2026-03-02 00:00", ["03-15 00:00", "04-01 00:00"]),
        ("0 0 13 * 5", "2026-03-01 00:00", ["03-06 00:00", "03-13 00:00"]),  # either day
        ("0 0 29 2 *", "2026-03-01 00:00", ["02-29 00:00"]),
        ("0 0 * * 7", "2026-03-02 00:00", ["03-08 00:00", "03-15 00:00"]),
        ("@hourly", "2026-03-02 12:00", ["03-02 13:00", "03-02 14:00"]),
        ("@daily", "2026-03-02 12:00", ["03-03 00:00", "03-04 00:00"]),
        ("@midnight", "2026-03-02 12:00", ["03-03 00:00"]),
        ("@weekly", "2026-03-02 12:00", ["03-08 00:00", "03-15 00:00"]),
        ("@monthly", "2026-03-02 12:00", ["04-01 00:00", "05-01 00:00"]),
        ("@yearly", "2026-03-02 12:00", ["01-01 00:00"]),
        ("@Annually", "2026-03-02 12:00", ["01-01 00:00"]),
    ],
)
def test_ticks_of_a_schedule_in_utc(expression: str, after: str, expected: list[str]) -> None:
    assert ticks(expression, "UTC", after, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # Berlin, 29 March 2026: 02:00 becomes 03:00 (01:00 UTC).
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-27 12:00",
            ["03-28 01:30", "03-29 01:00", "03-30 00:30"],
            id="a skipped time runs right after the gap",
        ),
        pytest.param(
            "0 2,3 * * *",
            "Europe/Berlin",
            "2026-03-28 12:00",
            ["03-29 01:00", "03-30 00:00", "03-30 01:00"],
            id="two times that fall together run once",
        ),
        pytest.param(
            "0 * * * *",
            "Europe/Berlin",
            "2026-03-28 23:30",
            ["03-29 00:00", "03-29 01:00", "03-29 02:00"],
            id="an hourly schedule goes on each real hour over the gap",
        ),
        # Berlin, 25 October 2026: 03:00 becomes 02:00 (01:00 UTC).
        pytest.param(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24 12:00",
            ["10-25 00:30", "10-26 01:30"],
            id="a repeated time runs once",
        ),
        pytest.param(
            "0 * * * *",
            "Europe/Berlin",
            "2026-10-24 23:30",
            ["10-25 00:00", "10-25 01:00", "10-25 02:00"],
            id="an hourly schedule goes on each real hour over the repetition",
        ),
        pytest.param(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25 00:15",
            ["10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"],
            id="a half-hourly schedule too",
        ),
        # New York, 8 March 2026: 02:00 becomes 03:00 (07:00 UTC).
        pytest.param(
            "15 2 * * *",
            "America/New_York",
            "2026-03-07 12:00",
            ["03-08 07:00", "03-09 06:15"],
            id="west of Greenwich as well",
        ),
        # Lord Howe, 5 April 2026: half an hour back.
        pytest.param(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04 00:00",
            ["04-04 14:45", "04-05 15:15"],
            id="a change of half an hour",
        ),
        pytest.param(
            "0 12 * * *",
            "Asia/Kolkata",
            "2026-03-02 00:00",
            ["03-02 06:30", "03-03 06:30"],
            id="an offset with half an hour",
        ),
    ],
)
def test_daylight_saving(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert ticks(expression, zone, after, len(expected)) == expected


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(
        ["30 2 * * *", "0 * * * *", "*/20 * * * *", "0 1-4 * * *", "15 2,3 * * *"]
    ),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    minutes=st.integers(0, 2 * 24 * 60),
    change=st.sampled_from(["2026-03-28", "2026-10-24", "2026-03-07", "2026-10-31", "2026-04-04"]),
)
def test_where_one_looks_from_changes_no_tick(
    expression: str, zone: str, minutes: int, change: str
) -> None:
    """A restart in the middle of a change of the clock neither repeats nor loses a tick."""
    schedule = parse_schedule(expression, zone)
    start, end = utc(change), utc(change) + timedelta(days=3)
    whole = due_ticks(schedule, start, end) if "20" not in expression else None
    middle = start + timedelta(minutes=minutes)
    halves = (*due_ticks(schedule, start, middle), *due_ticks(schedule, middle, end))
    if whole is not None:
        assert halves == whole
    assert list(halves) == sorted(set(halves))


def test_due_ticks_are_those_after_the_last_up_to_now() -> None:
    schedule = parse_schedule("0 * * * *")
    due = due_ticks(schedule, utc("2026-03-02 12:00"), utc("2026-03-02 15:00"))
    assert [tick.hour for tick in due] == [13, 14, 15]
    assert due_ticks(schedule, utc("2026-03-02 12:00"), utc("2026-03-02 12:59")) == ()
    assert next_tick(schedule, utc("2026-03-02 12:00")) == utc("2026-03-02 13:00")


@pytest.mark.parametrize(
    ("minutes", "count"), [(MAX_MISSED_TICKS, MAX_MISSED_TICKS), (MAX_MISSED_TICKS + 1, 1)]
)
def test_over_a_hundred_missed_ticks_only_the_latest_counts(minutes: int, count: int) -> None:
    start = utc("2026-03-02 12:00")
    now = start + timedelta(minutes=minutes, seconds=30)
    due = due_ticks(parse_schedule("* * * * *"), start, now)
    assert len(due) == count
    assert due[-1] == start + timedelta(minutes=minutes)


def test_years_of_downtime_end_at_the_latest_tick() -> None:
    now = utc("2026-03-02 12:07")
    (due,) = due_ticks(parse_schedule("0 * * * *"), utc("2001-01-01 00:00"), now)
    assert due == utc("2026-03-02 12:00")


@pytest.mark.parametrize(
    ("policy", "deadline", "active", "verdict"),
    [
        (FORBID, None, 0, TickVerdict.START),
        (FORBID, None, 1, TickVerdict.WAIT),
        (ALLOW, None, 1, TickVerdict.START),
        (REPLACE, None, 1, TickVerdict.REPLACE),
        (REPLACE, None, 0, TickVerdict.START),
        (FORBID, 600, 0, TickVerdict.START),  # ten minutes late: just in time
        (FORBID, 599, 0, TickVerdict.SKIP),
        (REPLACE, 599, 1, TickVerdict.SKIP),
        (ALLOW, 0, 0, TickVerdict.SKIP),
    ],
)
def test_what_happens_to_a_due_tick(
    policy: ConcurrencyPolicy, deadline: float | None, active: int, verdict: TickVerdict
) -> None:
    due = judge_ticks(
        parse_schedule("0 * * * *"),
        utc("2026-03-02 09:00"),
        utc("2026-03-02 12:10"),
        concurrency_policy=policy,
        starting_deadline_seconds=deadline,
        active=active,
    )
    assert due.verdict is verdict
    assert (due.tick, due.missed) == (utc("2026-03-02 12:00"), 2)
    assert due.next_tick == utc("2026-03-02 13:00")


def test_nothing_is_due_before_the_next_tick() -> None:
    due = judge_ticks(
        parse_schedule("0 * * * *"),
        utc("2026-03-02 12:00"),
        utc("2026-03-02 12:59"),
        concurrency_policy=FORBID,
        starting_deadline_seconds=None,
        active=0,
    )
    assert (due.verdict, due.tick) == (TickVerdict.NONE, None)


def test_a_clock_set_back_repeats_no_tick() -> None:
    due = due_ticks(parse_schedule("* * * * *"), utc("2026-03-02 12:00"), utc("2026-03-02 11:00"))
    assert due == ()


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "x",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "@reboot",
        "@every 5m",
        "0 0 31 2 *",
        "TZ=UTC 0 2 * * *",
        "0 2 * * MONDAY",
        "-1 * * * *",
        "a b c d e",
    ],
)
def test_nonsense_is_refused_with_what_is_allowed(expression: str) -> None:
    with pytest.raises(ScheduleError, match="five fields: minute") as refused:
        parse_schedule(expression)
    assert repr(expression) in str(refused.value)


@pytest.mark.parametrize("zone", ["Mars/Phobos", "Local", "CET+1", "../UTC", "/etc/localtime", "x"])
def test_an_unknown_time_zone_is_refused_with_what_is_allowed(zone: str) -> None:
    with pytest.raises(ScheduleError, match="IANA names such as UTC, Europe/Berlin"):
        parse_schedule("@daily", zone)


def test_a_time_zone_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(ScheduleError, match=r"did you mean Europe/Berlin\?"):
        parse_schedule("@daily", "berlin")
