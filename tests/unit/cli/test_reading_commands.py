"""status, history, report, delete and reset on a stored history."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.histories import (
    GPU_MODEL,
    START,
    Try,
    recurrence,
    store_history,
)
from tests.support.stored_cli import Zeusctl, output, with_history
from zeus_operator.actions import CreateRecurrence, DecideAttempt
from zeus_operator.cli.main import main
from zeus_operator.executors import rundir
from zeus_operator.records import DecisionRecord, RecurrenceKind, RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres


def test_status_without_jobs_says_how_to_begin(zeusctl: Zeusctl) -> None:
    assert output(zeusctl("status")) == "No job has been run yet: zeusctl run FILE\n"
    assert json.loads(output(zeusctl("status", "-o", "json"))) == {"jobs": []}


def test_status_shows_every_job_with_what_it_saved(zeusctl: Zeusctl, store: Store) -> None:
    with_history(store)

    lines = output(zeusctl("status")).splitlines()
    view = json.loads(output(zeusctl("status", "-o", "json")))["jobs"][0]

    assert lines[0].split()[:3] == ["job", "policy", "mode"]
    assert lines[1].startswith("default/digits  structured  Optimize        3       0     0  ")
    assert view["recurrences"]["reached"] == 3
    assert view["recurrences"]["control"] == 3
    assert view["savings"]["overall"]["cost"]["saved_fraction_low"] is not None
    assert view["savings"]["left_out"] == []


def test_status_says_what_the_savings_leave_out(zeusctl: Zeusctl, store: Store) -> None:
    records = [
        recurrence(1, [Try(256, gpu_model="A40")]),
        recurrence(2, [Try(128)]),
        recurrence(1, [Try(256)], RecurrenceKind.CONTROL),
    ]
    store_history(store, records)

    text = output(zeusctl("status", "digits"))
    savings = json.loads(output(zeusctl("status", "digits", "-o", "json")))["savings"]

    assert f"1 recurrence on A40 (now {GPU_MODEL})." in text
    assert savings["left_out"] == [{"recurrences": 1, "terms": f"on A40 (now {GPU_MODEL})"}]
    assert savings["sentence"] in text


def test_status_says_that_failures_have_paused_a_job(zeusctl: Zeusctl, store: Store) -> None:
    failed = [recurrence(n, [Try(256, Outcome.MAX_EPOCHS)]) for n in (1, 2, 3)]
    store_history(store, failed[:2])
    before = output(zeusctl("status", "digits"))
    job = store.job("default", "digits")
    assert job is not None
    store.reset_job(job.id, START)
    store_history(store, failed)

    after = output(zeusctl("status", "digits"))
    view = json.loads(output(zeusctl("status", "digits", "-o", "json")))

    assert "paused" not in before
    assert "paused after 3 failed recurrences in a row" in after
    assert view["paused"] in after


def test_status_of_one_job_shows_what_is_open(zeusctl: Zeusctl, store: Store) -> None:
    with_history(store)
    job = store.job("default", "digits")
    assert job is not None
    store.request_runs(job.id, RecurrenceKind.LEARNED, 5, START)
    action = CreateRecurrence(job.id, RecurrenceKind.LEARNED, 4, START)
    opened = store.create_recurrence(action, START)
    decision = DecisionRecord(64, None, None, 1, "structured", "because")
    store.decide_attempt(DecideAttempt(opened.id, 1, "child", decision), START)

    text = output(zeusctl("status", "digits"))

    assert "open          recurrence 4.1, batch size 64, decided" in text
    assert "asked for     5 learned recurrences, 0 are done" in text
    assert "cost" in text.splitlines()[-1]


def test_history_lists_every_attempt_and_can_be_cut_short(zeusctl: Zeusctl, store: Store) -> None:
    with_history(store)

    lines = output(zeusctl("history", "digits")).splitlines()
    last = output(zeusctl("history", "default/digits", "--limit", "1", "--kind", "learned"))

    assert [line.split()[0] for line in lines] == [
        "run",
        "1.1",
        "2.1",
        "2.2",
        "3.1",
        "1.1",
        "2.1",
        "3.1",
    ]
    assert "stopped: cost over the threshold" in lines[2]
    assert len(last.splitlines()) == 2


def test_history_says_why_a_tick_was_skipped(zeusctl: Zeusctl, store: Store) -> None:
    job = store_history(store, [])
    store.create_recurrence(
        CreateRecurrence(
            job.id,
            RecurrenceKind.LEARNED,
            0,
            START,
            state=RecurrenceState.SKIPPED,
            reason="could not start within 60 s of its time",
        ),
        START,
    )

    lines = output(zeusctl("history", "digits")).splitlines()
    view = json.loads(output(zeusctl("history", "digits", "-o", "json")))

    assert re.split(r"\s{2,}", lines[1])[:4] == [
        *("-", "learned", "-", "skipped: could not start within 60 s of its time")
    ]
    assert view["recurrences"][0]["reason"] == "could not start within 60 s of its time"


def test_history_as_json_has_every_key_and_the_units_in_their_names(
    zeusctl: Zeusctl, store: Store
) -> None:
    with_history(store)

    view = json.loads(output(zeusctl("history", "digits", "-o", "json")))

    first = view["recurrences"][0]
    assert first["recurrence"] == 1
    assert first["cost_joules"] == pytest.approx(1500.0)
    assert first["attempts"][0]["energy_joules"] == pytest.approx(1000.0)
    assert first["attempts"][0]["outcome"] == "reached"


def test_report_writes_the_page_and_says_where(
    zeusctl: Zeusctl, store: Store, tmp_path: Path
) -> None:
    with_history(store)

    text = output(zeusctl("report", "digits"))
    view = json.loads(output(zeusctl("report", "digits", "--out", "a/b.html", "-o", "json")))

    assert text.endswith("Report: digits-report.html\n")
    assert (tmp_path / "digits-report.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / view["report"]).is_file()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.html"]  # no temporary file is left


def test_report_that_cannot_be_written_is_wrong_input(
    zeusctl: Zeusctl, store: Store, tmp_path: Path
) -> None:
    with_history(store)
    (tmp_path / "folder").mkdir()

    result = zeusctl("report", "digits", "--out", "folder/x/y.html/z", "-o", "json")
    (tmp_path / "file").touch()
    blocked = zeusctl("report", "digits", "--out", "file/report.html")

    assert result.exit_code == 0
    assert blocked.exit_code == 2
    assert blocked.stderr == "file/report.html: the report can't be written: File exists\n"


@pytest.mark.parametrize("command", ["status", "history", "explain", "report", "delete", "reset"])
def test_a_job_that_is_not_there_is_answered_with_those_that_are(
    zeusctl: Zeusctl, store: Store, command: str
) -> None:
    with_history(store)

    result = zeusctl(command, "vision/digits")

    assert result.exit_code == 2
    assert result.stderr == "there is no job vision/digits; known: default/digits\n"


def test_delete_keeps_what_was_learned(zeusctl: Zeusctl, store: Store) -> None:
    with_history(store)

    output(zeusctl("delete", "digits"))

    assert store.job("default", "digits") is None
    again = store_history(store, ())
    assert len(store.observations(again.id)) == 4


def test_reset_asks_first_and_then_erases_everything(zeusctl: Zeusctl, store: Store) -> None:
    with_history(store)
    job = store.job("default", "digits")
    assert job is not None

    refused = zeusctl("reset", "digits", input="n\n")
    silent = zeusctl("reset", "digits", input="")
    assert (refused.exit_code, silent.exit_code) == (2, 2)
    assert len(store.history(job.id)) == 6

    assert output(zeusctl("reset", "digits", "--yes")) == "default/digits: 6 recurrences erased.\n"
    assert store.history(job.id) == ()
    assert store.observations(job.id) == ()


def test_reset_removes_what_the_runs_left_on_disk(
    zeusctl: Zeusctl, store: Store, tmp_path: Path
) -> None:
    with_history(store)
    first = store.job("default", "digits")
    assert first is not None
    output(zeusctl("delete", "digits"))
    second = store_history(store, ())
    runs = tmp_path / "home" / "runs"
    for uid in (first.uid, second.uid, "of-another-job"):
        folder = runs / f"digits-{uid}"
        folder.mkdir(parents=True)
        (folder / rundir.OWNER).write_text(json.dumps({"job_uid": uid}))

    assert zeusctl("reset", "digits", input="n\n").exit_code == 2
    assert len(list(runs.iterdir())) == 3
    output(zeusctl("reset", "digits", "--yes"))

    assert [folder.name for folder in runs.iterdir()] == ["digits-of-another-job"]


def test_reset_reaches_what_a_deleted_job_has_left(zeusctl: Zeusctl, store: Store) -> None:
    with_history(store)
    output(zeusctl("delete", "digits"))

    assert output(zeusctl("reset", "digits", "--yes")) == "default/digits: 6 recurrences erased.\n"

    again = store_history(store, ())
    assert store.history(again.id) == ()
    assert store.observations(again.id) == ()


@pytest.mark.parametrize("command", [("delete", "digits"), ("reset", "digits", "--yes")])
def test_a_job_that_another_process_runs_is_not_changed(
    zeusctl: Zeusctl, store: Store, command: tuple[str, ...]
) -> None:
    with_history(store)
    job = store.job("default", "digits")
    assert job is not None

    with store.job_lock(job.id):
        result = zeusctl(*command)

    assert result.exit_code == 4
    assert "another program works on this job" in result.stderr
    assert len(store.history(job.id)) == 6


def test_a_database_that_is_away_has_its_own_exit_code(tmp_path: Path) -> None:
    environment = {
        "ZEUS_HOME": str(tmp_path / "home"),
        "DATABASE_URL": "mysql://localhost/zeus",
    }

    result = CliRunner().invoke(main, ["status"], env=environment)

    assert result.exit_code == 3
    assert "DATABASE_URL must look like postgresql://" in result.stderr
