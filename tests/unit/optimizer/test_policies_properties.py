"""What holds for every policy on problems and histories that nobody would think of."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.optimizer_histories import GPU
from tests.support.random_histories import any_costs, histories, problems, situations
from tests.support.running_job import RunningJob
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_runtime.protocol import Outcome
from zeus_runtime.stopping import StopRule

every_policy = pytest.mark.parametrize("name", POLICY_NAMES)
some = settings(deadline=None, max_examples=60)
STRANGER = 3  # a batch size that may not be on offer

# Far above and below anything that is measured, but squares and sums of it are numbers.
WIDE_COSTS = st.one_of(st.just(0.0), st.floats(1e-12, 1e15))


def assert_sound(choice: Choice, offered: Problem) -> None:
    """An arm on offer, and nothing in it that is not a number."""
    assert choice.batch_size in offered.batch_sizes
    assert set(choice.sweep) <= set(offered.batch_sizes) - {choice.batch_size}
    assert choice.cost_threshold_joules is None or choice.cost_threshold_joules >= 0.0
    body = json.loads(json.dumps(asdict(choice), allow_nan=False))
    if choice.stop_rule is not None:
        assert StopRule.from_body(body["stop_rule"]) == choice.stop_rule
        assert min(choice.stop_rule.cap_joules, choice.stop_rule.budget_joules) >= 0.0
    for candidate in choice.candidates:
        low, high = candidate.low_cost_joules, candidate.high_cost_joules
        assert low is None or high is None or 0.0 <= low <= high
        assert candidate.success_probability is None or 0.0 <= candidate.success_probability <= 1.0
    words = choice.sentence.lower().replace(",", " ").replace("(", " ").split()
    assert not {"nan", "inf", "none"} & set(words)


@st.composite
def cases(
    draw: st.DrawFn, costs: st.SearchStrategy[float] = any_costs
) -> tuple[Problem, tuple[Observation, ...], Situation]:
    offered = draw(problems())
    sizes = (*offered.batch_sizes, STRANGER)
    history = draw(histories(sizes, costs))
    return offered, history, draw(situations(offered.batch_sizes))


@every_policy
@some
@given(case=cases())
def test_costs_beyond_all_sense_give_an_arm_on_offer_and_numbers_only(name, case):
    offered, observations, situation = case
    asked = policy(name)
    assert_sound(asked.choose(offered, observations, situation, 1), offered)
    assert asked.choose(offered, observations, situation, 1) == policy(name).choose(
        offered, observations, situation, 1
    )


@every_policy
@some
@given(case=cases(WIDE_COSTS))
def test_costs_over_many_magnitudes_give_an_arm_on_offer_and_numbers_only(name, case):
    offered, observations, situation = case
    assert_sound(policy(name).choose(offered, observations, situation, 1), offered)


@every_policy
@some
@given(case=cases(WIDE_COSTS), data=st.data())
def test_attempts_that_arrive_in_another_order_leave_the_choice_sound(name, case, data):
    offered, observations, situation = case
    shuffled = tuple(data.draw(st.permutations(observations)))
    assert_sound(policy(name).choose(offered, shuffled, situation, 1), offered)


@every_policy
@some
@given(case=cases(WIDE_COSTS), data=st.data())
def test_attempts_that_arrive_again_later_change_nothing(name, case, data):
    offered, observations, situation = case
    if not observations:
        return
    again = tuple(data.draw(st.lists(st.sampled_from(observations), max_size=8)))
    once = policy(name).choose(offered, observations, situation, 1)
    assert policy(name).choose(offered, observations + again, situation, 1) == once


@every_policy
@some
@given(case=cases(), seed=st.integers(0, 2**31 - 1))
def test_a_decision_is_the_same_across_processes(name, case, seed):
    offered, observations, situation = case
    retired = sorted({o.batch_size for o in observations} - set(offered.batch_sizes))
    learner = policy(name).begin(offered, retired)
    for observation in observations:
        learner.observe(observation)
    moved = pickle.loads(pickle.dumps(learner))  # our own
    decided = learner.choose(situation, seed)
    assert moved.choose(situation, seed) == decided
    assert policy(name).choose(offered, observations, situation, seed) == decided
    later = tuple(replace(o, attempt_id=o.attempt_id + 100) for o in observations)
    for observation in later:
        learner.observe(observation)
        moved.observe(observation)
    assert moved.choose(situation, seed) == learner.choose(situation, seed)


@every_policy
@some
@given(case=cases(WIDE_COSTS))
def test_one_arm_is_all_that_can_be_chosen(name, case):
    offered, observations, situation = case
    only = replace(offered, batch_sizes=(offered.default_batch_size,))
    choice = policy(name).choose(only, observations, situation, 1)
    assert choice.batch_size == offered.default_batch_size
    assert_sound(choice, only)


@every_policy
@some
@given(case=cases(WIDE_COSTS))
def test_a_history_of_failures_only_leaves_the_choice_sound(name, case):
    offered, observations, situation = case
    failed = tuple(
        replace(o, outcome=Outcome.MAX_EPOCHS, epochs=offered.max_epochs)
        for o in observations
        if o.outcome is Outcome.REACHED
    )
    assert_sound(policy(name).choose(offered, failed, situation, 1), offered)


@every_policy
@some
@given(case=cases(), cost=st.sampled_from((math.nan, math.inf, -math.inf, -1e-9, -5.0)))
def test_a_cost_that_cannot_be_teaches_nothing(name, case, cost):
    offered, observations, situation = case
    sane = tuple(o for o in observations if math.isfinite(o.cost_joules) and o.cost_joules >= 0.0)
    odd = tuple(replace(o, attempt_id=o.attempt_id + 100, cost_joules=cost) for o in observations)
    assert policy(name).choose(offered, sane + odd, situation, 1) == policy(name).choose(
        offered, sane, situation, 1
    ) or {o.batch_size for o in odd} - {o.batch_size for o in sane} - set(offered.batch_sizes)


@every_policy
def test_ten_thousand_runs_of_a_job_with_curves_and_failures_stay_finite(name):
    sizes = tuple(16 << n for n in range(8))
    offered = Problem(sizes, 256, max_epochs=80)
    learner = policy(name).begin(offered)
    outcomes = [Outcome.REACHED] * 5 + [Outcome.COST_EXCEEDED, Outcome.MAX_EPOCHS]
    for number in range(1, 10_001):
        epochs = 5 + number * number % 17
        learner.observe(
            Observation(
                attempt_id=number,
                recurrence=number,
                attempt=1,
                batch_size=sizes[number * 7 % 8],
                outcome=outcomes[number % 7],
                epochs=epochs,
                cost_joules=30.0 * epochs,
                epoch_cost_joules=30.0,
                gpu_model=GPU,
                milestones=tuple((n, n / epochs) for n in range(1, epochs + 1, 3)),
            )
        )
        if number % 500 == 0:
            assert_sound(learner.choose(Situation(number + 1, gpu_model=GPU), number), offered)


JOB = RunningJob(
    epochs={16: 6.0, 32: 7.0, 64: 9.0, 128: 14.0, 256: 24.0, 512: None},
    epoch_costs={16: 220.0, 32: 130.0, 64: 80.0, 128: 66.0, 256: 60.0, 512: 58.0},
    default=256,
    spread=0.2,
)


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 7.0, 1e6])
def test_the_unit_of_cost_changes_no_decision_of_the_structured_policy(scale, bound):
    scaled = replace(JOB, epoch_costs={b: c * scale for b, c in JOB.epoch_costs.items()})
    terms = {"bound_every_history": bound, "exploration_share": 0.1}
    plain = JOB.run(StructuredPolicy(), 25, seed=3, **terms)
    other = scaled.run(StructuredPolicy(), 25, seed=3, **terms)
    assert [c.batch_size for _, c, _ in plain] == [c.batch_size for _, c, _ in other]
    assert [o.epochs for _, _, o in plain] == [o.epochs for _, _, o in other]
    rules = 0
    for (_, one, _), (_, two, _) in zip(plain, other, strict=True):
        if one.cost_threshold_joules is None:
            assert two.cost_threshold_joules is None
        else:
            expected = one.cost_threshold_joules * scale
            assert two.cost_threshold_joules == pytest.approx(expected, rel=1e-6)
        if one.stop_rule is None:
            assert two.stop_rule is None
            continue
        assert two.stop_rule is not None
        rules += 1
        for name in ("best_cost_joules", "cap_joules", "budget_joules"):
            expected = getattr(one.stop_rule, name) * scale
            assert getattr(two.stop_rule, name) == pytest.approx(expected, rel=1e-6)
        assert two.stop_rule.log_epochs_mean == pytest.approx(one.stop_rule.log_epochs_mean)
    assert rules >= 2


@some
@given(case=cases(st.floats(1e-3, 1e6)), power=st.integers(-20, 20))
def test_powers_of_two_scale_every_history_without_a_trace(case, power):
    offered, observations, situation = case
    scale = 2.0**power

    def times(value: float | None) -> float | None:
        return None if value is None else value * scale

    scaled = tuple(
        replace(
            o,
            cost_joules=o.cost_joules * scale,
            epoch_cost_joules=times(o.epoch_cost_joules),
            full_power_epoch_cost_joules=times(o.full_power_epoch_cost_joules),
            sweep_cost_joules=o.sweep_cost_joules * scale,
            sweep=tuple(replace(p, epoch_cost_joules=p.epoch_cost_joules * scale) for p in o.sweep),
        )
        for o in observations
    )
    plain = StructuredPolicy().choose(offered, observations, situation, 1)
    other = StructuredPolicy().choose(offered, scaled, situation, 1)
    assert (other.batch_size, other.sweep) == (plain.batch_size, plain.sweep)
    assert (other.stop_rule is None) == (plain.stop_rule is None)
    if plain.cost_threshold_joules is not None:
        assert other.cost_threshold_joules == pytest.approx(
            plain.cost_threshold_joules * scale, rel=1e-6
        )
