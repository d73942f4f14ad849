"""What policy `structured` takes from runs: hints, curves, who reaches the target, change."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.support.optimizer_histories import (
    GPU,
    HistoryBuilder,
    candidate,
    problem,
    rule_of,
)
from zeus_operator.optimizer.curves import MOST_LEVELS, Curves
from zeus_operator.optimizer.epochs import EpochModel
from zeus_operator.optimizer.feasibility import Feasibility
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.types import Observation, Situation
from zeus_runtime.protocol import Outcome
from zeus_runtime.stopping import EpochsBelief

POLICY = StructuredPolicy()
X = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
DEFAULT = 2
Milestones = tuple[tuple[int, float], ...]


def run(milestones: Milestones, epochs: int) -> Observation:
    added = HistoryBuilder().add(256, 100.0, epochs=epochs, milestones=milestones)
    return added.observations[0]


def seen_as(mean: float, variance: float, probability: float = 1.0) -> EpochsBelief:
    return EpochsBelief((mean,), (1.0,), probability, mean, variance)


# ---- hints ------------------------------------------------------------------------


def model_with_the_default_known() -> EpochModel:
    model = EpochModel(X, Parameters())
    model.reached(DEFAULT, 10)
    return model


def test_a_stopped_run_tells_what_its_curve_says_beyond_the_prior_at_a_part_of_its_weight():
    model = model_with_the_default_known()
    before = model.belief()
    rule = rule_of(model, arm=1)
    prior = rule.arm_variance + rule.run_variance
    # The curve alone says ln 30, with a standard deviation of .3.
    alone = 1.0 / 0.09
    both = 1.0 / (1.0 / prior + alone)
    mean = both * (rule.log_epochs_mean / prior + alone * math.log(30.0))
    model.stopped(1, rule, seen_as(mean, both, probability=0.8))

    weight = 0.8 * Parameters().hint_weight
    precision = weight / (0.09 + rule.run_variance)
    own = 1.0 / float(before.variance[1])
    expected = (own * float(before.mean[1]) + precision * math.log(30.0)) / (own + precision)
    assert float(model.belief().mean[1]) == pytest.approx(expected)
    assert (model.runs(1), model.has_hint(1)) == (0, True)


def test_a_hint_that_tells_nothing_new_or_of_an_arm_that_never_gets_there_is_none():
    model = model_with_the_default_known()
    rule = rule_of(model, arm=1)
    prior = rule.arm_variance + rule.run_variance
    before = model.belief().mean.tolist()
    model.stopped(1, rule, seen_as(3.0, prior))
    model.stopped(1, rule, seen_as(3.0, 0.01, probability=0.0))
    assert model.belief().mean.tolist() == before
    assert not model.has_hint(1)


def test_the_last_stopped_run_of_an_arm_is_the_one_that_counts():
    once, twice = model_with_the_default_known(), model_with_the_default_known()
    rule = rule_of(once, arm=1)
    twice.stopped(1, rule, seen_as(3.4, 0.02))
    for model in (once, twice):
        model.forget_hint(1)
        model.stopped(1, rule, seen_as(2.6, 0.05))
    assert once.belief().mean.tolist() == twice.belief().mean.tolist()


def test_the_curve_of_a_new_run_is_not_held_against_what_an_older_one_hinted_at():
    hinted, plain = HistoryBuilder(), HistoryBuilder()
    for history in (hinted, plain):
        history.add(256, 1000.0, milestones=((1, 0.2), (4, 0.6), (10, 0.9)))
    slow = ((8, 0.25),)
    hinted.add(64, 900.0, Outcome.COST_EXCEEDED, epochs=9, milestones=slow)
    for history in (hinted, plain):
        history.add(64, 300.0, Outcome.COST_EXCEEDED, epochs=3, epoch_cost_joules=100.0)
    after = [candidate(h.choose(POLICY), 64).typical_cost_joules for h in (hinted, plain)]
    assert after[0] == pytest.approx(after[1])


def test_a_complete_run_replaces_what_a_stopped_one_had_hinted_at():
    hinted, plain = model_with_the_default_known(), model_with_the_default_known()
    hinted.stopped(1, rule_of(hinted, arm=1), seen_as(4.0, 0.01))
    for model in (hinted, plain):
        model.forget_hint(1)
        model.reached(1, 8)
    assert hinted.belief().mean.tolist() == plain.belief().mean.tolist()


def test_a_stopped_run_of_a_proven_arm_counts_as_a_run_of_the_length_its_curve_says():
    stopped, reached = model_with_the_default_known(), model_with_the_default_known()
    stopped.stopped(DEFAULT, rule_of(stopped, arm=DEFAULT), seen_as(math.log(25.0), 0.1))
    reached.reached(DEFAULT, 25)
    assert stopped.belief().mean == pytest.approx(reached.belief().mean)
    assert stopped.run_variances == pytest.approx(reached.run_variances)


def test_a_stopped_run_says_nothing_of_whether_its_arm_or_others_reach_the_target():
    history = HistoryBuilder().add(256, 1000.0)
    before = history.choose(POLICY)
    history.add(64, 900.0, Outcome.COST_EXCEEDED, epochs=9)
    after = history.choose(POLICY)
    for size in (32, 64, 128, 512):
        assert (
            candidate(after, size).success_probability
            == candidate(before, size).success_probability
        )


@pytest.mark.parametrize("recurrence", [2, 3, 5])
def test_an_arm_stopped_unproven_in_recurrence_t_comes_back_in_recurrence_2t(recurrence):
    history = HistoryBuilder()
    for _ in range(recurrence - 1):
        history.add(256, 1000.0)
    history.add(128, 300.0, Outcome.COST_EXCEEDED, epochs=3)
    history.add(256, 1000.0)
    up_for_a_try = [
        number
        for number in range(recurrence + 1, 3 * recurrence)
        if candidate(history.choose(POLICY, recurrence=number), 128).net_gain_joules is not None
    ]
    assert up_for_a_try == list(range(2 * recurrence, 3 * recurrence))


def test_the_spread_between_runs_is_an_arms_own_with_a_little_of_the_others():
    model = EpochModel(X, Parameters())
    for _ in range(30):
        for epochs in (5, 20):
            model.reached(1, epochs)
        model.reached(DEFAULT, 10)
    wide, steady = float(model.run_variances[1]), float(model.run_variances[DEFAULT])
    assert wide == pytest.approx(np.var(np.log([5.0, 20.0])), rel=0.15)
    # Four runs' worth of the prior's .2, two of the other arm's spread, thirty of its own.
    assert steady == pytest.approx((4 * 0.04 + 2 * wide) / 35.0, rel=0.15)


# ---- who reaches the target -------------------------------------------------------


def feasibility(**changes: float) -> Feasibility:
    return Feasibility(X, DEFAULT, replace(Parameters(), **changes))  # type: ignore[arg-type]


def test_before_anything_failed_every_arm_is_trusted_a_little_less_with_its_distance():
    chance = feasibility().probabilities()
    assert chance == pytest.approx([0.9608, 0.9802, 0.95, 0.9802, 0.9608], abs=1e-4)


def test_a_failure_puts_the_point_of_no_return_before_it_on_its_own_side_unless_it_was_bad_luck():
    model = feasibility()
    model.successes[DEFAULT] = 1
    model.failures[4] = 1
    left, near, default, between, failed = model.probabilities()
    assert (left, near, default) == pytest.approx((0.9608, 0.9802, 1.0), abs=1e-4)
    # The point lies somewhere in two doublings, a little less likely further out: half way is
    # beyond it in half of the cases.  In three of ten, it was bad luck.
    assert failed == pytest.approx(0.3 * 0.9608, abs=1e-3)
    assert between == pytest.approx(0.3 * 0.9802 + 0.7 * 0.495, abs=1e-3)


def test_a_second_failure_leaves_less_to_bad_luck():
    once, twice = feasibility(), feasibility()
    once.failures[4], twice.failures[4] = 1, 2
    assert once.probabilities()[4] / twice.probabilities()[4] == pytest.approx(1 / 0.3)


def test_an_arm_that_reached_the_target_pushes_the_point_beyond_itself():
    model = feasibility()
    model.failures[3] = 1
    model.successes[4] = 1
    chance = model.probabilities()
    # What failed on the near side of a success had bad luck.
    assert chance[3] == pytest.approx(0.99)
    assert chance[4] == pytest.approx(1.0)


def test_an_arm_that_has_reached_the_target_is_judged_by_its_own_record():
    model = feasibility()
    model.successes[1], model.failures[1] = 3, 2
    model.failures[0] = 5
    assert model.probabilities()[1] == pytest.approx(3.5 / 5.5)


def test_a_default_that_only_failed_is_trusted_less_each_time():
    model = feasibility()
    chances = []
    for failures in range(3):
        model.failures[DEFAULT] = failures
        chances.append(model.probabilities()[DEFAULT])
    assert chances == pytest.approx([0.95, 0.25, 0.5 / 3])


# ---- learning curves --------------------------------------------------------------


def curves() -> Curves:
    return Curves(X, Parameters())


def test_the_first_complete_run_sets_the_levels_and_how_far_before_the_end_they_lie():
    known = curves()
    known.learn(DEFAULT, run(((1, 0.2), (4, 0.6), (10, 0.9)), epochs=10))
    easy, hard = known.levels(DEFAULT)
    assert (easy.metric, hard.metric) == (0.2, 0.6)  # the target is none
    assert easy.log_gap == pytest.approx(math.log(10 / 0.5))
    assert hard.log_gap == pytest.approx(math.log(10 / 3.5))
    assert hard.log_gap_sd == pytest.approx(0.1 + 0.4 * math.sqrt(math.log(10 / 3.5)))
    assert hard.log_gap_sd < easy.log_gap_sd


def test_a_later_run_adds_when_it_reached_the_same_levels_as_a_ratio_of_its_length():
    known = curves()
    known.learn(DEFAULT, run(((1, 0.2), (4, 0.6), (10, 0.9)), epochs=10))
    known.learn(DEFAULT, run(((2, 0.3), (16, 0.7), (20, 0.95)), epochs=20))
    assert [level.metric for level in known.levels(DEFAULT)] == [0.2, 0.6]
    gap = 0.5 * (math.log(10 / 3.5) + math.log(20 / 15.5))
    assert known.levels(DEFAULT)[1].log_gap == pytest.approx(gap)


def test_near_batch_sizes_count_more():
    known = curves()
    known.learn(0, run(((2, 0.5), (10, 0.9)), epochs=10))
    known.learn(4, run(((8, 0.5), (10, 0.9)), epochs=10))
    gaps = [known.levels(arm)[0].log_gap for arm in range(5)]
    assert all(near > far for near, far in pairwise(gaps))
    assert gaps[2] == pytest.approx(0.5 * (math.log(10 / 1.5) + math.log(10 / 7.5)))


def test_a_metric_that_falls_is_followed_downwards():
    known = curves()
    known.learn(DEFAULT, run(((1, 3.0), (4, 2.0), (10, 1.0)), epochs=10))
    assert not known.rising
    known.learn(DEFAULT, run(((5, 1.5), (10, 0.9)), epochs=10))
    assert known.levels(DEFAULT)[0].log_gap == pytest.approx(
        0.5 * (math.log(10 / 0.5) + math.log(10 / 4.5))
    )


@pytest.mark.parametrize(
    "milestones",
    [(), ((1, 0.9),), ((1, math.nan), (5, 0.9)), ((2, 0.1), (5, math.inf))],
    ids=["none", "at once", "not a number", "infinite"],
)
def test_a_run_without_a_way_to_the_target_teaches_no_curve(milestones):
    known = curves()
    known.learn(DEFAULT, run(milestones, epochs=5))
    assert known.levels(DEFAULT) == ()
    known.learn(DEFAULT, run(((1, 0.2), (4, 0.6), (10, 0.9)), epochs=10))
    assert [level.metric for level in known.levels(DEFAULT)] == [0.2, 0.6]


def test_a_run_whose_milestones_are_missing_in_part_is_not_compared():
    known = curves()
    known.learn(DEFAULT, run(((1, 0.2), (4, 0.6), (10, 0.9)), epochs=10))
    before = known.levels(DEFAULT)
    known.learn(DEFAULT, run(((1, 0.3),), epochs=20))
    assert known.levels(DEFAULT) == before


@pytest.mark.parametrize("count", [2, 32, 33, 34, 64, 65, 500])
def test_of_many_milestones_some_are_kept_the_one_before_the_target_always(count):
    known = curves()
    known.learn(DEFAULT, run(tuple((n, n / count) for n in range(1, count + 1)), epochs=count))
    levels = [level.metric for level in known.levels(DEFAULT)]
    assert 1 <= len(levels) <= MOST_LEVELS
    assert levels == sorted(levels)
    assert levels[-1] == (count - 1) / count


def test_the_levels_go_along_with_the_rule_of_a_try():
    milestones = ((1, 0.2), (4, 0.6), (10, 0.9))
    choice = HistoryBuilder().add(256, 1000.0, milestones=milestones).choose(POLICY)
    assert choice.stop_rule is not None
    assert [level.metric for level in choice.stop_rule.levels] == [0.2, 0.6]
    assert choice.stop_rule.rising


# ---- change -----------------------------------------------------------------------


def learned_from(epochs: list[int], after: tuple[int, ...]) -> list[int]:
    """Return how many runs the policy still learns from after so many of these."""
    learner = POLICY.begin(problem(max_epochs=5000))
    known = []
    for number, each in enumerate(epochs, start=1):
        added = HistoryBuilder().add((256, 128)[number % 2], 10.0 * each, epochs=each)
        learner.observe(replace(added.observations[0], attempt_id=number, recurrence=number))
        if number in after:
            choice = learner.choose(Situation(number + 1, gpu_model=GPU), 0)
            known.append(sum(c.runs for c in choice.candidates))
    return known


def noisy(mean: float, spread: float, count: int, seed: int) -> list[int]:
    luck = random.Random(seed)
    return [max(1, round(mean * math.exp(spread * luck.gauss(0, 1)))) for _ in range(count)]


@pytest.mark.parametrize("factor", [2.0, 4.0, 0.5, 0.25], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_job_that_has_changed_is_learned_anew_within_a_few_runs_up_or_down(factor, seed):
    runs = noisy(50, 0.1, 20, seed) + noisy(50 * factor, 0.1, 10, seed + 50)
    before, soon, later = learned_from(runs, after=(20, 25, 30))
    assert before == 20
    assert soon <= 6
    assert later <= 11


@pytest.mark.parametrize("seed", range(5))
def test_a_change_that_noise_half_hides_is_found_later(seed):
    runs = noisy(50, 0.3, 40, seed) + noisy(100, 0.3, 25, seed + 50)
    (known,) = learned_from(runs, after=(65,))
    assert known <= 30


def test_a_steady_job_is_hardly_ever_taken_for_changed_however_noisy_it_is():
    def forgot(spread: float) -> int:
        runs = [noisy(50, spread, 100, seed) for seed in range(20)]
        return sum(learned_from(each, after=(100,)) != [100] for each in runs)

    assert forgot(0.05) == forgot(0.2) == 0
    assert forgot(0.4) <= 3  # in 2,000 runs


def test_after_a_change_the_account_starts_over():
    history = HistoryBuilder()
    for _ in range(10):
        history.add(256, 1000.0)
    assert history.choose(POLICY).batch_size != 256
    for _ in range(2):
        history.add(128, 900.0, Outcome.COST_EXCEEDED, epochs=9)
        history.add(64, 900.0, Outcome.COST_EXCEEDED, epochs=9)
        history.add(256, 1000.0)
    poor = history.choose(POLICY, recurrence=100)
    for _ in range(6):
        history.add(256, 4000.0, epochs=40)
    rich = history.choose(POLICY, recurrence=100)
    assert poor.batch_size == 256
    assert "more than exploring may still cost (0 J)" in poor.sentence
    assert rich.batch_size != 256
