"""history, explain and report say the same of a projected history as of the store."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.histories import (
    START,
    Try,
    job_record,
    recurrence,
    store_decisions,
    store_history,
)
from tests.support.stored_cli import Zeusctl, output, with_history
from zeus_operator.actions import CreateRecurrence, DecideAttempt
from zeus_operator.cli.failures import WrongInput
from zeus_operator.cli.showing import show_explanation, show_history, show_report
from zeus_operator.cli.source import HistoryInCluster
from zeus_operator.history.document import read
from zeus_operator.history.fitting import MAX_BYTES, project
from zeus_operator.records import JobRecord, RecurrenceKind, RecurrenceRecord
from zeus_operator.report.findings import findings_of
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres


def projected(store: Store, job: JobRecord, most_bytes: int = MAX_BYTES) -> HistoryInCluster:
    """Return the history as it comes back from a ConfigMap."""
    history = store.history(job.id)
    learned = store.stored_observations(job.id)
    return HistoryInCluster(
        read(project(job, findings_of(history, 0.5), history, learned, most_bytes))
    )


def shortened(recurrences: list[RecurrenceRecord], most_bytes: int) -> HistoryInCluster:
    findings = findings_of(recurrences, 0.5)
    return HistoryInCluster(read(project(job_record(), findings, recurrences, (), most_bytes)))


@dataclass
class Shown:
    """What a command has printed."""

    out: str
    err: str


class Show:
    """Calls what both programs call, and returns what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, command: Any, *arguments: Any, is_json: bool = False) -> Shown:
        command(*arguments, is_json=is_json)
        return Shown(*self._capsys.readouterr())


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    return Show(capsys)


@pytest.fixture
def job(store: Store) -> JobRecord:
    with_history(store)
    found = store.job("default", "digits")
    assert found is not None
    return found


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("kind", [None, "learned", "control"])
def test_history(
    zeusctl: Zeusctl, store: Store, job: JobRecord, show: Show, limit: int | None, kind: str | None
) -> None:
    options = [*(["--limit", str(limit)] if limit else []), *(["--kind", kind] if kind else [])]
    source = projected(store, job)

    assert show(show_history, source, limit, kind).out == output(
        zeusctl("history", "digits", *options)
    )
    assert json.loads(show(show_history, source, limit, kind, is_json=True).out) == json.loads(
        output(zeusctl("history", "digits", "-o", "json", *options))
    )


@pytest.mark.parametrize("run", [None, "2", "2.1"])
def test_explain(
    zeusctl: Zeusctl, store: Store, job: JobRecord, show: Show, run: str | None
) -> None:
    wanted = [run] if run else []
    source = projected(store, job)

    assert show(show_explanation, source, run, "learned").out == output(
        zeusctl("explain", "digits", *wanted)
    )
    assert json.loads(
        show(show_explanation, source, run, "learned", is_json=True).out
    ) == json.loads(output(zeusctl("explain", "digits", "-o", "json", *wanted)))


def test_explain_makes_the_decisions_again(zeusctl: Zeusctl, store: Store, show: Show) -> None:
    job = store_decisions(store, 8, lambda size: 500.0 + size)

    said = show(show_explanation, projected(store, job), "8", "learned").out

    assert said == output(zeusctl("explain", "digits", "8"))
    assert "Made again on the stored history, the decision is the same." in said


def test_report(zeusctl: Zeusctl, store: Store, job: JobRecord, show: Show, tmp_path: Path) -> None:
    source = projected(store, job)
    ours, theirs = tmp_path / "ours.html", tmp_path / "theirs.html"

    said = show(show_report, source, ours).out
    told = output(zeusctl("report", "digits", "--out", str(theirs)))
    view = json.loads(show(show_report, source, theirs, is_json=True).out)

    assert said.replace("ours", "theirs") == told
    assert view == json.loads(
        output(zeusctl("report", "digits", "--out", str(theirs), "-o", "json"))
    )
    assert without_times(ours) == without_times(theirs)


def without_times(page: Path) -> str:
    """Return a report without when it was made."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+( UTC|\+00:00)?", "", text)


def test_a_job_without_a_run_says_so(zeusctl: Zeusctl, store: Store, show: Show) -> None:
    source = projected(store, store_history(store, ()))

    assert show(show_history, source, None, None).out == output(zeusctl("history", "digits"))
    with pytest.raises(WrongInput, match="nothing has been decided yet"):
        show(show_explanation, source, None, "learned")


def test_what_there_was_no_room_for_is_said_in_each_view(show: Show, tmp_path: Path) -> None:
    learned = [recurrence(number, [Try(128, energy_joules=number)]) for number in range(1, 400)]
    control = [
        recurrence(number, [Try(256, energy_joules=500.0 + number)], RecurrenceKind.CONTROL)
        for number in range(1, 5)
    ]
    source = shortened([*learned, *control], 6_000)
    left_out = source.left_out
    page, whole_page = tmp_path / "page.html", tmp_path / "whole.html"

    listed = show(show_history, source, None, None)
    view = json.loads(show(show_history, source, None, None, is_json=True).out)
    reported = show(show_report, source, page)
    whole = show(show_report, shortened([*learned, *control], MAX_BYTES), whole_page)

    assert left_out.recurrences > 0
    words = f"Left out for room: the oldest {left_out.recurrences} recurrences, the reasons of "
    assert listed.err.startswith(words)
    assert reported.err.startswith(words)
    assert whole.err == ""
    assert reported.out.replace("page", "whole") == whole.out, "savings are those of all"
    assert words in page.read_text(encoding="utf-8")
    assert "Cost so far" in whole_page.read_text(encoding="utf-8")
    assert "Cost so far" not in page.read_text(encoding="utf-8"), "a sum needs all of them"
    assert view["left_out"]["recurrences"] == left_out.recurrences
    assert len(view["recurrences"]) == 403 - left_out.recurrences


def test_an_old_run_is_explained_as_far_as_it_is_there(show: Show) -> None:
    many = [recurrence(n, [Try(128, sentence=f"Because of {n}.")]) for n in range(1, 400)]
    source = shortened(many, 6_000)
    first = source.recurrences()[0].ordinal

    oldest = show(show_explanation, source, str(first), "learned").out
    newest = show(show_explanation, source, None, "learned").out

    assert f"recurrence {first}.1: batch size 128\n  Why is left out here for room." in oldest
    assert "Because of 399." in newest
    assert "typical cost" in newest
    with pytest.raises(WrongInput, match=rf"allowed: {first} to 399; older ones are in the"):
        show(show_explanation, source, "1", "learned")


def test_an_open_run_is_explained_as_well(zeusctl: Zeusctl, store: Store, show: Show) -> None:
    job = store_history(store, [recurrence(1, [Try(256, Outcome.REACHED)])])
    made = store.create_recurrence(
        CreateRecurrence(job.id, RecurrenceKind.LEARNED, 2, START), START
    )
    decision = recurrence(2, [Try(64)]).attempts[0].decision
    store.decide_attempt(DecideAttempt(made.id, 1, "digits-2", decision), START)

    said = show(show_explanation, projected(store, job), None, "learned").out

    assert said == output(zeusctl("explain", "digits"))
    assert "Now decided." in said


def test_a_decision_that_differs_ends_with_a_code(store: Store, show: Show) -> None:
    job = store_decisions(store, 3, lambda size: 500.0 + size)
    source = projected(store, job)
    last = source.projected.recurrences[-1]
    attempt = last.attempts[0]
    other = replace(attempt, decision=replace(attempt.decision, batch_size=32))
    changed = (*source.projected.recurrences[:-1], replace(last, attempts=(other,)))

    with pytest.raises(click.exceptions.Exit):
        show(
            show_explanation,
            HistoryInCluster(replace(source.projected, recurrences=changed)),
            None,
            "learned",
        )
