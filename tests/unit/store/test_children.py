"""What is stored of a child workload and its executions (pods), in one transaction each time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.jobs import apply, at, decision, result_for
from zeus_operator.actions import CloseAttempt, CreateRecurrence, DecideAttempt
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
)
from zeus_operator.store.store import Store, StoreError
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres


def decided(store: Store) -> tuple[JobRecord, RecurrenceRecord, AttemptRecord]:
    job = apply(store)
    made = store.create_recurrence(
        CreateRecurrence(job.id, RecurrenceKind.LEARNED, 1, at(1)), at(1)
    )
    attempt = store.decide_attempt(DecideAttempt(made.id, 1, "digits-1", decision()), at(1))
    return job, made, attempt


def pod(uid: str, **changes: object) -> ExecutionRecord:
    """Return an execution that runs."""
    plain = ExecutionRecord(uid=uid, started_at=at(2))
    return replace(plain, **changes)  # type: ignore[arg-type]  # built by keyword


def evicted(uid: str) -> ExecutionRecord:
    return pod(uid, ended_at=at(5), outcome=Outcome.PREEMPTED, reason="evicted: memory was low")


def current(store: Store, job: JobRecord) -> AttemptRecord:
    """Return the one attempt as the store has it."""
    (recurrence,) = store.history(job.id)
    (attempt,) = recurrence.attempts
    return attempt


def test_a_child_without_a_pod_lives_and_its_attempt_runs(store: Store) -> None:
    job, _, attempt = decided(store)
    assert (attempt.state, attempt.child_uid) == (AttemptState.DECIDED, "")
    seen = store.record_child(attempt.id, "child-uid", [], at(2))
    assert (seen.state, seen.child_uid, seen.executions) == (AttemptState.RUNNING, "child-uid", ())
    assert current(store, job) == seen


def test_the_end_of_a_child_and_of_its_executions_is_stored_at_once(store: Store) -> None:
    job, made, attempt = decided(store)
    store.record_child(attempt.id, "child-uid", [pod("pod-1")], at(2))
    ended = pod(
        "pod-1", ended_at=at(12), exit_code=0, result=result_for(job, made, attempt, sequence=9)
    )
    seen = store.record_child(attempt.id, "", [ended], at(12))
    assert seen.child_uid == ""
    assert seen.executions == (ended,)
    assert seen.state is AttemptState.RUNNING  # closing it is for `plan` to decide
    assert current(store, job) == seen


def test_executions_are_merged_by_uid_in_the_order_they_came(store: Store) -> None:
    job, _, attempt = decided(store)
    store.record_child(attempt.id, "child-uid", [pod("pod-1")], at(2))
    store.record_child(attempt.id, "child-uid", [evicted("pod-1")], at(5))
    seen = store.record_child(attempt.id, "child-uid", [evicted("pod-1"), pod("pod-2")], at(6))
    assert seen.executions == (evicted("pod-1"), pod("pod-2"))
    later = store.record_child(attempt.id, "child-uid", [pod("pod-2")], at(7))
    assert later.executions == seen.executions  # what is not named stays
    assert current(store, job) == later


def test_the_first_end_of_an_execution_stays(store: Store) -> None:
    _, _, attempt = decided(store)
    store.record_child(attempt.id, "child-uid", [evicted("pod-1")], at(5))
    stale = pod("pod-1")
    other = pod("pod-1", ended_at=at(9), exit_code=1, outcome=Outcome.CRASHED, reason="OOMKilled")
    for repeated in (stale, other):
        seen = store.record_child(attempt.id, "child-uid", [repeated], at(9))
        assert seen.executions == (evicted("pod-1"),)


def test_a_result_with_an_older_number_never_replaces_a_newer_one(store: Store) -> None:
    job, made, attempt = decided(store)
    older, newer = (result_for(job, made, attempt, sequence=n, epochs=n) for n in (2, 3))
    store.record_child(attempt.id, "child-uid", [pod("pod-1", result=newer)], at(3))
    for result in (older, None):
        seen = store.record_child(attempt.id, "child-uid", [pod("pod-1", result=result)], at(4))
        assert seen.executions[0].result == newer


def test_words_of_the_executor_that_a_database_refuses_are_stored_as_far_as_they_can_be(
    store: Store,
) -> None:
    _, _, attempt = decided(store)
    odd = pod("pod-1", ended_at=at(5), outcome=Outcome.CRASHED, reason="bad \0 and \ud800")
    seen = store.record_child(attempt.id, "", [odd], at(5))
    assert seen.executions[0].reason == "bad \ufffd and ?"


def test_repeated_calls_change_nothing(store: Store) -> None:
    job, _, attempt = decided(store)
    executions = [evicted("pod-1"), pod("pod-2")]
    first = store.record_child(attempt.id, "child-uid", executions, at(6))
    assert store.record_child(attempt.id, "child-uid", executions, at(60)) == first
    gone = [evicted("pod-1"), evicted("pod-2")]
    last = store.record_child(attempt.id, "", gone, at(7))
    assert store.record_child(attempt.id, "", gone, at(70)) == last
    assert current(store, job) == last


def test_a_child_that_is_made_anew_has_its_own_uid(store: Store) -> None:
    _, _, attempt = decided(store)
    store.record_child(attempt.id, "first", [evicted("pod-1")], at(5))
    store.record_child(attempt.id, "", [], at(6))
    seen = store.record_child(attempt.id, "second", [pod("pod-2")], at(7))
    assert seen.child_uid == "second"
    assert [execution.uid for execution in seen.executions] == ["pod-1", "pod-2"]


def test_an_ended_attempt_is_left_alone(store: Store) -> None:
    job, _, attempt = decided(store)
    store.record_child(attempt.id, "child-uid", [evicted("pod-1")], at(5))
    closed = store.close_attempt(CloseAttempt(attempt.id, Outcome.LOST, "", False), at(6))
    assert (closed.state, closed.child_uid) == (AttemptState.ENDED, "")
    assert store.record_child(attempt.id, "child-uid", [pod("pod-2")], at(7)) == closed
    assert current(store, job) == closed


def test_deleting_the_job_lets_go_of_the_child(store: Store) -> None:
    job, _, attempt = decided(store)
    store.record_child(attempt.id, "child-uid", [pod("pod-1")], at(2))
    store.delete_job(job.id, at(3))
    cancelled = current(store, job)
    assert (cancelled.state, cancelled.outcome) == (AttemptState.ENDED, Outcome.CANCELLED)
    assert cancelled.child_uid == ""
    assert store.record_child(attempt.id, "child-uid", [], at(4)) == cancelled


def test_the_child_of_an_attempt_that_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no attempt 99"):
        store.record_child(99, "child-uid", [], at(1))
