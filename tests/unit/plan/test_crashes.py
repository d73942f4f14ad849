"""Crashes between any two steps change nothing: real store, real plan, real policy.

The children are a small world of their own that survives the crashes, as
processes and pods do: how a run ends is a function of what it is, so a history
with crashes can be compared with one without.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.jobs import START, apply, result_for
from zeus_operator.actions import (
    Action,
    CloseAttempt,
    CloseRecurrence,
    CreateRecurrence,
    DecideAttempt,
    StartAttempt,
)
from zeus_operator.optimizer import policy
from zeus_operator.plan import plan, replay
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.store.store import Store
from zeus_runtime.protocol import LEARNED_FROM, Outcome

pytestmark = pytest.mark.postgres
LEARNED, CONTROL = RecurrenceKind.LEARNED, RecurrenceKind.CONTROL
MAX_STEPS = 3000


class Crash(Exception):  # noqa: N818 - it is one
    """The process is gone."""


@dataclass
class Clock:
    now: datetime = START

    def tick(self) -> datetime:
        self.now += timedelta(milliseconds=250)
        return self.now


@dataclass
class Children:
    """Runs by child name; each ends in a way that only depends on what it is."""

    clock: Clock
    runs: dict[str, list[ExecutionRecord]] = field(default_factory=dict)

    def start(
        self, job: JobRecord, recurrence: RecurrenceRecord, attempt: AttemptRecord
    ) -> ExecutionRecord:
        runs = self.runs.setdefault(attempt.child_name, [])
        if runs and runs[-1].ended_at is None:
            return runs[-1]  # adopted
        known = {execution.uid for execution in attempt.executions}
        if runs and runs[-1].uid not in known:
            return runs[-1]  # ended before anybody had recorded it
        runs.append(ExecutionRecord(f"{attempt.child_name}/{len(runs)}", self.clock.tick()))
        return runs[-1]

    def end(self, job: JobRecord, recurrence: RecurrenceRecord, attempt: AttemptRecord) -> None:
        runs = self.runs[attempt.child_name]
        if runs[-1].ended_at is not None:
            return
        key = f"{recurrence.kind}/{recurrence.ordinal}/{attempt.number}/{len(runs)}"
        chance = random.Random(key)
        kind = chance.choices(
            [*sorted(LEARNED_FROM), Outcome.PREEMPTED, Outcome.CRASHED, Outcome.NO_TELEMETRY],
            [2, 1, 1, 1, 6, 4, 1, 1],
        )[0]
        if kind is Outcome.COST_EXCEEDED and attempt.decision.cost_threshold_joules is None:
            kind = Outcome.MAX_EPOCHS
        energy = chance.uniform(500, 900) * attempt.decision.batch_size / 64
        claims = kind in LEARNED_FROM
        result = result_for(
            job,
            recurrence,
            attempt,
            sequence=1,
            outcome=kind.value if claims else None,
            energy_joules=energy,
            best_metric=0.95 if kind is Outcome.REACHED else 0.5,
            milestones=((1, 0.5),),
        )
        exit_code = {Outcome.REACHED: 0, Outcome.PREEMPTED: -15, Outcome.NO_TELEMETRY: 0}.get(
            kind, 1
        )
        runs[-1] = replace(
            runs[-1],
            ended_at=runs[-1].started_at + timedelta(seconds=30),
            exit_code=exit_code,
            outcome=Outcome.PREEMPTED if kind is Outcome.PREEMPTED else None,
            result=None if kind is Outcome.NO_TELEMETRY else result,
        )


@dataclass
class Loop:
    """What a program does, in steps; `crash` is asked before and after each."""

    store: Store
    children: Children
    clock: Clock
    job_id: int
    crash: Callable[[], None]

    def run(self, requests: dict[RecurrenceKind, int]) -> None:
        for kind, count in requests.items():
            done = len(self.store.history(self.job_id, kind=kind))
            if done < count or any(
                item.state is RecurrenceState.OPEN
                for item in self.store.history(self.job_id, kind=kind)
            ):
                self.crash()
                self.store.request_runs(self.job_id, kind, count, self.clock.tick())
                self.crash()
        chosen = policy("structured")
        for _ in range(MAX_STEPS):
            facts = self.store.facts(self.job_id)
            spec = JobPlanSpec.from_document(facts.job.spec)
            if not facts.requests:
                return
            for action in plan(facts, spec, chosen, self.clock.tick()):
                self.crash()
                self._apply(action)
                self.crash()
            self._observe()
        raise AssertionError("the loop does not come to an end")

    def _apply(self, action: Action) -> None:
        now = self.clock.tick()
        match action:
            case CreateRecurrence():
                self.store.create_recurrence(action, now)
            case DecideAttempt():
                self.store.decide_attempt(action, now)
            case CloseAttempt():
                self.store.close_attempt(action, now)
            case CloseRecurrence():
                self.store.close_recurrence(action, now)
            case StartAttempt():
                job, recurrence, attempt = self._find(action.attempt_id)
                execution = self.children.start(job, recurrence, attempt)
                self.crash()
                as_running = replace(
                    execution, ended_at=None, exit_code=None, outcome=None, result=None
                )
                self.store.record_execution(action.attempt_id, as_running, now)

    def _observe(self) -> None:
        for job, recurrence, attempt in self._all():
            if attempt.state is AttemptState.RUNNING:
                self.children.end(job, recurrence, attempt)
                for execution in self.children.runs[attempt.child_name]:
                    self.crash()
                    self.store.record_execution(attempt.id, execution, self.clock.tick())
                    self.crash()

    def _all(self) -> Iterator[tuple[JobRecord, RecurrenceRecord, AttemptRecord]]:
        facts = self.store.facts(self.job_id)
        for recurrence in facts.recurrences:
            for attempt in recurrence.attempts:
                yield facts.job, recurrence, attempt

    def _find(self, attempt_id: int) -> tuple[JobRecord, RecurrenceRecord, AttemptRecord]:
        return next(item for item in self._all() if item[2].id == attempt_id)


def history_of(
    store: Store,
    name: str,
    requests: dict[RecurrenceKind, int],
    crashes: random.Random | None,
    rate: float,
) -> tuple[JobRecord, Children]:
    """Run the requests to their end through as many crashes as it takes."""
    job = apply(store, name, retry={"maxAttempts": 3, "pauseAfterFailures": 100})
    clock = Clock()
    children = Children(clock)

    def crash() -> None:
        if crashes is not None and crashes.random() < rate:
            raise Crash

    for _ in range(MAX_STEPS):
        try:
            Loop(store, children, clock, job.id, crash).run(requests)
        except Crash:
            continue
        return job, children
    raise AssertionError("crashed for ever")


def shape(store: Store, job: JobRecord) -> list[object]:
    """Return what must not depend on crashes; ids, times and names may."""
    return [
        (
            item.kind,
            item.ordinal,
            item.state,
            [
                (
                    attempt.number,
                    attempt.outcome,
                    attempt.decision.batch_size,
                    attempt.decision.cost_threshold_joules,
                    attempt.decision.seed,
                    attempt.energy_joules,
                    len(attempt.executions),
                )
                for attempt in item.attempts
            ],
        )
        for item in store.history(job.id)
    ]


REQUESTS = {LEARNED: 4, CONTROL: 1}
_numbers = iter(range(10**6))
_calm_shapes: list[list[object]] = []


@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.05, 0.2, 0.4]))
def test_crashes_between_any_two_steps_lose_nothing_and_repeat_nothing(
    store: Store, seed: int, rate: float
) -> None:
    if not _calm_shapes:
        calm, _ = history_of(store, "calm", REQUESTS, None, 0.0)
        _calm_shapes.append(shape(store, calm))
    name = f"wild-{next(_numbers)}"
    job, children = history_of(store, name, REQUESTS, random.Random(seed), rate)
    assert shape(store, job) == _calm_shapes[0]
    history = store.history(job.id)
    for kind, count in REQUESTS.items():
        assert [item.ordinal for item in history if item.kind is kind] == list(range(1, count + 1))
    assert all(item.ended_at is not None for item in history)
    attempts = [(item, attempt) for item in history for attempt in item.attempts]
    learned = sorted(
        attempt.id
        for item, attempt in attempts
        if item.kind is LEARNED and attempt.outcome in LEARNED_FROM
    )
    observations = store.observations(job.id)
    assert sorted(observation.attempt_id for observation in observations) == learned
    assert sorted(children.runs) == sorted(attempt.child_name for _, attempt in attempts)
    for _, attempt in attempts:
        assert [e.uid for e in attempt.executions] == [
            e.uid for e in children.runs[attempt.child_name]
        ]
        again = replay(attempt.decision, policy("structured"), observations)
        if again is not None:
            assert again.batch_size == attempt.decision.batch_size
            assert again.sentence == attempt.decision.sentence
