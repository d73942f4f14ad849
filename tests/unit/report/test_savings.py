"""Savings: measured per finished model, with an interval that is honest about few runs."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest

from tests.support.histories import Try, recurrence
from zeus_operator.records import RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.report.savings import NO_CONTROL, NO_LEARNED, measure
from zeus_operator.report.statistics import student_t_quantile
from zeus_operator.report.words import headline
from zeus_runtime.protocol import Outcome

CONTROL = RecurrenceKind.CONTROL


def with_cost(
    ordinal: int, cost: float, kind: RecurrenceKind = RecurrenceKind.LEARNED
) -> RecurrenceRecord:
    """A recurrence of one attempt; at eta 0.5 and 250 W, 0 s and 2 x cost joules cost `cost`."""
    return recurrence(ordinal, [Try(64, energy_joules=2 * cost, time_seconds=0.0)], kind)


def history(learned: list[float], control: list[float]) -> list[RecurrenceRecord]:
    return [
        *(with_cost(i, cost) for i, cost in enumerate(learned, start=1)),
        *(with_cost(i, cost, CONTROL) for i, cost in enumerate(control, start=1)),
    ]


def test_a_saving_is_the_ratio_of_the_means() -> None:
    cost = measure(history([60, 80, 70], [100, 90, 110])).overall.cost

    assert cost is not None
    assert cost.fraction == pytest.approx(0.3)
    assert cost.learned.mean == pytest.approx(70)
    assert cost.control.mean == pytest.approx(100)


def test_the_interval_is_that_of_the_delta_method_on_the_logarithm() -> None:
    learned, control = [60.0, 80.0, 70.0, 74.0], [100.0, 90.0, 110.0]
    cost = measure(history(learned, control)).overall.cost

    a, b = (statistics.variance(x) / len(x) / statistics.mean(x) ** 2 for x in (learned, control))
    freedom = (a + b) ** 2 / (a * a / 3 + b * b / 2)
    spread = student_t_quantile(0.975, freedom) * math.sqrt(a + b)
    ratio = statistics.mean(learned) / statistics.mean(control)
    assert cost is not None
    assert cost.low == pytest.approx(1 - ratio * math.exp(spread))
    assert cost.high == pytest.approx(1 - ratio * math.exp(-spread))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(5)
    covered = 0
    for _ in range(400):
        learned = [rng.lognormvariate(4.0, 0.25) for _ in range(12)]
        control = [rng.lognormvariate(4.4, 0.25) for _ in range(4)]
        cost = measure(history(learned, control)).overall.cost
        assert cost is not None
        assert cost.low is not None
        assert cost.high is not None
        covered += cost.low <= 1 - math.exp(-0.4) <= cost.high
    assert 0.91 <= covered / 400 <= 0.99


@pytest.mark.parametrize(
    ("learned", "control"), [([60, 80], [100, 90, 110]), ([60, 70, 80], [100])]
)
def test_with_too_few_recurrences_no_interval_is_claimed(
    learned: list[float], control: list[float]
) -> None:
    savings = measure(history(learned, control))

    assert savings.overall.cost is not None
    assert (savings.overall.cost.low, savings.overall.cost.high) == (None, None)
    assert "not known yet" in headline(savings)


def test_the_last_third_shows_what_the_job_has_converged_to() -> None:
    savings = measure(history([200, 150, 120, 60, 50, 40], [100, 100, 100]))

    assert savings.converged.recurrences == 2
    assert savings.converged.cost is not None
    assert savings.converged.cost.fraction == pytest.approx(0.55)
    assert savings.overall.cost is not None
    assert savings.overall.cost.fraction == pytest.approx(1 - 620 / 600)


def test_unsuccessful_attempts_of_a_recurrence_count() -> None:
    tries = [
        Try(512, Outcome.COST_EXCEEDED, energy_joules=80, time_seconds=0.0),
        Try(64, energy_joules=120, time_seconds=0.0),
    ]
    savings = measure([recurrence(1, tries), with_cost(1, 200, CONTROL)])

    assert savings.overall.cost is not None
    assert savings.overall.cost.learned.mean == pytest.approx(100)


def test_a_recurrence_that_delivered_no_model_counts_against_its_side() -> None:
    failed = recurrence(2, [Try(64, Outcome.MAX_EPOCHS, energy_joules=100, time_seconds=0.0)])
    savings = measure([with_cost(1, 50), failed, with_cost(1, 200, CONTROL)])

    assert savings.learned_failed == 1
    assert savings.overall.cost is not None
    assert savings.overall.cost.learned.mean == pytest.approx(100)  # 100 J for one model


def test_without_control_runs_savings_are_not_known_and_the_way_to_know_is_said() -> None:
    savings = measure(history([60, 80, 70], []))

    assert savings.overall.cost is None
    assert headline(savings) == NO_CONTROL


def test_without_a_finished_model_savings_are_not_known() -> None:
    failed = recurrence(1, [Try(64, Outcome.MAX_EPOCHS)])

    assert headline(measure([failed, with_cost(1, 100, CONTROL)])) == NO_LEARNED


def test_recurrences_without_a_known_cost_are_left_out_and_counted() -> None:
    unknown = recurrence(4, [Try(64, energy_joules=None)])
    savings = measure([*history([60, 80, 70], [100, 100, 100]), unknown])

    assert savings.unmeasured == 1
    assert savings.overall.recurrences == 3


@pytest.mark.parametrize(
    "state", [RecurrenceState.OPEN, RecurrenceState.CANCELLED, RecurrenceState.SKIPPED]
)
def test_recurrences_that_did_not_run_to_their_end_are_passed_over(state: RecurrenceState) -> None:
    other = recurrence(4, [Try(64, energy_joules=9e9)], state=state)
    savings = measure([*history([60, 80, 70], [100, 100, 100]), other])

    assert savings.overall.recurrences == 3


def test_more_expensive_runs_are_said_to_be_more_expensive() -> None:
    savings = measure(history([120, 121, 119], [100, 101, 99]))

    assert savings.overall.cost is not None
    assert savings.overall.cost.is_clear
    assert "cost 20.0 % more than with the default" in headline(savings)


def test_a_difference_that_chance_explains_is_not_sold_as_a_saving() -> None:
    savings = measure(history([60, 140, 90], [100, 70, 130]))

    assert "chance alone could explain the difference" in headline(savings)


def test_energy_and_time_are_compared_as_well() -> None:
    learned = [recurrence(i, [Try(64, energy_joules=600, time_seconds=9)]) for i in (1, 2, 3)]
    control = [
        recurrence(i, [Try(256, energy_joules=1000, time_seconds=6)], CONTROL) for i in (1, 2, 3)
    ]
    overall = measure([*learned, *control]).overall

    assert overall.energy is not None
    assert overall.time is not None
    assert overall.energy.fraction == pytest.approx(0.4)
    assert overall.time.fraction == pytest.approx(-0.5)
    assert (overall.energy.low, overall.energy.high) == (pytest.approx(0.4), pytest.approx(0.4))


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"gpu_model": "V100"}, {"gpu_model": "A40"}, "on V100 (now A40)"),
        (
            {"gpu_model": "A40", "gpu_count": 2},
            {"gpu_model": "A40"},
            "on 2 x A40 (now A40)",
        ),
        ({"target": 0.9}, {"target": 0.97}, "with target 0.9 (now 0.97)"),
        ({"metric_mode": "Max"}, {"metric_mode": "Min"}, "with metric mode Max (now Min)"),
        ({"eta": 0.5}, {"eta": 1.0}, "with energy preference 0.5 (now 1)"),
    ],
)
def test_only_what_can_be_compared_with_the_newest_counts_and_the_rest_is_said(
    before: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    learned = [
        recurrence(n, [Try(64, energy_joules=9e9, time_seconds=0.0, **before)]) for n in (1, 2, 3)
    ] + [recurrence(n, [Try(64, energy_joules=120, time_seconds=0.0, **now)]) for n in (4, 5, 6)]
    control = [
        recurrence(1, [Try(256, energy_joules=7e9, time_seconds=0.0, **before)], CONTROL),
        recurrence(2, [Try(256, energy_joules=200, time_seconds=0.0, **now)], CONTROL),
    ]
    savings = measure([*learned, *control])

    assert savings.overall.cost is not None
    assert savings.overall.cost.fraction == pytest.approx(0.4)
    assert (savings.overall.recurrences, savings.converged.recurrences) == (3, 1)
    assert savings.control_cost is not None
    assert savings.control_cost.recurrences == 1
    assert savings.compared == {4, 5, 6, 10_002}
    sentence = f"Left out, because they can't be compared with the newest: 4 recurrences {words}."
    assert headline(savings).endswith(sentence)


def test_a_default_measured_on_another_gpu_is_no_default_to_compare_with() -> None:
    control = replace(recurrence(1, [Try(256, gpu_model="V100")], CONTROL), id=1)
    learned = replace(recurrence(1, [Try(64, gpu_model="A40")]), id=2)
    savings = measure([learned, control])

    assert savings.overall.cost is None
    assert headline(savings).startswith(NO_CONTROL)
    assert headline(savings).endswith("newest: 1 recurrence on V100 (now A40).")


def test_runs_of_a_former_default_are_left_out_and_what_was_learned_then_is_not() -> None:
    learned = [recurrence(1, [Try(64, default_batch_size=256)])]
    control = [
        recurrence(1, [Try(256, default_batch_size=256)], CONTROL),
        recurrence(2, [Try(128, default_batch_size=128)], CONTROL),
    ]
    savings = measure([*learned, *control])

    assert savings.compared == {1, 10_002}
    assert "1 recurrence of the default batch size 256 (now 128)" in headline(savings)


def test_a_recurrence_that_moved_between_gpus_is_compared_with_neither() -> None:
    moved = recurrence(
        1, [Try(512, Outcome.COST_EXCEEDED, gpu_model="V100"), Try(64, gpu_model="A40")]
    )
    newest = recurrence(2, [Try(64, gpu_model="A40")])
    savings = measure([moved, newest])

    assert savings.compared == {2}


def test_terms_that_an_earlier_release_did_not_store_are_no_difference() -> None:
    old = recurrence(1, [Try(64)])
    newest = recurrence(2, [Try(64, target=0.97, eta=0.5)])

    assert measure([old, newest]).compared == {1, 2}
    assert measure([old, newest]).left_out == ()


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Abramowitz and Stegun, table 26.10
    [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-4)
