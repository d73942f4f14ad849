"""What the default is expected to cost: right as often as it says, however few its runs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeus_operator.report.default_cost import (
    ARM_FREEDOM,
    LEAST_SD,
    MIN_REPEATS,
    POOL_FREEDOM,
    PRIOR_FREEDOM,
    PRIOR_SD,
    ArmRuns,
    DefaultRun,
    default_cost,
)
from zeus_operator.report.estimate import Estimate, ratio_interval
from zeus_operator.report.statistics import student_t_quantile

AMOUNTS = st.floats(min_value=0.01, max_value=1e9)
EPOCHS = st.lists(st.integers(min_value=1, max_value=500), min_size=2, max_size=8)
ARM = ArmRuns((10, 11, 12, 10, 11))


def runs(*amounts: float) -> list[DefaultRun]:
    return [DefaultRun(amount) for amount in amounts]


def known(found: Estimate | None) -> Estimate:
    assert found is not None
    return found


class TestTheEstimate:
    def test_the_figure_is_the_plain_mean(self) -> None:
        assert known(default_cost(runs(90, 100, 140), [ARM])).mean == pytest.approx(110)

    def test_one_run_is_enough_where_others_tell_how_much_runs_differ(self) -> None:
        low, high = known(default_cost(runs(100), [ARM])).interval()

        assert low < 100 < high
        assert high / low < 4

    def test_of_runs_that_differ_beyond_all_reason_nothing_is_said(self) -> None:
        """Such bounds are no numbers any more; a status was not written for them."""
        assert default_cost(runs(1e-30, 1e15, 1e-30, 1e15), [ARM]) is None
        low, high = known(default_cost(runs(1e-2, 1e9, 1e-2, 1e9), [ARM])).interval()
        assert math.isfinite(low)
        assert math.isfinite(high)

    def test_runs_that_reached_nothing_are_paid_for_by_those_that_did(self) -> None:
        failed = DefaultRun(300, reached=False)
        found = known(default_cost([*runs(100, 110, 90), failed], [ARM]))
        without = known(default_cost(runs(100, 110, 90), [ARM]))

        assert found.mean == pytest.approx(200)
        assert found.interval()[0] < 200 < found.interval()[1]
        assert found.log_error > without.log_error

    def test_spread_of_the_default_and_of_the_others_is_weighed_by_their_runs(self) -> None:
        own, other = [100.0, 130.0, 90.0], (10, 14, 9, 12, 11)
        found = known(default_cost(runs(*own), [ArmRuns(other)]))

        def squares(values: Sequence[float]) -> float:
            mean = sum(values) / len(values)
            return sum((value - mean) ** 2 for value in values)

        pool = PRIOR_FREEDOM * PRIOR_SD**2
        pool += ARM_FREEDOM * squares([math.log(e) for e in other]) / (len(other) - 1)
        pool /= PRIOR_FREEDOM + ARM_FREEDOM
        logs = [math.log(x) for x in own]
        variance = (POOL_FREEDOM * pool + squares(logs)) / (POOL_FREEDOM + 2)
        error = math.sqrt(variance / 3 + variance**2 / (2 * (POOL_FREEDOM + 2)))
        centre = sum(logs) / 3 + variance / 2
        spread = student_t_quantile(0.975, POOL_FREEDOM + 2) * error
        assert found.interval() == pytest.approx(
            (math.exp(centre - spread), math.exp(centre + spread))
        )


class TestNotKnownYet:
    @pytest.mark.parametrize("amounts", [(), (100.0,), (100.0, 120.0, 90.0)])
    def test_without_enough_repeats_no_spread_is_made_up(self, amounts: tuple[float, ...]) -> None:
        assert len(amounts) - 1 < MIN_REPEATS
        assert default_cost(runs(*amounts), [ArmRuns((7,)), ArmRuns((9,))]) is None

    def test_a_default_that_never_reached_the_target_has_no_cost(self) -> None:
        assert default_cost([DefaultRun(100, reached=False)] * 5, [ARM]) is None

    def test_repeats_of_the_default_alone_are_enough(self) -> None:
        assert default_cost(runs(100, 120, 90, 105), []) is not None

    def test_where_long_runs_were_stopped_the_short_ones_tell_no_spread(self) -> None:
        survivors = ArmRuns((10, 10, 10, 10, 10, 10), stopped=3)

        assert default_cost(runs(100), [survivors]) is None
        assert default_cost(runs(100), [replace(survivors, stopped=0)]) is not None


class TestTheIntervalHoldsItsPromise:
    @pytest.mark.parametrize("count", [1, 3, 8])
    @pytest.mark.parametrize("sd", [0.1, 0.3])
    def test_it_covers_the_truth_about_as_often_as_it_says(self, count: int, sd: float) -> None:
        rng = random.Random(f"{count}/{sd}")
        truth, repetitions, covered = math.exp(5 + sd * sd / 2), 400, 0
        for _ in range(repetitions):
            arms = [
                ArmRuns(tuple(max(round(rng.lognormvariate(4, sd)), 1) for _ in range(4)))
                for _ in range(3)
            ]
            mine = runs(*(rng.lognormvariate(5, sd) for _ in range(count)))
            low, high = known(default_cost(mine, arms)).interval()
            covered += low <= truth <= high
        assert 0.93 <= covered / repetitions <= 0.995

    def test_it_does_so_where_the_batch_sizes_differ_in_spread(self) -> None:
        rng = random.Random(11)
        repetitions, covered = 600, 0
        for _ in range(repetitions):
            sds = [0.15 * math.sqrt(4 / rng.gammavariate(2, 2)) for _ in range(4)]
            arms = [
                ArmRuns(tuple(max(round(rng.lognormvariate(4, sd)), 1) for _ in range(5)))
                for sd in sds[1:]
            ]
            mine = runs(*(rng.lognormvariate(5, sds[0]) for _ in range(2)))
            low, high = known(default_cost(mine, arms)).interval()
            covered += low <= math.exp(5 + sds[0] ** 2 / 2) <= high
        assert 0.92 <= covered / repetitions <= 0.98

    def test_runs_that_all_agree_leave_the_least_doubt_that_is_ever_believed(self) -> None:
        steady = [ArmRuns((3,) * 40), ArmRuns((3,) * 40)]
        found = known(default_cost(runs(*[100.0] * 200), steady))

        assert found.log_error >= LEAST_SD / math.sqrt(200)


class TestProperties:
    @given(st.lists(AMOUNTS, min_size=1, max_size=6), EPOCHS, st.floats(0.001, 1000))
    def test_in_another_unit_it_says_the_same(
        self, amounts: list[float], epochs: list[int], factor: float
    ) -> None:
        arms = [ArmRuns(tuple(epochs)), ARM]
        found = known(default_cost(runs(*amounts), arms))
        scaled = known(default_cost(runs(*(factor * x for x in amounts)), arms))

        expected = [factor * found.mean, *(factor * bound for bound in found.interval())]
        assert [scaled.mean, *scaled.interval()] == pytest.approx(expected, rel=1e-6)

    @given(st.lists(AMOUNTS, min_size=1, max_size=6), EPOCHS, st.integers(0, 3))
    def test_the_interval_holds_the_figure_and_grows_with_what_it_claims(
        self, amounts: list[float], epochs: list[int], failures: int
    ) -> None:
        mine = runs(*amounts) + [DefaultRun(50.0, reached=False)] * failures
        found = known(default_cost(mine, [ArmRuns(tuple(epochs)), ARM]))

        narrow, wide = found.interval(0.8), found.interval(0.95)
        assert wide[0] <= narrow[0] <= found.mean <= narrow[1] <= wide[1]


class TestRatio:
    THEIRS = known(default_cost(runs(100, 110, 95), [ARM]))

    def test_what_was_spent_adds_no_doubt_and_what_is_expected_does(self) -> None:
        spent = Estimate.exactly(60, 12)
        expected = Estimate(60, 4, math.log(60), 0.1, 3)

        low, high = ratio_interval(spent, self.THEIRS)
        wide_low, wide_high = ratio_interval(expected, self.THEIRS)
        bounds = self.THEIRS.interval()
        assert (low, high) == pytest.approx((60 / bounds[1], 60 / bounds[0]))
        assert wide_low < low
        assert high < wide_high
