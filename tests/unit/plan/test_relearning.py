"""What a stored observation says once target, epochs allowed or energy preference have changed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.jobs import decision, spec_document
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.types import Observation, Problem, Situation, SweepPoint
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.relearning import (
    StoredHistory,
    StoredObservation,
    Terms,
    observations_under,
    relearned,
)
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import LEARNED_FROM, MetricMode, Outcome

TERMS = Terms(0.9, MetricMode.MAX, 20, 0.5)
SIZES = (16, 32, 64, 128)


def stored(
    outcome: Outcome = Outcome.REACHED,
    epochs: int = 8,
    milestones: tuple[tuple[int, float], ...] = ((1, 0.5), (4, 0.8), (8, 0.91)),
    terms: Terms | None = TERMS,
    energy_joules: float | None = 800.0,
    **changes: Any,
) -> StoredObservation:
    """Return a run of 8 s on 250 W at most, of which a sweep took a tenth."""
    eta = 0.5 if terms is None else terms.eta
    cost = cost_joules(energy_joules or 0.0, 8.0, 250.0, eta)
    observation = Observation(
        attempt_id=1,
        recurrence=1,
        attempt=1,
        batch_size=64,
        outcome=outcome,
        epochs=epochs,
        cost_joules=cost,
        epoch_cost_joules=0.1 * cost,
        gpu_model="V100",
        milestones=milestones,
        full_power_epoch_cost_joules=0.12 * cost,
        sweep=(SweepPoint(32, 0.2 * cost),),
        sweep_cost_joules=0.1 * cost,
    )
    return StoredObservation(replace(observation, **changes), terms, energy_joules, 8.0, 250.0)


def said(seen: StoredObservation, **terms: Any) -> Observation:
    """Return what `seen` says under `TERMS` with changes."""
    found = relearned(seen, replace(TERMS, **terms))
    assert found is not None
    return found


def end(seen: StoredObservation, **terms: Any) -> tuple[Outcome, int]:
    found = said(seen, **terms)
    return found.outcome, found.epochs


class TestTheSameTerms:
    def test_nothing_changes(self) -> None:
        seen = stored()
        assert said(seen) is seen.observation

    def test_what_a_release_before_has_stored_without_terms_is_taken_as_it_is(self) -> None:
        seen = stored(terms=None)
        other = Terms(0.5, MetricMode.MIN, 3, 0.0)
        assert relearned(seen, other) is seen.observation

    def test_what_else_a_spec_says_is_none_of_the_terms(self) -> None:
        terms = Terms.of_spec(JobPlanSpec.from_document(spec_document()))
        other = spec_document(policy="zeus", power={"minPercent": 80}, mode="Observe")
        other["batchSize"] = {"default": 32, "choices": [32, 256]}
        assert terms == Terms.of_spec(JobPlanSpec.from_document(other)) == TERMS


class TestEnergyPreference:
    @pytest.mark.parametrize("eta", [0.0, 0.25, 1.0])
    def test_the_cost_is_that_of_its_energy_and_time(self, eta: float) -> None:
        found = said(stored(), eta=eta)
        assert found.cost_joules == pytest.approx(cost_joules(800.0, 8.0, 250.0, eta))

    def test_an_epoch_keeps_its_share_of_the_run(self) -> None:
        found = said(stored(), eta=1.0)
        assert found.epoch_cost_joules == pytest.approx(80.0)
        assert found.sweep_cost_joules == pytest.approx(80.0)
        assert said(stored(epoch_cost_joules=None), eta=1.0).epoch_cost_joules is None

    def test_what_ran_at_another_power_is_measured_anew(self) -> None:
        found = said(stored(), eta=1.0)
        assert (found.full_power_epoch_cost_joules, found.sweep) == (None, ())

    def test_how_it_ended_stays(self) -> None:
        seen = stored()
        found = said(seen, eta=0.1)
        assert (found.outcome, found.epochs) == (Outcome.REACHED, 8)
        assert found.milestones == seen.observation.milestones

    def test_without_energy_it_says_something_only_where_energy_does_not_count(self) -> None:
        seen = stored(energy_joules=None, terms=replace(TERMS, eta=0.0))
        assert relearned(seen, replace(TERMS, eta=0.5)) is None
        unknown = replace(stored(), energy_joules=None)
        assert relearned(unknown, replace(TERMS, eta=0.1)) is None
        assert said(unknown, eta=0.0).cost_joules == pytest.approx(2000.0)

    def test_without_the_largest_power_limit_it_says_something_only_where_time_does_not_count(
        self,
    ) -> None:
        seen = replace(stored(terms=replace(TERMS, eta=1.0)), max_power_watts=0.0)
        assert relearned(seen, TERMS) is None


class TestEasierTarget:
    def test_a_run_would_have_ended_where_it_first_met_it(self) -> None:
        assert end(stored(), target=0.8) == (Outcome.REACHED, 4)
        assert end(stored(), target=0.85) == (Outcome.REACHED, 8)
        assert end(stored(), target=0.1) == (Outcome.REACHED, 1)

    def test_it_would_have_cost_the_epochs_until_then_and_all_of_the_sweep(self) -> None:
        found, whole = said(stored(), target=0.8), stored().observation
        assert found.cost_joules == pytest.approx((0.1 + 0.9 * 4 / 8) * whole.cost_joules)
        assert found.epoch_cost_joules == whole.epoch_cost_joules
        assert found.milestones == ((1, 0.5), (4, 0.8))

    @pytest.mark.parametrize(
        "outcome", [Outcome.COST_EXCEEDED, Outcome.MAX_EPOCHS, Outcome.DIVERGED]
    )
    def test_a_run_that_failed_may_have_met_it_on_the_way(self, outcome: Outcome) -> None:
        seen = stored(outcome, milestones=((1, 0.5), (4, 0.8)))
        assert end(seen, target=0.8) == (Outcome.REACHED, 4)
        assert end(seen, target=0.85) == (outcome, 8)

    def test_what_reached_a_harder_one_has_reached_it_even_if_nobody_knows_when(self) -> None:
        assert end(stored(milestones=()), target=0.8) == (Outcome.REACHED, 8)

    def test_a_metric_that_falls_is_met_from_above(self) -> None:
        falling = replace(TERMS, target=0.2, metric_mode=MetricMode.MIN)
        seen = stored(terms=falling, milestones=((1, 0.9), (4, 0.5), (8, 0.19)))
        easier = relearned(seen, replace(falling, target=0.6))
        assert easier is not None
        assert (easier.outcome, easier.epochs) == (Outcome.REACHED, 4)
        assert relearned(seen, replace(falling, target=0.1)) is None


class TestHarderTarget:
    @pytest.mark.parametrize("epochs", [8, 20])
    def test_a_run_that_ended_before_it_says_nothing(self, epochs: int) -> None:
        seen = stored(epochs=epochs, milestones=((1, 0.5), (epochs, 0.91)))
        assert relearned(seen, replace(TERMS, target=0.95)) is None
        assert relearned(seen, replace(TERMS, target=0.95, max_epochs=5)) is None

    def test_one_that_happened_to_meet_it_has_reached_it(self) -> None:
        assert end(stored(), target=0.905) == (Outcome.REACHED, 8)

    @pytest.mark.parametrize(
        "outcome",
        [Outcome.COST_EXCEEDED, Outcome.MAX_EPOCHS, Outcome.DIVERGED, Outcome.OUT_OF_MEMORY],
    )
    def test_a_run_that_failed_has_failed(self, outcome: Outcome) -> None:
        seen = stored(outcome, milestones=((1, 0.5),))
        assert said(seen, target=0.95) == seen.observation


class TestEpochsAllowed:
    def test_more_epochs_make_a_run_that_had_used_them_up_one_that_was_stopped(self) -> None:
        seen = stored(Outcome.MAX_EPOCHS, epochs=20, milestones=((1, 0.5),))
        assert end(seen, max_epochs=30) == (Outcome.COST_EXCEEDED, 20)

    @pytest.mark.parametrize("outcome", [Outcome.REACHED, Outcome.COST_EXCEEDED, Outcome.DIVERGED])
    def test_more_epochs_change_nothing_else(self, outcome: Outcome) -> None:
        seen = stored(outcome)
        assert said(seen, max_epochs=30) == seen.observation

    @pytest.mark.parametrize(
        "outcome", [Outcome.REACHED, Outcome.COST_EXCEEDED, Outcome.MAX_EPOCHS, Outcome.DIVERGED]
    )
    def test_a_run_that_took_more_than_are_allowed_now_has_failed_within_them(
        self, outcome: Outcome
    ) -> None:
        found, whole = said(stored(outcome), max_epochs=6), stored().observation
        assert (found.outcome, found.epochs) == (Outcome.MAX_EPOCHS, 6)
        assert found.cost_joules == pytest.approx((0.1 + 0.9 * 6 / 8) * whole.cost_joules)
        assert found.milestones == ((1, 0.5), (4, 0.8))

    def test_one_that_fits_in_still_counts(self) -> None:
        assert end(stored(), max_epochs=8) == (Outcome.REACHED, 8)
        assert end(stored(Outcome.COST_EXCEEDED), max_epochs=8) == (Outcome.MAX_EPOCHS, 8)
        assert end(stored(Outcome.COST_EXCEEDED), max_epochs=9) == (Outcome.COST_EXCEEDED, 8)

    def test_fewer_epochs_for_an_easier_target_may_be_enough(self) -> None:
        assert end(stored(), max_epochs=4, target=0.8) == (Outcome.REACHED, 4)
        assert end(stored(), max_epochs=3, target=0.8) == (Outcome.MAX_EPOCHS, 3)

    def test_what_does_not_fit_into_memory_never_will(self) -> None:
        at_once = stored(Outcome.OUT_OF_MEMORY, epochs=0, milestones=())
        later = stored(Outcome.OUT_OF_MEMORY)
        for terms in ({"max_epochs": 1}, {"target": 0.1}, {"target": 0.99, "max_epochs": 90}):
            assert said(at_once, **terms) == at_once.observation
            assert said(later, **terms) == later.observation


def test_the_other_metric_mode_says_nothing() -> None:
    assert relearned(stored(), replace(TERMS, metric_mode=MetricMode.MIN)) is None


class TestHistories:
    CHANGED = replace(TERMS, eta=1.0)

    def history(self) -> tuple[StoredObservation, ...]:
        """Return three runs; the second has no energy, the third came after the change."""
        return (
            stored(attempt_id=1),
            replace(stored(attempt_id=2), energy_joules=None),
            stored(attempt_id=3, terms=self.CHANGED),
        )

    def test_what_says_nothing_is_left_out_and_the_order_stays(self) -> None:
        under = observations_under(self.history(), self.CHANGED)
        assert [each.attempt_id for each in under] == [1, 3]

    def test_a_decision_sees_again_what_it_saw_whatever_the_spec_is_now(self) -> None:
        learned = StoredHistory(self.history())
        before = decision(
            target=0.9,
            metric_mode="Max",
            eta=0.5,
            problem=Problem(SIZES, 64, 20),
            observations_seen=2,
        )
        seen = learned.seen_by(before)
        assert seen == tuple(each.observation for each in self.history()[:2])
        after = learned.seen_by(replace(before, eta=1.0))
        assert after is not None
        assert [each.attempt_id for each in after] == [1, 3]

    def test_a_decision_of_a_release_before_saw_all_as_it_was_stored(self) -> None:
        learned = StoredHistory(self.history())
        seen = learned.seen_by(decision(observations_seen=3))
        assert seen == tuple(each.observation for each in self.history())

    def test_what_is_not_stored_any_more_can_not_be_seen_again(self) -> None:
        learned = StoredHistory(self.history())
        assert learned.seen_by(decision(observations_seen=4)) is None


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_after_a_harder_target_a_job_with_a_long_history_tries_batch_sizes_again(name: str) -> None:
    """Runs that delivered a model were no waste, so they leave what exploring may cost alone."""
    history = [
        stored(attempt_id=n, recurrence=n, batch_size=SIZES[n % 4], sweep=()) for n in range(1, 41)
    ]
    under = list(observations_under(history, replace(TERMS, target=0.95)))
    tried = set()
    for recurrence in range(41, 51):
        choice = policy(name).choose(
            Problem(SIZES, 64, 20), tuple(under), Situation(recurrence, gpu_model="V100"), 1
        )
        tried.add(choice.batch_size)
        run = stored(attempt_id=recurrence, recurrence=recurrence, batch_size=choice.batch_size)
        under.append(run.observation)
    assert len(tried) > 1


# Whatever was stored -------------------------------------------------------------

ETAS = st.sampled_from([0.0, 0.3, 0.5, 1.0])
TARGETS = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 0.9, 1.5])


@st.composite
def any_terms(draw: st.DrawFn, mode: MetricMode | None = None) -> Terms:
    modes = st.sampled_from(MetricMode) if mode is None else st.just(mode)
    return Terms(draw(TARGETS), draw(modes), draw(st.integers(1, 30)), draw(ETAS))


@st.composite
def any_stored(draw: st.DrawFn) -> StoredObservation:
    """Return a run as it may have been stored, its end in keeping with its terms."""
    terms = draw(any_terms())
    outcome = draw(st.sampled_from(sorted(LEARNED_FROM, key=lambda each: each.value)))
    epochs = draw(st.integers(0, terms.max_epochs))
    numbers = draw(st.lists(st.integers(0, epochs + 1), max_size=5, unique=True).map(sorted))
    rising = terms.metric_mode is MetricMode.MAX
    metrics = draw(
        st.lists(
            st.floats(-2.0, 2.0), min_size=len(numbers), max_size=len(numbers), unique=True
        ).map(lambda found: sorted(found, reverse=not rising))
    )
    joules = st.floats(0.0, 1e9)
    positive = draw(st.none() | st.floats(1e-3, 1e9))
    cost = draw(joules)
    observation = Observation(
        attempt_id=draw(st.integers(1, 10**6)),
        recurrence=draw(st.integers(1, 9)),
        attempt=draw(st.integers(1, 3)),
        batch_size=draw(st.sampled_from(SIZES)),
        outcome=outcome,
        epochs=epochs,
        cost_joules=cost,
        epoch_cost_joules=positive,
        gpu_model="V100",
        milestones=tuple(zip(numbers, metrics, strict=True)),
        full_power_epoch_cost_joules=draw(st.none() | st.floats(1e-3, 1e9)),
        sweep_cost_joules=draw(st.floats(0.0, 1.0)) * cost,
    )
    return StoredObservation(
        observation,
        draw(st.sampled_from([terms, None])),
        draw(st.none() | joules),
        draw(st.floats(0.0, 1e6)),
        draw(st.floats(0.0, 1e4)),
    )


@given(seen=any_stored())
def test_under_its_own_terms_it_is_itself(seen: StoredObservation) -> None:
    if seen.terms is not None:
        assert relearned(seen, seen.terms) is seen.observation


def test_what_a_run_of_next_to_no_cost_says_of_an_epoch_is_left_out_at_another_preference() -> None:
    seen = stored(cost_joules=5e-324, epoch_cost_joules=5e-324, sweep_cost_joules=0.0)
    found = relearned(seen, replace(TERMS, eta=1.0))
    assert found is not None
    assert (found.epoch_cost_joules, found.sweep_cost_joules) == (None, 0.0)


@given(seen=any_stored(), terms=any_terms())
def test_it_is_a_run_that_could_have_been(seen: StoredObservation, terms: Terms) -> None:
    found = relearned(seen, terms)
    if found is None or found is seen.observation:
        return
    numbers = [found.cost_joules, found.sweep_cost_joules]
    numbers += [
        cost
        for cost in (found.epoch_cost_joules, found.full_power_epoch_cost_joules)
        if cost is not None
    ]
    assert all(math.isfinite(number) and number >= 0.0 for number in numbers)
    assert found.sweep_cost_joules <= found.cost_joules * (1.0 + 1e-9)
    assert found.outcome in LEARNED_FROM
    assert 0 <= found.epochs <= seen.observation.epochs
    if found.outcome is not Outcome.OUT_OF_MEMORY:
        assert found.epochs <= terms.max_epochs
    assert found.milestones == seen.observation.milestones[: len(found.milestones)]
    kept = ("attempt_id", "recurrence", "attempt", "batch_size", "gpu_model", "gpu_count")
    assert [getattr(found, name) for name in kept] == [
        getattr(seen.observation, name) for name in kept
    ]


@given(seen=any_stored(), terms=any_terms())
def test_to_ask_twice_says_no_more(seen: StoredObservation, terms: Terms) -> None:
    found = relearned(seen, terms)
    if found is not None and seen.terms is not None:
        assert relearned(replace(seen, observation=found, terms=terms), terms) == found
    assert relearned(seen, terms) == found


@given(seen=any_stored(), terms=any_terms(), easier=st.floats(0.0, 3.0))
def test_an_easier_target_is_reached_where_a_harder_one_is_and_no_later(
    seen: StoredObservation, terms: Terms, easier: float
) -> None:
    shift = -easier if terms.metric_mode is MetricMode.MAX else easier
    hard, easy = (
        relearned(seen, terms),
        relearned(seen, replace(terms, target=terms.target + shift)),
    )
    if seen.terms is None or hard is None or hard.outcome is not Outcome.REACHED:
        return
    assert easy is not None
    assert easy.outcome is Outcome.REACHED
    assert easy.epochs <= hard.epochs
    assert easy.cost_joules <= hard.cost_joules * (1.0 + 1e-9)


@pytest.mark.parametrize("name", POLICY_NAMES)
@given(
    history=st.lists(any_stored(), max_size=12),
    terms=any_terms(MetricMode.MAX),
)
def test_every_policy_decides_on_what_was_learned_under_other_terms(
    name: str, history: list[StoredObservation], terms: Terms
) -> None:
    numbered = [
        replace(each, observation=replace(each.observation, attempt_id=n, recurrence=n))
        for n, each in enumerate(history, start=1)
    ]
    under = observations_under(numbered, terms)
    problem = Problem(SIZES, 64, terms.max_epochs)
    choice = policy(name).choose(problem, under, Situation(len(history) + 1), 1)
    assert choice.batch_size in SIZES
