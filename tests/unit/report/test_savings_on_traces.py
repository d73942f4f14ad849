"""On recorded runs the truth is known: the interval of the savings holds it as often as it says."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest

from benchmarks.savings.histories import Case, Outcomes, Task, split
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.simulate.workload import EpochCost, TraceArm, Workload

HISTORIES = 150
FREE, SHARE = Fraction(0), Fraction(1, 10)
CASES = (
    *(Case(f, n, c) for f in (FREE, SHARE) for n in (10, 30) for c in (0.95, 0.8)),
    *(Case(FREE, n, 0.95, every_run=True) for n in (10, 30)),
)


def arm(batch_size: int, epochs: float, sd: float, epoch_cost: float) -> TraceArm:
    """Eight recorded runs, lognormal about `epochs`; at full power an epoch costs a fifth more."""
    rng = random.Random(f"runs/{batch_size}")
    recorded = tuple(max(round(rng.lognormvariate(math.log(epochs), sd)), 1) for _ in range(8))
    best = EpochCost(epoch_cost, epoch_cost, 1.0)
    return TraceArm(batch_size, best, best.times(1.1), best.times(1.2), tuple(map(float, recorded)))


@cache
def workload(sd: float) -> Workload:
    """Smaller batches take fewer epochs; the default is not the best."""
    arms = (
        arm(32, 9, 0.8 * sd, 150),
        arm(64, 10, 1.2 * sd, 110),
        arm(128, 14, sd, 90),
        arm(256, 20, sd, 80),
        arm(512, 34, 0.9 * sd, 75),
    )
    return Workload("synthetic", "v100", arms, 256, 120, 250.0)


@cache
def outcomes(name: str, sd: float) -> dict[Case, list[Outcomes]]:
    tasks = [Task(workload(sd), policy(name), CASES, seed) for seed in range(HISTORIES)]
    each = [task.run() for task in tasks]
    return {case: [history[index] for history in each] for index, case in enumerate(CASES)}


def coverage(found: list[Outcomes]) -> float:
    known = [outcome for outcome in found if outcome.is_known]
    return sum(outcome.is_covered for outcome in known) / len(known)


@pytest.mark.parametrize("name", POLICY_NAMES)
@pytest.mark.parametrize("sd", [0.12, 0.35])
@pytest.mark.parametrize("fraction", [FREE, SHARE])
def test_intervals_hold_the_truth_as_often_as_they_say(
    name: str, sd: float, fraction: Fraction
) -> None:
    found = outcomes(name, sd)
    for confidence, least in ((0.95, 0.92), (0.8, 0.72)):
        counted = [o for n in (10, 30) for o in found[Case(fraction, n, confidence)]]
        assert coverage(counted) >= least


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_more_control_runs_make_narrower_intervals(name: str) -> None:
    found = outcomes(name, 0.12)
    widths = [
        sorted(o.width for o in found[Case(fraction, 30, 0.95)] if o.is_known)
        for fraction in (FREE, SHARE)
    ]
    none, some = (each[len(each) // 2] for each in widths)

    assert some < 0.6 * none


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_most_histories_of_thirty_recurrences_have_a_figure(name: str) -> None:
    found = outcomes(name, 0.12)[Case(FREE, 30, 0.95)]

    assert Counter(outcome.is_known for outcome in found)[True] > 0.9 * HISTORIES


def test_the_truth_is_that_of_the_workload_itself() -> None:
    """With a default that always takes the same epochs the figure is exact."""
    plain = workload(0.12)
    steady = tuple(
        replace(each, target_epochs=(20.0,) * 8) if each.batch_size == 256 else each
        for each in plain.arms
    )
    task = Task(replace(plain, arms=steady), policy("zeus"), CASES[:2], seed=1)

    assert [outcome.error for outcome in task.run()] == pytest.approx([0.0, 0.0])


def test_learned_and_control_recurrences_are_as_many_as_asked_for() -> None:
    for seed in range(20):
        learned, controls = split(SHARE, 30, seed)
        assert learned + controls == 30
        assert controls in (2, 3)
