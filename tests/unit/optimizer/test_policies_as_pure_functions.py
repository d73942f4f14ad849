"""What holds for every policy, whatever it was shown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.optimizer_histories import ARMS, GPU, HistoryBuilder, SyntheticJob, problem
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_runtime.protocol import Outcome

EPOCHS = {16: 6.0, 32: 7.0, 64: 9.0, 128: 14.0, 256: None}
EPOCH_COSTS = {16: 220.0, 32: 130.0, 64: 80.0, 128: 66.0, 256: 60.0}

every_policy = pytest.mark.parametrize("name", POLICY_NAMES)
few = settings(max_examples=40, deadline=None)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Observation, ...]:
    """Any order of any outcomes, costs over many magnitudes."""
    observations = []
    for number in range(draw(st.integers(0, 25))):
        epochs = draw(st.integers(0, 50))
        per_epoch = draw(st.one_of(st.none(), st.floats(1e-6, 1e9)))
        observations.append(
            Observation(
                attempt_id=number + 1,
                recurrence=draw(st.integers(1, 20)),
                attempt=draw(st.integers(1, 5)),
                batch_size=draw(st.sampled_from((*ARMS, 48))),
                outcome=draw(st.sampled_from(Outcome)),
                epochs=epochs,
                cost_joules=draw(st.sampled_from((0.0, 1e-9, 1.0))) + epochs * (per_epoch or 0.0),
                epoch_cost_joules=per_epoch,
                gpu_model=draw(st.sampled_from(("", GPU, "SimGPU-B"))),
                gpu_count=draw(st.integers(1, 4)),
            )
        )
    return tuple(observations)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    some = st.lists(st.sampled_from(ARMS), max_size=4).map(tuple)
    return Situation(
        recurrence=draw(st.integers(1, 30)),
        failed=draw(some),
        in_flight=draw(some),
        gpu_model=draw(st.sampled_from(("", GPU, "SimGPU-B", "SimGPU-C"))),
    )


def assert_sound(choice: Choice, offered: Problem) -> None:
    assert choice.batch_size in offered.batch_sizes
    assert choice.sentence.endswith(".")
    if choice.cost_threshold_joules is not None:
        assert math.isfinite(choice.cost_threshold_joules)
        assert choice.cost_threshold_joules >= 0
    for candidate in choice.candidates:
        costs = (
            candidate.low_cost_joules,
            candidate.typical_cost_joules,
            candidate.high_cost_joules,
        )
        for value in costs:
            assert value is None or (math.isfinite(value) and value >= 0)
        known = [value for value in costs if value is not None]
        assert known == sorted(known)
        for figure in (candidate.net_gain_joules, candidate.drawn_cost_joules):
            assert figure is None or math.isfinite(figure)
        chance = candidate.success_probability
        assert chance is None or 0 <= chance <= 1


@every_policy
@few
@given(observations=histories(), situation=situations(), attempts=st.sampled_from((1, 5, 21)))
def test_any_history_gives_an_arm_on_offer_and_finite_numbers(
    name, observations, situation, attempts
):
    offered = problem(max_attempts=attempts)
    choice = policy(name).choose(offered, observations, situation, seed=1)
    assert_sound(choice, offered)
    assert choice == policy(name).choose(offered, observations, situation, seed=1)


@every_policy
@few
@given(observations=histories(), situation=situations(), again=st.data())
def test_an_attempt_that_arrives_twice_counts_once(name, observations, situation, again):
    repeated = observations
    for number, observation in enumerate(observations):
        if again.draw(st.booleans()):
            place = again.draw(st.integers(number, len(observations)))
            repeated = (*repeated[: place + 1], observation, *repeated[place + 1 :])
    # A copy may be drawn before its original only by an earlier insertion: keep what came first.
    first = tuple({o.attempt_id: o for o in repeated}.values())
    asked = policy(name)
    once = asked.choose(problem(), first, situation, 1)
    assert asked.choose(problem(), repeated, situation, 1) == once


@every_policy
@few
@given(observations=histories(), situation=situations())
def test_a_learner_fed_one_by_one_decides_like_the_whole_history(name, observations, situation):
    learner = policy(name).begin(problem(), retired=(48,))
    for observation in observations:
        learner.choose(situation, 1)  # to ask in between changes nothing
        learner.observe(observation)
    in_steps = learner.choose(situation, 1)
    retired = {o.batch_size for o in observations} - set(ARMS)
    if retired:
        whole = policy(name).choose(problem(), observations, situation, 1)
        assert in_steps == whole
    else:
        assert_sound(in_steps, problem())


@every_policy
@pytest.mark.parametrize("seed", range(3))
def test_replaying_the_first_observations_gives_the_same_decisions(name, seed):
    job = SyntheticJob(EPOCHS, EPOCH_COSTS, default=128)
    decisions, observations = job.run(policy(name), recurrences=20, seed=seed)
    for situation, seen, choice in decisions:
        again = policy(name).choose(job.problem, observations[:seen], situation, seed)
        assert again == choice


@every_policy
@pytest.mark.parametrize("exponent", [-30, -3, 12])
def test_scaling_all_costs_changes_no_decision(name, exponent):
    job = SyntheticJob(EPOCHS, EPOCH_COSTS, default=128)
    scale = 2.0**exponent
    plain, _ = job.run(policy(name), recurrences=25, seed=7)
    scaled, _ = job.run(policy(name), recurrences=25, seed=7, scale=scale)
    assert [c.batch_size for _, _, c in plain] == [c.batch_size for _, _, c in scaled]
    for (_, _, one), (_, _, other) in zip(plain, scaled, strict=True):
        if one.cost_threshold_joules is None:
            assert other.cost_threshold_joules is None
        else:
            assert other.cost_threshold_joules == pytest.approx(one.cost_threshold_joules * scale)


@every_policy
def test_the_seed_alone_decides_what_is_left_to_chance(name):
    history = HistoryBuilder().add(256, 100.0).add(128, 90.0).failure(64).failure(512)
    history.add(128, 110.0).add(256, 120.0)
    first = [history.choose(policy(name), seed=seed) for seed in range(20)]
    assert first == [history.choose(policy(name), seed=seed) for seed in range(20)]


@every_policy
def test_equal_costs_of_all_arms_are_no_trouble(name):
    history = HistoryBuilder()
    for _ in range(10):
        for size in ARMS:
            history.add(size, 100.0)
    assert_sound(history.choose(policy(name)), problem())


@every_policy
def test_a_job_with_one_arm_runs_it(name):
    only = Problem((64,), 64, max_epochs=10)
    observations: tuple[Observation, ...] = ()
    history = HistoryBuilder()
    for _ in range(12):
        choice = policy(name).choose(only, observations, history.situation(), 1)
        assert choice.batch_size == 64
        assert_sound(choice, only)
        observations = history.add(64, 10.0, epochs=5).observations


@every_policy
def test_a_job_whose_arms_all_fail_ends_every_recurrence_with_the_default(name):
    job = SyntheticJob(dict.fromkeys(EPOCHS), EPOCH_COSTS, default=128)
    decisions, observations = job.run(policy(name), recurrences=6)
    assert {o.outcome for o in observations} <= {Outcome.MAX_EPOCHS, Outcome.COST_EXCEEDED}
    for situation, _, choice in decisions:
        assert_sound(choice, job.problem)
        if situation.attempt == 5:
            assert (choice.batch_size, choice.cost_threshold_joules) == (128, None)


@every_policy
def test_outcomes_that_teach_nothing_change_no_decision(name):
    history = HistoryBuilder().add(256, 100.0)
    before = history.choose(policy(name))
    noise = tuple(
        replace(history.observations[0], attempt_id=100 + i, outcome=outcome, cost_joules=1.0)
        for i, outcome in enumerate(
            (Outcome.CRASHED, Outcome.PREEMPTED, Outcome.LOST, Outcome.NO_TELEMETRY)
        )
    )
    after = policy(name).choose(problem(), history.observations + noise, history.situation(), 0)
    assert after == before


@every_policy
@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0])
def test_a_cost_that_cannot_be_is_not_learned_from(name, cost):
    history = HistoryBuilder().add(256, 100.0)
    before = history.choose(policy(name))
    history.add(64, cost)
    assert history.choose(policy(name), recurrence=before and 2) == before


@pytest.mark.parametrize("name", ["structured"])
def test_arrivals_in_another_order_give_the_same_choice_unless_the_job_has_changed(name):
    runs = [(256, 100.0, 10), (128, 84.0, 9), (64, 70.0, 8), (128, 93.0, 10), (256, 91.0, 9)]
    chosen = set()
    for shift in range(5):
        history = HistoryBuilder()
        for size, cost, epochs in runs[shift:] + runs[:shift]:
            history.add(size, cost, epochs=epochs)
        chosen.add(history.choose(policy(name)).batch_size)
    assert len(chosen) == 1


@every_policy
def test_ten_thousand_observations_are_no_trouble(name):
    history = HistoryBuilder()
    one = HistoryBuilder().add(256, 100.0).observations[0]
    observations = tuple(
        replace(
            one,
            attempt_id=i,
            recurrence=i,
            batch_size=ARMS[i * i % 5],
            epochs=9 + i % 3,
            cost_joules=10.0 * (9 + i % 3),
        )
        for i in range(1, 10_001)
    )
    choice = policy(name).choose(problem(), observations, history.situation(recurrence=10_001), 1)
    assert_sound(choice, problem())


def test_an_unknown_policy_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no policy 'bandit'; there are: structured, zeus"):
        policy("bandit")


@every_policy
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ()}, "batch sizes must be"),
        ({"arms": (64, 32)}, "ascending"),
        ({"default": 100}, "not one of"),
        ({"max_epochs": 0}, "at least 1"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        policy(name).choose(problem(**changes), (), Situation(1), 0)
