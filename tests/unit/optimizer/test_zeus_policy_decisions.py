"""The published policy, decision by decision on written histories."""

from __future__ import annotations

import pytest

from tests.support.optimizer_histories import ARMS, after, problem
from zeus_operator.optimizer.zeus import Pruning, ZeusPolicy
from zeus_runtime.protocol import Outcome

ROUND_ONE = ((256, 100.0), (128, 80.0), (64, 60.0), (32, None), (512, 200.0))
ROUND_TWO = ((64, 61.0), (128, 81.0), (256, 101.0), (512, None))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), 256),
        (((256, 100.0),), 128),
        (((256, 100.0), (128, 80.0)), 64),
        (((256, 100.0), (128, 80.0), (64, 60.0)), 32),
        # the lower end is reached: upwards
        (((256, 100.0), (128, 80.0), (64, 60.0), (32, 50.0)), 512),
        # a failure ends its direction
        (((256, 100.0), (128, None)), 512),
        # the default itself fails: nothing below it is tried, then upwards
        (((256, None),), 512),
        # the second round starts at the best arm of the first, without those that failed
        (ROUND_ONE, 64),
        ((*ROUND_ONE, (64, 61.0)), 128),
        ((*ROUND_ONE, (64, 61.0), (128, 81.0)), 256),
        ((*ROUND_ONE, *ROUND_TWO[:3]), 512),
        # upwards fails at once: only what is not above stays
        (((256, 100.0), (128, None), (512, None)), 256),
        # only larger batch sizes work
        (((256, None), (512, 90.0)), 512),
    ],
)
def test_pruning_walks_down_then_up_from_the_rounds_default(steps, expected):
    assert after(*steps).choose(ZeusPolicy()).batch_size == expected


def test_arms_that_failed_in_either_round_are_never_sampled():
    history = after(*ROUND_ONE, *ROUND_TWO)
    drawn = {history.choose(ZeusPolicy(), seed=seed).batch_size for seed in range(300)}
    assert drawn == {64}  # the others are far more than their spread away
    notes = {c.batch_size: c.note for c in history.choose(ZeusPolicy()).candidates}
    assert notes == {32: "pruned", 64: "", 128: "", 256: "", 512: "pruned"}


def test_thompson_sampling_prefers_the_cheaper_arm_as_often_as_their_spreads_say():
    history = after((256, 100.0), (128, 90.0), (64, None), (512, None), (128, 110.0), (256, 120.0))
    # means 100 and 110, both with sd 10 / sqrt(2): P(first is lower) = Phi(10 / 10) = 0.841
    picks = [history.choose(ZeusPolicy(), seed=seed).batch_size for seed in range(2000)]
    assert set(picks) == {128, 256}
    assert 0.81 < picks.count(128) / len(picks) < 0.87


def test_the_threshold_is_twice_the_lowest_cost_of_a_recurrence_with_its_failed_attempts():
    history = after((256, 100.0))
    assert history.choose(ZeusPolicy()).cost_threshold_joules == 200.0
    history.add(128, 70.0, Outcome.COST_EXCEEDED).add(512, 25.0)
    assert history.choose(ZeusPolicy()).cost_threshold_joules == 190.0  # 70 + 25 in one recurrence
    assert after().choose(ZeusPolicy()).cost_threshold_joules is None


def test_while_an_exploration_runs_an_extra_run_takes_the_best_arm_known():
    history = after((256, 100.0), (128, 80.0))
    assert history.choose(ZeusPolicy(), in_flight=(64,)).batch_size == 128
    assert after().choose(ZeusPolicy(), in_flight=(256,)).batch_size == 256


def test_the_exploration_goes_on_only_when_no_other_run_is_under_way():
    history = after((256, 100.0), (128, 80.0))
    choice = history.choose(ZeusPolicy(), in_flight=(128,))  # 64 is next, and not in flight
    assert choice.batch_size == 128
    assert choice.sentence == (
        "Another run is under way while batch sizes are explored: the best known batch size 128."
    )
    assert history.choose(ZeusPolicy()).batch_size == 64


def test_only_a_run_that_reached_the_target_makes_its_arm_the_best_known():
    history = after((256, 100.0), (128, 80.0)).add(64, 5.0, Outcome.COST_EXCEEDED, 1)
    assert history.choose(ZeusPolicy(), in_flight=(512,)).batch_size == 128


def test_an_extra_run_that_outlasts_its_round_is_no_exploration_of_the_next_one():
    history = after((256, 100.0), (128, 80.0), (64, None))
    history.add(512, 900.0, Outcome.MAX_EPOCHS, 50)  # ends round one
    assert history.choose(ZeusPolicy()).batch_size == 128
    history.recurrence, history.failed = history.recurrence + 1, ()
    history.add(128, 85.0, overlapping=True)  # an extra run, decided while 512 was explored
    assert history.choose(ZeusPolicy()).batch_size == 128


def test_results_of_extra_runs_enter_the_history_but_not_the_exploration():
    history = after((256, 100.0), (128, 80.0), (128, 79.0))  # the last was an extra run
    choice = history.choose(ZeusPolicy())
    assert choice.batch_size == 64
    assert next(c.runs for c in choice.candidates if c.batch_size == 128) == 2


def test_after_pruning_overlapping_runs_are_sampled_like_any_other():
    history = after((256, 100.0), (128, None), (512, None), (256, 120.0))
    assert history.choose(ZeusPolicy(), in_flight=(256,)).batch_size == 256


@pytest.mark.parametrize("window", [-1, 1])
def test_a_window_that_holds_no_spread_is_refused(window):
    with pytest.raises(ValueError, match="at least 2"):
        ZeusPolicy(window)


def test_when_every_arm_failed_the_default_is_run():
    choice = after((256, None), (512, None)).choose(ZeusPolicy())
    assert choice.batch_size == 256
    assert "Every batch size failed" in choice.sentence


def test_one_arm_alone_is_explored_and_then_sampled():
    history = after((64, 10.0), (64, 11.0), (64, 12.0))
    only = problem(arms=(64,), default=64)
    choice = ZeusPolicy().choose(only, history.observations, history.situation(), 3)
    assert choice.batch_size == 64


def test_the_sentences_say_where_the_exploration_stands():
    assert after().choose(ZeusPolicy()).sentence == (
        "First run: the default batch size 256, to have something to compare with."
    )
    second = after((256, 100.0)).choose(ZeusPolicy()).sentence
    assert second == "Exploring batch size 128: round 1 of 2, downwards."
    sampled = after(*ROUND_ONE, *ROUND_TWO).choose(ZeusPolicy()).sentence
    assert "Thompson sampling drew" in sampled
    assert "for batch size 64, the lowest of 3" in sampled


def test_pruning_reports_its_survivors():
    pruning = Pruning(ARMS, 256)
    for _, cost in (*ROUND_ONE, *ROUND_TWO):
        pruning.report(cost or 0.0, cost is not None)
    assert pruning.expecting is None
    assert pruning.survivors == [64, 128, 256]
