"""Runs, resume and reset that a person asks for by an annotation or the spec: once for each."""

from __future__ import annotations

import pytest

from tests.support.jobs import START, apply, at, decision, execution_of, result_for
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.records import (
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
    RunRequestRecord,
)
from zeus_operator.store.requests import SPEC_RUNS
from zeus_operator.store.store import Store, StoreError
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres
LEARNED, CONTROL = RecurrenceKind.LEARNED, RecurrenceKind.CONTROL


def begin(
    store: Store, job: JobRecord, ordinal: int, request: RunRequestRecord
) -> RecurrenceRecord:
    action = CreateRecurrence(job.id, LEARNED, ordinal, at(ordinal), request.id)
    return store.create_recurrence(action, at(ordinal))


def run(store: Store, job: JobRecord, ordinal: int, request: RunRequestRecord) -> None:
    """Make a recurrence of the request and end it."""
    made = begin(store, job, ordinal, request)
    store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), at(ordinal))


def asked(store: Store, job: JobRecord) -> list[tuple[str, int, int]]:
    """Return token, recurrences and created of each request that is open, in order."""
    return [(r.token, r.recurrences, r.created) for r in store.facts(job.id).requests]


def resumed_at(store: Store, job: JobRecord) -> object:
    return store.facts(job.id).job.resumed_at


class TestRunsByToken:
    def test_a_token_asks_once_whatever_it_says_the_second_time(self, store: Store) -> None:
        job = apply(store)
        first = store.request_runs(job.id, LEARNED, 3, at(1), token="monday")
        again = store.request_runs(job.id, CONTROL, 9, at(2), token="monday")
        assert again == first
        assert (first.kind, first.recurrences, first.token) == (LEARNED, 3, "monday")
        assert asked(store, job) == [("monday", 3, 0)]

    def test_it_stays_done_after_its_last_run(self, store: Store) -> None:
        job = apply(store)
        request = store.request_runs(job.id, LEARNED, 1, at(0), token="monday")
        run(store, job, 1, request)
        assert asked(store, job) == []
        again = store.request_runs(job.id, LEARNED, 1, at(9), token="monday")
        assert (again.id, again.complete) == (request.id, True)
        assert asked(store, job) == []

    def test_it_stays_done_after_it_was_cancelled(self, store: Store) -> None:
        job = apply(store)
        request = store.request_runs(job.id, LEARNED, 2, at(0), token="monday")
        store.cancel_request(request.id, at(1))
        assert store.request_runs(job.id, LEARNED, 2, at(2), token="monday").id == request.id
        assert asked(store, job) == []

    @pytest.mark.parametrize("token", ["", "forget"])
    def test_it_stays_done_after_a_reset(self, store: Store, token: str) -> None:
        job = apply(store)
        request = store.request_runs(job.id, LEARNED, 1, at(0), token="monday")
        run(store, job, 1, request)
        assert store.reset_job(job.id, at(5), token=token)
        assert store.history(job.id) == ()
        store.request_runs(job.id, LEARNED, 1, at(6), token="monday")
        assert asked(store, job) == []
        assert store.request_runs(job.id, LEARNED, 1, at(7), token="tuesday").id != request.id

    def test_several_queue_up_in_the_order_they_were_asked_for(self, store: Store) -> None:
        job = apply(store)
        first = store.request_runs(job.id, LEARNED, 1, at(0), token="b")
        store.request_runs(job.id, LEARNED, 2, at(1), token="a")
        store.request_runs(job.id, CONTROL, 3, at(2), token="c")
        assert asked(store, job) == [("b", 1, 0), ("a", 2, 0), ("c", 3, 0)]
        run(store, job, 1, first)
        assert asked(store, job) == [("a", 2, 0), ("c", 3, 0)]

    def test_one_without_a_token_stands_beside_them(self, store: Store) -> None:
        job = apply(store)
        store.request_runs(job.id, LEARNED, 1, at(0), token="monday")
        plain = store.request_runs(job.id, LEARNED, 2, at(1))
        assert store.request_runs(job.id, LEARNED, 5, at(2)) == plain
        assert asked(store, job) == [("monday", 1, 0), ("", 2, 0)]

    def test_a_token_is_of_one_job_and_a_new_incarnation_asks_anew(self, store: Store) -> None:
        job, other = apply(store), apply(store, "other")
        first = store.request_runs(job.id, LEARNED, 1, at(0), token="monday")
        assert store.request_runs(other.id, LEARNED, 1, at(0), token="monday").id != first.id
        store.delete_job(job.id, at(1))
        assert asked(store, job) == []
        back = apply(store)
        assert store.request_runs(back.id, LEARNED, 1, at(2), token="monday").id != first.id

    def test_only_a_new_token_ends_a_pause_after_failures(self, store: Store) -> None:
        job = apply(store)
        store.request_runs(job.id, LEARNED, 1, at(10), token="monday")
        assert resumed_at(store, job) == at(10)
        store.request_runs(job.id, LEARNED, 1, at(20), token="monday")
        assert resumed_at(store, job) == at(10)  # the annotation merely stands there
        store.request_runs(job.id, LEARNED, 1, at(30), token="tuesday")
        assert resumed_at(store, job) == at(30)


class TestRunsOfTheSpec:
    def test_it_is_asked_for_once_however_often_it_is_read(self, store: Store) -> None:
        job = apply(store)
        for second in range(3):
            store.want_runs(job.id, 5, at(second))
        assert asked(store, job) == [(SPEC_RUNS, 5, 0)]

    def test_a_larger_number_adds_to_what_has_run(self, store: Store) -> None:
        job = apply(store)
        store.want_runs(job.id, 1, at(0))
        run(store, job, 1, store.facts(job.id).requests[0])
        assert asked(store, job) == []
        store.want_runs(job.id, 1, at(2))
        assert asked(store, job) == []
        store.want_runs(job.id, 3, at(3))
        assert asked(store, job) == [(SPEC_RUNS, 3, 1)]

    def test_a_smaller_number_ends_it_where_enough_has_run(self, store: Store) -> None:
        job = apply(store)
        store.want_runs(job.id, 5, at(0))
        (request,) = store.facts(job.id).requests
        run(store, job, 1, request)
        run(store, job, 2, request)
        store.want_runs(job.id, 3, at(5))
        assert asked(store, job) == [(SPEC_RUNS, 3, 2)]
        store.want_runs(job.id, 2, at(6))
        assert asked(store, job) == []

    def test_a_number_smaller_than_what_was_begun_lets_the_open_run_end(self, store: Store) -> None:
        job = apply(store)
        store.want_runs(job.id, 5, at(0))
        (request,) = store.facts(job.id).requests
        run(store, job, 1, request)
        opened = begin(store, job, 2, request)
        store.want_runs(job.id, 1, at(5))
        assert asked(store, job) == []
        assert store.history(job.id)[-1].state is RecurrenceState.OPEN
        store.close_recurrence(CloseRecurrence(opened.id, RecurrenceState.REACHED), at(6))
        assert asked(store, job) == []

    def test_none_ends_it_and_a_number_takes_it_up_again(self, store: Store) -> None:
        job = apply(store)
        store.want_runs(job.id, 3, at(0))
        run(store, job, 1, store.facts(job.id).requests[0])
        store.want_runs(job.id, None, at(2))
        store.want_runs(job.id, None, at(3))
        assert asked(store, job) == []
        store.want_runs(job.id, 3, at(4))
        assert asked(store, job) == [(SPEC_RUNS, 3, 1)]

    def test_none_where_none_was_ever_asked_for_changes_nothing(self, store: Store) -> None:
        job = apply(store)
        store.request_runs(job.id, LEARNED, 2, at(0), token="monday")
        store.want_runs(job.id, None, at(1))
        assert asked(store, job) == [("monday", 2, 0)]

    def test_reading_the_spec_again_does_not_end_a_pause(self, store: Store) -> None:
        job = apply(store)
        store.want_runs(job.id, 3, at(10))
        store.want_runs(job.id, 3, at(20))
        assert resumed_at(store, job) == at(10)


class TestResume:
    def test_it_ends_a_pause_once_per_token(self, store: Store) -> None:
        job = apply(store)
        assert store.resume_job(job.id, "one", at(10))
        assert not store.resume_job(job.id, "one", at(20))
        assert resumed_at(store, job) == at(10)
        assert store.resume_job(job.id, "two", at(30))
        assert resumed_at(store, job) == at(30)

    def test_it_does_not_end_what_the_spec_suspends(self, store: Store) -> None:
        job = apply(store, suspend=True)
        store.resume_job(job.id, "one", at(10))
        assert store.facts(job.id).job.suspended

    def test_a_job_that_is_not_there_can_not_be_resumed(self, store: Store) -> None:
        with pytest.raises(StoreError, match="no job 99"):
            store.resume_job(99, "one", at(1))


class TestReset:
    def learned(self, store: Store, *, closed: bool = True) -> JobRecord:
        """Store a job that has learned from a run, closed or not."""
        job = apply(store)
        made = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
        attempt = store.decide_attempt(DecideAttempt(made.id, 1, "digits-1", decision()), at(1))
        store.record_execution(
            attempt.id, execution_of(result_for(job, made, attempt), started_at=at(1)), at(11)
        )
        store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "", True), at(11))
        if closed:
            store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), at(12))
        return job

    def test_a_token_forgets_once(self, store: Store) -> None:
        job = self.learned(store)
        assert len(store.observations(job.id)) == 1
        assert store.reset_job(job.id, at(20), token="one")
        assert (store.history(job.id), store.observations(job.id)) == ((), ())
        made = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(21)), at(21))
        store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.FAILED), at(22))
        assert not store.reset_job(job.id, at(23), token="one")
        assert len(store.history(job.id)) == 1
        assert store.reset_job(job.id, at(24), token="two")
        assert store.history(job.id) == ()

    def test_it_is_refused_while_something_is_open_and_done_when_that_has_ended(
        self, store: Store
    ) -> None:
        job = self.learned(store, closed=False)
        for _ in range(2):  # the refusal does not count as done
            with pytest.raises(StoreError, match="once nothing of it is open"):
                store.reset_job(job.id, at(20), token="one")
        assert len(store.observations(job.id)) == 1
        (opened,) = store.history(job.id)
        store.close_recurrence(CloseRecurrence(opened.id, RecurrenceState.REACHED), at(21))
        assert store.reset_job(job.id, at(22), token="one")
        assert store.history(job.id) == ()

    def test_a_token_of_resume_is_not_one_of_reset(self, store: Store) -> None:
        job = apply(store)
        assert store.resume_job(job.id, "one", at(1))
        assert store.reset_job(job.id, at(2), token="one")
        assert not store.resume_job(job.id, "one", at(3))

    def test_it_ends_a_pause_and_keeps_the_last_tick_and_the_spec(self, store: Store) -> None:
        job = self.learned(store)
        store.reset_job(job.id, at(20), token="one")
        facts = store.facts(job.id)
        assert facts.job.resumed_at == at(20)
        assert facts.last_scheduled_time == at(1)
        assert (facts.job.id, facts.job.spec, facts.job.created_at) == (job.id, job.spec, START)
