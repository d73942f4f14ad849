"""The model of power and speed: what must hold for every GPU, workload, batch size and limit."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_simulator import models, predict, workloads
from gpu_simulator.library import evaluate, parameters

RANGES = {
    "V100": (100, 250),
    "V100-SXM2": (150, 300),
    "A40": (100, 300),
    "A100": (100, 400),
    "H100": (200, 700),
}
CASES = [(model, workload) for model in RANGES for workload in workloads()]


def test_every_model_has_every_workload() -> None:
    assert set(models()) == set(RANGES)
    assert workloads() == ("shufflenetv2", "resnet18", "resnet50", "bert")
    for model, workload in CASES:
        assert len(parameters(model, workload)) == 11
    with pytest.raises(KeyError):
        predict("V100", "alexnet", 8, 250)
    with pytest.raises(KeyError):
        parameters("B300", "bert")


@settings(max_examples=50, deadline=None)
@given(samples=st.floats(1, 4096), case=st.sampled_from(CASES))
def test_a_lower_limit_is_never_faster(samples: float, case: tuple[str, str]) -> None:
    low, high = RANGES[case[0]]
    points = [predict(*case, samples, limit) for limit in range(low, high + 1, 10)]
    for lower, higher in pairwise(points):
        assert lower.seconds >= higher.seconds
        assert lower.clock <= higher.clock
        assert 0 < lower.busy <= 1
        assert 0 < lower.clock <= 1
        assert 0 < lower.duty <= 1


@settings(max_examples=50, deadline=None)
@given(samples=st.floats(1, 4096), share=st.floats(0, 1), case=st.sampled_from(CASES))
def test_mean_power_stays_within_the_limit(
    samples: float, share: float, case: tuple[str, str]
) -> None:
    low, high = RANGES[case[0]]
    limit = low + share * (high - low)
    # BERT and ResNet-50 wait for their host at 110 W at most, which is above the lowest limits.
    allowed = max(limit, parameters(*case)[10])
    assert predict(*case, samples, limit).watts <= allowed + 1e-9


@settings(max_examples=50, deadline=None)
@given(samples=st.floats(1, 2048), case=st.sampled_from(CASES))
def test_a_larger_batch_takes_longer_and_less_per_sample(
    samples: float, case: tuple[str, str]
) -> None:
    small, large = (predict(*case, size, RANGES[case[0]][1]) for size in (samples, 2 * samples))
    assert large.seconds > small.seconds
    assert large.seconds / 2 < small.seconds
    assert large.joules / 2 < small.joules


def test_below_the_lowest_clock_the_gpu_pauses_and_speed_falls_with_the_power_left() -> None:
    #         host  per sample  fixed  sample  share  overlap  static  dynamic  exponent  knee  gap
    numbers = [1e-9, 0, 0, 0.01, 1.0, 4, 50, 150, 2.0, 0.5, 40]
    full, knee, half = (evaluate(numbers, 10, watts) for watts in (200, 50 + 150 / 4, 50 + 150 / 8))
    assert (full.clock, full.duty) == (1, 1)
    assert full.seconds == pytest.approx(0.1)
    assert (knee.clock, knee.duty) == (0.5, 1)
    assert knee.seconds == pytest.approx(0.2)
    assert (half.clock, half.duty) == (0.5, pytest.approx(0.5))
    assert half.seconds == pytest.approx(0.4)
    assert half.watts == pytest.approx(50 + 150 / 8, rel=1e-3)


def test_a_step_that_waits_for_its_host_is_not_slowed_until_the_gpu_is_the_slower_one() -> None:
    numbers = [0.1, 0, 0, 0.005, 1.0, 12, 50, 150, 2.5, 0.2, 40]
    free, lowered, starved = (evaluate(numbers, 10, watts) for watts in (200, 140, 54))
    assert lowered.seconds == pytest.approx(free.seconds, rel=0.02)
    assert lowered.joules < 0.9 * free.joules
    assert starved.seconds > 1.1 * lowered.seconds


def test_the_checked_in_parameters_match_the_measurements() -> None:
    if not (os.environ.get("ZEUS_GPU_PROFILES") and os.environ.get("ZEUS_TRACES")):
        pytest.skip("ZEUS_GPU_PROFILES and ZEUS_TRACES name no measurements")
    from benchmarks.gpu_model import fit, report

    comparisons = list(fit.compare(fit.checked_in()))
    assert len([row for row in comparisons if row.kind == "window"]) == 64
    assert report.verdict(comparisons) == 0
