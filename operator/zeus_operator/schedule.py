"""When a recurrence is due: cron, time zones, missed ticks, deadlines, concurrency.  Pure.

The rules are those of the CronJob controller of Kubernetes where it has one;
daylight saving follows Debian's cron (through `cronsim`): a fixed time of day
that the clock skips runs right after the gap, one that it repeats runs once;
a schedule with `*` in minutes or hours follows the wall clock's minutes as they pass.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from zeus_operator.plan_spec import ConcurrencyPolicy

MAX_MISSED_TICKS = 100
"""With more of them missed nobody enumerates them; only the latest counts."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""A tick that was dealt with, and lies further ahead of now, was seen by a clock that was wrong."""

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_ALLOWED = (
    "five fields: minute (0-59) hour (0-23) day-of-month (1-31) month (1-12 or JAN-DEC) "
    'day-of-week (0-7 or SUN-SAT), such as "0 2 * * *", or one of '
    "@hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"
)


class ScheduleError(ValueError):
    """A schedule or time zone that can't be used; the text says what is allowed."""


@dataclass(frozen=True)
class Schedule:
    """A validated cron expression in a time zone.  Make one with `parse_schedule`."""

    expression: str
    zone: ZoneInfo

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks after `moment`, in UTC, ascending, each once."""
        last = moment.astimezone(UTC)
        for local in CronSim(self.expression, last.astimezone(self.zone)):
            tick = local.astimezone(UTC)
            if tick > last:  # two wall-clock times may fall together where the clock is changed
                last = tick
                yield tick


@lru_cache(maxsize=4096)
def parse_schedule(expression: str, time_zone: str | None = None) -> Schedule:
    """Return the schedule of `expression` in the IANA zone `time_zone` (default UTC).

    Raises:
        ScheduleError: either is not valid, or the schedule has no tick at all.
    """
    zone = parse_time_zone(time_zone)
    text = expression.strip()
    if text.startswith("@"):
        fields = MACROS.get(text.lower())
        if fields is None:
            raise ScheduleError(f"{expression!r} is not a schedule; allowed: {_ALLOWED}")
    else:
        fields = text
    if text.upper().startswith(("TZ=", "CRON_TZ=")):
        raise ScheduleError(f"{expression!r}: give the time zone in timeZone; allowed: {_ALLOWED}")
    if len(fields.split()) != 5:
        raise ScheduleError(f"{expression!r} has {len(fields.split())} fields; allowed: {_ALLOWED}")
    try:
        CronSim(fields, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        reason = str(error).removeprefix("Bad ")
        raise ScheduleError(f"{expression!r}: {reason} is not valid; allowed: {_ALLOWED}") from None
    schedule = Schedule(fields, zone)
    if next(schedule.after(datetime(2024, 1, 1, tzinfo=UTC)), None) is None:
        raise ScheduleError(f"{expression!r} never comes; allowed: {_ALLOWED}")
    return schedule


def parse_time_zone(time_zone: str | None) -> ZoneInfo:
    """Return the IANA zone of that name; None and "" are UTC.

    Raises:
        ScheduleError: there is none.
    """
    name = time_zone or "UTC"
    # "Local" and paths are refused, as the API server does: they differ between machines.
    if name.lower() != "local" and not name.startswith(("/", ".")):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise ScheduleError(
        f"{name!r} is not a time zone; allowed: IANA names such as UTC, Europe/Berlin or "
        f"America/New_York{_similar_zone(name)}"
    )


def _similar_zone(name: str) -> str:
    wanted = name.lower().replace(" ", "_")
    for zone in sorted(available_timezones()):
        if zone.lower() == wanted or zone.lower().rpartition("/")[2] == wanted:
            return f"; did you mean {zone}?"
    return ""


def next_tick(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first tick after `after`, in UTC; None: there is none in 50 years."""
    return next(schedule.after(after), None)


def due_ticks(schedule: Schedule, after: datetime, now: datetime) -> tuple[datetime, ...]:
    """Return the ticks in (after, now], ascending.

    With more than `MAX_MISSED_TICKS` of them only the latest is returned, so
    that a year of downtime of a job that runs each minute costs no more.
    """
    ticks = tuple(islice(_until(schedule.after(after), now), MAX_MISSED_TICKS + 1))
    if len(ticks) <= MAX_MISSED_TICKS:
        return ticks
    return (_latest_tick(schedule, after, now),)


def _until(ticks: Iterator[datetime], now: datetime) -> Iterator[datetime]:
    for tick in ticks:
        if tick > now:
            return
        yield tick


def _latest_tick(schedule: Schedule, after: datetime, now: datetime) -> datetime:
    """Return the last tick in (after, now], which is not empty, without enumerating all of it."""
    span = timedelta(minutes=1)
    while True:
        start = max(after, now - span)
        latest = None
        for latest in _until(schedule.after(start), now):  # noqa: B007 - the last one is wanted
            pass
        if latest is not None:
            return latest
        if start == after:
            raise AssertionError("called without a tick in the interval")
        span *= 4


class TickVerdict(enum.Enum):
    """What to do about due ticks."""

    NONE = "none"  # nothing is due
    START = "start"
    WAIT = "wait"  # not while another recurrence is open; the tick stays due
    REPLACE = "replace"  # after the open recurrences were cancelled
    SKIP = "skip"  # it is past its starting deadline


@dataclass(frozen=True)
class DueTick:
    """The one tick that counts, and what to do about it.

    Args:
        tick: the latest due tick; None with `TickVerdict.NONE`.
        missed: earlier ticks that come with it and are not made up for; as in
            the CronJob controller only the latest is.  None: too many to count,
            at least `MAX_MISSED_TICKS`.
        next_tick: the first tick after now.
    """

    verdict: TickVerdict
    tick: datetime | None = None
    missed: int | None = 0
    next_tick: datetime | None = None


def judge_ticks(
    schedule: Schedule,
    after: datetime,
    now: datetime,
    *,
    concurrency_policy: ConcurrencyPolicy,
    starting_deadline_seconds: float | None,
    active: int,
) -> DueTick:
    """Return which tick counts now and what to do about it.

    Args:
        after: the last tick that was dealt with, or when the job was created.
        active: open recurrences of the job.
    """
    ticks = due_ticks(schedule, after, now)
    upcoming = next_tick(schedule, now)
    if not ticks:
        return DueTick(TickVerdict.NONE, next_tick=upcoming)
    tick = ticks[-1]
    is_counted = ticks[0] == next_tick(schedule, after)
    missed = len(ticks) - 1 if is_counted else None
    if (
        starting_deadline_seconds is not None
        and (now - tick).total_seconds() > starting_deadline_seconds
    ):
        verdict = TickVerdict.SKIP
    elif active == 0 or concurrency_policy is ConcurrencyPolicy.ALLOW:
        verdict = TickVerdict.START
    elif concurrency_policy is ConcurrencyPolicy.REPLACE:
        verdict = TickVerdict.REPLACE
    else:
        verdict = TickVerdict.WAIT
    return DueTick(verdict, tick, missed, upcoming)
