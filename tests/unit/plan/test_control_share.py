"""A share of the recurrences are control runs: evenly spread, decided once, never in a burst."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.jobs import START, at
from tests.support.plan_facts import (
    ScriptedPolicy,
    attempt,
    facts,
    planned,
    recurrence,
    request,
)
from zeus_operator.actions import CreateRecurrence, DecideAttempt
from zeus_operator.control_share import control_follows
from zeus_operator.records import JobFacts, RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_runtime.protocol import Outcome

LEARNED, CONTROL = RecurrenceKind.LEARNED, RecurrenceKind.CONTROL
SEEDS = st.integers(min_value=0, max_value=2**31 - 1)
FRACTIONS = st.fractions(min_value=Fraction(1, 100), max_value=Fraction(1, 2))
HALF = {"savings": {"controlFraction": "0.5"}}


def kinds(seed: int, fraction: Fraction, recurrences: int) -> list[RecurrenceKind]:
    """What the first recurrences are where nothing else asks for control runs."""
    found: list[RecurrenceKind] = []
    learned = 0
    while len(found) < recurrences:
        learned += 1
        found.append(LEARNED)
        if control_follows(seed, fraction, learned):
            found.append(CONTROL)
    return found[:recurrences]


class TestTheRule:
    @given(SEEDS, FRACTIONS, st.integers(1, 200))
    def test_at_any_time_the_share_is_kept_to_one_run(
        self, seed: int, fraction: Fraction, recurrences: int
    ) -> None:
        count = kinds(seed, fraction, recurrences).count(CONTROL)

        assert abs(count - fraction * recurrences) <= 1

    @given(SEEDS, FRACTIONS)
    def test_control_runs_stand_apart_evenly_and_the_first_recurrence_is_none(
        self, seed: int, fraction: Fraction
    ) -> None:
        found = kinds(seed, fraction, 500)
        places = [place for place, kind in enumerate(found) if kind is CONTROL]
        gaps = {after - before for before, after in pairwise(places)}

        assert found[0] is LEARNED
        assert 1 not in gaps
        assert max(gaps, default=0) - min(gaps, default=0) <= 1

    @given(SEEDS, FRACTIONS)
    def test_none_is_due_before_anything_was_learned(self, seed: int, fraction: Fraction) -> None:
        assert not control_follows(seed, fraction, 0)

    @given(SEEDS, st.integers(0, 200))
    def test_without_a_share_there_is_none(self, seed: int, ordinal: int) -> None:
        assert not control_follows(seed, Fraction(0), ordinal)

    def test_jobs_of_other_seeds_measure_at_other_times(self) -> None:
        first = {kinds(seed, Fraction(1, 20), 21).index(CONTROL) for seed in range(60)}

        assert len(first) > 10


def ended(
    number: int, kind: RecurrenceKind = LEARNED, ordinal: int = 0, **changes: Any
) -> RecurrenceRecord:
    done = recurrence(number, attempt(1, Outcome.REACHED), state=RecurrenceState.REACHED, **changes)
    return replace(done, kind=kind, ordinal=ordinal or number)


def created(known: JobFacts, **spec: Any) -> CreateRecurrence:
    (action,) = planned(known, **spec)
    assert isinstance(action, CreateRecurrence)
    return action


class TestThePlan:
    def run_all(self, wanted: int, **spec: Any) -> list[tuple[RecurrenceKind, int]]:
        """Create and end recurrences as the plan asks for them."""
        history: list[RecurrenceRecord] = []
        while len(history) < wanted:
            done = len(history)
            known = facts(*history, requests=(request(wanted, created=done, finished=done),))
            action = created(known, **spec)
            assert action.request_id == 5
            number = len(history) + 1
            history.append(ended(number, action.kind, action.ordinal, request_id=5))
        return [(each.kind, each.ordinal) for each in history]

    def test_back_to_back_runs_are_as_many_as_asked_for_with_the_share_among_them(self) -> None:
        found = self.run_all(9, **HALF)

        assert [kind for kind, _ in found].count(CONTROL) == 4
        assert found[0] == (LEARNED, 1)
        for kind in (LEARNED, CONTROL):  # each kind is numbered without a gap
            ordinals = [ordinal for each, ordinal in found if each is kind]
            assert ordinals == list(range(1, len(ordinals) + 1))

    def test_a_tick_of_the_schedule_may_be_a_control_run(self) -> None:
        known = facts(ended(1), last_scheduled_time=START)
        action = created(known, now=START + timedelta(minutes=61), schedule="0 * * * *", **HALF)

        assert (action.kind, action.ordinal, action.request_id) == (CONTROL, 1, None)

    def test_the_same_facts_ask_for_the_same_again(self) -> None:
        known = facts(ended(1), requests=(request(5, created=1, finished=1),))

        assert created(known, **HALF) == created(known, **HALF)

    def test_a_control_run_takes_the_default_and_leaves_the_power_limit(self) -> None:
        known = facts(ended(1), recurrence(2, kind=CONTROL))
        (action,) = planned(known, policy=ScriptedPolicy(batch_size=16), **HALF)

        assert isinstance(action, DecideAttempt)
        assert action.decision.batch_size == 64
        assert action.decision.cost_threshold_joules is None
        assert not action.decision.optimize_power

    def test_a_request_for_control_runs_gets_nothing_else(self) -> None:
        wanted = request(3, created=1, finished=1, kind=CONTROL)
        history = [ended(1), ended(2, CONTROL, 1)]

        assert created(facts(*history, requests=(wanted,)), **HALF).kind is CONTROL

    def test_a_control_run_that_a_person_asked_for_counts_as_the_one_due(self) -> None:
        history = [ended(1), ended(2, CONTROL, 1, request_id=9)]
        known = facts(*history, requests=(request(3, created=1, finished=1),))

        assert created(known, **HALF).kind is LEARNED

    def test_a_share_that_is_raised_late_makes_up_for_nothing(self) -> None:
        history = [ended(number) for number in range(1, 41)]
        for _ in range(3):
            known = facts(*history, requests=(request(99, created=40, finished=40),))
            action = created(known, **HALF)
            history.append(ended(len(history) + 1, action.kind, action.ordinal))
        found = [each.kind for each in history[40:]]

        assert found in ([CONTROL, LEARNED, CONTROL], [LEARNED, CONTROL, LEARNED])

    @pytest.mark.parametrize("mode", ["Observe", "Recommend"])
    def test_where_the_default_runs_anyway_no_control_run_is_needed(self, mode: str) -> None:
        known = facts(ended(1), requests=(request(5, created=1, finished=1),))

        assert created(known, mode=mode, **HALF).kind is LEARNED

    def test_a_suspended_job_starts_no_control_run_either(self) -> None:
        known = facts(
            ended(1), job={"suspended": True}, requests=(request(5, created=1, finished=1),)
        )

        assert planned(known, **HALF) == []

    def test_a_skipped_tick_is_no_control_run(self) -> None:
        known = facts(ended(1), last_scheduled_time=START)
        action = created(
            known,
            now=START + timedelta(minutes=110),
            schedule="0 * * * *",
            startingDeadlineSeconds=60,
            **HALF,
        )

        assert (action.state, action.kind) == (RecurrenceState.SKIPPED, LEARNED)

    def test_a_failed_attempt_is_tried_again_in_its_own_recurrence_first(self) -> None:
        open_one = recurrence(1, attempt(1, Outcome.COST_EXCEEDED))
        known = facts(open_one, requests=(request(5, created=1),))
        (action,) = planned(known, **HALF)

        assert isinstance(action, DecideAttempt)
        assert action.number == 2

    def test_after_delete_and_apply_the_former_run_is_not_followed_by_one(self) -> None:
        known = facts(last_ordinal={LEARNED: 1}, requests=(request(5),))

        assert created(known, **HALF).kind is LEARNED

    def test_a_spec_of_an_earlier_release_has_none(self) -> None:
        known = facts(ended(1), requests=(request(5, created=1, finished=1),))

        assert created(known).kind is LEARNED
        assert created(known).scheduled_time > at(1)
