"""The structured policy: what it learns, what it risks, and what it says."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from tests.support.optimizer_histories import (
    GPU,
    HistoryBuilder,
    SyntheticJob,
    candidate,
    problem,
    rule_of,
)
from zeus_operator.optimizer.epochs import EpochModel
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.types import Situation
from zeus_operator.optimizer.words import joules
from zeus_runtime.protocol import Outcome

POLICY = StructuredPolicy()

# Epochs grow slowly with the batch size, an epoch gets cheaper: 64 is the best of these.
EPOCHS = {8: 6.0, 16: 6.5, 32: 7.5, 64: 9.0, 128: 14.0, 256: 25.0, 512: None}
EPOCH_COSTS = {8: 400.0, 16: 220.0, 32: 130.0, 64: 80.0, 128: 65.0, 256: 60.0, 512: 57.0}


def job(**changes: object) -> SyntheticJob:
    return SyntheticJob(EPOCHS, EPOCH_COSTS, default=256, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_best_arm_of_a_job_and_stays_there(seed):
    decisions, _ = job().run(POLICY, recurrences=25, seed=seed)
    last = [choice.batch_size for _, _, choice in decisions[-10:]]
    assert last.count(64) >= 9  # it may look at another arm once more


def test_it_costs_less_than_the_published_policy_while_learning():
    from zeus_operator.optimizer.zeus import ZeusPolicy

    def spent(policy):
        return sum(
            observation.cost_joules
            for seed in range(5)
            for observation in job().run(policy, recurrences=10, seed=seed)[1]
        )

    assert spent(POLICY) < 0.8 * spent(ZeusPolicy())


def test_the_first_run_is_the_default_without_a_threshold():
    choice = HistoryBuilder().choose(POLICY)
    assert (choice.batch_size, choice.cost_threshold_joules) == (256, None)
    assert choice.sentence == (
        "First run: the default batch size 256, to have something to compare with."
    )


def test_the_default_is_repeated_until_it_has_reached_the_target_once():
    history = HistoryBuilder()
    history.add(256, 100.0, Outcome.CRASHED)
    history.failed = ()
    assert history.choose(POLICY).batch_size == 256


def test_a_default_that_failed_gives_way_to_other_arms_within_the_recurrence():
    history = HistoryBuilder().failure(256)
    second = history.choose(POLICY)
    assert second.batch_size != 256
    assert second.cost_threshold_joules is None
    assert "did not reach the target" in second.sentence


def test_trying_an_arm_says_what_it_risks_and_what_for():
    choice = HistoryBuilder().add(256, 55_000.0).choose(POLICY)
    assert choice.batch_size != 256
    assert choice.sentence.startswith(f"Trying {choice.batch_size}: about ")
    assert "at the best known batch size 256" in choice.sentence
    assert "% likely to reach the target" in choice.sentence
    assert f"expected to pay back {joules(candidate(choice, 128).net_gain_joules)}" in (
        choice.sentence
    )
    assert len(choice.candidates) == 5
    scored = [c for c in choice.candidates if c.net_gain_joules is not None]
    assert max(scored, key=lambda c: c.net_gain_joules).batch_size == choice.batch_size
    assert all(c.extra_cost_joules is not None for c in scored)
    # The best known arm is what the others are held against; 32 is too far from what has run.
    assert {c.batch_size for c in choice.candidates} - {c.batch_size for c in scored} == {32, 256}


def test_an_arm_never_tried_has_a_cost_that_a_run_of_it_could_have():
    choice = POLICY.choose(
        problem((8, 16, 32, 64, 128, 256)),
        HistoryBuilder().add(256, 6000.0).observations,
        HistoryBuilder().add(256, 6000.0).situation(),
        seed=0,
    )
    far, near = candidate(choice, 8), candidate(choice, 256)
    assert near.typical_cost_joules == pytest.approx(6000.0, rel=0.05)
    # The mean of so wide a belief is above 700 kJ.
    assert 1000.0 < far.typical_cost_joules < 12_000.0
    for arm in (far, near):
        assert arm.low_cost_joules < arm.typical_cost_joules < arm.high_cost_joules
    assert far.high_cost_joules / far.low_cost_joules > near.high_cost_joules / near.low_cost_joules


def test_eight_runs_of_ten_lie_in_the_range_that_is_given_for_them():
    rng = random.Random(3)
    learner = POLICY.begin(problem())
    inside = 0
    for number in range(300):
        epochs = round(100.0 * rng.lognormvariate(0.0, 0.2))
        cost = 10.0 * epochs
        if number >= 100:
            arm = candidate(learner.choose(Situation(number + 1), seed=0), 256)
            inside += arm.low_cost_joules <= cost <= arm.high_cost_joules
        (observation,) = HistoryBuilder().add(256, cost, epochs=epochs).observations
        learner.observe(replace(observation, attempt_id=number + 1, recurrence=number + 1))
    assert 0.74 <= inside / 200 <= 0.86


def test_an_untried_arm_may_cost_half_as_much_again_as_the_best_known_and_has_a_stop_rule():
    choice = HistoryBuilder().add(256, 1000.0).choose(POLICY)
    rule = choice.stop_rule
    assert choice.batch_size == 128
    assert rule is not None
    # In whole epochs, of about 110 J here.
    assert rule.best_cost_joules == pytest.approx(1000.0, rel=0.05)
    most = 1.5 * rule.best_cost_joules
    assert most - 130.0 < choice.cost_threshold_joules <= most
    assert rule.cap_joules == choice.cost_threshold_joules
    assert rule.max_epochs == 50
    assert rule.horizon == Parameters().horizon
    assert math.exp(rule.log_epochs_mean) == pytest.approx(8.0, rel=0.1)


def test_a_proven_arm_has_no_stop_rule_and_room_for_its_long_runs():
    history = HistoryBuilder().add(256, 9000.0, epochs=20)
    for epochs in (4, 20, 5, 30, 8, 25, 4, 18, 40, 6):
        history.add(128, 100.0 * epochs, epochs=epochs)
    choice = POLICY.choose(problem((128, 256)), history.observations, history.situation(), 0)
    assert (choice.batch_size, choice.stop_rule) == (128, None)
    assert choice.cost_threshold_joules > 40 * 100.0


def test_the_default_is_never_limited():
    history = HistoryBuilder().add(256, 1000.0).add(128, 3000.0)
    for _ in range(3):
        history.failure(64).failure(512)
        history.failed = ()
        history.recurrence += 1
        choice = history.choose(POLICY)
        assert choice.batch_size == 256
        assert (choice.cost_threshold_joules, choice.stop_rule) == (None, None)


def test_a_failure_tells_of_the_arms_beyond_it_more_than_of_those_before_it():
    choice = HistoryBuilder().add(256, 100.0).failure(64).choose(POLICY)
    chance = {c.batch_size: c.success_probability for c in choice.candidates}
    assert chance[64] < chance[128] < chance[256]
    assert chance[32] < chance[128]


def test_a_diverged_run_is_a_failure_of_the_arm_whatever_epoch_it_was():
    before = HistoryBuilder().add(256, 100.0)
    chance = candidate(before.choose(POLICY), 512).success_probability
    after = before.add(512, 5.0, Outcome.DIVERGED, epochs=0, epoch_cost_joules=None)
    assert candidate(after.choose(POLICY), 512).success_probability < 0.5 * chance


def test_a_run_of_at_least_that_size_takes_an_out_of_memory_back():
    history = HistoryBuilder().add(256, 0.0, Outcome.OUT_OF_MEMORY, epochs=0).add(128, 100.0)
    assert "out of memory" in {c.note for c in history.choose(POLICY).candidates}
    history.add(512, 100.0)
    assert "out of memory" not in {c.note for c in history.choose(POLICY).candidates}


def test_out_of_memory_rules_out_that_arm_and_all_larger_ones_on_that_gpu_model_only():
    history = HistoryBuilder().add(128, 100.0)
    history.add(256, 0.0, Outcome.OUT_OF_MEMORY, epochs=0)
    history.failed = ()
    choice = history.choose(POLICY)
    notes = {c.batch_size: c.note for c in choice.candidates}
    assert (notes[128], notes[256], notes[512]) == ("", "out of memory", "out of memory")
    assert choice.batch_size < 256
    elsewhere = history.choose(POLICY, gpu_model="SimGPU-B")
    assert "out of memory" not in {c.note for c in elsewhere.candidates}
    # two GPUs of the model hold half of the global batch each
    two = history.choose(POLICY, gpu_count=2)
    assert {c.batch_size: "out of memory" in c.note for c in two.candidates} == {
        32: False,
        64: False,
        128: False,
        256: False,
        512: True,
    }


def test_when_the_default_does_not_fit_the_largest_that_does_takes_its_place():
    history = HistoryBuilder().add(256, 0.0, Outcome.OUT_OF_MEMORY, epochs=0)
    choice = history.choose(POLICY)
    assert choice.batch_size == 128
    assert choice.sentence == (
        "The default batch size 256 ran out of memory: 128, the largest that may fit, in its place."
    )
    neither = history.failure(128).choose(POLICY)
    assert neither.sentence.startswith(
        "Batch size 128, in place of the default, did not reach the target: trying 64, "
    )


def test_a_stopped_run_is_a_lower_bound_and_no_failure():
    start = HistoryBuilder().add(256, 1000.0)
    start.add(128, 900.0, Outcome.COST_EXCEEDED, epochs=9)
    assert candidate(start.choose(POLICY), 128).success_probability > 0.5


def test_a_stopped_run_raises_the_epochs_that_its_arm_and_its_neighbours_are_thought_to_need():
    model = EpochModel(np.array([-2.0, -1.0, 0.0, 1.0]), Parameters())
    model.reached(2, 10)
    before = model.belief()
    rule = rule_of(model, arm=1)
    model.stopped(1, rule, rule.belief(25, ()))
    after = model.belief()
    assert after.mean[1] > before.mean[1]
    assert after.mean[0] > before.mean[0]
    assert after.variance[1] < before.variance[1]


def test_a_run_stopped_before_its_first_epoch_is_never_the_best_arm():
    history = HistoryBuilder().add(256, 1000.0)
    history.add(64, 0.0, Outcome.COST_EXCEEDED, epochs=0)
    retry = history.choose(POLICY)
    assert retry.batch_size == 256
    assert candidate(retry, 64).runs == 0
    for _ in range(8):  # and it is not tried for ever
        history.failed = ()
        history.recurrence += 1
        if history.choose(POLICY).batch_size != 64:
            break
        history.add(64, 0.0, Outcome.COST_EXCEEDED, epochs=0)
    assert history.choose(POLICY).batch_size != 64


def test_after_failed_attempts_others_are_tried_twice_and_then_what_is_proven_runs():
    history = HistoryBuilder().add(256, 1000.0)
    for _ in range(3):
        history.add(128, 500.0)
    second = history.failure(64).choose(POLICY)
    assert second.sentence.startswith("Attempt 2, after 64: Trying 32")
    fourth = history.choose(POLICY, failed=(64, 32, 512))
    assert fourth.batch_size == 128
    assert fourth.cost_threshold_joules is not None
    assert fourth.sentence.endswith("after 3 failed attempts nothing else is tried.")


def test_a_proven_arm_that_failed_in_this_recurrence_is_run_again_without_a_limit():
    history = HistoryBuilder().add(256, 1000.0)
    for _ in range(3):
        history.add(128, 500.0)
    again = history.choose(POLICY, failed=(64, 32, 128))
    assert (again.batch_size, again.cost_threshold_joules) == (128, None)
    assert again.sentence == (
        "Attempt 4: batch size 128 without a cost limit; it has reached the target in 3 of 3 runs."
    )


def test_how_often_an_arm_reached_the_target_leaves_out_the_runs_that_were_stopped():
    history = HistoryBuilder().add(256, 1000.0)
    for _ in range(3):
        history.add(128, 500.0)
    history.add(128, 2000.0, Outcome.COST_EXCEEDED, epochs=40)
    again = history.choose(POLICY, failed=(64, 32, 128))
    assert again.sentence.endswith("it has reached the target in 3 of 4 runs.")


def test_the_last_attempt_is_the_default_without_a_threshold():
    history = HistoryBuilder().add(256, 100.0).add(128, 50.0)
    situation = Situation(3, (64, 32, 512, 128), gpu_model=GPU)
    choice = POLICY.choose(problem(max_attempts=5), history.observations, situation, 0)
    assert (choice.batch_size, choice.cost_threshold_joules) == (256, None)
    assert choice.sentence.startswith("Last attempt (5 of 5)")


def test_an_untried_arm_that_is_already_in_flight_is_not_launched_again():
    history = HistoryBuilder().add(256, 55_000.0)
    flying: tuple[int, ...] = ()
    for _ in range(6):
        choice = history.choose(POLICY, in_flight=flying)
        assert choice.batch_size == 256 or choice.batch_size not in flying
        flying += (choice.batch_size,)


def test_epochs_are_shared_between_gpu_models_and_costs_are_not():
    history = HistoryBuilder().add(256, 100.0)
    for _ in range(6):
        history.add(64, 40.0, epochs=4)
    known = history.choose(POLICY)
    other = history.choose(POLICY, gpu_model="SimGPU-B")
    assert candidate(other, 64).runs == 6
    assert other.batch_size == 64
    assert other.cost_threshold_joules is None  # no joule was measured there yet
    assert "cost from another GPU model" in candidate(other, 64).note
    history.add(64, 400.0, epochs=4, gpu_model="SimGPU-B")
    there = history.choose(POLICY, gpu_model="SimGPU-B")
    assert candidate(there, 64).typical_cost_joules == pytest.approx(400.0, rel=0.15)
    assert candidate(known, 64).typical_cost_joules == pytest.approx(40.0, rel=0.15)


def test_where_no_joule_is_known_nothing_unproven_is_tried_for_nothing_could_end_it():
    history = HistoryBuilder().add(256, 1000.0)
    here = history.choose(POLICY)
    assert here.batch_size != 256
    assert here.stop_rule is not None
    for there in (
        history.choose(POLICY, gpu_model="SimGPU-B"),
        history.choose(POLICY, gpu_count=2),
    ):
        assert (there.batch_size, there.cost_threshold_joules) == (256, None)
        assert there.sentence.endswith("what a try would cost on these GPUs is not known yet.")


def test_an_unknown_placement_is_taken_for_the_last_gpu_seen():
    history = HistoryBuilder().add(256, 100.0).add(64, 50.0)
    assert history.choose(POLICY, gpu_model="") == history.choose(POLICY)


def test_a_job_that_needs_more_epochs_than_before_is_learned_anew():
    history = HistoryBuilder()
    for _ in range(12):
        history.add(64, 50.0, epochs=5)
    assert candidate(history.choose(POLICY), 64).typical_cost_joules == pytest.approx(50, rel=0.1)
    for _ in range(3):
        history.add(64, 200.0, epochs=20)
    assert candidate(history.choose(POLICY), 64).typical_cost_joules == pytest.approx(200, rel=0.1)


def test_a_cost_per_epoch_that_moved_moves_all_arms():
    history = HistoryBuilder()
    for _ in range(4):
        history.add(256, 100.0).add(64, 50.0)
    for _ in range(3):
        history.add(64, 150.0)  # three times as dear an epoch
    assert candidate(history.choose(POLICY), 64).typical_cost_joules == pytest.approx(150, rel=0.1)
    assert candidate(history.choose(POLICY), 256).typical_cost_joules > 200.0


def test_one_odd_measurement_is_not_taken_for_a_change():
    history = HistoryBuilder()
    for _ in range(6):
        history.add(64, 50.0)
    history.add(64, 80.0)
    history.add(64, 50.0)
    assert candidate(history.choose(POLICY), 64).typical_cost_joules == pytest.approx(50, rel=0.2)


def test_batch_sizes_that_are_no_longer_offered_still_teach_and_are_never_chosen():
    history = HistoryBuilder().add(256, 100.0)
    for _ in range(5):
        history.add(96, 30.0)
    choice = history.choose(POLICY)
    assert choice.batch_size in problem().batch_sizes
    assert candidate(choice, 128).typical_cost_joules < 60.0


def test_a_run_without_a_measured_epoch_is_learned_from_its_mean():
    history = HistoryBuilder().add(256, 100.0, epoch_cost_joules=None)
    choice = history.choose(POLICY)
    assert candidate(choice, 256).typical_cost_joules == pytest.approx(100.0, rel=0.2)


def test_runs_whose_energy_is_unknown_are_learned_from_by_their_epochs():
    history = HistoryBuilder().add(256, 0.0, epoch_cost_joules=None)
    choice = history.choose(POLICY)
    assert choice.cost_threshold_joules is None
    assert candidate(choice, 256).runs == 1
    assert candidate(choice, 256).typical_cost_joules is None
    assert "an unknown cost" in choice.sentence
