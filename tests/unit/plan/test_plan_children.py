"""What happens next to an attempt whose child is a workload that outlives its pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import at, execution_of
from tests.support.plan_facts import attempt, facts, planned, recurrence
from zeus_operator.actions import (
    CloseAttempt,
    CloseRecurrence,
    CreateRecurrence,
    StartAttempt,
    StopAttempt,
)
from zeus_operator.records import AttemptState, ExecutionRecord, RecurrenceState
from zeus_runtime.protocol import Outcome

EVICTED = execution_of(
    None, exit_code=None, outcome=Outcome.PREEMPTED, reason="evicted: memory was low"
)
RUNNING = execution_of(None, uid="run-2", ended_at=None, exit_code=None)
DELETED = execution_of(
    None, exit_code=None, outcome=Outcome.CANCELLED, reason="its Job was deleted"
)
CRASHED = execution_of(
    None, exit_code=137, outcome=Outcome.CRASHED, reason="OOMKilled: memory limit"
)
REPLACE: dict[str, Any] = {"concurrencyPolicy": "Replace", "schedule": "0 * * * *"}
AFTER_THE_TICK = at(3600 + 60)


@pytest.mark.parametrize(
    "executions",
    [(), (EVICTED,), (EVICTED, RUNNING), (CRASHED,)],
    ids=["no pod yet", "its pod is being replaced", "another pod runs", "its end is not yet seen"],
)
def test_while_its_child_lives_an_attempt_goes_on(executions: tuple[ExecutionRecord, ...]) -> None:
    lives = attempt(1, child_uid="child", executions=executions)
    assert planned(facts(recurrence(1, lives))) == []


def test_without_executions_and_child_it_starts_even_if_it_has_been_seen_to_run() -> None:
    for state in (AttemptState.DECIDED, AttemptState.RUNNING):
        known = facts(recurrence(1, attempt(1, state=state)))
        assert planned(known) == [StartAttempt(101)]


def test_an_eviction_that_ended_the_child_starts_it_again() -> None:
    assert planned(facts(recurrence(1, attempt(1, executions=(EVICTED,))))) == [StartAttempt(101)]


def test_a_child_that_was_deleted_cancels_the_recurrence_and_never_starts_again() -> None:
    gone = attempt(1, executions=(EVICTED, DELETED))
    (action,) = planned(facts(recurrence(1, gone)))
    assert action == CloseAttempt(101, Outcome.CANCELLED, "its Job was deleted", learn=False)
    closed = attempt(1, Outcome.CANCELLED, executions=gone.executions)
    assert planned(facts(recurrence(1, closed))) == [CloseRecurrence(10, RecurrenceState.CANCELLED)]


def test_a_crash_that_the_executor_saw_ends_the_attempt_in_its_words() -> None:
    (action,) = planned(facts(recurrence(1, attempt(1, executions=(CRASHED,)))))
    assert isinstance(action, CloseAttempt)
    assert (action.outcome, action.learn) == (Outcome.CRASHED, False)
    assert action.detail.startswith("OOMKilled: memory limit")


class TestReplace:
    @pytest.mark.parametrize("executions", [(), (EVICTED,), (RUNNING,)])
    def test_a_child_that_lives_is_stopped_with_or_without_a_pod(
        self, executions: tuple[ExecutionRecord, ...]
    ) -> None:
        lives = attempt(1, child_uid="child", executions=executions)
        (action,) = planned(facts(recurrence(1, lives)), AFTER_THE_TICK, **REPLACE)
        assert isinstance(action, StopAttempt)
        assert action.attempt_id == 101
        assert "replaced by the recurrence of 2026-03-02 13:00 UTC" in action.reason

    @pytest.mark.parametrize("executions", [(), (EVICTED,), (DELETED,)])
    def test_once_it_is_gone_its_attempt_is_cancelled_and_the_tick_gets_its_turn(
        self, executions: tuple[ExecutionRecord, ...]
    ) -> None:
        gone = attempt(1, executions=executions)
        (action,) = planned(facts(recurrence(1, gone)), AFTER_THE_TICK, **REPLACE)
        assert isinstance(action, CloseAttempt)
        assert (action.outcome, action.learn) == (Outcome.CANCELLED, False)
        assert "replaced by" in action.detail

        cancelled = recurrence(1, attempt(1, Outcome.CANCELLED), state=RecurrenceState.CANCELLED)
        (created,) = planned(facts(cancelled), AFTER_THE_TICK, **REPLACE)
        assert isinstance(created, CreateRecurrence)

    def test_an_end_of_its_own_that_came_before_the_stop_counts(self) -> None:
        known = facts(recurrence(1, attempt(1, executions=(replace(CRASHED, uid="run-9"),))))
        (action,) = planned(known, AFTER_THE_TICK, **REPLACE)
        assert isinstance(action, CloseAttempt)
        assert action.outcome is Outcome.CRASHED
