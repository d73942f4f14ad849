"""What belongs to a job's name, to its namespace, and to one incarnation of it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.jobs import at, decision, execution_of, result_for, spec_document
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.records import JobOverview, JobRecord, RecurrenceKind, RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres
LEARNED = RecurrenceKind.LEARNED
_names = itertools.count(1)


def seen(
    store: Store,
    uid: str,
    *,
    namespace_uid: str = "ns-1",
    name: str = "digits",
    second: float = 0,
    **spec: str,
) -> JobRecord:
    """Store a ZeusJob object with this uid."""
    return store.apply_job(
        "default",
        name,
        {**spec_document(), **spec},
        manifest_path="",
        policy="structured",
        seed=1,
        now=at(second),
        uid=uid,
        namespace_uid=namespace_uid,
    )


def learn(store: Store, job: JobRecord) -> None:
    """Store a recurrence of the job that reached its target and was learned from."""
    ordinal = store.facts(job.id).last_ordinal.get(LEARNED, 0) + 1
    made = store.create_recurrence(CreateRecurrence(job.id, LEARNED, ordinal, at(ordinal)), at(1))
    name = f"child-{next(_names)}"
    attempt = store.decide_attempt(DecideAttempt(made.id, 1, name, decision()), at(1))
    store.record_execution(attempt.id, execution_of(result_for(job, made, attempt)), at(10))
    store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "", True), at(10))
    store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), at(10))


def purged(store: Store, before: datetime) -> int:
    """Purge with a clock that is right."""
    return store.purge_learned_states(before, datetime.now(UTC))


class TestNamespaces:
    def test_a_namespace_that_was_made_anew_has_learned_nothing(self, store: Store) -> None:
        old = seen(store, "job-1", namespace_uid="ns-1")
        learn(store, old)
        store.delete_job(old.id, at(20))
        new = seen(store, "job-2", namespace_uid="ns-2")
        assert (store.observations(new.id), store.history(new.id)) == ((), ())
        assert store.facts(new.id).last_ordinal == {}
        assert store.incarnation_uids(new.id) == ("job-2",)
        assert new.namespace_uid == "ns-2"

    def test_a_job_that_comes_back_in_its_namespace_goes_on_with_what_was_learned(
        self, store: Store
    ) -> None:
        old = seen(store, "job-1")
        learn(store, old)
        store.delete_job(old.id, at(20))
        back = seen(store, "job-2")
        assert len(store.observations(back.id)) == 1
        assert store.facts(back.id).last_ordinal == {LEARNED: 1}
        assert store.incarnation_uids(back.id) == ("job-1", "job-2")

    def test_with_deletion_policy_delete_a_job_made_anew_begins_anew(self, store: Store) -> None:
        """Nobody saw the deletion: the new incarnation is what shows it."""
        learn(store, seen(store, "job-1", deletionPolicy="Delete"))
        back = seen(store, "job-2", deletionPolicy="Delete")
        assert (store.observations(back.id), store.history(back.id)) == ((), ())

    def test_while_both_live_each_is_found_by_uid_and_the_newest_by_name(
        self, store: Store
    ) -> None:
        old = seen(store, "job-1", namespace_uid="ns-1")
        new = seen(store, "job-2", namespace_uid="ns-2")
        assert store.job_by_uid("job-1") == old
        assert store.job_by_uid("job-2") == new
        assert store.job("default", "digits") == new
        assert store.latest_job("default", "digits") == new
        assert seen(store, "job-1", namespace_uid="ns-1").id == old.id

    def test_a_deleted_job_is_not_found_by_its_uid(self, store: Store) -> None:
        job = seen(store, "job-1")
        store.delete_job(job.id, at(1))
        assert store.job_by_uid("job-1") is None
        assert store.job_by_uid("never") is None


class TestErase:
    def test_deleting_keeps_what_was_learned_unless_it_is_to_be_erased(self, store: Store) -> None:
        job = seen(store, "job-1")
        learn(store, job)
        store.delete_job(job.id, at(20))
        assert len(store.observations(job.id)) == 1
        store.delete_job(job.id, at(21), erase=True)
        assert store.latest_job("default", "digits") is None
        back = seen(store, "job-2")
        assert (store.observations(back.id), store.history(back.id)) == ((), ())

    def test_what_another_living_incarnation_goes_on_with_is_not_erased(self, store: Store) -> None:
        old = seen(store, "job-1")
        learn(store, old)
        back = seen(store, "job-2")  # ends the one before
        store.delete_job(old.id, at(20), erase=True)
        assert len(store.observations(back.id)) == 1
        assert store.job_by_uid("job-2") == back

    def test_other_names_are_left_alone(self, store: Store) -> None:
        job, other = seen(store, "job-1"), seen(store, "job-2", name="other")
        same_name = seen(store, "job-3", namespace_uid="ns-2")
        for each in (job, other, same_name):
            learn(store, each)
        store.delete_job(job.id, at(20), erase=True)
        assert [len(store.observations(each.id)) for each in (other, same_name)] == [1, 1]


class TestPurge:
    def test_a_clock_that_is_wrong_by_a_month_erases_nothing(self, store: Store) -> None:
        job = seen(store, "job-1")
        store.delete_job(job.id, at(100))
        ahead = datetime.now(UTC) + timedelta(days=30)
        assert store.purge_learned_states(ahead, ahead) == 0
        assert purged(store, at(150)) == 1

    def test_it_erases_names_whose_last_incarnation_was_deleted_long_enough_ago(
        self, store: Store
    ) -> None:
        living, long_gone = seen(store, "a", name="living"), seen(store, "b", name="long-gone")
        back, young = seen(store, "c", name="back"), seen(store, "d", name="young")
        for job in (living, long_gone, back, young):
            learn(store, job)
        for job in (long_gone, back):
            store.delete_job(job.id, at(100))
        again = seen(store, "c2", name="back")
        store.delete_job(young.id, at(200))

        assert purged(store, at(150)) == 1

        assert store.latest_job("default", "long-gone") is None
        for kept in (living, again, young):
            assert len(store.observations(kept.id)) == 1
        assert purged(store, at(150)) == 0

    def test_the_last_of_several_incarnations_counts(self, store: Store) -> None:
        first = seen(store, "a")
        learn(store, first)
        store.delete_job(first.id, at(100))
        second = seen(store, "b")
        store.delete_job(second.id, at(200))
        assert purged(store, at(150)) == 0
        assert purged(store, at(200)) == 0  # not before that moment
        assert purged(store, at(200) + timedelta(seconds=1)) == 1
        assert store.latest_job("default", "digits") is None


class TestOverview:
    def test_it_says_which_living_jobs_have_something_open_or_asked_for(self, store: Store) -> None:
        idle, busy = seen(store, "a", name="idle"), seen(store, "b", name="busy")
        asked, gone = seen(store, "c", name="asked"), seen(store, "d", name="gone")
        made = store.create_recurrence(CreateRecurrence(busy.id, LEARNED, 1, at(1)), at(1))
        request = store.request_runs(asked.id, LEARNED, 1, at(1), token="monday")
        store.delete_job(gone.id, at(2))
        assert store.overview() == (
            JobOverview(idle.id, "a", "default", "idle", has_open=False, has_requests=False),
            JobOverview(busy.id, "b", "default", "busy", has_open=True, has_requests=False),
            JobOverview(asked.id, "c", "default", "asked", has_open=False, has_requests=True),
        )
        store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), at(3))
        store.cancel_request(request.id, at(3))
        assert not any(each.has_open or each.has_requests for each in store.overview())

    @pytest.mark.parametrize("token", ["", "monday"])
    def test_a_request_counts_until_its_last_run_has_ended(self, store: Store, token: str) -> None:
        job = seen(store, "a")
        request = store.request_runs(job.id, LEARNED, 1, at(1), token=token)
        made = store.create_recurrence(
            CreateRecurrence(job.id, LEARNED, 1, at(1), request.id), at(1)
        )
        (before,) = store.overview()
        assert (before.has_open, before.has_requests) == (True, True)
        store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), at(2))
        (after,) = store.overview()
        assert (after.has_open, after.has_requests) == (False, False)

    def test_a_skipped_tick_is_nothing_open(self, store: Store) -> None:
        job = seen(store, "a")
        skipped = CreateRecurrence(job.id, LEARNED, 0, at(1), state=RecurrenceState.SKIPPED)
        store.create_recurrence(skipped, at(2))
        (found,) = store.overview()
        assert not found.has_open
