"""The synthetic arrival process: the same for a seed, named what it is, as its numbers say."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest

from zeus_operator.simulate.arrivals import ArrivalProcess, synthetic_groups
from zeus_operator.simulate.group_summary import arrivals_of
from zeus_operator.simulate.groups import JobGroup

NAMES = ("toy", "other")


def total(groups: tuple[JobGroup, ...], what: str) -> int:
    return sum(len(g.runs) if what == "runs" else g.overlapping_runs for g in groups)


def test_the_same_seed_makes_the_same_groups_and_another_does_not() -> None:
    process = ArrivalProcess(groups=5, seed=7)

    assert synthetic_groups(NAMES, process) == synthetic_groups(NAMES, process)
    assert synthetic_groups(NAMES, process) != synthetic_groups(NAMES, ArrivalProcess(5, seed=8))


def test_every_group_is_named_synthetic_and_so_are_the_arrivals() -> None:
    groups = synthetic_groups(NAMES, ArrivalProcess(groups=12))

    assert [g.name for g in groups][:2] == ["synthetic-01", "synthetic-02"]
    assert all(g.synthetic for g in groups)
    assert arrivals_of(groups) == "synthetic"
    recorded = JobGroup("a", "toy", groups[0].runs)
    assert arrivals_of([recorded]) == "recorded"
    assert arrivals_of([recorded, groups[1]]) == "synthetic"


def test_the_workloads_take_turns() -> None:
    groups = synthetic_groups(NAMES, ArrivalProcess(groups=4))

    assert [g.dataset for g in groups] == ["toy", "other", "toy", "other"]


def test_the_ratio_is_the_run_time_over_the_mean_of_the_dataset() -> None:
    groups = synthetic_groups(NAMES, ArrivalProcess(groups=20))

    for name in NAMES:
        runs = [run for g in groups if g.dataset == name for run in g.runs]
        mean = fmean(run.duration_seconds for run in runs)
        assert fmean(run.runtime_ratio for run in runs) == pytest.approx(1.0)
        assert runs[0].runtime_ratio == pytest.approx(runs[0].duration_seconds / mean)


def test_runs_start_in_order_and_more_load_makes_more_of_them_overlap() -> None:
    light = synthetic_groups(NAMES, ArrivalProcess(groups=40, load=0.1))
    heavy = synthetic_groups(NAMES, ArrivalProcess(groups=40, load=1.5))

    for group in (*light, *heavy):
        starts = [run.start_seconds for run in group.runs]
        assert starts == sorted(starts)
    assert total(light, "overlapping") < 0.05 * total(light, "runs")
    assert total(heavy, "overlapping") > 0.5 * total(heavy, "runs")


def test_groups_have_as_many_runs_as_asked_for_on_average() -> None:
    groups = synthetic_groups(NAMES, ArrivalProcess(groups=2000, runs=5.0))
    lengths = [len(g.runs) for g in groups]

    assert min(lengths) == 1
    assert fmean(lengths) == pytest.approx(5.0, rel=0.1)
    single = synthetic_groups(NAMES, ArrivalProcess(groups=9, runs=1.0))
    assert total(single, "runs") == 9


def test_without_jitter_and_spread_runs_are_regular() -> None:
    (group,) = synthetic_groups(("toy",), ArrivalProcess(1, 50.0, 0.5, jitter=0.0, spread=0.0))

    starts = [run.start_seconds for run in group.runs]
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert group.runs[0].duration_seconds == pytest.approx(0.5 * gaps[0])
    assert group.overlapping_runs == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 0}, "at least 1"),
        ({"runs": 0.5}, "at least 1"),
        ({"runs": float("inf")}, "at least 1"),
        ({"load": 0.0}, "load must be above 0"),
        ({"jitter": 1.5}, "jitter must be between 0 and 1"),
        ({"spread": -1.0}, "spread must be between 0 and 3"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_groups(NAMES, ArrivalProcess(**changes))


def test_groups_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one workload"):
        synthetic_groups((), ArrivalProcess())
