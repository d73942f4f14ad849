"""status, history, explain, replay, report, delete and reset on a stored history."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine
from sqlalchemy import text as sql

from tests.support.histories import (
    GPU_MODEL,
    START,
    Try,
    recurrence,
    store_decisions,
    store_history,
)
from zeus_operator.actions import CreateRecurrence, DecideAttempt
from zeus_operator.cli.main import main
from zeus_operator.deciding import decide
from zeus_operator.executors import rundir
from zeus_operator.optimizer import policy
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import DecisionRecord, RecurrenceKind, RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres

Zeusctl = Callable[..., Result]


@pytest.fixture
def zeusctl(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zeusctl]:
    """Runs the program on the test's database."""
    monkeypatch.chdir(tmp_path)
    environment = {"ZEUS_HOME": str(tmp_path / "home"), "DATABASE_URL": database}

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(main, list(arguments), env=environment, **options)

    return invoke


def output(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def with_history(store: Store) -> None:
    learned = [
        recurrence(1, [Try(256)]),
        recurrence(2, [Try(512, Outcome.COST_EXCEEDED, 4, 900.0, 6.0), Try(256)]),
        recurrence(3, [Try(128, energy_joules=650.0, time_seconds=5.0)]),
    ]
    control = [
        recurrence(n, [Try(256, energy_joules=1100.0 + n)], RecurrenceKind.CONTROL)
        for n in (1, 2, 3)
    ]
    store_history(store, [*learned, *control])


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


def test_explain_tells_the_stored_reason_and_finds_the_same_decision_again(
    zeusctl: Zeusctl, store: Store
) -> None:
    job = store_decisions(store, 5, lambda batch_size: 500.0 + abs(batch_size - 128))
    stored = store.history(job.id)[-1].attempts[0].decision

    text = output(zeusctl("explain", "digits"))
    everything = [
        json.loads(output(zeusctl("explain", "digits", str(n), "-o", "json"))) for n in range(1, 6)
    ]

    assert text.startswith(f"recurrence 5.1: batch size {stored.batch_size}\n  {stored.sentence}\n")
    assert f"* {stored.batch_size} " in text
    assert "Made again on the stored history, the decision is the same." in text
    assert [view["attempts"][0]["replayed"] for view in everything] == [True] * 5


def test_explain_says_where_the_stored_decision_is_not_what_the_history_gives(
    zeusctl: Zeusctl, store: Store
) -> None:
    job = store_decisions(store, 1, lambda batch_size: 500.0)
    first = store.history(job.id)[0].attempts[0].decision
    action = CreateRecurrence(job.id, RecurrenceKind.LEARNED, 2, START)
    opened = store.create_recurrence(action, START)
    forged = DecisionRecord(
        **{**vars(first), "batch_size": 32 if first.batch_size != 32 else 64, "sentence": "forged"}
    )
    store.decide_attempt(DecideAttempt(opened.id, 1, "child", forged), START)

    result = zeusctl("explain", "digits", "2.1")

    assert result.exit_code == 1
    assert f"DIFFERS: batch size {first.batch_size} instead of {forged.batch_size}" in result.stdout


def test_explain_shows_costs_that_a_run_could_have_even_of_arms_never_tried(
    zeusctl: Zeusctl, store: Store
) -> None:
    store_decisions(store, 2, lambda batch_size: 4000.0)

    text = output(zeusctl("explain", "digits", "2"))
    view = json.loads(output(zeusctl("explain", "digits", "2", "-o", "json")))

    candidates = view["attempts"][0]["candidates"]
    assert {c["batch_size"] for c in candidates if c["runs"] == 0} == {32, 64, 128, 512}
    for candidate in candidates:
        assert 1000.0 < candidate["typical_cost_joules"] < 9000.0
        assert candidate["low_cost_joules"] < candidate["typical_cost_joules"]
        assert candidate["high_cost_joules"] > candidate["typical_cost_joules"]
    header = next(line for line in text.splitlines() if "batch size  runs" in line)
    assert re.split(r"\s{2,}", header.strip()) == [
        *("batch size", "runs", "typical cost", "80 % range", "reaches target", "net gain"),
        "costs extra",
    ]
    assert re.search(r"^costs extra: what trying it is expected to cost more than", text, re.M)
    tried = [c for c in candidates if c["net_gain_joules"] is not None]
    assert tried
    assert all(c["extra_cost_joules"] is not None for c in tried)
    assert "score" not in text
    assert "drawn cost" not in text  # only the policy zeus draws
    assert "\n80 % range: one attempt in ten costs less" in text


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"sentence": "the words of another release"}, True),
        ({"cost_threshold_joules": 1.0 + 1e-13}, True),
        ({"cost_threshold_joules": 1.0 + 1e-3}, False),
        ({"cost_threshold_joules": None}, False),
    ],
)
def test_explain_compares_what_a_run_was_told_not_how_it_was_put(
    zeusctl: Zeusctl, store: Store, changes: dict[str, Any], same: bool
) -> None:
    job = store_decisions(store, 1, lambda batch_size: 500.0)
    observations = store.observations(job.id)
    action = CreateRecurrence(job.id, RecurrenceKind.LEARNED, 2, START)
    opened = store.create_recurrence(action, START)
    spec = JobPlanSpec.from_document(job.spec)
    decided = decide(store.facts(job.id), opened, spec, policy(job.policy))
    threshold = decided.decision.cost_threshold_joules
    assert observations
    assert threshold is not None
    if changes.get("cost_threshold_joules") is not None:
        changes = {"cost_threshold_joules": changes["cost_threshold_joules"] * threshold}
    store.decide_attempt(replace(decided, decision=replace(decided.decision, **changes)), START)

    result = zeusctl("explain", "digits", "2")

    assert result.exit_code == (0 if same else 1)
    assert ("DIFFERS: a threshold of" in result.stdout) is not same


def test_explain_reads_candidates_as_an_earlier_release_stored_them(
    zeusctl: Zeusctl, store: Store, database: str
) -> None:
    store_decisions(store, 2, lambda batch_size: 500.0)
    old = {
        "batch_size": 64,
        "runs": 0,
        "expected_cost_joules": 718e3,
        "standard_deviation_joules": 149e6,
        "success_probability": 0.85,
        "score": 13.0,
        "note": "in flight",
    }
    engine = create_engine(database)
    with engine.begin() as connection:
        rows = connection.execute(sql("SELECT id, decision FROM attempts")).all()
        for identity, decision in rows:
            document = json.dumps({**decision, "candidates": [old]})
            connection.execute(
                sql("UPDATE attempts SET decision = :document WHERE id = :id"),
                {"document": document, "id": identity},
            )
    engine.dispose()

    shown = output(zeusctl("explain", "digits", "2"))

    assert "64" in shown
    assert "85 %" in shown
    assert "in flight" in shown
    assert "149" not in shown


def test_explain_of_a_control_run_says_that_no_policy_decided(
    zeusctl: Zeusctl, store: Store
) -> None:
    tries = [Try(256, sentence="Control run.")]
    records = [recurrence(1, tries, RecurrenceKind.CONTROL)]
    job = store_history(store, ())
    opened = store.create_recurrence(
        CreateRecurrence(job.id, RecurrenceKind.CONTROL, 1, START), START
    )
    decision = DecisionRecord(
        256, None, None, 1, "default", records[0].attempts[0].decision.sentence
    )
    store.decide_attempt(DecideAttempt(opened.id, 1, "child", decision), START)

    text = output(zeusctl("explain", "digits", "1", "--kind", "control"))

    assert "No policy decided" in text
    assert "Made again" not in text


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("9", "there is no learned recurrence 9; allowed: 1 to 3"),
        ("2.7", "recurrence 2 has 2 attempts, no 2.7"),
        ("first", "allowed: a recurrence such as 3, or an attempt 3.1"),
    ],
)
def test_explain_of_a_run_that_is_not_there_says_which_there_are(
    zeusctl: Zeusctl, store: Store, run: str, message: str
) -> None:
    with_history(store)

    result = zeusctl("explain", "digits", run)

    assert result.exit_code == 2
    assert message in result.stderr


def test_replay_asks_another_policy_about_each_decision(zeusctl: Zeusctl, store: Store) -> None:
    store_decisions(store, 4, lambda batch_size: 500.0 + batch_size)

    text = output(zeusctl("replay", "digits", "--policy", "zeus"))
    same = json.loads(output(zeusctl("replay", "digits", "--policy", "structured", "-o", "json")))

    assert text.splitlines()[0].split() == ["run", "decided", "by", "chose", "zeus", "because"]
    assert "of 4 decisions" in text
    assert [item["same"] for item in same["decisions"]] == [True] * 4


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
