"""The engine with a real store, real children and a clock that the test turns."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support import local_children as children
from tests.support.postgres import database, postgres_server, store
from zeus_operator import events
from zeus_operator.engine import Engine
from zeus_operator.executors.checkpoints import Checkpoint
from zeus_operator.optimizer import policy
from zeus_operator.records import JobFacts, JobRecord, RecurrenceKind, RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

__all__ = ["database", "postgres_server", "store"]
pytestmark = pytest.mark.postgres

REACH = """
import os
from zeus_runtime.protocol import Result, encode_result
result = Result(
    job=os.environ['ZEUS_JOB'], recurrence=os.environ['ZEUS_RECURRENCE'],
    attempt=int(os.environ['ZEUS_ATTEMPT']), sequence=1, outcome='reached',
    batch_size=int(os.environ['ZEUS_BATCH_SIZE']), epochs=2, time_seconds=0.01,
    energy_joules=1.0, epoch_energy_joules=0.5, epoch_time_seconds=0.005, gpu_model='V100',
    gpu_count=1, power_limit_watts=200.0, max_power_watts=250.0, best_metric=0.95,
    last_metric=0.95, milestones=((2, 0.95),),
)
with open(os.environ['ZEUS_RESULT_PATH'], 'wb') as file:
    file.write(encode_result(result))
"""


class Bench:
    """An engine on a job whose script reaches its target at once."""

    def __init__(self, store: Store, home: Path, script: str = REACH, **spec: object) -> None:
        self.store = store
        self.now = datetime(2026, 3, 2, 11, 59, 30, tzinfo=UTC)
        self.idled: list[float] = []
        self.events: list[events.Event] = []
        self.moments: list[Checkpoint] = []
        self.stop = threading.Event()
        template = children.job(home / "job", script)
        self.job: JobRecord = store.apply_job(
            "default",
            "tiny",
            {**template.spec, **spec},
            manifest_path=template.manifest_path,
            policy="structured",
            seed=0,
            now=self.now,
        )
        self.executor = children.executor(home, checkpoint=self.moments.append)
        self.engine = Engine(
            store,
            self.executor,
            policy("structured"),
            self.job.id,
            listener=self.events.append,
            clock=lambda: self.now,
            stop_event=self.stop,
            idle=self._idle,
            checkpoint=self.moments.append,
        )

    def _idle(self, seconds: float) -> None:
        self.idled.append(seconds)
        self.now += timedelta(seconds=seconds)

    def request(self, count: int, kind: RecurrenceKind = RecurrenceKind.LEARNED) -> None:
        self.store.request_runs(self.job.id, kind, count, self.now)

    def said(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


MakeBench = Callable[..., Bench]


@pytest.fixture
def bench(store: Store, tmp_path: Path) -> MakeBench:
    def make(script: str = REACH, **spec: object) -> Bench:
        return Bench(store, tmp_path, script, **spec)

    return make


def no_request_left(facts: JobFacts) -> bool:
    return not facts.requests


def test_a_request_is_worked_off_and_told_in_order(bench: MakeBench) -> None:
    on = bench()
    on.request(2)
    end = on.engine.run(no_request_left)
    assert (end.stopped, end.paused) == (False, "")
    one = [
        "RecurrenceStarted",
        "AttemptDecided",
        "AttemptStarted",
        "AttemptProgress",
        "AttemptEnded",
        "RecurrenceEnded",
    ]
    assert on.said() == one * 2
    history = on.store.history(on.job.id)
    assert [item.state for item in history] == [RecurrenceState.REACHED] * 2
    assert [item.attempts[0].outcome for item in history] == [Outcome.REACHED] * 2


def test_every_moment_of_a_run_is_passed(bench: MakeBench) -> None:
    on = bench()
    on.request(1)
    on.engine.run(no_request_left)
    of_the_runner = {
        Checkpoint.SERVICES_DATABASE_READY,
        Checkpoint.SERVICES_AGENT_READY,
        Checkpoint.JOB_APPLIED,
        Checkpoint.JOB_LOCKED,
        Checkpoint.REQUEST_STORED,
    }
    assert set(on.moments) | of_the_runner == set(Checkpoint)


def test_what_had_ended_before_is_not_told_again(bench: MakeBench, store: Store) -> None:
    on = bench()
    on.request(1)
    on.engine.run(no_request_left)
    again = bench()
    again.request(1)
    again.engine.run(no_request_left)
    assert [
        e.recurrence.ordinal for e in again.events if isinstance(e, events.RecurrenceStarted)
    ] == [2]


def test_on_schedule_it_says_when_the_next_run_is_due_and_waits_for_it(bench: MakeBench) -> None:
    on = bench(schedule="0 * * * *")

    def two_ran(facts: JobFacts) -> bool:
        return sum(item.ended_at is not None for item in facts.recurrences) == 2

    on.engine.run(two_ran)
    history = on.store.history(on.job.id)
    assert [item.scheduled_time.hour for item in history] == [12, 13]
    waits = [event.until for event in on.events if isinstance(event, events.Waiting)]
    assert [moment.hour for moment in waits if moment is not None] == [12, 13]
    assert max(on.idled) <= 10.0  # it looks again now and then


def test_a_suspended_job_returns_with_the_reason(bench: MakeBench) -> None:
    on = bench()
    on.request(1)
    on.store.set_suspended(on.job.id, True, on.now)
    end = on.engine.run(no_request_left)
    assert "suspended" in end.paused
    assert on.idled == []


def test_a_job_with_nothing_to_do_returns_and_does_not_wait_for_ever(bench: MakeBench) -> None:
    on = bench()
    end = on.engine.run(lambda facts: False)
    assert end.paused == "nothing is left to run"


def test_asked_to_stop_before_it_starts_anything_it_starts_nothing(bench: MakeBench) -> None:
    on = bench()
    on.request(1)
    on.stop.set()
    assert on.engine.run(no_request_left).stopped
    assert on.store.history(on.job.id) == ()


def test_asked_to_stop_it_ends_the_child_and_keeps_the_attempt_open(bench: MakeBench) -> None:
    on = bench("import signal; print('ready', flush=True); signal.pause()")
    on.request(1)

    def stop_when_running(event: events.Event) -> None:
        on.events.append(event)
        if isinstance(event, events.AttemptStarted):
            on.stop.set()

    on.engine = Engine(
        on.store, on.executor, policy("structured"), on.job.id, listener=stop_when_running,
        clock=lambda: on.now, stop_event=on.stop,
    )  # fmt: skip
    assert on.engine.run(no_request_left).stopped
    (recurrence,) = on.store.history(on.job.id)
    assert recurrence.state is RecurrenceState.OPEN
    (execution,) = recurrence.attempts[0].executions
    assert execution.outcome is Outcome.PREEMPTED


def test_the_guard_is_asked_in_each_round_and_ends_the_run(bench: MakeBench) -> None:
    on = bench()
    on.request(1)
    rounds = []

    def guard() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            raise RuntimeError("the lock is lost")

    engine = Engine(
        on.store, on.executor, policy("structured"), on.job.id, listener=on.events.append,
        guard=guard,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="the lock is lost"):
        engine.run(no_request_left)


def test_a_run_that_goes_on_after_a_crash_is_announced_as_adopted(bench: MakeBench) -> None:
    on = bench()
    on.request(1)

    class CrashError(Exception):
        pass

    def crash(moment: Checkpoint) -> None:
        if moment is Checkpoint.BEFORE_RECORD_START:
            raise CrashError

    broken = Engine(
        on.store, on.executor, policy("structured"), on.job.id, listener=on.events.append,
        clock=lambda: on.now, checkpoint=crash,
    )  # fmt: skip
    with pytest.raises(CrashError):
        broken.run(no_request_left)
    on.events.clear()
    on.engine.run(no_request_left)
    started = [event for event in on.events if isinstance(event, events.AttemptStarted)]
    assert [event.adopted for event in started] == [True]
    assert dataclasses.asdict(started[0])["attempt"]["number"] == 1


def test_replace_stops_the_running_child_for_the_one_that_is_due(bench: MakeBench) -> None:
    waits_forever = "import signal; print('ready', flush=True); signal.pause()"
    on = bench(waits_forever, schedule="* * * * *", concurrencyPolicy="Replace")

    def the_next_tick_comes_while_it_runs(event: events.Event) -> None:
        if isinstance(event, events.AttemptStarted) and event.recurrence.ordinal == 1:
            on.now += timedelta(seconds=60)

    def second_runs(facts: JobFacts) -> bool:
        return any(
            item.ordinal == 2 and item.attempts and item.attempts[0].executions
            for item in facts.recurrences
        )

    engine = Engine(
        on.store, on.executor, policy("structured"), on.job.id,
        listener=the_next_tick_comes_while_it_runs, clock=lambda: on.now, idle=on._idle,
    )  # fmt: skip
    engine.run(second_runs)
    first = on.store.history(on.job.id)[0]
    assert first.state is RecurrenceState.CANCELLED
    assert first.attempts[0].outcome is Outcome.CANCELLED
    assert "replaced by the recurrence of" in first.attempts[0].detail
    on.executor.close()
