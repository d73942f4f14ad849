"""Histories are projected at once where nobody waits, else later; what fails holds nobody up."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.config_maps import NAME, ConfigMaps
from tests.support.eventually import eventually
from tests.support.histories import START, Try, recurrence, store_history
from zeus_operator.history import config_map
from zeus_operator.history.document import ProjectedHistory, read
from zeus_operator.history.fitting import MIN_KIBIBYTES
from zeus_operator.history.projector import BACKOFF, MAX_AT_ONCE, HistoryProjector
from zeus_operator.kube import KubeError, KubeUnavailable, NotFound, Object, Refused
from zeus_operator.leader import LeadershipLost
from zeus_operator.records import JobRecord, RecurrenceRecord
from zeus_operator.store.store import Store
from zeus_operator.workqueue import WorkQueue

pytestmark = pytest.mark.postgres
FORBIDDEN = Refused(403, "Forbidden", "configmaps is forbidden")
AWAY = KubeUnavailable(0, "", "no answer")


class Latest(random.Random):
    """The longest delay that a back-off may choose."""

    def random(self) -> float:
        return 1.0


class Cluster(ConfigMaps):
    """A cluster in which something happens while it is asked.

    Attributes:
        meanwhile: called once, within the next request to ConfigMaps.
        events_fault: raised when an Event is posted.
        posts: how often an Event was to be posted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] | None = None
        self.events_fault: Exception | None = None
        self.posts = 0

    def request(self, method: str, path: str, *, body: Object | None = None, **rest: Any) -> Object:
        if path.endswith("/events"):
            self.posts += 1
            if self.events_fault is not None:
                raise self.events_fault
        elif self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()
        return super().request(method, path, body=body, **rest)


class Bench:
    """A projector without its thread: a test takes what waits, by a clock that it moves."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cluster = Cluster()
        self.seconds = 0.0
        self.is_busy = False
        self.leads = True
        self.job: JobRecord = store_history(store, [recurrence(1, [Try(256)])])
        queue: WorkQueue[str] = WorkQueue(backoff=BACKOFF, clock=lambda: self.seconds, rng=Latest())
        self.projector = HistoryProjector(
            store,
            self.cluster,
            lambda: datetime(2026, 3, 2, tzinfo=UTC) + timedelta(seconds=self.seconds),
            self.guard,
            lambda: self.is_busy,
            queue,
        )

    def guard(self) -> None:
        if not self.leads:
            raise LeadershipLost("the Lease is gone")

    def history(self) -> tuple[RecurrenceRecord, ...]:
        return self.store.history(self.job.id)

    def project(self, mark: str, **options: Any) -> None:
        given = {"recurrences": self.history(), **options}
        self.projector.project(self.job, mark, **given)

    def take_next(self) -> bool:
        """See to what is due; returns whether anything was."""
        return self.projector.take_next(0.0)

    def delay_until_next(self) -> int:
        """Let time pass until something was due, and return how many seconds that took."""
        for seconds in range(2000):
            if self.take_next():
                return seconds
            self.seconds += 1.0
        raise AssertionError("nothing is ever due")

    @property
    def shown(self) -> ProjectedHistory:
        return read(self.cluster.contents)

    @property
    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.cluster.events]


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)


def test_what_was_read_is_projected_at_once(bench: Bench) -> None:
    bench.project("one")

    assert len(bench.shown.recurrences) == 1
    assert not bench.take_next()


def test_what_was_not_read_is_read_later(bench: Bench) -> None:
    bench.project("one", recurrences=None)
    assert bench.cluster.requests == []

    assert bench.take_next()
    assert len(bench.shown.recurrences) == 1


def test_while_runs_wait_it_is_left_for_later_and_read_anew_then(bench: Bench) -> None:
    bench.is_busy = True
    bench.project("one")
    assert bench.cluster.requests == []
    store_history(bench.store, [recurrence(2, [Try(128)])])
    bench.project("two")

    assert bench.take_next()
    assert not bench.take_next(), "both were the same work"
    assert len(bench.shown.recurrences) == 2
    bench.cluster.requests.clear()
    bench.project("two")
    assert bench.cluster.requests == []


def test_the_same_is_projected_once(bench: Bench) -> None:
    for _ in range(3):
        bench.project("one")
    assert bench.cluster.requests == ["GET", "POST"]

    bench.project("two")
    assert bench.cluster.requests == ["GET", "POST", "PATCH"]


def test_another_size_is_another_history(bench: Bench, store: Store) -> None:
    chance = random.Random(1)
    reasons = (" ".join(str(chance.random()) for _ in range(40)) for _ in range(100))
    many = [recurrence(n, [Try(256, sentence=each)]) for n, each in enumerate(reasons, 2)]
    store_history(store, many)
    bench.project("one")
    assert len(bench.cluster.contents) > MIN_KIBIBYTES * 1024

    smaller = HistoryProjector(store, bench.cluster, lambda: START, most_kibibytes=MIN_KIBIBYTES)
    smaller.project(bench.job, "one", bench.history())

    assert len(bench.cluster.contents) <= MIN_KIBIBYTES * 1024
    assert bench.shown.left_out


def test_where_none_is_to_be_written_one_that_is_there_is_emptied_and_none_is_made(
    store: Store,
) -> None:
    bench = Bench(store)
    bench.project("one")
    without = HistoryProjector(store, bench.cluster, lambda: START, most_kibibytes=0)

    for mark in ("one", "two"):
        without.project(bench.job, mark, bench.history())
    assert bench.cluster.requests == ["GET", "POST", "GET", "PATCH"]
    assert bench.cluster.objects[NAME]["binaryData"] == {config_map.KEY: None}

    del bench.cluster.objects[NAME]
    without.forget(bench.job.uid)
    without.project(bench.job, "three", bench.history())
    assert bench.cluster.objects == {}


def test_a_job_to_which_nothing_has_happened_asks_for_nothing(bench: Bench) -> None:
    bench.project("nothing", may_be_absent=True)

    assert not bench.take_next()
    assert bench.cluster.requests == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FORBIDDEN, "configmaps is forbidden"),
        (Refused(403, "Forbidden", "exceeded quota"), "exceeded quota"),
        (KubeError(401, "Unauthorized", "who are you"), "who are you"),
    ],
    ids=["forbidden", "quota", "unauthorized"],
)
def test_what_the_api_server_refuses_is_said_once_in_its_words_and_tried_again(
    bench: Bench, error: KubeError, words: str
) -> None:
    bench.cluster.refuses = error
    bench.project("one")
    bench.delay_until_next()

    (event,) = bench.cluster.events
    assert event["reason"] == "HistoryRefused"
    assert event["message"] == f"the ConfigMap {NAME} can't be written: {words}. Runs go on."
    assert event["involvedObject"]["uid"] == bench.job.uid

    bench.cluster.refuses = None
    bench.delay_until_next()
    assert len(bench.shown.recurrences) == 1


def test_of_a_failure_that_goes_on_there_is_one_event_and_one_warning(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.cluster.refuses = FORBIDDEN
    bench.project("one")
    for _ in range(3):
        bench.delay_until_next()

    assert bench.cluster.posts == 1
    (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "its history can't be written: configmaps is forbidden" in said.getMessage()


def test_what_is_still_wrong_after_an_hour_is_said_again_for_events_are_dropped_then(
    bench: Bench,
) -> None:
    bench.cluster.refuses = FORBIDDEN
    bench.project("one")
    while bench.seconds < 3600:
        bench.delay_until_next()

    assert bench.reasons == ["HistoryRefused"] * 2


def test_what_goes_wrong_again_after_it_has_healed_is_news(bench: Bench) -> None:
    for mark in ("one", "two"):
        bench.cluster.refuses = FORBIDDEN
        bench.project(mark)
        bench.cluster.refuses = None
        bench.delay_until_next()

    assert bench.reasons == ["HistoryRefused"] * 2


def test_another_process_does_not_say_it_again(bench: Bench) -> None:
    bench.cluster.refuses = FORBIDDEN
    bench.project("one")
    restarted = HistoryProjector(
        bench.store, bench.cluster, lambda: datetime(2026, 3, 2, tzinfo=UTC)
    )

    restarted.project(bench.job, "one", bench.history())

    assert bench.cluster.posts == 2
    assert bench.reasons == ["HistoryRefused"]


def test_one_that_somebody_has_deleted_is_made_anew_at_once_and_nothing_is_wrong(
    bench: Bench,
) -> None:
    bench.project("one")
    del bench.cluster.objects[NAME]
    store_history(bench.store, [recurrence(2, [Try(128)])])

    bench.project("two")

    assert len(bench.shown.recurrences) == 2
    assert bench.cluster.posts == 0


def test_a_namespace_that_is_gone_is_nothing_to_tell_users_of(bench: Bench) -> None:
    bench.cluster.refuses = NotFound(404, "NotFound", "no namespace default")
    bench.project("one")
    bench.delay_until_next()

    assert bench.cluster.posts == 0


def test_a_strangers_is_told_of_and_written_once_it_has_gone(bench: Bench) -> None:
    bench.cluster.put()
    bench.project("one")
    bench.delay_until_next()
    assert bench.reasons == ["HistoryCollision"]
    assert f"the ConfigMap {NAME} is there and is not" in bench.cluster.events[0]["message"]

    del bench.cluster.objects[NAME]
    bench.delay_until_next()
    assert len(bench.shown.recurrences) == 1


def test_an_api_server_that_is_away_is_nothing_to_tell_users_of(bench: Bench) -> None:
    bench.cluster.refuses = AWAY
    bench.project("one")
    bench.delay_until_next()

    assert bench.reasons == []


def test_it_is_tried_again_later_and_later_however_often_it_is_asked_for(bench: Bench) -> None:
    bench.cluster.refuses = AWAY
    bench.project("one")
    delays = []
    for number in range(13):
        bench.project(f"mark {number}")
        delays.append(bench.delay_until_next())

    assert delays[:5] == [1, 2, 4, 8, 16]
    assert delays[-1] == BACKOFF.cap_seconds

    bench.cluster.refuses = None
    bench.delay_until_next()
    bench.cluster.refuses = AWAY
    bench.project("another")
    assert bench.delay_until_next() == 1, "it succeeded meanwhile"


def test_a_history_that_can_not_be_made_holds_nobody_up(bench: Bench) -> None:
    broken: Any = (object(),)

    bench.project("one", recurrences=broken)

    assert bench.delay_until_next() == 1
    assert len(bench.shown.recurrences) == 1, "the next try reads it itself"


def test_a_fault_of_our_own_in_telling_of_a_failure_does_not_end_the_tries(bench: Bench) -> None:
    bench.project("one", recurrences=None)
    bench.cluster.refuses = FORBIDDEN
    bench.cluster.events_fault = RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        bench.take_next()
    bench.cluster.refuses = None

    assert bench.delay_until_next() == 1
    assert len(bench.shown.recurrences) == 1


def test_a_long_history_takes_too_long_for_who_asks_and_is_left_for_later(bench: Bench) -> None:
    bench.project("one", recurrences=bench.history() * MAX_AT_ONCE)
    assert len(bench.shown.recurrences) == MAX_AT_ONCE
    bench.cluster.requests.clear()

    bench.project("two", recurrences=bench.history() * (MAX_AT_ONCE + 1))
    assert bench.cluster.requests == []

    assert bench.take_next()
    assert len(bench.shown.recurrences) == 1, "it was read anew"


def test_what_changes_while_it_is_written_is_written_again(bench: Bench) -> None:
    bench.project("one", recurrences=None)

    def change() -> None:
        store_history(bench.store, [recurrence(2, [Try(128)])])
        bench.project("two")

    bench.cluster.meanwhile = change
    assert bench.take_next()
    bench.project("two")
    assert bench.take_next()

    assert len(bench.shown.recurrences) == 2
    assert bench.cluster.requests == ["GET", "POST", "PATCH"]


def test_who_leads_no_more_writes_nothing(bench: Bench) -> None:
    bench.is_busy = True
    bench.project("one")
    bench.leads = False

    with pytest.raises(LeadershipLost):
        bench.take_next()
    assert bench.cluster.requests == []


def test_a_job_that_was_deleted_meanwhile_is_forgotten(bench: Bench) -> None:
    bench.is_busy = True
    bench.project("one")
    bench.store.delete_job(bench.job.id, START)

    assert bench.take_next()
    assert not bench.take_next()
    assert bench.cluster.objects == {}

    bench.project("two")
    bench.projector.forget(bench.job.uid)
    bench.take_next()
    assert bench.cluster.objects == {}


def test_of_a_job_that_is_gone_nothing_waits_and_nothing_is_known(bench: Bench) -> None:
    bench.is_busy = True
    bench.project("one")
    bench.projector.forget(bench.job.uid)
    bench.take_next()
    assert bench.cluster.requests == []

    bench.is_busy = False
    for _ in range(2):
        bench.project("one")
        bench.projector.forget(bench.job.uid)
    assert bench.cluster.requests == ["GET", "POST", "GET"], "it was looked at again"


def test_of_a_job_that_goes_while_its_history_is_written_nothing_is_known(bench: Bench) -> None:
    bench.project("one", recurrences=None)
    bench.cluster.meanwhile = lambda: bench.projector.forget(bench.job.uid)
    bench.take_next()

    bench.project("one")

    assert bench.cluster.requests == ["GET", "POST", "GET"], "it was looked at again"


@pytest.mark.parametrize("in_hand", [False, True])
def test_failures_of_a_job_that_is_gone_are_forgotten(bench: Bench, in_hand: bool) -> None:
    def forget() -> None:
        bench.projector.forget(bench.job.uid)

    bench.cluster.refuses = AWAY
    bench.project("one")
    for _ in range(4):
        bench.delay_until_next()
    if in_hand:
        bench.cluster.meanwhile = forget
        bench.delay_until_next()
        bench.delay_until_next()
    else:
        forget()

    bench.project("two")

    assert bench.delay_until_next() == 1


def test_its_thread_sees_to_what_waits_and_ends(bench: Bench) -> None:
    projector = HistoryProjector(
        bench.store, bench.cluster, lambda: datetime(2026, 3, 2, tzinfo=UTC)
    )
    projector.start()
    projector.project(bench.job, "one", None)
    eventually(lambda: NAME in bench.cluster.objects, "it is written")
    projector.stop()
    assert len(bench.shown.recurrences) == 1


def test_its_thread_outlives_a_fault_of_our_own(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def answers() -> Iterator[bool]:
        yield False  # to who asks for a history, so that it is the thread that meets the fault
        raise RuntimeError("a bug")

    asked = answers()
    projector = HistoryProjector(
        bench.store,
        bench.cluster,
        lambda: datetime(2026, 3, 2, tzinfo=UTC),
        is_busy=lambda: next(asked, False),
    )
    projector.project(bench.job, "one", bench.history())
    projector.start()
    eventually(lambda: "a bug" in caplog.text, "the fault is logged")
    projector.project(bench.job, "two", None)
    eventually(lambda: "PATCH" in bench.cluster.requests, "it is written")
    projector.stop()
