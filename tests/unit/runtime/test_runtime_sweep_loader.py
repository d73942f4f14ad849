"""`ZeusDataLoader` serves a sweep from its own data set, and the epoch's batches all the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.runtime_lab import ROOT, Ended, RuntimeLab, decided
from zeus_runtime.protocol import Decision, Result
from zeus_runtime.sweep import TrainingData

pytestmark = pytest.mark.torch
SAMPLES, BATCH_SIZE = 8000, 16
SIZES = (8, 32, 64)
SWEEPS = decided(batch_size=BATCH_SIZE, sweep_batch_sizes=SIZES)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


def trained(lab: RuntimeLab, decision: Decision, *, agent: bool = False, **plan: Any) -> Ended:
    script = str(ROOT / "tests" / "support" / "sweep_script.py")
    plan = {"batch_size": BATCH_SIZE, "epochs": 2, **plan}
    return lab.run_script([script, json.dumps(plan)], lab.environ(decision, agent=agent))


def result_of(ended: Ended) -> Result:
    assert ended.result is not None, ended.errors
    return ended.result


def sizes(epoch: list[Any]) -> list[int]:
    """Return the batch sizes of an epoch in their order, each once in a row."""
    return [size for size, _ in groupby(len(labels) for labels, _ in epoch)]


def main_labels(epoch: list[Any]) -> list[int]:
    """Return the samples of the batches that end the epoch, as many as it has."""
    return [label for labels, _ in epoch for label in labels][-SAMPLES:]


def test_every_size_is_served_and_the_epochs_stay_what_they_were(lab: RuntimeLab) -> None:
    lab.start_agent()
    ended = trained(lab, SWEEPS, agent=True, epochs=3)
    result = result_of(ended)
    assert (ended.exit_code, result.outcome) == (0, "reached"), ended.errors
    first, second, third = json.loads(ended.output)
    assert sizes(second) == [16, 8, 32, 64, 16]
    assert sizes(first) == sizes(third) == [16]
    without = json.loads(trained(lab, decided(batch_size=BATCH_SIZE), epochs=3).output)
    assert [main_labels(epoch) for epoch in (first, second, third)] == [
        main_labels(epoch) for epoch in without
    ]
    # No limit is set before the sweep is over; then the best is looked for and held.
    swept = second[: len(second) - SAMPLES // BATCH_SIZE]
    assert {watts for epoch in (first, swept) for _, watts in epoch} == {ADMIN_CAP_WATTS}
    assert result.power_profile
    assert len({watts for _, watts in second}) > 3
    # What was measured, and what it took.
    assert [each.batch_size for each in result.sweep] == list(SIZES)
    assert result.sweep_joules is not None
    assert result.sweep_seconds is not None
    assert result.energy_joules is not None
    assert 0.0 < result.sweep_joules < result.energy_joules
    assert 0.0 < result.sweep_seconds < result.time_seconds
    assert result.full_power_epoch_joules
    assert result.full_power_epoch_seconds
    assert all(each.epoch_seconds > 0.0 for each in result.sweep)
    assert all(each.epoch_joules for each in result.sweep)
    assert (result.sweeping, result.epochs, result.note) == (None, 3, "")


def test_workers_serve_a_sweep_too(lab: RuntimeLab) -> None:
    ended = trained(lab, SWEEPS, workers=1)
    result = result_of(ended)
    assert (ended.exit_code, result.outcome) == (0, "reached"), ended.errors
    first, second = json.loads(ended.output)
    assert sorted(main_labels(first)) == sorted(main_labels(second)) == list(range(SAMPLES))
    assert set(sizes(second)) == {16, 8, 32, 64}
    assert result.sweep


def test_out_of_memory_at_a_larger_size_is_not_held_against_the_run_s_own(
    lab: RuntimeLab,
) -> None:
    ended = trained(lab, SWEEPS, at=64, do="oom")
    result = result_of(ended)
    assert (ended.exit_code, result.outcome, result.sweeping) == (1, None, 64), ended.errors
    assert "out of memory while batch size 64 was measured" in result.note
    assert result.epochs == 1


def test_out_of_memory_at_the_run_s_own_size_is_one_also_within_a_sweep(lab: RuntimeLab) -> None:
    ended = trained(lab, SWEEPS, at=16, do="oom")
    result = result_of(ended)
    assert (result.outcome, result.sweeping, result.epochs) == ("out_of_memory", 16, 1)


@pytest.mark.parametrize(("how", "exit_code"), [("crash", 1), ("kill", -signal.SIGKILL)])
def test_the_result_of_a_run_that_dies_within_a_sweep_names_the_size(
    lab: RuntimeLab, how: str, exit_code: int
) -> None:
    ended = trained(lab, SWEEPS, at=32, do=how)
    result = result_of(ended)
    assert (ended.exit_code, result.outcome, result.sweeping) == (exit_code, None, 32)
    assert (result.epochs, result.milestones) == (1, ((1, 0.1),))


def test_a_loop_that_is_left_within_a_sweep_trains_on_without(lab: RuntimeLab) -> None:
    ended = trained(lab, SWEEPS, at=8, do="break", epochs=3)
    result = result_of(ended)
    assert (ended.exit_code, result.outcome, result.epochs) == (0, "reached", 3), ended.errors
    assert result.sweeping is None
    assert sizes(json.loads(ended.output)[2]) == [16]


def test_batches_that_can_not_be_made_end_the_sweep_and_not_the_run(lab: RuntimeLab) -> None:
    ended = trained(lab, SWEEPS, collates=32)
    result = result_of(ended)
    assert (ended.exit_code, result.outcome) == (0, "reached"), ended.errors
    assert [each.batch_size for each in result.sweep] == [8, 32]
    assert "a batch of so many samples" in result.note
    _, second = json.loads(ended.output)
    assert sorted(main_labels(second)) == list(range(SAMPLES))


def test_a_sampler_of_its_own_is_never_gone_around(lab: RuntimeLab) -> None:
    ended = trained(lab, SWEEPS, data="subset")
    result = result_of(ended)
    assert (ended.exit_code, result.outcome, result.sweep) == (0, "reached", ()), ended.errors
    assert "this loader can't serve any" in result.note
    assert "serve" not in ended.errors  # nothing is wrong with it
    labels = [label for epoch in json.loads(ended.output) for batch, _ in epoch for label in batch]
    assert max(labels) < SAMPLES // 2


def test_what_could_be_served_is_the_data_set_of_a_usual_loader() -> None:
    from torch.utils.data import (
        BatchSampler,
        DataLoader,
        IterableDataset,
        RandomSampler,
        SubsetRandomSampler,
    )

    from zeus_runtime.sweep_loader import training_data

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(50))

    data: Any = list(range(50))
    usual = TrainingData(50, 50)
    assert training_data(DataLoader(data, 8)) == usual
    assert training_data(DataLoader(data, 8, shuffle=True)) == usual
    assert training_data(DataLoader(data, 8, drop_last=True)) == TrainingData(50, 50, True)
    fewer = RandomSampler(data, num_samples=20)
    assert training_data(DataLoader(data, 8, sampler=fewer)) == TrainingData(20, 50)
    for other in (
        DataLoader(Stream(), 8),
        DataLoader(data, batch_size=None),
        DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 8, drop_last=False)),
        DataLoader(data, 8, sampler=SubsetRandomSampler(range(10))),
        DataLoader(data, 8, sampler=RandomSampler(range(10))),
    ):
        assert training_data(other) is None
