"""Only the newest leader writes: what an older one tries after that changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, select

from tests.support.eventually import eventually
from tests.support.jobs import apply, at, decision, execution_of
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.records import RecurrenceKind, RecurrenceState
from zeus_operator.store.models import metadata
from zeus_operator.store.store import FencedOut, Store, StoreError
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres
LEARNED = RecurrenceKind.LEARNED
PATIENCE_SECONDS = 30.0
"""What bounds a wait that only a broken fence would let come to its end."""


@dataclass(frozen=True)
class Ids:
    """Of what is stored when an old leader writes."""

    job: int
    recurrence: int
    attempt: int
    request: int


WRITES: dict[str, Callable[[Store, Ids], object]] = {
    "apply_job, new": lambda s, _: apply(s, "another"),
    "apply_job, changed": lambda s, _: apply(s, retry={"maxAttempts": 2}),
    "set_suspended": lambda s, ids: s.set_suspended(ids.job, True, at(9)),
    "delete_job": lambda s, ids: s.delete_job(ids.job, at(9)),
    "delete_job, erase": lambda s, ids: s.delete_job(ids.job, at(9), erase=True),
    "purge_learned_states": lambda s, _: s.purge_learned_states(at(9), datetime.now(UTC)),
    "reset_job": lambda s, ids: s.reset_job(ids.job, at(9)),
    "resume_job": lambda s, ids: s.resume_job(ids.job, "token", at(9)),
    "request_runs": lambda s, ids: s.request_runs(ids.job, LEARNED, 1, at(9)),
    "request_runs, token": lambda s, ids: s.request_runs(ids.job, LEARNED, 1, at(9), "another"),
    "want_runs": lambda s, ids: s.want_runs(ids.job, 2, at(9)),
    "cancel_request": lambda s, ids: s.cancel_request(ids.request, at(9)),
    "create_recurrence": lambda s, ids: s.create_recurrence(
        CreateRecurrence(ids.job, LEARNED, 2, at(2)), at(9)
    ),
    "decide_attempt": lambda s, ids: s.decide_attempt(
        DecideAttempt(ids.recurrence, 2, "digits-2", decision()), at(9)
    ),
    "record_execution": lambda s, ids: s.record_execution(ids.attempt, execution_of(None), at(9)),
    "record_child": lambda s, ids: s.record_child(ids.attempt, "child", [], at(9)),
    "close_attempt": lambda s, ids: s.close_attempt(
        CloseAttempt(ids.attempt, Outcome.CRASHED, "broke", False), at(9)
    ),
    "close_recurrence": lambda s, ids: s.close_recurrence(
        CloseRecurrence(ids.recurrence, RecurrenceState.CANCELLED), at(9)
    ),
}


def stored(store: Store) -> Ids:
    """Store something that each of `WRITES` would change."""
    deleted = apply(store, "deleted")
    store.delete_job(deleted.id, at(1))
    job = apply(store)
    recurrence = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    attempt = store.decide_attempt(DecideAttempt(recurrence.id, 1, "digits-1", decision()), at(1))
    request = store.request_runs(job.id, LEARNED, 3, at(1), "token")
    return Ids(job.id, recurrence.id, attempt.id, request.id)


def everything(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables."""

    def rows(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(
                    select(table).order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for table in metadata.sorted_tables
        }

    return store._database.read(rows)


@pytest.fixture
def other(database: str) -> Iterator[Store]:
    """Another replica's store on the same database."""
    opened = Store.connect(database)
    yield opened
    opened.close()


@pytest.mark.parametrize("name", WRITES)
def test_no_write_of_an_old_leader_changes_anything(store: Store, other: Store, name: str) -> None:
    ids = stored(store)
    old = store.lead("one", at(2))
    new = other.lead("two", at(3))
    before = everything(store)

    with pytest.raises(FencedOut, match="another replica leads: epoch 1 is over"):
        WRITES[name](old, ids)
    assert everything(store) == before

    WRITES[name](new, ids)
    assert everything(store) != before


def test_an_old_leader_still_reads(store: Store) -> None:
    ids = stored(store)
    old = store.lead("one", at(2))
    new = store.lead("two", at(3))
    assert old.facts(ids.job) == new.facts(ids.job)
    assert old.history(ids.job) == new.history(ids.job)
    assert old.overview() == new.overview()
    assert old.jobs() == new.jobs()
    assert old.incarnation_uids(ids.job) == new.incarnation_uids(ids.job)
    old.ping()


def test_leaders_that_come_at_once_get_different_epochs_and_the_newest_one_writes(
    store: Store,
) -> None:
    with ThreadPoolExecutor(6) as pool:
        leaders = list(pool.map(lambda n: store.lead(f"replica {n}", at(n)), range(6)))
    by_epoch = sorted(leaders, key=lambda leader: leader.epoch or 0)
    assert [leader.epoch for leader in by_epoch] == [1, 2, 3, 4, 5, 6]
    for old in by_epoch[:-1]:
        with pytest.raises(FencedOut):
            apply(old)
    assert apply(by_epoch[-1]).name == "digits"


def test_who_leads_again_has_a_new_epoch_and_its_former_self_is_fenced_out(store: Store) -> None:
    former = store.lead("one", at(1))
    again = store.lead("one", at(2))
    assert (former.epoch, again.epoch) == (1, 2)
    with pytest.raises(FencedOut):
        apply(former)
    apply(again)
    (row,) = everything(store)["leadership"]
    assert (row["epoch"], row["holder"], row["acquired_at"]) == (2, "one", at(2))


def test_a_store_without_an_epoch_is_not_fenced(store: Store) -> None:
    assert store.epoch is None
    store.lead("one", at(1))
    apply(store)  # on one machine a lock of the job keeps others off


class OpenWrite:
    """A write transaction of a leader, held open in a thread of its own."""

    def __init__(self, leader: Store) -> None:
        self.ended_with: list[BaseException | str] = []
        self._leader = leader
        self._began, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> OpenWrite:
        self._thread.start()
        assert self._began.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()

    def go_on(self) -> None:
        """Let it commit, and wait for the end of it."""
        self._released.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        def write(connection: Connection) -> None:
            connection.exec_driver_sql("UPDATE jobs SET seed = seed + 1")
            self._began.set()
            if not self._released.wait(PATIENCE_SECONDS):
                self.ended_with.append("nobody let it go on")

        try:
            self._leader._write(write)
        except StoreError as error:
            self.ended_with.append(error)
        else:
            self.ended_with.append("committed")


def test_a_leader_that_stands_still_in_a_write_delays_the_next_one_only_until_its_time_is_out(
    store: Store, other: Store
) -> None:
    job = apply(store, seed=7)
    old = store.lead("one", at(1), idle_timeout_seconds=0.3)
    with OpenWrite(old) as write:
        new = other.lead("two", at(2))  # returns while the old one still stands there
        assert write.ended_with == []
        write.go_on()
    (end,) = write.ended_with
    assert isinstance(end, FencedOut)
    assert new.epoch == 2
    assert new.facts(job.id).job.seed == 7


def test_the_next_leader_sees_all_that_the_one_before_has_committed(
    store: Store, other: Store
) -> None:
    job = apply(store, seed=7)
    old = store.lead("one", at(1), idle_timeout_seconds=PATIENCE_SECONDS)
    seen: list[int] = []

    def take_over() -> None:
        seen.append(other.lead("two", at(2)).facts(job.id).job.seed)

    def waits() -> bool:
        return bool(
            store._database.read(
                lambda c: c.exec_driver_sql(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ).scalar_one()
            )
        )

    successor = threading.Thread(target=take_over, daemon=True)
    with OpenWrite(old) as write:
        successor.start()
        eventually(waits, "the next leader waits for the write of the one before")
        assert seen == []
        write.go_on()
    successor.join(PATIENCE_SECONDS)
    assert write.ended_with == ["committed"]
    assert seen == [8]


def test_two_writes_of_one_leader_do_not_wait_for_each_other(store: Store) -> None:
    apply(store)
    leader = store.lead("one", at(1), idle_timeout_seconds=PATIENCE_SECONDS)
    with OpenWrite(leader) as write:
        assert leader._write(lambda c: c.exec_driver_sql("SELECT 1").scalar_one()) == 1
        assert write.ended_with == []
    assert write.ended_with == ["committed"]


def test_a_statement_of_a_leader_is_cancelled_when_its_time_is_out(store: Store) -> None:
    leader = store.lead("one", at(1), statement_timeout_seconds=0.3)
    with pytest.raises(StoreError, match="statement timeout"):
        leader._write(lambda c: c.exec_driver_sql(f"SELECT pg_sleep({PATIENCE_SECONDS})"))
    apply(leader)  # the leader goes on


def test_time_outs_hold_for_write_transactions_of_the_leader_alone(store: Store) -> None:
    leader = store.lead("one", at(1), statement_timeout_seconds=1.5, idle_timeout_seconds=2.5)

    def timeouts(connection: Connection) -> tuple[str, str]:
        return (
            connection.exec_driver_sql("SHOW statement_timeout").scalar_one(),
            connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one(),
        )

    before = store._database.read(timeouts)
    assert leader._write(timeouts) == ("1500ms", "2500ms")
    assert leader._database.read(timeouts) == before
    assert store._write(timeouts) == before
