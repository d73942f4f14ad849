"""Drives one job on one machine: load facts, plan, apply, watch the children, again.

All state is in the store and in the executor's directories.  The loop may be killed between any
two steps: the next one loads the same facts and asks `plan` again, and every action and every
executor call may be repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

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
from zeus_operator.announcer import Announcer
from zeus_operator.events import Listener, Waiting
from zeus_operator.executors.base import Executor
from zeus_operator.executors.checkpoints import Checkpoint, CheckpointHook, no_checkpoint
from zeus_operator.optimizer.types import Policy
from zeus_operator.plan import plan
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import AttemptRecord, AttemptState, ExecutionRecord, JobFacts
from zeus_operator.store.store import Store

POLL_SECONDS = 0.2
RELOAD_SECONDS = 10.0
PROGRESS_SECONDS = 5.0


class ChildExecutor(Executor, Protocol):
    """An executor whose children's ends can be waited for."""

    def wait(self, timeout_seconds: float) -> None:
        """Sleep until a child has ended, or for `timeout_seconds`."""
        ...


@dataclass(frozen=True)
class EngineEnd:
    """Why `Engine.run` returned.

    Args:
        stopped: somebody asked for it.
        paused: nothing starts any more until somebody acts, and why; "": the work is done.
    """

    stopped: bool = False
    paused: str = ""


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


class Engine:
    """Runs the recurrences of one job.

    Args:
        store: keeps everything; its methods may be repeated.
        executor: makes attempts real.
        policy: chooses batch sizes.
        job_id: the job; nobody else may run it at the same time (`Store.job_lock`).
        listener: is told what happens.
        clock: gives the time, aware.
        stop_event: ends the run cleanly once it is set.
        idle: waits where nothing runs, for at most the seconds given.
        guard: called in each round; raises if the job is no longer ours (`JobLock.ensure`).
        checkpoint: called between two effects.
    """

    def __init__(
        self,
        store: Store,
        executor: ChildExecutor,
        policy: Policy,
        job_id: int,
        *,
        listener: Listener,
        clock: Callable[[], datetime] = utc_now,
        stop_event: threading.Event | None = None,
        idle: Callable[[float], object] | None = None,
        guard: Callable[[], object] | None = None,
        checkpoint: CheckpointHook = no_checkpoint,
    ) -> None:
        self._store = store
        self._executor = executor
        self._policy = policy
        self._job_id = job_id
        self._listener = listener
        self._clock = clock
        self._stop_event = stop_event or threading.Event()
        self._idle = idle or self._stop_event.wait
        self._guard = guard
        self._checkpoint = checkpoint
        self._announcer = Announcer(listener)
        self._stopping: set[str] = set()
        self._told_waiting: datetime | None = None
        self._progress_stored: dict[int, datetime] = {}

    def run(self, done: Callable[[JobFacts], bool]) -> EngineEnd:
        """Work until `done` says so of the stored facts, or until asked to stop.

        Raises:
            LocalExecutorError: a child can't be started here.
            ChildCollision: a child's name is taken by a stranger.
            StoreUnavailable: the database stayed away.
        """
        while True:
            facts = self._load()
            if self._stop_event.is_set():
                return self._stop()
            if self._record_ends(facts):
                continue
            if done(facts):
                return EngineEnd()
            actions = self._plan(facts)
            if self._apply(facts, actions):
                continue
            waits = [action for action in actions if isinstance(action, Wait)]
            if self._is_running(facts):
                self._watch(facts, waits)
            elif not any(wait.until for wait in waits):
                # Nothing runs and no time brings anything: only somebody else can.
                reasons = [wait.reason for wait in waits if wait.reason]
                return EngineEnd(paused="; ".join(reasons) or "nothing is left to run")
            else:
                self._wait_until_due(waits)

    def _load(self) -> JobFacts:
        if self._guard is not None:
            self._guard()
        facts = self._store.facts(self._job_id)
        self._announcer.update(facts)
        self._checkpoint(Checkpoint.FACTS_LOADED)
        return facts

    def _plan(self, facts: JobFacts) -> Sequence[Action]:
        # Asking for a product chooses among nodes: here there are the GPUs that there are.
        spec = replace(JobPlanSpec.from_document(facts.job.spec), gpu_product="")
        return plan(facts, spec, self._policy, self._clock())

    def _apply(self, facts: JobFacts, actions: Sequence[Action]) -> bool:
        """Apply `actions` in order; returns whether one of them changed something."""
        attempts = {
            attempt.id: attempt
            for recurrence in facts.recurrences
            for attempt in recurrence.attempts
        }
        changed = False
        for action in actions:
            match action:
                case CreateRecurrence():
                    self._checkpoint(Checkpoint.BEFORE_CREATE_RECURRENCE)
                    self._store.create_recurrence(action, self._clock())
                    self._checkpoint(Checkpoint.AFTER_CREATE_RECURRENCE)
                case DecideAttempt():
                    self._checkpoint(Checkpoint.BEFORE_DECIDE_ATTEMPT)
                    self._store.decide_attempt(action, self._clock())
                    self._checkpoint(Checkpoint.AFTER_DECIDE_ATTEMPT)
                case StartAttempt():
                    self._start(facts, attempts[action.attempt_id])
                case StopAttempt():
                    changed |= self._stop_attempt(attempts[action.attempt_id], action.reason)
                    continue
                case CloseAttempt():
                    self._close_attempt(action, attempts[action.attempt_id])
                case CloseRecurrence():
                    self._checkpoint(Checkpoint.BEFORE_CLOSE_RECURRENCE)
                    self._store.close_recurrence(action, self._clock())
                    self._checkpoint(Checkpoint.AFTER_CLOSE_RECURRENCE)
                case Wait():
                    continue
            changed = True
        return changed

    def _start(self, facts: JobFacts, attempt: AttemptRecord) -> None:
        self._checkpoint(Checkpoint.BEFORE_START_ATTEMPT)
        known = {execution.uid for execution in attempt.executions}
        before = {execution.uid for execution in self._executor.observe(facts.job, attempt)}
        execution = self._executor.start(facts.job, attempt)
        self._checkpoint(Checkpoint.BEFORE_RECORD_START)
        # Recorded as running even if it has ended already: `_record_ends` is the one place
        # that stores an end.
        running = self._store.record_execution(attempt.id, _as_running(execution), self._clock())
        self._checkpoint(Checkpoint.AFTER_RECORD_START)
        adopted = execution.uid in before and execution.uid not in known
        self._announcer.started(running, adopted=adopted)

    def _stop_attempt(self, attempt: AttemptRecord, reason: str) -> bool:
        """Ask once; the plan keeps wanting it until the child has ended."""
        running = {record.uid for record in attempt.executions if record.ended_at is None}
        if running <= self._stopping:
            return False
        self._stopping |= running
        self._executor.stop(attempt, reason)
        return True

    def _close_attempt(self, action: CloseAttempt, attempt: AttemptRecord) -> None:
        self._checkpoint(Checkpoint.BEFORE_CLOSE_ATTEMPT)
        self._store.close_attempt(action, self._clock())
        self._checkpoint(Checkpoint.AFTER_CLOSE_ATTEMPT)
        self._checkpoint(Checkpoint.BEFORE_PRUNE)
        self._executor.prune(attempt)
        self._checkpoint(Checkpoint.AFTER_PRUNE)

    def _record_ends(self, facts: JobFacts) -> bool:
        """Store the executions that have ended since; returns whether there were any."""
        changed = False
        for attempt in _running(facts):
            stored = {execution.uid: execution for execution in attempt.executions}
            for execution in self._executor.observe(facts.job, attempt):
                known = stored.get(execution.uid)
                if known is None or known.ended_at is not None:
                    continue
                self._tell_progress(attempt, execution)
                if execution.ended_at is None:
                    continue
                self._checkpoint(Checkpoint.BEFORE_RECORD_END)
                self._store.record_execution(attempt.id, execution, self._clock())
                self._checkpoint(Checkpoint.AFTER_RECORD_END)
                changed = True
        return changed

    def _tell_progress(self, attempt: AttemptRecord, execution: ExecutionRecord) -> None:
        """Announce a newer result, and store it now and then for other programs to see."""
        if execution.result is None or not self._announcer.progress(attempt, execution):
            return
        now = self._clock()
        last = self._progress_stored.setdefault(attempt.id, now)
        if execution.ended_at is None and now - last >= timedelta(seconds=PROGRESS_SECONDS):
            self._progress_stored[attempt.id] = now
            self._store.record_execution(attempt.id, execution, now)

    def _is_running(self, facts: JobFacts) -> bool:
        return any(
            execution.ended_at is None
            for attempt in _running(facts)
            for execution in attempt.executions
        )

    def _watch(self, facts: JobFacts, waits: Sequence[Wait]) -> None:
        """Return when a child ended, the clock brings something, or facts may have changed."""
        until = min(
            (wait.until for wait in waits if wait.until is not None),
            default=self._clock() + timedelta(seconds=RELOAD_SECONDS),
        )
        until = min(until, self._clock() + timedelta(seconds=RELOAD_SECONDS))
        while not self._stop_event.is_set():
            self._checkpoint(Checkpoint.WAITING_FOR_CHILD)
            self._executor.wait(POLL_SECONDS)
            if self._record_ends(facts) or self._clock() >= until:
                return

    def _wait_until_due(self, waits: Sequence[Wait]) -> None:
        until = min(wait.until for wait in waits if wait.until is not None)
        if until != self._told_waiting:
            self._told_waiting = until
            self._listener(Waiting(until))
        remaining = (until - self._clock()).total_seconds()
        # Somebody may suspend or ask for runs meanwhile: look again now and then.
        self._idle(max(POLL_SECONDS, min(remaining, RELOAD_SECONDS)))

    def _stop(self) -> EngineEnd:
        """End what runs, store how it ended, and close what is complete by that."""
        facts = self._load()
        while self._is_running(facts):
            for attempt in _running(facts):
                self._stop_attempt(attempt, "interrupted")
            self._executor.wait(POLL_SECONDS)
            if self._record_ends(facts):
                facts = self._load()
        closing = [
            action
            for action in self._plan(facts)
            if isinstance(action, CloseAttempt | CloseRecurrence)
        ]
        self._apply(facts, closing)
        self._load()
        return EngineEnd(stopped=True)


def _running(facts: JobFacts) -> list[AttemptRecord]:
    return [
        attempt
        for recurrence in facts.recurrences
        for attempt in recurrence.attempts
        if attempt.state is AttemptState.RUNNING
    ]


def _as_running(execution: ExecutionRecord) -> ExecutionRecord:
    return ExecutionRecord(
        uid=execution.uid,
        started_at=execution.started_at,
        output_path=execution.output_path,
    )
