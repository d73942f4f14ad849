"""`ZeusDataLoader` serves batches that do not fit in parts, and says when the optimizer steps."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, IterableDataset, SequentialSampler, TensorDataset

from tests.support.runtime_lab import ROOT, Ended, RuntimeLab, decided
from zeus_runtime import ZeusDataLoader
from zeus_runtime.protocol import Decision
from zeus_runtime.sweep import TrainingData

pytestmark = pytest.mark.torch
Served = list[tuple[list[int], bool]]


class Stream(IterableDataset[int]):
    """Numbers; how many is not known before."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class ByLength:
    """A batch sampler whose batches differ in size, as those of texts sorted by length do."""

    batch_size = 4

    def __init__(self, *batches: list[int]) -> None:
        self.own, self.epoch = batches, 0

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.own)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


def loader_of(data: Any, **arguments: Any) -> ZeusDataLoader[Any]:
    return ZeusDataLoader(data, **arguments)


def served(loader: ZeusDataLoader[Any]) -> Served:
    """Return the samples of each micro-batch, and whether an update was due after it."""
    found = []
    for batch in loader:
        values = batch[0] if isinstance(batch, list) else batch
        found.append((values.tolist(), loader.update_due))
    return found


def updates(parts: Served) -> list[list[int]]:
    """Return the samples that each step of the optimizer sees."""
    found: list[list[int]] = [[]]
    for values, due in parts:
        found[-1] += values
        if due:
            found.append([])
    assert found.pop() == []  # no gradient is left over
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_served_in_equal_parts_and_each_update_sees_all_of_it(workers: int) -> None:
    loader = loader_of(numbers(24), batch_size=12, largest_micro_batch=5, num_workers=workers)
    parts = served(loader)
    assert loader.accumulation_steps == 3
    assert [len(values) for values, _ in parts] == [4] * 6
    assert [due for _, due in parts] == [False, False, True] * 2
    assert updates(parts) == [list(range(12)), list(range(12, 24))]
    assert len(loader) == 6


def test_the_last_part_of_an_epoch_is_followed_by_an_update() -> None:
    loader = loader_of(numbers(19), batch_size=8, largest_micro_batch=2)
    parts = served(loader)
    assert updates(parts) == [list(range(8)), list(range(8, 16)), [16, 17, 18]]
    assert [len(values) for values, _ in parts[-2:]] == [2, 1]
    assert len(loader) == len(parts) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_with_drop_last_only_whole_batches_are_served(workers: int) -> None:
    # Two of the three parts that are left would be whole ones.
    loader = loader_of(
        numbers(21),
        batch_size=8,
        largest_micro_batch=2,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for _ in range(2):
        assert updates(served(loader)) == [list(range(8)), list(range(8, 16))]
    assert len(loader) == 8


def test_a_stream_without_a_length_is_served_in_parts_to_its_end() -> None:
    parts = served(loader_of(Stream(11), batch_size=6, largest_micro_batch=2))
    assert updates(parts) == [list(range(6)), list(range(6, 11))]
    exact = served(loader_of(Stream(12), batch_size=6, largest_micro_batch=2))
    assert [due for _, due in exact] == [False, False, True] * 2


def test_a_stream_without_a_length_drops_a_batch_that_is_not_whole() -> None:
    loader = loader_of(Stream(11), batch_size=6, largest_micro_batch=2, drop_last=True)
    assert updates(served(loader)) == [list(range(6))]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_a_batch_sampler_are_split_each_for_itself(workers: int) -> None:
    sampler = ByLength([0, 1, 2, 3], [4], [5, 6, 7], [8, 9, 10, 11])
    loader = loader_of(
        numbers(12), batch_sampler=sampler, largest_micro_batch=2, num_workers=workers
    )
    for _ in range(2):
        parts = served(loader)
        assert updates(parts) == [list(batch) for batch in sampler.own]
        assert max(len(values) for values, _ in parts) == 2
    assert loader.accumulation_steps == 2
    with pytest.raises(TypeError, match="no length"):
        len(loader)
    assert loader.batch_sampler is not None
    loader.batch_sampler.set_epoch(3)  # type: ignore[attr-defined]  # the user's own answers
    assert sampler.epoch == 3


def test_a_batch_sampler_with_a_length_tells_how_many_parts_there_are_at_most() -> None:
    sampler = BatchSampler(SequentialSampler(range(11)), 4, drop_last=False)
    loader = loader_of(numbers(11), batch_sampler=sampler, largest_micro_batch=2)
    assert len(loader) == len(served(loader)) == 6


def test_an_epoch_that_was_left_in_the_middle_of_a_batch_does_not_shift_the_next() -> None:
    loader = loader_of(numbers(12), batch_size=6, largest_micro_batch=2)
    for _ in loader:
        break
    assert not loader.update_due
    assert updates(served(loader)) == [list(range(6)), list(range(6, 12))]


def test_a_batch_that_fits_is_served_whole() -> None:
    loader = loader_of(numbers(10), batch_size=4, largest_micro_batch=4)
    assert loader.accumulation_steps == 1
    assert served(loader) == [([0, 1, 2, 3], True), ([4, 5, 6, 7], True), ([8, 9], True)]


def test_a_size_that_splits_badly_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zeus_runtime"):
        loader_of(numbers(200), batch_size=100, largest_micro_batch=30)
        assert not caplog.records
        loader_of(numbers(200), batch_size=62, largest_micro_batch=30)
    assert "31 micro-batches of 2, though 30 fit" in caplog.text
    assert "such as 90" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_size": None}, "size of a batch is not known"),
        ({"batch_sampler": [[0, 1], [2, 3]]}, "size of a batch is not known"),
        ({"batch_sampler": ByLength([0, 1]), "in_order": False}, "in_order=False"),
        ({"batch_size": 4, "largest_micro_batch": 0}, "largest_micro_batch=0"),
    ],
)
def test_what_cannot_be_split_is_refused_in_words(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        loader_of(numbers(8), **{"largest_micro_batch": 2, **arguments})


# A run ----------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


def trained(lab: RuntimeLab, decision: Decision, **plan: Any) -> tuple[Ended, dict[str, Any]]:
    script = str(ROOT / "tests" / "support" / "accumulation_script.py")
    plan = {"batch_size": 12, "epochs": 2, **plan}
    ended = lab.run_script([script, json.dumps(plan)], lab.environ(decision, agent=False))
    assert ended.result is not None, ended.errors
    return ended, json.loads(ended.output)


def test_the_model_learns_the_same_in_parts_as_from_whole_batches(lab: RuntimeLab) -> None:
    decision = decided(batch_size=12)
    ended, parts = trained(lab, decision, largest_micro_batch=5)
    whole_ended, whole = trained(lab, decision)
    assert parts["sizes"] == [4] * 24
    assert whole["sizes"] == [12] * 8
    assert parts["weights"] == pytest.approx(whole["weights"], abs=1e-5)
    # A step of the run is one of the optimizer.
    assert parts["steps"] == whole["steps"] == [4, 8]
    assert parts["updates"] == whole["updates"] == 8
    for each in (ended, whole_ended):
        assert each.result is not None
        assert (each.result.outcome, each.result.batch_size) == ("reached", 12), each.errors


def test_the_parts_are_work_for_a_simulated_gpu(lab: RuntimeLab) -> None:
    decision = decided(batch_size=1200)
    ended, _ = trained(lab, decision, batch_size=1200, largest_micro_batch=400, samples=24_000)
    assert ended.result is not None
    assert ended.result.energy_joules is not None
    idle_watts = 25.0
    assert ended.result.energy_joules > 3.0 * idle_watts * ended.result.time_seconds


def test_the_last_batch_of_an_epoch_is_a_step_also_where_it_is_not_whole(lab: RuntimeLab) -> None:
    _, found = trained(lab, decided(batch_size=12), largest_micro_batch=4, samples=29)
    assert found["sizes"] == [4, 4, 4, 4, 4, 4, 4, 1] * 2
    assert (found["steps"], found["updates"]) == ([3, 6], 6)


def test_it_is_the_whole_batch_that_is_compared_with_the_decision(lab: RuntimeLab) -> None:
    ended, _ = trained(lab, decided(batch_size=4), largest_micro_batch=4)
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.batch_size) == ("decision_not_applied", 12)


def test_no_other_size_is_measured_where_batches_are_served_in_parts(lab: RuntimeLab) -> None:
    sweeps = decided(batch_size=12, sweep_batch_sizes=(4, 24))
    ended, found = trained(lab, sweeps, largest_micro_batch=4)
    assert ended.result is not None
    assert "a batch is served in micro-batches" in ended.result.note
    assert set(found["sizes"]) == {4}


def test_a_sweep_keeps_to_what_fits_into_the_gpu_at_once() -> None:
    data = TrainingData(samples=1000, dataset_samples=800, largest_batch=64)
    assert data.others((32, 64, 65, 900), own=16) == (32, 64)
    unbounded = TrainingData(samples=1000, dataset_samples=800)
    assert unbounded.others((32, 800, 801), own=16) == (32, 800)
