"""Which run measures other batch sizes, which of them, and what its figures are taken for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.optimizer_histories import GPU, HistoryBuilder, candidate, problem
from zeus_operator.optimizer.costs import CostModel
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.types import SweepPoint

POLICY = StructuredPolicy()
HERE = (GPU, 1)
ELSEWHERE = ("SimGPU-B", 1)
MEASURED = {"epoch_cost_joules": 100.0, "full_power_epoch_cost_joules": 120.0}


def swept(**points: float) -> dict[str, object]:
    found = tuple(SweepPoint(int(name[1:]), cost) for name, cost in points.items())
    return {**MEASURED, "sweep": found}


def test_the_first_run_on_a_gpu_model_measures_the_other_batch_sizes_and_no_later_one():
    history = HistoryBuilder()
    assert history.choose(POLICY).sweep == (32, 64, 128, 512)
    history.add(256, 1000.0)
    assert history.choose(POLICY).sweep == ()
    other = history.choose(POLICY, gpu_model="SimGPU-B")
    assert other.batch_size not in other.sweep
    assert set(other.sweep) == set(problem().batch_sizes) - {other.batch_size}
    history.add(256, 900.0, gpu_model="SimGPU-B")
    assert history.choose(POLICY, gpu_model="SimGPU-B").sweep == ()


def test_where_it_is_not_known_on_what_gpu_a_run_will_be_the_first_run_of_all_measures():
    history = HistoryBuilder()
    assert history.choose(POLICY, gpu_model="").sweep != ()
    history.add(256, 1000.0)
    assert history.choose(POLICY, gpu_model="").sweep == ()


def test_the_same_gpus_in_another_number_are_another_machine():
    history = HistoryBuilder().add(256, 1000.0)
    assert history.choose(POLICY, gpu_count=4).sweep != ()


def test_it_reaches_four_doublings():
    sizes = (4, 8, 16, 32, 128, 256, 4096, 8192)
    choice = POLICY.choose(problem(sizes), (), HistoryBuilder().situation(), 0)
    assert choice.sweep == (16, 32, 128, 4096)


def test_a_first_run_that_taught_nothing_is_followed_by_another_sweep():
    crashed = HistoryBuilder().add(256, 0.0, epochs=0)
    assert crashed.choose(POLICY).sweep == (32, 64, 128, 512)


def test_its_figures_are_of_the_power_limit_found_and_are_scaled_to_the_best_one():
    # At its best limit the default costs 100 J an epoch, at the limit found 120 J.
    history = HistoryBuilder().add(256, 1000.0, **swept(b128=132.0, b64=96.0))
    choice = history.choose(POLICY)
    plain = HistoryBuilder().add(256, 1000.0, **MEASURED).choose(POLICY)
    for size, unit in ((128, 110.0), (64, 80.0)):
        arm, same = candidate(choice, size), candidate(plain, size)
        assert arm.typical_cost_joules is not None
        # The epochs that it is believed to need do not depend on the sweep.
        epochs = {128: 7.886, 64: 6.522}[size]
        assert arm.typical_cost_joules == pytest.approx(unit * epochs, rel=0.01)
        wide, narrow = (math.log(a.high_cost_joules / a.low_cost_joules) for a in (same, arm))
        assert narrow < wide


def test_a_threshold_counts_what_the_sweep_said_an_epoch_costs():
    choice = HistoryBuilder().add(256, 1000.0, **swept(b128=96.0, b64=108.0)).choose(POLICY)
    epoch_joules = {128: 80.0, 64: 90.0}[choice.batch_size]  # scaled to the best limit
    assert choice.cost_threshold_joules is not None
    epochs = choice.cost_threshold_joules / epoch_joules
    assert epochs == pytest.approx(round(epochs), abs=0.02)


def costs() -> CostModel:
    return CostModel(np.array([-2.0, -1.0, 0.0, 1.0]), 2, Parameters())


def relative(model: CostModel, arm: int) -> float:
    """What an epoch of `arm` is believed to cost, in epochs of the default."""
    return math.exp(float(model.belief(HERE).mean[arm]))


def test_what_was_profiled_counts_more_than_what_was_swept_whichever_came_first():
    first, last = costs(), costs()
    first.observe(HERE, 2, 100.0)
    last.observe(HERE, 2, 100.0)
    first.observe_sweep(HERE, 1, 70.0)
    first.observe(HERE, 1, 90.0)
    last.observe(HERE, 1, 90.0)
    last.observe_sweep(HERE, 1, 70.0)
    for model in (first, last):
        assert relative(model, 1) == pytest.approx(0.9)


def test_a_swept_arm_is_known_within_a_few_percent_and_helps_with_those_that_were_not():
    model = costs()
    model.observe(HERE, 2, 100.0)
    unswept = float(model.belief(HERE).variance[0])
    model.observe_sweep(HERE, 1, 90.0)
    sd = np.sqrt(model.belief(HERE).variance)
    assert 0.02 < sd[1] < 0.05
    assert sd[0] ** 2 < unswept
    assert relative(model, 0) < 0.9


def test_a_sweep_tells_of_its_own_gpu_model_and_of_others_only_with_doubt():
    model = costs()
    model.observe(HERE, 2, 100.0)
    model.observe_sweep(HERE, 1, 50.0)
    model.observe(ELSEWHERE, 2, 700.0)
    there = model.belief(ELSEWHERE)
    assert math.exp(there.unit_log_joules or 0.0) == pytest.approx(700.0)
    assert 0.5 < math.exp(float(there.mean[1])) < 0.7
    assert float(there.variance[1]) > 10 * float(model.belief(HERE).variance[1])


def test_what_a_sweep_says_that_can_not_be_is_passed_over():
    odd = swept(b128=0.0, b64=-5.0, b32=math.nan, b512=math.inf)
    plain = HistoryBuilder().add(256, 1000.0, **MEASURED).choose(POLICY)
    assert HistoryBuilder().add(256, 1000.0, **odd).choose(POLICY) == plain
