"""The baseline against the published figures, and the default policy against the baseline."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.optimizer.run import RECURRENCES, disagreements, measure, table
from zeus_operator.simulate.summary import geometric_mean, regret_ratio
from zeus_operator.simulate.traces import load_workloads

SEEDS = 24


@pytest.fixture(scope="module")
def workloads():
    folder = os.environ.get("ZEUS_TRACES", "").split(os.pathsep)[0]
    if not folder or not Path(folder).is_dir():
        pytest.skip("ZEUS_TRACES names no folder of traces: the published figures are not checked")
    return load_workloads(Path(folder))


@pytest.fixture(scope="module")
def found(workloads):
    return measure(workloads, SEEDS, processes=1)


@pytest.mark.slow
def test_the_baseline_agrees_with_the_published_figures(workloads, found):
    assert disagreements(workloads, found) == []


@pytest.mark.slow
def test_the_default_policy_learns_at_under_half_of_the_baselines_regret(workloads, found):
    for n in RECURRENCES:
        ratios = [
            regret_ratio(found[w.name, w.gpu, "structured", n], found[w.name, w.gpu, "zeus", n])
            for w in workloads
        ]
        assert geometric_mean(ratios) < 0.45


@pytest.mark.slow
def test_the_table_has_a_row_for_every_pair(workloads, found):
    text = table("traces", workloads, found)
    assert all(f"| {w.name} | {w.gpu} |" in text for w in workloads)
