"""What exploring may cost, and what becomes of it: counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.support.optimizer_histories import HistoryBuilder, candidate, problem
from zeus_operator.optimizer.budget import Account, Terms, left, left_for_sure
from zeus_operator.optimizer.costs import CostModel
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.types import Choice
from zeus_operator.optimizer.valuation import Arm

POLICY = StructuredPolicy()
TERMS = Terms(share=0.05, caution=1.0)


def arm(index: int, cost: float, **changes: object) -> Arm:
    """An arm that has shown what it costs, in epochs of the default."""
    known = Arm(index, 256 >> index, math.log(cost), 0.0, 0.0, 0.0, 0.0, 1.0, runs=1)
    return replace(known, **changes)  # type: ignore[arg-type]  # by name


DEFAULT = arm(0, 10.0)
CHEAP = arm(1, 8.0)


def ask(history: HistoryBuilder, share: float, **changes: object) -> Choice:
    terms = problem(exploration_share=share, **changes)  # type: ignore[arg-type]  # by name
    return POLICY.choose(terms, history.observations, history.situation(), 0)


# ---- the sum ----------------------------------------------------------------------


def test_at_the_start_it_is_the_share_and_what_the_power_limit_will_save_in_ten_recurrences():
    # The default costs 12 at the limit found and 10 at its best: 1.05 x 120 - 100.
    assert left(Account(), [DEFAULT], DEFAULT, 1.2, TERMS) == pytest.approx(26.0)
    assert left(Account(), [DEFAULT], DEFAULT, 1.0, TERMS) == pytest.approx(5.0)


def test_what_was_wasted_is_taken_from_it():
    account = Account(models={0: 3}, wasted=2.0)
    # 1.05 x 120 - (3 x 10 + 2) - 7 x 10
    assert left(account, [DEFAULT], DEFAULT, 1.2, TERMS) == pytest.approx(24.0)


def test_what_a_better_arm_saves_may_be_spent():
    account = Account(models={0: 3, 1: 4})
    # 1.05 x 100 - (3 x 10 + 4 x 8) - 3 x 10
    assert left(account, [DEFAULT, CHEAP], DEFAULT, 1.0, TERMS) == pytest.approx(13.0)


def test_after_ten_recurrences_it_is_counted_up_to_the_next_one():
    account = Account(models={0: 12}, wasted=3.0)
    # 1.05 x 13 x 10 - (120 + 3) - 10
    assert left(account, [DEFAULT], DEFAULT, 1.0, TERMS) == pytest.approx(3.5)


def test_an_arm_that_looks_dearer_now_is_charged_for_all_its_runs():
    account = Account(models={0: 2, 1: 3})
    then = left(account, [DEFAULT, CHEAP], DEFAULT, 1.0, TERMS)
    now = left(account, [DEFAULT, arm(1, 11.0)], DEFAULT, 1.0, TERMS)
    assert then - now == pytest.approx(3 * (11.0 - 8.0))


def test_an_arm_counts_dearer_by_its_doubt_against_the_default():
    account = Account(models={1: 2})
    unsure = replace(CHEAP, difference_sd=0.3)
    sure = left(account, [DEFAULT, CHEAP], DEFAULT, 1.0, TERMS)
    doubted = left(account, [DEFAULT, unsure], DEFAULT, 1.0, TERMS)
    assert sure - doubted == pytest.approx(2 * 8.0 * (math.exp(0.3) - 1.0))


def test_in_the_worst_case_what_was_spent_counts_as_it_came_out():
    account = Account(models={0: 2, 1: 3}, strayed=31.0)
    # .05 x 10 x 10, less 31 for what three runs of the default would have cost
    assert left_for_sure(account, 0, 10.0, 1.0, 0.05) == pytest.approx(5.0 - (31.0 - 30.0))


def test_a_change_of_the_job_grants_no_second_advance():
    before = Account(models={0: 4}, strayed=5.0)
    after = before.after_a_change(0, 10.0, 0.05)
    # Half a recurrence was spent, a fifth of one earned: what is owed stays owed in the new one.
    assert (after.earlier, after.recurrences) == (4, 0)
    assert after.debt == pytest.approx(0.3)
    assert left_for_sure(after, 0, 100.0, 1.0, 0.05) == pytest.approx(0.05 * 600.0 - 30.0)
    later = Account(models={0: 40}).after_a_change(0, 10.0, 0.05)
    assert left_for_sure(later, 0, 100.0, 1.0, 0.05) == pytest.approx(0.05 * 100.0)


def test_what_belongs_to_the_job_as_it_is_now_is_not_counted_before_the_change():
    account = Account(models={0: 4, 1: 1}, strayed=17.0)
    account.take_back(1, 12.0)
    account.take_back(None, 2.0)
    assert account.after_a_change(0, 10.0, 0.0).debt == pytest.approx(0.3)
    assert account.recurrences == 4


# ---- what follows -----------------------------------------------------------------


def test_an_arm_is_not_tried_when_its_extra_cost_does_not_fit_and_the_sentence_says_so():
    history = HistoryBuilder().add(256, 1000.0)
    bold, poor = ask(history, share=0.05), ask(history, share=0.01)
    assert bold.batch_size == 128
    assert candidate(bold, 128).net_gain_joules == candidate(poor, 128).net_gain_joules
    assert poor.batch_size == 256
    assert candidate(poor, 128).net_gain_joules > 0
    # .4 x 1 % of ten recurrences of about 1,013 J
    assert poor.sentence.endswith(
        "a try of another would cost more than exploring may still cost (40.5 J)."
    )
    assert candidate(poor, 128).extra_cost_joules > 40.5
    assert candidate(bold, 128).extra_cost_joules < 203.0


def test_a_promising_arm_that_costs_nothing_extra_is_tried_on_no_budget_at_all():
    history = HistoryBuilder().add(256, 1000.0)
    for _ in range(3):
        history.add(128, 300.0)
    choice = ask(history, share=0.0)
    assert choice.batch_size not in (128, 256)
    assert candidate(choice, choice.batch_size).extra_cost_joules < 0


def test_with_nothing_to_spend_and_nothing_saved_the_default_runs_for_ever():
    history = HistoryBuilder()
    for _ in range(15):
        choice = ask(history, share=0.0)
        assert (choice.batch_size, choice.sweep) == (256, ())
        history.add(256, 1000.0)


def test_what_the_power_limit_saves_may_be_spent_on_exploring():
    saving = HistoryBuilder().add(256, 1000.0, full_power_epoch_cost_joules=130.0)
    assert ask(HistoryBuilder().add(256, 1000.0), share=0.0).batch_size == 256
    assert ask(saving, share=0.0).batch_size == 128


def test_profiling_is_paid_from_the_budget_and_expected_of_the_next_arm():
    # The first epoch cost half an epoch more than the others: it measured the power limits.
    # An epoch of 128 is expected to cost 119.7 J.
    measured = {"epoch_cost_joules": 100.0, "full_power_epoch_cost_joules": 100.0}
    plain = HistoryBuilder().add(256, 1000.0, **measured)
    paid = HistoryBuilder().add(256, 1050.0, **measured)
    assert candidate(ask(paid, 0.05), 256).typical_cost_joules == pytest.approx(
        candidate(ask(plain, 0.05), 256).typical_cost_joules
    )
    extra = [candidate(ask(h, 0.05), 128).extra_cost_joules for h in (plain, paid)]
    assert extra[1] - extra[0] == pytest.approx(0.5 * 119.7, rel=0.01)
    budgets = [ask(h, 0.1).stop_rule.budget_joules for h in (plain, paid)]
    assert budgets[0] - budgets[1] == pytest.approx(1.1 * 50.0)


def test_what_a_sweep_took_is_neither_spent_nor_expected_of_the_next_arm():
    measured = {"epoch_cost_joules": 100.0, "full_power_epoch_cost_joules": 100.0}
    plain = HistoryBuilder().add(256, 1000.0, **measured)
    swept = HistoryBuilder().add(256, 1080.0, sweep_cost_joules=80.0, **measured)
    assert ask(swept, 0.1) == ask(plain, 0.1)


def test_only_what_the_power_limit_saves_at_the_default_may_be_spent():
    costs = CostModel(np.array([-1.0, 0.0]), 1, Parameters())
    here = ("SimGPU-A", 1)
    for arm_index in (0, 1):
        costs.observe(here, arm_index, 100.0)
    costs.observe_full_power(here, 1, 110.0, 100.0)
    costs.observe_full_power(here, 0, 150.0, 100.0)
    assert costs.belief(here).full_power_ratio == pytest.approx(1.1)


def test_the_budget_is_in_expectation_so_bad_luck_of_the_default_costs_nothing():
    lucky, unlucky = HistoryBuilder(), HistoryBuilder()
    for short, long in ((9, 11), (10, 10), (11, 9)):
        lucky.add(256, 100.0 * short, epochs=short)
        unlucky.add(256, 100.0 * long, epochs=long)
    unlucky.failure(256, 5000.0).add(256, 1000.0)
    lucky.add(256, 1000.0)
    rules = [ask(history, 0.1).stop_rule for history in (lucky, unlucky)]
    assert all(rule is not None for rule in rules)
    assert rules[1].budget_joules == pytest.approx(rules[0].budget_joules)


def test_a_run_under_way_may_use_a_tenth_more_than_is_left():
    # Planned with: two fifths of 10 % of ten recurrences of about 1,013 J.
    choice = ask(HistoryBuilder().add(256, 1000.0), share=0.1)
    assert choice.stop_rule.budget_joules == pytest.approx(1.1 * 0.4 * 1013.0, rel=0.001)


def test_the_default_runs_while_the_best_arm_is_too_unsure_for_what_is_left():
    history = HistoryBuilder().add(256, 1000.0).add(128, 950.0)
    only = problem((128, 256), exploration_share=0.0)  # type: ignore[arg-type]  # by name
    unsure = POLICY.choose(only, history.observations, history.situation(), 0)
    assert unsure.batch_size == 256
    assert "the default: 128 looks cheaper" in unsure.sentence
    assert unsure.sentence.endswith("but not yet surely enough for what exploring may still cost.")
    for _ in range(12):
        history.add(128, 700.0, epochs=7)
    surer = POLICY.choose(only, history.observations, history.situation(), 0)
    assert surer.batch_size == 128


def test_an_arm_far_better_than_the_default_needs_no_budget():
    history = HistoryBuilder().add(256, 1000.0)
    for _ in range(3):
        history.add(128, 300.0)
    only = problem((128, 256), exploration_share=0.0)  # type: ignore[arg-type]  # by name
    choice = POLICY.choose(only, history.observations, history.situation(), 0)
    assert choice.batch_size == 128
    assert choice.sentence.startswith("Batch size 128 again: about 295 J after 3 runs")
    assert "the best known; no other promises enough to pay for a try" in choice.sentence
