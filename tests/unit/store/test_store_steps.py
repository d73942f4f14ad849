"""The appliers of plan's actions: each once, however often it is called."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.support.jobs import PROFILE, apply, at, decision, execution_of, result_for
from tests.support.stop_rules import RULE
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.facts_fold import with_recurrence
from zeus_operator.optimizer.types import Candidate, Problem, Situation, SweepPoint
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.store.codec import decision_from_json, decision_to_json
from zeus_operator.store.store import Store, StoreError
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import Outcome, SweepMeasurement

pytestmark = pytest.mark.postgres
LEARNED = RecurrenceKind.LEARNED


def started(
    store: Store, batch_size: int = 64
) -> tuple[JobRecord, RecurrenceRecord, AttemptRecord]:
    job = apply(store)
    recurrence = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    attempt = store.decide_attempt(
        DecideAttempt(recurrence.id, 1, "digits-1", decision(batch_size)), at(1)
    )
    return job, recurrence, attempt


def test_a_recurrence_is_created_once(store: Store) -> None:
    job = apply(store)
    action = CreateRecurrence(job.id, LEARNED, 1, at(1))
    first = store.create_recurrence(action, at(1))
    assert store.create_recurrence(action, at(9)) == first
    assert len(store.history(job.id)) == 1


def test_two_recurrences_can_not_have_one_time_or_one_number(store: Store) -> None:
    job = apply(store)
    asked = store.request_runs(job.id, LEARNED, 9, at(0)).id
    store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1), asked), at(1))
    for clash in (
        CreateRecurrence(job.id, LEARNED, 2, at(1), asked),
        CreateRecurrence(job.id, LEARNED, 1, at(2), asked),
        CreateRecurrence(job.id, LEARNED, 1, at(2)),
    ):
        with pytest.raises(StoreError, match="plan again"):
            store.create_recurrence(clash, at(2))
    control = CreateRecurrence(job.id, RecurrenceKind.CONTROL, 1, at(1), asked)
    assert store.create_recurrence(control, at(1)).kind is RecurrenceKind.CONTROL


@pytest.mark.parametrize("state", [RecurrenceState.OPEN, RecurrenceState.SKIPPED])
def test_a_tick_that_comes_again_has_the_recurrence_that_it_had(
    store: Store, state: RecurrenceState
) -> None:
    """As where the clock was set back; meanwhile numbers and the share of control runs go on."""
    job = apply(store)
    ordinal = 1 if state is RecurrenceState.OPEN else 0
    first = store.create_recurrence(
        CreateRecurrence(job.id, LEARNED, ordinal, at(1), state=state), at(1)
    )
    for kind, number in ((LEARNED, 2), (RecurrenceKind.CONTROL, 1)):
        again = CreateRecurrence(job.id, kind, number, at(1))
        assert store.create_recurrence(again, at(9)) == first
    assert store.history(job.id) == (first,)


@pytest.mark.parametrize(
    ("now", "last"),
    [(at(10), at(10)), (at(3595), at(3600))],
    ids=["the clock was ahead", "the clock was set right by seconds"],
)
def test_a_tick_of_a_clock_that_was_ahead_is_not_the_last_any_more(
    store: Store, now: datetime, last: datetime
) -> None:
    job = apply(store)
    store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(3600)), at(3600))

    store.create_recurrence(CreateRecurrence(job.id, LEARNED, 2, at(10)), now)

    assert store.facts(job.id).last_scheduled_time == last


def test_skipped_ticks_have_no_number_and_end_at_once(store: Store) -> None:
    job = apply(store)
    for second in (1, 2):
        skipped = store.create_recurrence(
            CreateRecurrence(
                job.id, LEARNED, 0, at(second), state=RecurrenceState.SKIPPED, reason="late"
            ),
            at(9),
        )
        assert (skipped.state, skipped.reason, skipped.ended_at) == (
            RecurrenceState.SKIPPED,
            "late",
            at(9),
        )
    assert store.facts(job.id).last_scheduled_time == at(2)


def test_a_request_does_not_move_the_last_tick_of_the_schedule(store: Store) -> None:
    job = apply(store)
    request = store.request_runs(job.id, LEARNED, 1, at(0))
    store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1), request.id), at(1))
    assert store.facts(job.id).last_scheduled_time is None


def test_an_attempt_keeps_its_first_decision(store: Store) -> None:
    _job, recurrence, attempt = started(store)
    assert attempt.state is AttemptState.DECIDED
    again = store.decide_attempt(DecideAttempt(recurrence.id, 1, "digits-1", decision(32)), at(5))
    assert again == attempt
    assert again.decision.batch_size == 64


def test_a_decision_comes_back_as_it_was_stored(store: Store) -> None:
    _job, recurrence, _ = started(store)
    whole = decision(
        cost_threshold_joules=1e4 / 3,
        candidates=(Candidate(32, 2, 1.5, None, math.inf, 0.25, note="tried"),),
        problem=Problem((16, 32), 32, 20, 3),
        situation=Situation(2, (16,), (32,), "V100", 2),
        target=0.9,
        eta=0.5,
        stop_rule=RULE,
        sweep=(16, 64),
    )
    stored = store.decide_attempt(DecideAttempt(recurrence.id, 2, "digits-2", whole), at(2))
    assert stored.decision == whole


@pytest.mark.parametrize("rule", [{"of": "a newer release"}, [], "soon"], ids=str)
def test_a_stop_rule_of_another_release_does_not_make_the_history_unreadable(rule: Any) -> None:
    stored = {**decision_to_json(decision(32, stop_rule=RULE, sweep=(16,))), "stop_rule": rule}
    assert decision_from_json(stored) == decision(32, sweep=(16,))


def test_a_decision_of_an_older_release_has_neither_stop_rule_nor_sweep() -> None:
    stored = decision_to_json(decision(32))
    del stored["stop_rule"], stored["sweep"]
    assert decision_from_json(stored) == decision(32)


def test_a_problem_of_an_older_release_had_the_bound_on_exploring_that_is_the_default() -> None:
    terms = Problem((16, 32), 32, 20, 3, exploration_share=0.1, bound_every_history=True)
    stored = decision_to_json(decision(32, problem=terms))
    assert decision_from_json(stored).problem == terms
    del stored["problem"]["exploration_share"], stored["problem"]["bound_every_history"]
    stored["problem"]["of_a_newer_release"] = 1
    assert decision_from_json(stored).problem == Problem((16, 32), 32, 20, 3)


def test_a_sweep_comes_back_with_its_result_and_is_learned_from(store: Store) -> None:
    job = apply(store)
    recurrence = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    attempt = store.decide_attempt(
        DecideAttempt(recurrence.id, 1, "digits-1", decision(64, sweep=(16, 32, 128))), at(1)
    )
    result = result_for(
        job,
        recurrence,
        attempt,
        full_power_epoch_joules=250.0,
        full_power_epoch_seconds=1.5,
        sweep=(SweepMeasurement(16, 4.0, 600.0), SweepMeasurement(32, 3.0, None)),
        sweep_joules=20.0,
        sweep_seconds=0.25,
        sweeping=None,
    )
    stored = store.record_execution(attempt.id, execution_of(result), at(10))
    assert stored.executions[0].result == result
    store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "reached", True), at(11))
    (observation,) = store.facts(job.id).observations
    assert observation.sweep == (SweepPoint(16, cost_joules(600.0, 4.0, 250.0, 0.5)),)
    assert observation.sweep_cost_joules == cost_joules(20.0, 0.25, 250.0, 0.5)
    assert observation.full_power_epoch_cost_joules == cost_joules(250.0, 1.5, 250.0, 0.5)
    assert observation.cost_joules == cost_joules(1000.0, 8.0, 250.0, 0.5)  # all of it


def test_an_older_result_never_replaces_a_newer_one(store: Store) -> None:
    job, recurrence, attempt = started(store)
    newer = result_for(job, recurrence, attempt, sequence=5, epochs=4)
    older = result_for(job, recurrence, attempt, sequence=3, epochs=2)
    running = execution_of(newer, ended_at=None, exit_code=None)
    store.record_execution(attempt.id, running, at(3))
    stored = store.record_execution(attempt.id, replace(running, result=older), at(4))
    assert stored.state is AttemptState.RUNNING
    assert stored.executions[0].result == newer


def test_an_ended_execution_stays_ended(store: Store) -> None:
    _job, _recurrence, attempt = started(store)
    ended = execution_of(None, exit_code=3, output_tail="boom")
    store.record_execution(attempt.id, ended, at(3))
    stored = store.record_execution(
        attempt.id, execution_of(None, ended_at=None, exit_code=None), at(4)
    )
    assert stored.executions == (ended,)


def test_a_result_that_json_and_postgres_can_not_take_is_stored_as_it_is(store: Store) -> None:
    job, recurrence, attempt = started(store)
    wild = result_for(
        job,
        recurrence,
        attempt,
        best_metric=math.nan,
        energy_joules=math.inf,
        note="nul \0 here",
        sequence=10**30,
        gpu_model="\ud800",
    )
    run = execution_of(wild, output_tail="a\0b\udcff")
    result = store.record_execution(attempt.id, run, at(3)).executions[0].result
    assert result is not None
    assert result.best_metric is not None
    assert math.isnan(result.best_metric)
    assert result.energy_joules == math.inf
    closed = store.close_attempt(CloseAttempt(attempt.id, Outcome.NO_TELEMETRY, "", False), at(4))
    assert closed.cost_joules is None


@pytest.mark.parametrize("note", ["float:abc", "float:nan", "float:", "text:float:nan", "text:"])
def test_a_result_can_not_make_the_history_unreadable_by_its_words(store: Store, note: str) -> None:
    job, recurrence, attempt = started(store)
    run = execution_of(result_for(job, recurrence, attempt, note=note))
    stored = store.record_execution(attempt.id, run, at(3))
    assert stored.executions == (run,)


def test_closing_bills_learns_and_keeps_the_profile_in_one_step_and_once(store: Store) -> None:
    job, recurrence, attempt = started(store)
    result = result_for(job, recurrence, attempt)
    store.record_execution(attempt.id, execution_of(result), at(10))
    action = CloseAttempt(attempt.id, Outcome.REACHED, "reached", True)
    closed = store.close_attempt(action, at(11))
    assert store.close_attempt(action, at(99)) == closed
    cost = cost_joules(1000.0, 8.0, 250.0, 0.5)
    assert (closed.outcome, closed.state, closed.ended_at) == (
        Outcome.REACHED,
        AttemptState.ENDED,
        at(11),
    )
    assert (closed.energy_joules, closed.time_seconds, closed.cost_joules) == (1000.0, 8.0, cost)
    facts = store.facts(job.id)
    (observation,) = facts.observations
    assert observation.attempt_id == attempt.id
    assert observation.cost_joules == cost
    assert observation.epoch_cost_joules == cost_joules(240.0, 2.0, 250.0, 0.5)
    assert observation.milestones == ((1, 0.5), (4, 0.91))
    (profile,) = facts.profiles
    assert (profile.batch_size, profile.gpu_model, profile.points) == (64, "Tesla V100", PROFILE)


def test_closing_without_learning_stores_no_observation(store: Store) -> None:
    job, recurrence, attempt = started(store)
    store.record_execution(attempt.id, execution_of(result_for(job, recurrence, attempt)), at(10))
    store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "", False), at(11))
    assert store.facts(job.id).observations == ()


def test_a_preempted_run_is_billed_but_only_the_whole_run_is_learned_from(store: Store) -> None:
    job, recurrence, attempt = started(store)
    cut = result_for(
        job,
        recurrence,
        attempt,
        outcome=None,
        epochs=2,
        energy_joules=500.0,
        time_seconds=4.0,
        best_metric=0.5,
        milestones=((1, 0.5),),
    )
    whole = result_for(job, recurrence, attempt)
    store.record_execution(
        attempt.id, execution_of(cut, uid="run-1", outcome=Outcome.PREEMPTED), at(10)
    )
    store.record_execution(attempt.id, execution_of(whole, uid="run-2"), at(20))
    closed = store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "", True), at(21))
    assert (closed.energy_joules, closed.time_seconds, closed.epochs) == (1500.0, 12.0, 4)
    assert closed.cost_joules == cost_joules(1500.0, 12.0, 250.0, 0.5)
    (observation,) = store.facts(job.id).observations
    assert (observation.epochs, observation.cost_joules) == (
        4,
        cost_joules(1000.0, 8.0, 250.0, 0.5),
    )


def test_unknown_energy_leaves_the_cost_unknown_and_nothing_learned(store: Store) -> None:
    job, recurrence, attempt = started(store)
    unmeasured = result_for(job, recurrence, attempt, energy_joules=None, epoch_energy_joules=None)
    store.record_execution(attempt.id, execution_of(unmeasured), at(10))
    closed = store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "ok", True), at(11))
    assert closed.cost_joules is None
    assert closed.outcome is Outcome.REACHED
    assert "not learned from" in closed.detail
    assert store.facts(job.id).observations == ()


def test_a_result_that_is_not_believed_is_not_billed(store: Store) -> None:
    job, recurrence, attempt = started(store)
    forged = result_for(job, recurrence, attempt, energy_joules=1e12)
    store.record_execution(attempt.id, execution_of(forged), at(10))
    closed = store.close_attempt(CloseAttempt(attempt.id, Outcome.NO_TELEMETRY, "", False), at(11))
    assert (closed.energy_joules, closed.cost_joules) == (None, None)
    assert store.facts(job.id).profiles == ()


def test_an_execution_that_repeats_the_result_of_an_earlier_one_teaches_nothing(
    store: Store,
) -> None:
    job, recurrence, attempt = started(store)
    same = result_for(job, recurrence, attempt)
    for uid, ended_at in (("run-1", at(10)), ("run-2", at(1))):  # eight seconds of one
        store.record_execution(attempt.id, execution_of(same, uid=uid, ended_at=ended_at), at(20))
    store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "ok", True), at(21))
    assert store.facts(job.id).observations == ()


def test_the_last_recurrence_completes_its_request(store: Store) -> None:
    job = apply(store)
    request = store.request_runs(job.id, LEARNED, 2, at(0))
    for ordinal in (1, 2):
        made = store.create_recurrence(
            CreateRecurrence(job.id, LEARNED, ordinal, at(ordinal), request.id), at(ordinal)
        )
        (shown,) = store.facts(job.id).requests
        assert (shown.created, shown.finished) == (ordinal, ordinal - 1)
        close = CloseRecurrence(made.id, RecurrenceState.REACHED)
        assert store.close_recurrence(close, at(9)) == store.close_recurrence(close, at(99))
    assert store.facts(job.id).requests == ()
    assert store.request_runs(job.id, LEARNED, 2, at(50)).id != request.id


def test_history_is_ascending_limited_to_the_latest_and_by_kind(store: Store) -> None:
    job = apply(store)
    for ordinal in (1, 2, 3):
        store.create_recurrence(CreateRecurrence(job.id, LEARNED, ordinal, at(ordinal)), at(1))
    store.create_recurrence(CreateRecurrence(job.id, RecurrenceKind.CONTROL, 1, at(4)), at(1))
    assert [item.ordinal for item in store.history(job.id)] == [1, 2, 3, 1]
    assert [item.ordinal for item in store.history(job.id, limit=2)] == [3, 1]
    assert [item.ordinal for item in store.history(job.id, kind=LEARNED, limit=2)] == [2, 3]


def test_facts_carry_every_open_recurrence_and_the_last_that_ended(store: Store) -> None:
    job = apply(store)
    made = [
        store.create_recurrence(CreateRecurrence(job.id, LEARNED, n, at(n)), at(n))
        for n in range(1, 131)
    ]
    for recurrence in made[1:]:
        store.close_recurrence(CloseRecurrence(recurrence.id, RecurrenceState.REACHED), at(999))
    shown = [item.ordinal for item in store.facts(job.id).recurrences]
    assert shown == [1, *range(31, 131)]


def test_facts_say_whether_they_hold_the_whole_history(store: Store) -> None:
    job = apply(store)
    assert store.facts(job.id).whole_history == ()
    facts = store.facts(job.id)
    opened = store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    facts = with_recurrence(facts, opened)
    assert facts == store.facts(job.id)
    assert facts.whole_history == store.history(job.id)

    skip = CreateRecurrence(job.id, LEARNED, 0, at(2), state=RecurrenceState.SKIPPED)
    facts = with_recurrence(facts, store.create_recurrence(skip, at(2)))
    assert facts.whole_history == store.history(job.id)
    assert store.facts(job.id).whole_history is None, "a skipped tick is read no more"
    facts = with_recurrence(store.facts(job.id), store.create_recurrence(skip, at(2)))
    assert facts.whole_history is None, "it was there before"


def test_facts_by_name_are_those_of_the_living_job(store: Store) -> None:
    job = apply(store)
    store.create_recurrence(CreateRecurrence(job.id, LEARNED, 1, at(1)), at(1))
    store.create_recurrence(CreateRecurrence(job.id, RecurrenceKind.CONTROL, 1, at(2)), at(2))
    facts = store.facts_of_name(job.namespace, job.name)
    assert facts == store.facts(job.id)
    assert facts is not None
    assert facts.last_ordinal == {LEARNED: 1, RecurrenceKind.CONTROL: 1}
    assert store.facts_of_name("elsewhere", job.name) is None
    store.delete_job(job.id, at(3))
    assert store.facts_of_name(job.namespace, job.name) is None
    assert store.facts(job.id).last_ordinal == facts.last_ordinal, "by number it is found"
