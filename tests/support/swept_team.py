"""One process of two that sweep, in virtual time: real loader and run, the other one is a script.

Each sample is a number, so that it shows which were served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler

from tests.support.runtime_lab import decided
from tests.support.scripted_team import (
    GPU,
    OTHER_GPU,
    FollowerChannel,
    LeadChannel,
    follower,
    lead,
    mirror,
)
from zeus_runtime import ZeusDataLoader, dataloader, follower_run, run
from zeus_runtime.base_run import BaseRun
from zeus_runtime.gpu import Gpu
from zeus_runtime.meter import Mark
from zeus_runtime.place import Place
from zeus_runtime.protocol import Decision
from zeus_runtime.team_messages import Facts, SweepFacts
from zeus_runtime.windows import Energy

SAMPLES, OWN = 4000, 16  # the global batch size; each of the two serves a half
STEPS = SAMPLES // OWN  # of an epoch
TICK_SECONDS = 0.02
SIZES = (8, 32, 64)
SWEEPS = decided(batch_size=OWN, sweep_batch_sizes=SIZES, max_epochs=3)
SERVED = [8, 4, 16, 32, 8]  # of each batch its half; the run's own size first, and at the end
WATTS = (100.0, 200.0)  # of the two GPUs, always


class Clock:
    """Time that the training spends."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class VirtualMeter:
    """Looks like `EnergyMeter`; what it is asked it knows at once."""

    rank = 0
    simulated = True
    problem = ""
    period_seconds = TICK_SECONDS

    def __init__(self, open_gpu: Callable[[], Gpu], *, clock: Callable[[], float]) -> None:
        del open_gpu
        self._clock = clock
        facts = replace((GPU, OTHER_GPU)[self.rank], simulated=self.simulated)
        self._gpu = Gpu(facts, None, None)

    def start(self) -> None:
        return

    def close(self) -> None:
        return

    def wait_open(self) -> Gpu:
        return self._gpu

    def mark(self, time_seconds: float | None = None) -> Mark:
        mark = Mark(self._clock() if time_seconds is None else time_seconds)
        mark.energy = Energy(WATTS[self.rank] * mark.time_seconds, 0.0)
        return mark

    def wait(self, mark: Mark, timeout_seconds: float = 0.0) -> Energy | None:
        return mark.energy

    wait_rough = wait


def other_rank(own: Facts) -> Facts:
    """Return what rank 1 tells: the same, but for what its GPU takes."""
    times = WATTS[1] / WATTS[0]
    marks = tuple((number, None if j is None else times * j) for number, j in own.marks)
    return replace(mirror(own), marks=marks, joules=own.joules and times * own.joules)


def in_sweep(change: Callable[[Facts, SweepFacts], Facts]) -> Callable[[Facts], Facts]:
    """Return a rank 1 that changes what it tells in a sweep."""

    def reply(own: Facts) -> Facts:
        told = other_rank(own)
        return told if told.sweep is None else change(told, told.sweep)

    return reply


def swept_orders(channel: LeadChannel) -> list[tuple[int, int]]:
    return [(o.sweep.batch_size, o.sweep.steps) for o in channel.orders if o.sweep is not None]


def sizes_in(channel: LeadChannel) -> list[int]:
    """Return the batch sizes that were ordered."""
    return [size for size, steps in swept_orders(channel) if size and not steps]


class Numbers(Dataset[int]):
    """The numbers from 0."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        return index


NUMBERS = Numbers()


@dataclass
class Swept:
    """What a training was served, by epoch and in order."""

    loader: ZeusDataLoader[Any]
    clock: Clock
    epochs: list[list[list[int]]]

    def sizes(self, epoch: int = 1) -> list[int]:
        """Return the shares of batches that were served, each once in a row."""
        return [size for size, _ in groupby(len(batch) for batch in self.epochs[epoch])]

    def counts(self, epoch: int = 1) -> list[tuple[int, int]]:
        """Return them with the number of steps."""
        sizes = groupby(len(batch) for batch in self.epochs[epoch])
        return [(size, len(list(same))) for size, same in sizes]

    def own(self, epoch: int) -> list[int]:
        """Return the samples that end an epoch, as many as this process has of one."""
        return [label for batch in self.epochs[epoch] for label in batch][-SAMPLES // 2 :]


def loader_of(
    monkeypatch: pytest.MonkeyPatch,
    channel: LeadChannel | FollowerChannel,
    folder: Path,
    decision: Decision,
    *,
    environ: dict[str, str] | None = None,
    synchronize: Callable[[], None] | None = None,
    **arguments: Any,
) -> Swept:
    """Make the training loader of the process whose channel is given.

    Args:
        synchronize: waits for its GPU; None: it has none.
    """
    rank = 0 if isinstance(channel, LeadChannel) else 1
    clock = Clock()
    monkeypatch.setattr(VirtualMeter, "rank", rank)
    for module in (run, follower_run):
        monkeypatch.setattr(module, "EnergyMeter", VirtualMeter)

    def start_run(**wishes: Any) -> BaseRun:
        wishes["synchronize"] = synchronize
        if isinstance(channel, LeadChannel):
            return lead(channel, folder, decision, clock=clock, more=environ, **wishes)
        for name in ("steps_per_epoch", "partial_last_step"):
            del wishes[name]
        return follower(channel, folder, decision, clock=clock, **wishes)

    monkeypatch.setattr(dataloader, "torch_place", lambda: Place(rank, 2, 0))
    monkeypatch.setattr(dataloader, "start_run", start_run)
    arguments = {
        "sampler": DistributedSampler(NUMBERS, num_replicas=2, rank=rank, seed=3),
        "max_epochs": 3,
        "on_stop": "return",
        **arguments,
    }
    loader = ZeusDataLoader(NUMBERS, batch_size=OWN // 2, distributed="dp", **arguments)
    return Swept(loader, clock, [])


def seconds_of(share: int) -> float:
    """Return what a step takes."""
    return 0.01 + 0.001 * share


def step(swept: Swept, batch: torch.Tensor) -> None:
    """Train on a batch."""
    swept.epochs[-1].append(batch.tolist())
    assert len(swept.epochs[-1]) < 2 * STEPS, "the sweep does not end"
    torch.rand(3)  # as dropout does
    swept.clock.now += seconds_of(len(batch))


def train(swept: Swept, *, stop_at: int | None = None, again: bool = False) -> None:
    """Train to the end; the target is never reached.

    Args:
        stop_at: leave the loop of an epoch with the first batch of so many samples.
        again: and begin it again.
    """
    for _ in swept.loader.epochs():
        swept.epochs.append([])
        left = _serve(swept, iter(swept.loader), stop_at)
        if left and again:
            _serve(swept, iter(swept.loader), None)
        swept.loader.report_metric(0.1)


def _serve(swept: Swept, batches: Iterator[torch.Tensor], stop_at: int | None) -> bool:
    for batch in batches:
        step(swept, batch)
        if len(batch) == stop_at:
            return True
    return False
