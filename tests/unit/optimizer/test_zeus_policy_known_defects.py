"""What the published policy does wrong.  It is the baseline: these stay as they are."""

from __future__ import annotations

from tests.support.optimizer_histories import HistoryBuilder, after, problem
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.zeus import ZeusPolicy
from zeus_runtime.protocol import Outcome

PRUNED = ((256, 100.0), (128, 80.0), (64, None), (512, None), (128, 81.0), (256, 102.0))


def stopped(history: HistoryBuilder, size: int, cost: float, epochs: int) -> HistoryBuilder:
    return history.add(size, cost, Outcome.COST_EXCEEDED, epochs)


def mean_cost(history: HistoryBuilder, size: int) -> float | None:
    candidates = history.choose(ZeusPolicy()).candidates
    return next(c.typical_cost_joules for c in candidates if c.batch_size == size)


def test_a_run_stopped_before_its_first_epoch_makes_its_arm_the_best_one():
    history = after(*PRUNED)
    assert {history.choose(ZeusPolicy(), seed=seed).batch_size for seed in range(200)} == {128}
    stopped(stopped(history, 256, 0.0, 0), 256, 0.0, 0)
    assert mean_cost(history, 256) == 50.5 < 80.5 == mean_cost(history, 128)
    picks = [history.choose(ZeusPolicy(), seed=seed).batch_size for seed in range(200)]
    assert picks.count(256) > 150


def test_the_structured_policy_never_takes_such_a_run_for_the_best_arm():
    history = stopped(after((256, 100.0)), 128, 0.0, 0)
    history.failed = ()
    history.recurrence += 1
    for _ in range(3):
        assert history.choose(StructuredPolicy(), failed=(512,)).batch_size == 256
        stopped(history, 128, 0.0, 0)


def test_the_lowest_cost_never_resets():
    history = after(*PRUNED)
    for _ in range(30):
        history.add(128, 500.0)  # the job has become six times as dear
    assert history.choose(ZeusPolicy()).cost_threshold_joules == 160.0


def test_when_costs_more_than_double_every_try_is_stopped_until_there_are_none_left():
    history = after(*PRUNED)
    for _ in range(20):
        choice = history.choose(ZeusPolicy())
        assert choice.cost_threshold_joules == 160.0
        stopped(history, choice.batch_size, 150.0, 1)  # a second epoch would pass it
    assert history.choose(ZeusPolicy()).cost_threshold_joules is None  # ours: the default, unbound


def test_costs_of_stopped_runs_enter_the_mean_as_if_complete():
    history = after(*PRUNED)
    before = mean_cost(history, 256)
    stopped(history, 256, 20.0, 2)
    assert before == 101.0
    assert mean_cost(history, 256) == (100.0 + 102.0 + 20.0) / 3


def test_the_profiling_overhead_stays_in_the_history_of_the_arm():
    profiled, later = 130.0, 80.0
    history = after((256, 100.0), (128, profiled), (64, None), (512, None))
    history.add(256, 100.0).add(128, later)
    assert mean_cost(history, 128) == (profiled + later) / 2


def test_two_equal_costs_give_a_sample_without_spread():
    history = after((256, 100.0), (128, 80.0), (64, None), (512, None), (128, 80.0), (256, 100.0))
    for seed in range(50):
        choice = history.choose(ZeusPolicy(), seed=seed)
        drawn = {c.batch_size: c.drawn_cost_joules for c in choice.candidates}
        assert (drawn[128], drawn[256]) == (80.0, 100.0)


def test_the_window_is_per_arm_so_an_unplayed_arm_never_ages():
    history = after(*PRUNED)
    for _ in range(100):
        history.add(128, 80.0)
    choice = history.choose(ZeusPolicy(window=5))
    assert next(c.runs for c in choice.candidates if c.batch_size == 256) == 2
    assert any(
        history.choose(ZeusPolicy(window=2), seed=s).candidates[3].drawn_cost_joules != 101.0
        for s in range(5)
    )


def test_a_pruned_arm_never_returns():
    history = after(*PRUNED)
    for _ in range(20):
        history.add(64, 1.0)  # as an extra run it would by now be by far the cheapest
    assert 64 not in {history.choose(ZeusPolicy(), seed=seed).batch_size for seed in range(200)}


def test_gpu_models_are_mixed_in_one_arm():
    history = after(*PRUNED)
    history.add(128, 800.0, gpu_model="slow GPU")
    assert mean_cost(history, 128) == (80.0 + 81.0 + 800.0) / 3


def test_out_of_memory_prunes_an_arm_and_all_beyond_it_for_good():
    history = after((256, 100.0), (128, None)).add(512, 1.0, Outcome.OUT_OF_MEMORY, 0)
    history.add(256, 101.0)
    elsewhere = history.situation(gpu_model="larger GPU")
    notes = {
        candidate.batch_size: candidate.note
        for candidate in ZeusPolicy()
        .choose(problem(), history.observations, elsewhere, seed=0)
        .candidates
    }
    assert notes == {32: "pruned", 64: "pruned", 128: "pruned", 256: "", 512: "pruned"}


def test_runs_that_always_overlap_hold_the_exploration_up_for_good():
    history = after((256, 100.0))
    for _ in range(50):
        assert history.choose(ZeusPolicy(), in_flight=(256,)).batch_size == 256
        history.add(256, 100.0)
    assert history.choose(ZeusPolicy()).batch_size == 128  # once nothing is under way


def test_a_failed_run_of_an_arm_that_stayed_takes_nothing_away_from_it():
    history = after(*PRUNED)
    for _ in range(5):
        history.failure(128, 10.0)
    assert {history.choose(ZeusPolicy(), seed=seed).batch_size for seed in range(50)} == {128}
