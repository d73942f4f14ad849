"""explain and replay on a stored history."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy import text as sql

from tests.support.histories import (
    START,
    Try,
    recurrence,
    store_decisions,
    store_history,
)
from tests.support.stored_cli import Zeusctl, output, with_history
from zeus_operator.actions import CreateRecurrence, DecideAttempt
from zeus_operator.deciding import decide
from zeus_operator.optimizer import policy
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import DecisionRecord, RecurrenceKind
from zeus_operator.store.store import Store

pytestmark = pytest.mark.postgres


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


def test_explain_says_in_a_line_what_may_stop_the_run_and_what_it_measures_on_the_way(
    zeusctl: Zeusctl, store: Store
) -> None:
    job = store_decisions(store, 2, lambda batch_size: 4000.0)
    second = store.history(job.id)[-1].attempts[0].decision

    first = output(zeusctl("explain", "digits", "1"))
    later = output(zeusctl("explain", "digits", "2"))
    view = json.loads(output(zeusctl("explain", "digits", "2", "-o", "json")))

    assert (
        "Decided by the policy structured on 0 observations; without a cost threshold. It was to "
        "measure a few steps of batch sizes 32, 64, 128, 512 on the way.\n"
    ) in first
    assert second.stop_rule is not None
    assert re.search(
        r"on 1 observation; stopped if its cost would pass [\d.]+ kJ or once it is not expected to "
        r"reach the target at a cost that pays\.\n",
        later,
    )
    assert view["attempts"][0]["candidates"][0]["extra_cost_joules"] is None


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
