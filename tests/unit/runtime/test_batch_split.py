"""How a global batch is split over processes and micro-batches."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zeus_runtime
from zeus_runtime.batch_split import BatchSplit, split_batch

COUNTS = st.integers(min_value=1, max_value=64)


@pytest.fixture
def no_job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("ZEUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return monkeypatch


@given(per_process=st.integers(1, 5000), processes=COUNTS, largest=st.integers(1, 6000))
def test_every_process_trains_on_all_of_its_share_in_as_few_parts_as_fit(
    per_process: int, processes: int, largest: int
) -> None:
    split = split_batch(per_process * processes, processes=processes, largest_micro_batch=largest)
    assert split.per_process == per_process
    assert split.micro_batch * split.accumulation_steps * processes == per_process * processes
    assert split.micro_batch <= largest
    fewer = range(1, split.accumulation_steps)
    assert not any(per_process % parts == 0 and per_process // parts <= largest for parts in fewer)


@given(per_process=st.integers(1, 5000), processes=COUNTS)
def test_a_batch_is_whole_where_nothing_bounds_it(per_process: int, processes: int) -> None:
    split = split_batch(per_process * processes, processes=processes)
    assert split == BatchSplit(per_process, per_process, 1)


@given(size=st.integers(1, 10_000), processes=st.integers(2, 64))
def test_sizes_named_in_place_of_one_that_does_not_divide_are_its_neighbours_that_do(
    size: int, processes: int
) -> None:
    below = size - size % processes
    if below == size:
        return
    with pytest.raises(ValueError, match="nearest that can: ") as refused:
        split_batch(size, processes=processes)
    text = str(refused.value)
    assert f"batch size of {size} " in text
    assert f"{processes} processes" in text
    nearest = text.split("nearest that can: ")[1].split(".")[0]
    named = [int(number) for number in nearest.split(" and ")]
    assert named == ([below, below + processes] if below else [processes])


@pytest.mark.parametrize(
    ("size", "arguments", "named"),
    [
        (0, {}, "global_batch_size=0"),
        (8, {"processes": 0}, "processes=0"),
        (8, {"largest_micro_batch": -1}, "largest_micro_batch=-1"),
    ],
)
def test_a_number_that_makes_no_sense_is_named(
    size: int, arguments: dict[str, int], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        split_batch(size, **arguments)


def test_the_loader_of_each_process_gets_its_share_of_the_default(
    no_job: pytest.MonkeyPatch,
) -> None:
    assert zeus_runtime.local_batch_size(256) == 256
    no_job.setenv("WORLD_SIZE", "4")
    assert zeus_runtime.local_batch_size(256) == 64
    assert zeus_runtime.local_batch_size(256, replicas=2) == 128


def test_the_loader_of_each_process_gets_its_share_of_what_was_decided(
    no_job: pytest.MonkeyPatch,
) -> None:
    no_job.setenv("ZEUS_BATCH_SIZE", "96")
    no_job.setenv("WORLD_SIZE", "4")
    assert zeus_runtime.local_batch_size(256) == 24
    no_job.setenv("WORLD_SIZE", "5")
    with pytest.raises(ValueError, match="nearest that can: 95 and 100"):
        zeus_runtime.local_batch_size(256)


@pytest.mark.torch
def test_the_process_group_counts_where_there_is_one(no_job: pytest.MonkeyPatch) -> None:
    from torch import distributed

    no_job.setenv("WORLD_SIZE", "4")  # as the launcher of another group may have left it
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert zeus_runtime.local_batch_size(256) == 256
    finally:
        distributed.destroy_process_group()
