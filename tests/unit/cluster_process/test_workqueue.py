"""The work queue: each key once, never in two hands, the urgent first, failed ones later."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventually import eventually
from zeus_operator.workqueue import URGENT_IN_A_ROW, Backoff, WorkQueue


@dataclass
class Clock:
    """Seconds that pass only when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock=clock, rng=random.Random(7))


def take_all(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while (key := queue.get(0)) is not None:
        taken.append(key)
        queue.done(key)
    return taken


class TestKeysThatAreDue:
    def test_come_in_the_order_of_their_arrival(self, queue: WorkQueue[str]) -> None:
        for key in ("c", "a", "b"):
            queue.add(key)
        assert take_all(queue) == ["c", "a", "b"]

    def test_come_once_however_often_they_were_added(self, queue: WorkQueue[str]) -> None:
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert queue.depth == 2
        assert take_all(queue) == ["a", "b"]

    def test_are_not_handed_out_twice_at_once(self, queue: WorkQueue[str]) -> None:
        queue.add("a")
        assert queue.get(0) == "a"
        queue.add("a")
        assert queue.get(0) is None
        assert queue.depth == 1

    def test_come_again_after_done_when_they_were_added_meanwhile(
        self, queue: WorkQueue[str]
    ) -> None:
        queue.add("a")
        queue.get(0)
        queue.add("a")
        queue.add("a")
        queue.done("a")
        assert take_all(queue) == ["a"]

    def test_do_not_come_again_when_nobody_asked(self, queue: WorkQueue[str]) -> None:
        queue.add("a")
        queue.get(0)
        queue.done("a")
        assert queue.get(0) is None

    def test_can_be_given_back_only_once(self, queue: WorkQueue[str]) -> None:
        queue.add("a")
        queue.get(0)
        queue.done("a")
        with pytest.raises(ValueError, match="given back already"):
            queue.done("a")


class TestPriorities:
    def test_an_event_passes_a_resync(self, queue: WorkQueue[str]) -> None:
        for key in ("idle-1", "idle-2"):
            queue.add(key, low=True)
        queue.add("event")
        assert take_all(queue) == ["event", "idle-1", "idle-2"]

    def test_an_event_makes_a_key_of_the_resync_urgent(self, queue: WorkQueue[str]) -> None:
        for key in ("idle-1", "idle-2", "idle-3"):
            queue.add(key, low=True)
        queue.add("idle-3")
        assert take_all(queue) == ["idle-3", "idle-1", "idle-2"]

    def test_a_resync_does_not_demote_an_urgent_key(self, queue: WorkQueue[str]) -> None:
        queue.add("a")
        queue.add("idle", low=True)
        queue.add("a", low=True)
        assert take_all(queue) == ["a", "idle"]

    def test_events_without_end_do_not_starve_the_resync(self, queue: WorkQueue[str]) -> None:
        queue.add("idle", low=True)
        for number in range(3 * URGENT_IN_A_ROW):
            queue.add(f"event-{number}")
        assert take_all(queue).index("idle") == URGENT_IN_A_ROW

    @pytest.mark.parametrize("lows", [(True, False), (False, True)])
    def test_the_highest_priority_of_what_is_added_while_in_hand_counts(
        self, queue: WorkQueue[str], lows: tuple[bool, bool]
    ) -> None:
        queue.add("a", low=True)
        queue.get(0)
        queue.add("idle", low=True)
        for low in lows:
            queue.add("a", low=low)
        queue.done("a")
        assert take_all(queue) == ["a", "idle"]

    def test_a_retry_keeps_the_priority_it_was_handed_out_with(
        self, queue: WorkQueue[str], clock: Clock
    ) -> None:
        queue.add("idle", low=True)
        queue.get(0)
        queue.retry("idle")
        queue.done("idle")
        clock.advance(60)
        queue.add("event")
        assert take_all(queue) == ["event", "idle"]


class TestDelays:
    def test_a_key_comes_when_its_delay_is_over(self, queue: WorkQueue[str], clock: Clock) -> None:
        queue.add_after("a", 10)
        clock.advance(9.999)
        assert queue.get(0) is None
        assert (queue.delayed, queue.depth) == (1, 0)
        clock.advance(0.001)
        assert take_all(queue) == ["a"]
        assert queue.delayed == 0

    @pytest.mark.parametrize("delays", [(10, 60), (60, 10)])
    def test_the_earliest_of_several_wishes_holds(
        self, queue: WorkQueue[str], clock: Clock, delays: tuple[int, int]
    ) -> None:
        for delay in delays:
            queue.add_after("a", delay)
        assert queue.delayed == 1
        clock.advance(10)
        assert take_all(queue) == ["a"]
        clock.advance(60)
        assert queue.get(0) is None

    def test_an_event_ends_the_delay(self, queue: WorkQueue[str], clock: Clock) -> None:
        queue.add_after("a", 10)
        queue.add("a")
        assert take_all(queue) == ["a"]
        clock.advance(10)
        assert queue.get(0) is None

    def test_a_resync_leaves_the_delay_so_that_a_tick_is_not_late(
        self, queue: WorkQueue[str], clock: Clock
    ) -> None:
        queue.add_after("tick", 10)
        queue.add("idle", low=True)
        queue.add("tick", low=True)
        clock.advance(10)
        assert take_all(queue) == ["tick", "idle"]

    def test_a_delay_that_ends_while_the_key_is_in_hand_hands_it_out_again(
        self, queue: WorkQueue[str], clock: Clock
    ) -> None:
        queue.add("a")
        queue.get(0)
        queue.add_after("a", 5)
        clock.advance(5)
        assert queue.get(0) is None
        queue.done("a")
        assert take_all(queue) == ["a"]

    def test_several_that_are_over_come_in_the_order_of_their_ends(
        self, queue: WorkQueue[str], clock: Clock
    ) -> None:
        for key, delay in (("third", 3), ("first", 1), ("second", 2)):
            queue.add_after(key, delay)
        clock.advance(10)
        assert take_all(queue) == ["first", "second", "third"]

    def test_a_delay_of_nothing_or_less_is_due_now(self, queue: WorkQueue[str]) -> None:
        queue.add_after("a", 0)
        queue.add_after("b", -5)
        assert sorted(take_all(queue)) == ["a", "b"]

    def test_outdated_delays_do_not_pile_up(self, queue: WorkQueue[str], clock: Clock) -> None:
        def events(number: int) -> int:
            for _ in range(number):
                queue.add("a")
                queue.get(0)
                queue.add_after("a", 86_400)
                queue.done("a")
                clock.advance(1)
            return tracemalloc.get_traced_memory()[0]

        queue.add_after("tick", 50_000)  # stays in front of all others
        tracemalloc.start()
        try:
            before = events(1_000)
            assert events(20_000) < before + 100_000
        finally:
            tracemalloc.stop()


class TestBackoff:
    @given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
    def test_doubles_up_to_its_cap_with_at_most_half_of_it_left_to_chance(
        self, failures: int, chance: float
    ) -> None:
        delay = Backoff(first_seconds=0.5, cap_seconds=120).delay_seconds(failures, chance)
        longest = min(120.0, 0.5 * 2.0 ** min(failures - 1, 60))
        assert longest / 2 <= delay <= longest

    def test_counts_failures_per_key_until_it_is_forgotten(self, queue: WorkQueue[str]) -> None:
        for _ in range(3):
            queue.retry("a")
        queue.retry("b")
        assert (queue.failures("a"), queue.failures("b")) == (3, 1)
        queue.forget("a")
        assert (queue.failures("a"), queue.failures("b")) == (0, 1)

    def test_hands_the_key_out_again_only_after_the_delay(
        self, queue: WorkQueue[str], clock: Clock
    ) -> None:
        queue.add("a")
        queue.get(0)
        delay = queue.retry("a")
        queue.done("a")
        assert queue.get(0) is None
        clock.advance(delay)
        assert take_all(queue) == ["a"]

    def test_an_event_does_not_wait_for_it(self, queue: WorkQueue[str]) -> None:
        queue.add("a")
        queue.get(0)
        queue.retry("a")
        queue.add("a")
        queue.done("a")
        assert take_all(queue) == ["a"]

    def test_keys_that_failed_together_come_back_apart(self, clock: Clock) -> None:
        queue: WorkQueue[str] = WorkQueue(clock=clock, rng=random.Random(1))
        assert len({queue.retry(f"key-{number}") for number in range(100)}) == 100

    @pytest.mark.parametrize("bounds", [(0, 10), (-1, 10), (10, 5)])
    def test_refuses_bounds_that_make_no_sense(self, bounds: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="0 < first_seconds <= cap_seconds"):
            Backoff(*bounds)


class TestFigures:
    def test_say_how_long_the_oldest_waits(self, queue: WorkQueue[str], clock: Clock) -> None:
        assert queue.oldest_age_seconds == 0
        queue.add("a", low=True)
        clock.advance(5)
        queue.add("b")
        clock.advance(2)
        assert queue.oldest_age_seconds == 7
        queue.add("a")  # becoming urgent does not make it younger
        assert queue.oldest_age_seconds == 7

    def test_count_the_age_of_a_delayed_key_from_its_end(
        self, queue: WorkQueue[str], clock: Clock
    ) -> None:
        queue.add_after("a", 10)
        clock.advance(9)
        assert queue.oldest_age_seconds == 0
        clock.advance(4)
        assert queue.oldest_age_seconds == 3


class TestShutDown:
    def test_hands_out_nothing_more_but_takes_back(self, queue: WorkQueue[str]) -> None:
        for key in ("a", "b"):
            queue.add(key)
        queue.get(0)
        queue.shut_down()
        queue.add("c")
        queue.add_after("d", 0)
        queue.retry("a")
        assert queue.get() is None
        queue.done("a")
        assert queue.is_shut_down

    def test_wakes_everybody_who_waits(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        threads = started(4, queue.get)
        queue.shut_down()
        join(threads)


class TestWaiting:
    """With the real clock; what is asserted is that a waiter is woken at all, and by what."""

    def test_a_new_key_wakes_a_waiter(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        got: list[str | None] = []
        threads = started(1, lambda: got.append(queue.get()))
        queue.add("a")
        join(threads)
        assert got == ["a"]

    def test_the_end_of_a_delay_wakes_a_waiter_without_a_timeout(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        got: list[str | None] = []
        threads = started(1, lambda: got.append(queue.get()))
        queue.add_after("later", 3_600)
        queue.add_after("soon", 0.05)
        join(threads)
        assert got == ["soon"]

    def test_a_delay_is_not_lost_when_another_waiter_leaves_first(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        got: list[str | None] = []
        impatient = started(3, lambda: queue.get(0.05))
        patient = started(1, lambda: got.append(queue.get(3_600)))
        queue.add_after("a", 0.3)
        join(impatient)
        join(patient)
        assert got == ["a"]

    def test_done_wakes_a_waiter_for_the_key_added_meanwhile(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        queue.get()
        got: list[str | None] = []
        threads = started(1, lambda: got.append(queue.get()))
        queue.add("a")
        queue.done("a")
        join(threads)
        assert got == ["a"]

    def test_a_timeout_returns_nothing(self) -> None:
        assert WorkQueue[str]().get(0.01) is None

    def test_many_hands_never_hold_the_same_key_and_miss_no_wish(self) -> None:
        """What was wished before a key was taken is what its taker sees, as with a reconcile."""
        queue: WorkQueue[int] = WorkQueue(backoff=Backoff(0.0001, 0.001))
        wished: Counter[int] = Counter()
        seen: Counter[int] = Counter()
        in_hand: set[int] = set()
        wrong: list[str] = []
        lock = threading.Lock()

        def work() -> None:
            rng = random.Random()
            while (key := queue.get()) is not None:
                with lock:
                    if key in in_hand:
                        wrong.append(f"{key} in two hands")
                    in_hand.add(key)
                failed = rng.random() < 0.1
                if failed:
                    queue.retry(key)
                else:
                    queue.forget(key)
                    with lock:
                        seen[key] = max(seen[key], wished[key])
                with lock:
                    in_hand.discard(key)
                queue.done(key)

        def wish(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(2_000):
                key = rng.randrange(50)
                with lock:
                    wished[key] += 1
                if rng.random() < 0.3:
                    queue.add_after(key, rng.random() * 0.002, low=rng.random() < 0.5)
                else:
                    queue.add(key, low=rng.random() < 0.5)

        workers = started(6, work)
        join([threading.Thread(target=wish, args=(seed,)) for seed in range(3)], start=True)
        eventually(lambda: seen == wished, "every wish was seen")
        queue.shut_down()
        join(workers)
        assert not wrong


def started(number: int, work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread], *, start: bool = False) -> None:
    for thread in threads:
        if start:
            thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "still waiting"
