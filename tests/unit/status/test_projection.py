"""The `.status` as a whole: what it holds, that it stays as it is, and how large it gets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.agent_reports import report
from tests.support.histories import Try
from tests.support.histories import recurrence as measured
from tests.support.jobs import START, at, decision, execution_of, spec_document
from tests.support.plan_facts import JOB, ScriptedPolicy, attempt, facts, recurrence, request
from tests.unit.status.situations import child, ended, never_valid, view
from zeus_operator.agents.reports import report_of
from zeus_operator.api.status import ZeusJobStatus
from zeus_operator.api.template import Problem
from zeus_operator.deciding import decide
from zeus_operator.executors.pods import ChildPhase, ChildView, Trouble
from zeus_operator.plan_spec import JobPlanSpec, Mode
from zeus_operator.records import RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.status.history import summarize
from zeus_operator.status.projection import project, store_away
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Outcome, Result

MOST_BYTES = 20_000


def skipped(ordinal: int) -> RecurrenceRecord:
    return recurrence(
        ordinal,
        state=RecurrenceState.SKIPPED,
        reason="could not start within 60 s of its time",
    )


# What it holds ---------------------------------------------------------------


def test_an_open_run_is_shown_with_its_progress() -> None:
    result = Result(epochs=3, best_metric=0.51234567)
    running = attempt(
        2, executions=(execution_of(result, started_at=at(30), ended_at=None, exit_code=None),)
    )
    seen = view(
        recurrence(1, attempt(1, Outcome.COST_EXCEEDED), running),
        children={102: child(ChildPhase.RUNNING, node="gpu-7")},
    )
    assert project(seen)["active"] == [
        {
            "recurrence": 10,
            "number": 1,
            "kind": "Learned",
            "state": "Running",
            "scheduledTime": "2026-03-02T12:00:01Z",
            "attempt": 2,
            "maxAttempts": 5,
            "batchSize": 64,
            "childName": "child-2",
            "startedAt": "2026-03-02T12:00:30Z",
            "node": "gpu-7",
            "epochs": 3,
            "bestMetric": "0.512346",
            "message": "because",
        }
    ]


def running_with(stored: Result | None, progress: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of a run of which an agent has told `progress`."""
    told = {"job": JOB.key, "recurrence": "10", "attempt": 1, **progress}
    heard = report_of(report("run-1", **told))
    assert heard is not None
    one = execution_of(stored, started_at=at(30), ended_at=None, exit_code=None)
    seen = view(
        recurrence(1, attempt(1, executions=(one,))),
        children={101: child(ChildPhase.RUNNING, node="gpu-7")},
        progress={one.uid: heard},
    )
    (active,) = project(seen)["active"]
    found: dict[str, Any] = active
    return found


def test_what_an_agent_has_told_of_a_run_is_shown_in_whole_numbers_and_decimals() -> None:
    shown = running_with(
        None,
        {
            "sequence": 5,
            "epochs": 4,
            "energy_joules": 1234.5678,
            "last_metric": 0.5,
            "best_metric": 0.71234567,
        },
    )
    assert shown["epochs"] == 4
    assert shown["energyJoules"] == 1235
    assert (shown["lastMetric"], shown["bestMetric"]) == ("0.5", "0.712346")
    assert shown["reportedAt"] == "2026-03-02T12:00:30Z"


def test_what_was_not_measured_is_left_out() -> None:
    shown = running_with(None, {"sequence": 1, "last_metric": float("nan")})
    assert "energyJoules" not in shown
    assert "lastMetric" not in shown


def test_of_what_is_stored_and_what_is_told_the_newer_is_shown() -> None:
    assert running_with(Result(epochs=3, sequence=3), {"epochs": 4, "sequence": 4})["epochs"] == 4
    assert running_with(Result(epochs=3, sequence=3), {"epochs": 2, "sequence": 2})["epochs"] == 3


@pytest.mark.parametrize(
    "other", [{"job": "default/other"}, {"recurrence": "11"}, {"attempt": 2}], ids=str
)
def test_a_report_that_says_it_is_of_another_run_is_not_shown(other: dict[str, Any]) -> None:
    shown = running_with(None, {"epochs": 4, "sequence": 4, **other})
    assert not {"epochs", "reportedAt"} & shown.keys()


def test_ended_runs_name_the_attempt_whose_model_counts() -> None:
    stopped = attempt(1, Outcome.COST_EXCEEDED, decision=decision(32), epochs=2)
    reached = attempt(2, Outcome.REACHED, decision=decision(64), epochs=5, detail="reached 0.91")
    (run,) = project(view(recurrence(1, stopped, reached, state=RecurrenceState.REACHED)))["runs"]
    assert (run["outcome"], run["attempts"], run["epochs"]) == ("Reached", 2, 7)
    assert (run["batchSize"], run["childName"]) == (64, "child-2")


def test_a_failed_run_has_no_model_and_says_how_it_failed() -> None:
    status = project(view(ended(1, Outcome.OUT_OF_MEMORY, "CUDA out of memory")))
    (run,) = status["runs"]
    assert (run["outcome"], run["detail"]) == ("OutOfMemory", "CUDA out of memory")
    assert "childName" not in run
    assert status["lastOutcome"] == "OutOfMemory"


def test_the_last_ten_runs_are_shown_newest_first_and_a_skipped_one_is_no_outcome() -> None:
    status = project(view(*(ended(n) for n in range(1, 13)), skipped(13)))
    assert [run["recurrence"] for run in status["runs"]] == list(range(130, 30, -10))
    assert [run.get("number") for run in status["runs"]] == list(range(13, 3, -1))
    assert status["runs"][0]["outcome"] == "Skipped"
    assert status["lastOutcome"] == "Reached"
    assert status["totals"]["recurrences"] == 12


def test_a_tick_that_was_skipped_has_no_number() -> None:
    (run,) = project(view(replace(skipped(1), ordinal=0)))["runs"]
    assert (run["recurrence"], run["outcome"]) == (10, "Skipped")
    assert "number" not in run


def test_the_best_configuration_pays_for_its_failed_attempts() -> None:
    cheap_but_rarely = (
        ended(1, batch_size=128, cost_joules=600.0),
        ended(2, Outcome.MAX_EPOCHS, batch_size=128, cost_joules=2000.0),
    )
    status = project(view(*cheap_but_rarely, ended(3, batch_size=64, cost_joules=900.0)))
    assert status["best"] == {
        "batchSize": 64,
        "energyJoules": 900,
        "timeSeconds": 8,
        "runs": 1,
        "sentence": "Batch size 64 took 900 J and 8.00 s on average and reached the target in "
        "1 run.",
    }


def test_control_runs_at_the_limit_found_say_nothing_of_the_best_one() -> None:
    control = ended(2, cost_joules=5000.0, kind=RecurrenceKind.CONTROL, optimize_power=False)
    status = project(view(ended(1, batch_size=64, cost_joules=900.0), control))
    assert (status["best"]["energyJoules"], status["best"]["runs"]) == (900, 1)


def test_savings_have_bounds_and_joules_or_a_reason_why_not() -> None:
    assert project(view(ended(1)))["savings"]["notKnown"]
    history = tuple(
        measured(n, [Try(64, energy_joules=700.0 + n, full_power_epoch=(110.0, 1.0))])
        for n in range(1, 8)
    ) + tuple(
        measured(n, [Try(256, energy_joules=1000.0 + n)], RecurrenceKind.CONTROL)
        for n in range(1, 6)
    )
    savings = project(view(history=history))["savings"]
    assert "notKnown" not in savings
    for of in ("costPercent", "energyPercent", "timePercent"):
        bounds = [float(savings[of + end]) for end in ("Low", "", "High")]
        assert bounds == sorted(bounds)
    assert savings["energyJoulesLow"] <= savings["energyJoules"] <= savings["energyJoulesHigh"]
    # Seven models at 704 J instead of about 1003 J each.
    assert 1800 < savings["energyJoules"] < 2300
    assert savings["recurrences"] == 7


def test_a_recommendation_is_what_the_policy_said_not_the_cheapest_candidate() -> None:
    spec = {"mode": "Recommend"}
    parsed = JobPlanSpec.from_document(spec_document(**spec))
    decided = decide(facts(), recurrence(1), parsed, ScriptedPolicy(batch_size=32)).decision
    status = project(view(recurrence(1, attempt(1, decision=decided)), spec=spec))
    assert status["recommendation"]["batchSize"] == 32
    assert "The policy would take 32: because" in status["recommendation"]["sentence"]
    assert "recommendation" not in project(view(recurrence(1, attempt(1, decision=decided))))


def test_the_mode_that_holds_is_shown() -> None:
    asked = view(spec={"mode": "Recommend"})
    assert asked.spec is not None
    limited = replace(asked, spec=asked.spec.with_mode_at_most(Mode.OBSERVE))
    assert [project(each)["mode"] for each in (asked, limited)] == ["Recommend", "Observe"]


def test_the_room_of_the_history_is_shown_also_where_there_is_none() -> None:
    assert project(view(history_kibibytes=0))["historyKibibytes"] == 0
    assert "historyKibibytes" not in project(view())


def test_requested_runs_go_by_the_id_that_a_person_gave() -> None:
    asked = (request(3, created=1, finished=1, token="night-7"), request(2))
    assert project(view(fact_changes={"requests": asked}))["requested"] == [
        {"id": "night-7", "kind": "Learned", "runs": 3, "finished": 1},
        {"id": "5", "kind": "Learned", "runs": 2, "finished": 0},
    ]


def test_a_refused_spec_has_conditions_and_no_history() -> None:
    status = project(never_valid(problems=(Problem("spec.schedule", "no"),)))
    assert sorted(status) == ["conditions", "observedGeneration"]


def test_a_store_that_is_away_changes_one_condition_and_keeps_the_rest() -> None:
    before = project(view(ended(1), now=START))
    away = store_away(before, 1, "connection refused", at(60))
    assert {k: v for k, v in away.items() if k != "conditions"} == {
        k: v for k, v in before.items() if k != "conditions"
    }
    ready, *others = away["conditions"]
    assert (ready["reason"], ready["lastTransitionTime"]) == (
        "StoreUnavailable",
        "2026-03-02T12:01:00Z",
    )
    assert others == before["conditions"][1:]
    assert store_away(away, 1, "connection refused", at(999)) == away
    ZeusJobStatus.model_validate(away)


# That it stays as it is, and is bounded ----------------------------------------

texts = st.text(max_size=3000)
floats = st.one_of(st.none(), st.floats(), st.floats(0, 1e18))
moments = st.integers(0, 10_000_000).map(at)


@st.composite
def attempts(draw: st.DrawFn, ordinal: int, number: int, open_: bool) -> Any:
    result = draw(
        st.one_of(
            st.none(),
            st.builds(
                Result, epochs=st.integers(0, 10**6), best_metric=floats, energy_joules=floats
            ),
        )
    )
    return attempt(
        number,
        None if open_ else draw(st.sampled_from(Outcome)),
        id=1000 * ordinal + number,
        child_name="c" * draw(st.integers(1, 52)),
        detail=draw(texts),
        decision=decision(
            draw(st.integers(1, 1 << 24)), sentence=draw(texts), optimize_power=draw(st.booleans())
        ),
        epochs=draw(st.integers(0, 10**6)),
        energy_joules=draw(floats),
        time_seconds=draw(floats),
        cost_joules=draw(floats),
        power_limit_watts=draw(floats),
        executions=(execution_of(result, started_at=draw(moments)),) if open_ else (),
        ended_at=None if open_ else draw(moments),
    )


@st.composite
def views(draw: st.DrawFn) -> StatusView:
    """Any view, the words in it from anywhere."""
    records = []
    for ordinal in range(1, draw(st.integers(0, 25)) + 1):
        state = draw(st.sampled_from(RecurrenceState))
        numbers = range(1, draw(st.integers(0, 2)) + 1)
        if state is RecurrenceState.SKIPPED:
            numbers = range(0)
        is_open = state is RecurrenceState.OPEN
        tries = [draw(attempts(ordinal, n, is_open and n == len(numbers))) for n in numbers]
        kind = draw(st.sampled_from(RecurrenceKind))
        records.append(recurrence(ordinal, *tries, state=state, kind=kind, reason=draw(texts)))
    troubles = st.one_of(
        st.none(), st.builds(Trouble, st.sampled_from(("Unschedulable", "X")), texts)
    )
    children = {
        tried.id: ChildView(
            "u", draw(st.sampled_from(ChildPhase)), trouble=draw(troubles), node="n" * 253
        )
        for each in records
        for tried in each.attempts
    }
    problems = st.lists(st.builds(Problem, texts, texts), max_size=20).map(tuple)
    return view(
        *records,
        children=children,
        next_tick=draw(st.one_of(st.none(), moments)),
        problems=draw(problems),
        request_problems=draw(problems),
        refusal=draw(st.one_of(st.none(), st.tuples(st.just("ChildRefused"), texts))),
        store_trouble=draw(st.one_of(st.just(""), texts)),
        spec={"mode": draw(st.sampled_from(("Observe", "Recommend", "Optimize")))},
        fact_changes={"requests": tuple(request(3, token="t" * 63) for _ in range(12))},
    )


@settings(deadline=None, max_examples=150)
@given(views())
def test_any_view_gives_a_valid_status_of_bounded_size_that_does_not_tick(seen: StatusView) -> None:
    status = project(seen)
    ZeusJobStatus.model_validate(status)
    assert len(json.dumps(status, ensure_ascii=False).encode()) < MOST_BYTES
    later = replace(seen, previous=status, now=at(10_000_000))
    assert project(later) == status
    assert project(replace(later, previous=json.loads(json.dumps(status)))) == status


def test_a_summary_does_not_depend_on_the_order_in_which_recurrences_are_read() -> None:
    history = tuple(ended(n, batch_size=size) for n, size in enumerate((64, 32, 64, 128), 1))
    assert summarize(history) == summarize(tuple(reversed(history)))
