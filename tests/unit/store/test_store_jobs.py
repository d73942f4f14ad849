"""Jobs, incarnations, requests, locks: what the store promises about them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from sqlalchemy import Connection

from tests.support.eventually import eventually
from tests.support.jobs import START, apply, at, decision, spec_document
from zeus_operator.actions import CreateRecurrence, DecideAttempt
from zeus_operator.records import RecurrenceKind, RecurrenceState
from zeus_operator.store import steps
from zeus_operator.store.connection import Database, StoreError, StoreUnavailable, open_engine
from zeus_operator.store.store import JobBusy, Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres
LEARNED = RecurrenceKind.LEARNED


def create(store: Store, job_id: int, ordinal: int = 1, **changes: object) -> CreateRecurrence:
    action = CreateRecurrence(job_id, LEARNED, ordinal, at(ordinal), **changes)  # type: ignore[arg-type]  # built by keyword
    store.create_recurrence(action, at(ordinal))
    return action


def test_the_same_spec_keeps_its_generation_and_another_gets_the_next(store: Store) -> None:
    first = apply(store)
    again = apply(store)
    assert (again.id, again.uid, again.generation) == (first.id, first.uid, 1)
    changed = apply(store, retry={"maxAttempts": 2})
    assert (changed.id, changed.uid, changed.generation) == (first.id, first.uid, 2)
    assert changed.spec == spec_document(retry={"maxAttempts": 2})


def test_jobs_are_listed_by_name_and_found(store: Store) -> None:
    apply(store, "zebra")
    apply(store, "ant")
    assert [job.name for job in store.jobs()] == ["ant", "zebra"]
    found = store.job("default", "ant")
    assert found is not None
    assert found.created_at == START
    assert store.job("default", "nobody") is None
    assert store.job("other", "ant") is None


def test_deleting_cancels_what_is_open_and_applying_again_starts_a_new_incarnation(
    store: Store,
) -> None:
    job = apply(store)
    recurrence = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    store.decide_attempt(DecideAttempt(recurrence.id, 1, "child", decision()), at(1))
    request = store.request_runs(job.id, LEARNED, 3, at(1))
    store.delete_job(job.id, at(2))
    assert store.job("default", "digits") is None
    facts = store.facts(job.id)
    assert facts.recurrences[0].state is RecurrenceState.CANCELLED
    assert facts.recurrences[0].attempts[0].outcome is Outcome.CANCELLED
    assert facts.requests == ()
    back = apply(store)
    assert back.uid != job.uid
    assert back.generation == 1
    assert store.request_runs(back.id, LEARNED, 3, at(3)).id != request.id
    # The history is the name's, and numbers go on where they were.
    assert [item.ordinal for item in store.history(back.id)] == [1]
    assert store.facts(back.id).last_ordinal == {LEARNED: 1}
    assert store.facts(back.id).recurrences == ()


def test_another_uid_replaces_the_living_incarnation(store: Store) -> None:
    def applied(uid: str) -> int:
        return store.apply_job(
            "default",
            "digits",
            spec_document(),
            manifest_path="",
            policy="zeus",
            seed=1,
            now=START,
            uid=uid,
        ).id

    first = applied("uid-1")
    assert applied("uid-1") == first
    assert applied("uid-2") != first
    assert [job.uid for job in store.jobs()] == ["uid-2"]


def test_reset_erases_history_but_not_the_job_or_its_last_tick(store: Store) -> None:
    job = apply(store)
    create(store, job.id)
    store.request_runs(job.id, LEARNED, 3, at(1))
    store.reset_job(job.id, at(5))
    facts = store.facts(job.id)
    assert facts.recurrences == ()
    assert facts.observations == ()
    assert facts.requests == ()
    assert facts.last_ordinal == {}
    assert facts.last_scheduled_time == at(1)
    assert store.job("default", "digits") is not None


def test_the_latest_incarnation_is_found_living_or_deleted(store: Store) -> None:
    assert store.latest_job("default", "digits") is None
    first = apply(store)
    store.delete_job(first.id, at(1))
    second = apply(store)
    assert store.latest_job("default", "digits") == second
    assert store.incarnation_uids(second.id) == (first.uid, second.uid)
    store.delete_job(second.id, at(2))
    assert store.latest_job("default", "digits") == second


def test_reset_of_a_deleted_job_leaves_nothing_of_it_but_its_last_tick(store: Store) -> None:
    job = apply(store)
    create(store, job.id)
    store.delete_job(job.id, at(2))
    store.reset_job(job.id, at(3))
    assert store.latest_job("default", "digits") is None
    back = apply(store)
    assert store.history(back.id) == ()
    assert store.facts(back.id).last_scheduled_time == at(1)


def test_reset_of_a_deleted_job_does_not_erase_under_its_next_incarnation(store: Store) -> None:
    job = apply(store)
    store.delete_job(job.id, at(1))
    back = apply(store)
    create(store, back.id)
    with pytest.raises(StoreError, match="has been run again since"):
        store.reset_job(job.id, at(3))
    assert len(store.history(back.id)) == 1


def test_an_attempt_that_is_decided_while_its_job_is_deleted_is_cancelled_as_well(
    store: Store,
) -> None:
    job = apply(store)
    recurrence = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    deleting = threading.Thread(target=store.delete_job, args=(job.id, at(2)))

    def waits_for_us() -> bool:
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return bool(store._database.read(lambda c: c.exec_driver_sql(blocked)).scalar())

    with store._database.engine.begin() as connection:
        action = DecideAttempt(recurrence.id, 1, "child", decision())
        steps.decide_attempt(connection, action, at(2))
        deleting.start()
        eventually(waits_for_us, "the deletion meets the recurrence that is being decided")
    deleting.join()
    (cancelled,) = store.facts(job.id).recurrences[0].attempts
    assert cancelled.outcome is Outcome.CANCELLED


def test_a_killed_command_resumes_its_request_instead_of_asking_for_more(store: Store) -> None:
    job = apply(store)
    first = store.request_runs(job.id, LEARNED, 12, at(0))
    again = store.request_runs(job.id, LEARNED, 12, at(60))
    assert again.id == first.id
    assert again.requested_at == first.requested_at
    control = store.request_runs(job.id, RecurrenceKind.CONTROL, 2, at(60))
    assert control.id != first.id
    store.cancel_request(first.id, at(61))
    fresh = store.request_runs(job.id, LEARNED, 12, at(62))
    assert fresh.id not in (first.id, control.id)
    assert {request.id for request in store.facts(job.id).requests} == {control.id, fresh.id}


def test_resuming_and_asking_to_run_end_a_pause(store: Store) -> None:
    job = apply(store)
    store.set_suspended(job.id, True, at(10))
    suspended = store.job("default", "digits")
    assert suspended is not None
    assert suspended.suspended
    assert suspended.resumed_at == START
    store.set_suspended(job.id, False, at(20))
    resumed = store.job("default", "digits")
    assert resumed is not None
    assert not resumed.suspended
    assert resumed.resumed_at == at(20)
    store.request_runs(job.id, LEARNED, 1, at(30))
    assert store.facts(job.id).job.resumed_at == at(30)


LOCK_HOLDER = """
import sys
from zeus_operator.store.store import Store
store = Store.connect(sys.argv[1])
with store.job_lock(int(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_program_on_the_same_job_is_told_who_is_at_it(store: Store, database: str) -> None:
    job, other = apply(store), apply(store, "other")
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK_HOLDER, database, str(job.id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(JobBusy, match=f"pid {holder.pid} "), store.job_lock(job.id):
        pass
    with store.job_lock(other.id):
        pass
    holder.kill()
    holder.communicate()
    with store.job_lock(job.id) as lock:
        lock.ensure()
    with store.job_lock(job.id):
        pass


def test_a_lock_lost_with_its_session_is_taken_again_or_refused(
    store: Store, database: str
) -> None:
    job = apply(store)
    other = Store.connect(database)

    def end_lock_sessions() -> None:
        other._database.write(
            lambda c: c.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
                "WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        )

    with store.job_lock(job.id) as lock:
        end_lock_sessions()
        lock.ensure()
        with pytest.raises(JobBusy), other.job_lock(job.id):
            pass
        end_lock_sessions()
        with other.job_lock(job.id), pytest.raises(JobBusy):
            lock.ensure()
    other.close()


def test_a_transaction_survives_the_loss_of_its_connection(store: Store) -> None:
    job = apply(store)
    store._database.read(lambda c: c.exec_driver_sql("SELECT 1"))
    lost = []

    def work(connection: object) -> str:
        if not lost:
            lost.append(True)
            store_pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()  # type: ignore[attr-defined]  # a Connection
            with Database(store._database.engine).engine.connect() as second:
                second.exec_driver_sql(f"SELECT pg_terminate_backend({store_pid}, 5000)")
            connection.exec_driver_sql("SELECT 1")  # type: ignore[attr-defined]  # a Connection
        return "done"

    assert store._database.write(work) == "done"
    assert store.facts(job.id).job.id == job.id


def test_a_server_that_stays_away_gives_one_clear_error_after_bounded_retries() -> None:
    pauses: list[float] = []
    recoveries: list[bool] = []
    database = Database(
        open_engine("postgresql://zeus@/x?host=/nonexistent"),
        pauses_seconds=(0.1, 0.2),
        sleep=pauses.append,
        recover=lambda: recoveries.append(True),
    )
    with pytest.raises(StoreUnavailable, match="does not answer"):
        database.read(lambda c: c.exec_driver_sql("SELECT 1"))
    assert pauses == [0.1, 0.2]
    assert len(recoveries) == 2


def test_a_session_that_breaks_while_it_is_set_up_is_opened_again(store: Store) -> None:
    pids = []

    def begin(connection: Connection) -> None:
        pids.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        if len(pids) == 1:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with store._database.session(begin) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() == pids[-1]
    assert len(set(pids)) == 2


def test_a_server_that_can_not_do_it_is_quoted_and_not_asked_again(store: Store) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(True)
        connection.exec_driver_sql(
            "DO $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$"
        )

    with pytest.raises(StoreError, match="refuses: no space left on device"):
        store._database.write(work)
    assert len(tries) == 1


def test_an_error_of_ours_is_not_retried(store: Store) -> None:
    tries = []

    def work(connection: object) -> None:
        tries.append(True)
        connection.exec_driver_sql("SELECT * FROM no_such_table")  # type: ignore[attr-defined]  # a Connection

    with pytest.raises(Exception, match="no_such_table"):
        store._database.write(work)
    assert len(tries) == 1


def test_unknown_ids_are_said_to_be_unknown(store: Store) -> None:
    with pytest.raises(StoreError, match="no job 99"):
        store.facts(99)
    with pytest.raises(StoreError, match="deleted"):
        store.create_recurrence(CreateRecurrence(99, LEARNED, 1, at(1)), at(1))
