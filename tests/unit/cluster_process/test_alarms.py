"""When a job is looked at again: by the wall clock, however that moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from zeus_operator.alarms import Alarms

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_key_is_due_once_its_time_has_come() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", NOON)

    assert alarms.due(NOON - timedelta(seconds=1)) == []
    assert alarms.due(NOON) == ["a"]
    assert alarms.due(NOON + timedelta(days=1)) == [], "once"


def test_the_earliest_comes_first() -> None:
    alarms: Alarms[str] = Alarms()
    for key, minutes in (("late", 9), ("early", 1), ("middle", 5)):
        alarms.set(key, NOON + timedelta(minutes=minutes))

    assert alarms.due(NOON + timedelta(hours=1)) == ["early", "middle", "late"]


def test_only_the_last_time_that_was_set_counts() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", NOON)
    alarms.set("a", NOON + timedelta(hours=1))

    assert alarms.due(NOON + timedelta(minutes=30)) == []
    assert alarms.due(NOON + timedelta(hours=1)) == ["a"]


def test_none_takes_the_alarm_back() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", NOON)
    alarms.set("a", None)

    assert alarms.due(NOON + timedelta(days=1)) == []


def test_a_clock_set_ahead_delays_nothing() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", NOON)

    assert alarms.due(NOON + timedelta(days=365)) == ["a"]


def test_after_the_clock_was_set_back_every_key_is_looked_at_again() -> None:
    """What a clock that was a year ahead has computed would else be due in a year."""
    alarms: Alarms[str] = Alarms()
    alarms.due(NOON + timedelta(days=365))
    alarms.set("a", NOON + timedelta(days=365, hours=1))

    assert alarms.due(NOON) == ["a"]

    alarms.set("a", NOON + timedelta(hours=1))
    assert alarms.due(NOON) == []
    assert alarms.due(NOON - timedelta(seconds=1)) == [], "as every clock does that is kept right"
    assert alarms.due(NOON + timedelta(hours=1)) == ["a"]
