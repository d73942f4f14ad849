"""What is shown of a run changes when there is news, and at most every half a minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.support.agent_reports import report
from zeus_operator.agents.progress import KEPT_FOR, SHOWN_FOR, ProgressBook
from zeus_operator.agents.reports import AgentReport, report_of

START = datetime(2026, 3, 2, 12, tzinfo=UTC)


def heard(uid: str, sequence: int) -> AgentReport:
    found = report_of(report(uid, sequence=sequence, epochs=sequence))
    assert found is not None
    return found


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def epochs_shown(book: ProgressBook, uid: str = "a") -> int | None:
    found = book.shown(uid)
    return None if found is None else found.result.epochs


def test_the_first_report_is_shown_at_once() -> None:
    book = ProgressBook()
    assert book.shown("a") is None
    assert book.take([heard("a", 1)], at(0)) == {"a"}
    assert epochs_shown(book) == 1


def test_a_run_with_an_epoch_each_second_changes_twice_a_minute() -> None:
    book = ProgressBook()
    changes = [
        second for second in range(600) if book.take([heard("a", second + 1)], at(second)) == {"a"}
    ]
    assert changes == list(range(0, 600, 30))


def test_the_same_report_again_is_no_news_however_late() -> None:
    book = ProgressBook()
    book.take([heard("a", 1)], at(0))
    assert book.take([heard("a", 1)], at(10_000)) == set()


def test_news_that_had_to_wait_is_shown_at_its_turn() -> None:
    book = ProgressBook()
    book.take([heard("a", 1)], at(0))
    assert book.take([heard("a", 2)], at(29)) == set()
    assert epochs_shown(book) == 1
    assert book.take([heard("a", 2)], at(30)) == {"a"}
    assert epochs_shown(book) == 2


def test_an_older_report_changes_nothing() -> None:
    """An agent that was restored from an old disk, or two answers that overtook each other."""
    book = ProgressBook()
    book.take([heard("a", 5)], at(0))
    assert book.take([heard("a", 4)], at(60)) == set()
    latest = book.latest("a")
    assert latest is not None
    assert latest.result.sequence == 5


def test_runs_have_their_turns_apart() -> None:
    book = ProgressBook()
    book.take([heard("a", 1)], at(0))
    assert book.take([heard("a", 2), heard("b", 1)], at(10)) == {"b"}
    assert book.take([heard("a", 2), heard("b", 2)], at(30)) == {"a"}


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    book = ProgressBook()
    book.take([heard("a", 1)], at(100_000))
    assert book.take([heard("a", 2)], at(0)) == {"a"}
    assert book.take([heard("a", 3)], at(SHOWN_FOR.total_seconds())) == {"a"}


def test_what_is_remembered_is_bounded() -> None:
    book = ProgressBook(most=3)
    for number in range(10):
        book.take([heard(str(number), 1)], at(number))
    assert [uid for uid in map(str, range(10)) if book.latest(uid)] == ["7", "8", "9"]
    assert [uid for uid in map(str, range(10)) if book.shown(uid)] == ["7", "8", "9"]


def test_what_nobody_needs_is_kept_for_a_while_and_then_forgotten() -> None:
    book = ProgressBook()
    book.take([heard("runs", 1), heard("ended", 1)], at(0))
    late = KEPT_FOR.total_seconds()
    for seconds in (0, 10, late - 1):
        book.keep({"runs"}, at(seconds))
        assert book.latest("ended") is not None
    book.keep({"runs"}, at(late))
    assert (book.latest("ended"), book.shown("ended")) == (None, None)
    assert book.latest("runs") is not None
    assert book.shown("runs") is not None


def test_what_is_needed_again_meanwhile_is_kept() -> None:
    book = ProgressBook()
    book.take([heard("a", 1)], at(0))
    late = KEPT_FOR.total_seconds()
    for seconds, wanted in ((0, set()), (late / 2, {"a"}), (late, set()), (2 * late - 1, set())):
        book.keep(wanted, at(seconds))
    assert book.latest("a") is not None


def test_a_clock_that_is_set_back_forgets_later_and_not_never() -> None:
    book = ProgressBook()
    book.take([heard("a", 1)], at(0))
    for seconds in (100_000, 0, KEPT_FOR.total_seconds()):
        book.keep((), at(seconds))
    assert book.latest("a") is None
