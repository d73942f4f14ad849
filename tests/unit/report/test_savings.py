"""Savings: per finished model, with an interval that is honest about few runs of the default."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

import pytest

from tests.support.histories import Try, recurrence
from tests.support.stop_rules import RULE
from zeus_operator.records import RecurrenceKind, RecurrenceRecord, RecurrenceState
from zeus_operator.report.estimate import Estimate, ratio_interval
from zeus_operator.report.savings import NotKnown, Saving, Savings, measure
from zeus_operator.report.statistics import student_t_quantile
from zeus_operator.report.words import headline, saving_words
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


def cost_of(savings: Savings) -> Saving:
    assert savings.overall.cost is not None
    return savings.overall.cost


def test_a_saving_is_the_ratio_of_the_means() -> None:
    cost = cost_of(measure(history([60, 80, 70], [100, 90, 110])))

    assert cost.fraction == pytest.approx(0.3)
    assert cost.learned.mean == pytest.approx(70)
    assert cost.default.mean == pytest.approx(100)


def test_only_what_the_default_would_have_cost_is_uncertain_so_far() -> None:
    steady = cost_of(measure(history([70, 70, 70], [100, 90, 110])))
    explored = cost_of(measure(history([20, 150, 40], [100, 90, 110])))

    assert steady.learned.is_exact
    low, high = steady.default.interval()
    assert (steady.low, steady.high) == pytest.approx((1 - 70 / low, 1 - 70 / high))
    assert (explored.low, explored.high) == (steady.low, steady.high)


def test_what_the_next_ones_will_save_is_uncertain_on_both_sides() -> None:
    learned = [60.0, 61.0, 59.0] * 2 + [30.0, 80.0, 70.0]
    savings = measure(history(learned, [100, 90, 110]))
    late = savings.converged.cost

    assert late is not None
    assert savings.converged.recurrences == 3
    assert late.fraction == pytest.approx(0.4)
    assert not late.learned.is_exact
    low, high = ratio_interval(Estimate.exactly(60, 3), late.default)
    assert late.low < 1 - high
    assert 1 - low < late.high


def test_of_few_recurrences_nothing_is_said_about_the_next_ones() -> None:
    savings = measure(history([60, 80, 70], [100, 90, 110]))

    assert savings.overall.cost is not None
    assert savings.converged.cost is None
    assert savings.converged.not_known is NotKnown.FEW_RECURRENCES


def test_control_runs_paid_for_as_well_make_the_saving_smaller() -> None:
    savings = measure(history([60, 80, 70], [100, 90, 110]))
    whole = savings.with_control.cost

    assert whole is not None
    assert (savings.control, savings.with_control.recurrences) == (3, 6)
    assert whole.fraction == pytest.approx(1 - (210 + 300) / 600)
    assert "With the 3 recurrences of the default, which saved nothing, it is 15.0 % (" in headline(
        savings
    )


class TestTheDefaultsOwnRuns:
    """Which runs of the default tell what it costs."""

    @staticmethod
    def first(**changes: Any) -> Try:
        """The job's first run: 10 epochs, each of which costs 100 J at the power limit found."""
        plain = Try(
            256,
            energy_joules=1500.0,
            observations_seen=0,
            cost_threshold_joules=None,
            full_power_epoch=(150.0, 0.2),
            eta=0.5,
            default_batch_size=256,
        )
        return replace(plain, **changes)

    def history(self, first: Try, others: int = 4) -> list[RecurrenceRecord]:
        """The first run, then another batch size that takes 40 J a recurrence."""
        late = [
            recurrence(n, [Try(64, energy_joules=80.0, time_seconds=0.0, eta=0.5)])
            for n in range(2, 2 + others)
        ]
        return [recurrence(1, [first]), *late]

    def test_the_first_run_counts_as_if_its_power_limit_had_stayed(self) -> None:
        savings = measure(self.history(self.first()))

        assert cost_of(savings).default.runs == 1
        assert cost_of(savings).default.mean == pytest.approx(1000.0)
        assert savings.overall.energy is not None
        assert savings.overall.energy.default.mean == pytest.approx(1500.0)
        assert "measured against 1 run of the default (95 % interval" in headline(savings)

    def test_where_it_measured_no_epoch_at_the_limit_found_the_control_runs_tell(self) -> None:
        control = recurrence(1, [Try(256, epochs=5, energy_joules=900, time_seconds=0)], CONTROL)
        savings = measure([*self.history(self.first(full_power_epoch=None)), control])

        assert cost_of(savings).default.runs == 2
        assert cost_of(savings).default.mean == pytest.approx((450 + 10 * 90) / 2)

    def test_lucky_runs_that_the_policy_chose_do_not_move_what_the_default_costs(self) -> None:
        lucky = [
            recurrence(n, [Try(256, epochs=2, energy_joules=100.0, default_batch_size=256)])
            for n in range(6, 30)
        ]
        before = measure(self.history(self.first())).default_cost
        after = measure([*self.history(self.first()), *lucky]).default_cost

        assert before is not None
        assert after is not None
        assert (after.mean, after.runs) == (before.mean, before.runs)

    def test_a_policy_that_leaves_an_unlucky_default_inflates_no_saving(self) -> None:
        """It runs the default again where the first run was short, and never where it was long.

        Every first run is equally likely, so the mean over all of them is the truth.
        """
        likely = [10, 12, 14, 30, 64]
        figures, if_all_counted = [], []
        for first in likely:
            again = likely if first < 20 else []
            records = self.history(self.first(epochs=first))
            records += [
                recurrence(n, [Try(256, epochs=epochs, eta=0.5, default_batch_size=256)])
                for n, epochs in enumerate(again, start=6)
            ]
            found = measure(records).default_cost
            assert found is not None
            figures.append(found.mean / 100)
            if_all_counted.append(mean([first, *again]))
        assert mean(figures) == pytest.approx(mean(likely))
        assert mean(if_all_counted) > 1.2 * mean(likely)  # a saving that never was

    @pytest.mark.parametrize(
        "changes",
        [
            {"observations_seen": 3},
            {"cost_threshold_joules": 900.0},
            {"stop_rule": RULE},
            {"outcome": Outcome.COST_EXCEEDED},
            {"batch_size": 128},
            {"full_power_epoch": (float("nan"), 1.0)},
            {"full_power_epoch": (-5.0, 1.0)},
        ],
    )
    def test_a_run_that_was_chosen_stopped_or_not_measured_does_not_count(
        self, changes: dict[str, Any]
    ) -> None:
        savings = measure(self.history(self.first(**changes)))

        assert savings.overall.not_known is NotKnown.NO_DEFAULT

    def test_what_ran_under_observe_or_recommend_tells_what_the_default_costs(self) -> None:
        observed = [
            recurrence(n, [Try(256, energy_joules=200, time_seconds=0, policy="default")])
            for n in (1, 2, 3)
        ]
        learned = [recurrence(n, [Try(64, energy_joules=80, time_seconds=0)]) for n in (4, 5, 6)]
        only_observed, both = measure(observed), measure([*observed, *learned])

        assert only_observed.overall.not_known is NotKnown.NOTHING_LEARNED
        assert both.overall.recurrences == 3
        assert cost_of(both).fraction == pytest.approx(0.6)
        assert both.control == 3
        assert "With the 3 recurrences of the default, which saved nothing" in headline(both)

    def test_runs_of_the_default_are_counted_before_they_are_enough(self) -> None:
        control = recurrence(1, [Try(256, default_batch_size=256)], CONTROL)
        savings = measure([*self.history(self.first(), others=1), control])

        assert savings.overall.not_known is NotKnown.NO_SPREAD
        assert (savings.default_runs, savings.default_cost) == (2, None)

    def test_a_default_that_failed_is_not_known_to_cost_anything(self) -> None:
        savings = measure(self.history(self.first(outcome=Outcome.MAX_EPOCHS)))

        assert savings.overall.not_known is NotKnown.DEFAULT_FAILED


@pytest.mark.parametrize(("learned", "control"), [([60], [100, 110, 90]), ([60, 70], [100, 90])])
def test_with_too_few_repeats_no_figure_is_claimed_and_the_way_to_one_is_said(
    learned: list[float], control: list[float]
) -> None:
    savings = measure(history(learned, control))

    assert savings.overall.cost is None
    assert savings.overall.not_known is NotKnown.NO_SPREAD
    assert headline(savings) == (
        "Savings are not known yet: too few runs repeat a batch size to tell how much runs differ "
        "by chance. It takes 3 repeats: of the default in control runs, or of a batch size that "
        "the policy chose."
    )
    assert saving_words(savings.overall).startswith("not known yet: too few runs repeat")


def test_the_last_third_shows_what_the_job_has_converged_to() -> None:
    savings = measure(history([200, 150, 120, 100, 90, 80, 60, 50, 40], [100, 100, 100]))

    assert savings.converged.recurrences == 3
    assert savings.converged.cost is not None
    assert savings.converged.cost.fraction == pytest.approx(0.5)
    assert cost_of(savings).fraction == pytest.approx(1 - 890 / 900)


def test_unsuccessful_attempts_of_a_recurrence_count() -> None:
    tries = [
        Try(512, Outcome.COST_EXCEEDED, energy_joules=80, time_seconds=0.0),
        Try(64, energy_joules=120, time_seconds=0.0),
    ]
    savings = measure([recurrence(1, tries), *history([], [200, 200, 200, 200])])

    assert cost_of(savings).learned.mean == pytest.approx(100)


def test_a_recurrence_that_delivered_no_model_counts_against_its_side() -> None:
    failed = recurrence(2, [Try(64, Outcome.MAX_EPOCHS, energy_joules=100, time_seconds=0.0)])
    savings = measure([with_cost(1, 50), failed, *history([], [200, 200, 200, 200])])

    assert savings.learned_failed == 1
    assert cost_of(savings).learned.mean == pytest.approx(100)  # 100 J for one model


def test_without_a_run_of_the_default_savings_are_not_known_and_the_way_to_know_is_said() -> None:
    savings = measure(history([60, 80, 70], []))

    assert savings.overall.cost is None
    assert headline(savings) == (
        "Savings are not known yet: no run of the default configuration counts. Set "
        "savings.controlFraction, or run with --control 3, to measure it."
    )


def test_without_a_finished_model_savings_are_not_known() -> None:
    failed = recurrence(1, [Try(64, Outcome.MAX_EPOCHS)])
    savings = measure([failed, with_cost(1, 100, CONTROL)])

    assert headline(savings) == "Savings are not known yet: no recurrence has reached its target."


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
    savings = measure(history([220, 221, 219], [100, 101, 99]))

    assert cost_of(savings).is_clear
    assert "cost 120.0 % more than with the default" in headline(savings)


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
    assert overall.energy.low < 0.4 < overall.energy.high


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
        recurrence(3, [Try(256, energy_joules=200, time_seconds=0.0, **now)], CONTROL),
    ]
    savings = measure([*learned, *control])

    assert cost_of(savings).fraction == pytest.approx(0.4)
    assert (savings.overall.recurrences, savings.converged.recurrences) == (3, 1)
    assert savings.default_cost is not None
    assert savings.default_cost.runs == 2
    assert savings.compared == {4, 5, 6, 10_002, 10_003}
    sentence = f"Left out, because they can't be compared with the newest: 4 recurrences {words}."
    assert headline(savings).endswith(sentence)


def test_a_default_measured_on_another_gpu_is_no_default_to_compare_with() -> None:
    control = replace(recurrence(1, [Try(256, gpu_model="V100")], CONTROL), id=1)
    learned = replace(recurrence(1, [Try(64, gpu_model="A40")]), id=2)
    savings = measure([learned, control])

    assert savings.overall.not_known is NotKnown.NO_DEFAULT
    assert headline(savings).startswith("Savings are not known yet: no run of the default")
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
