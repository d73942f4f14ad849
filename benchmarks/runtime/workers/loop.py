"""What every worker has in common: data, bodies of a step, the plain loop, and the answers.

Runs in the interpreters of all rivals, so that it imports torch and nothing else of theirs or ours.
A worker reads one JSON object a line and answers with one: an epoch of the plain `DataLoader` or of
its rival, and how long what lies between two steps took in it, or of both in turns.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

FEATURES, CLASSES, SAMPLES = 64, 10, 32
FILE_MODULES = ("posix", "_io", "io", "_posixsubprocess", "_socket")
clock = time.perf_counter_ns

Body = Callable[[Any], None]
Train = Callable[[Body, "Epoch"], Iterator[None]]
"""Trains for one epoch, and yields after each of its steps."""


@dataclass
class Epoch:
    """One epoch as it was timed.

    Args:
        gaps_ns: from the end of a step's own work to the beginning of the next one's.
        whole_ns: from before the epoch to after its evaluation and report.
    """

    gaps_ns: list[int] = field(default_factory=list)
    whole_ns: int = 0


class Batches(Dataset[Any]):
    """As many samples as there are steps; each costs nearly nothing to load."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices

    def __getitem__(self, index: int) -> int:
        return index


_BATCH = (torch.zeros(SAMPLES, FEATURES), torch.zeros(SAMPLES, dtype=torch.long))


def collate(indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return always the same batch."""
    del indices
    return _BATCH


LOADER_ARGUMENTS = {"batch_size": 1, "collate_fn": collate}


def small_model() -> Body:
    """Return a step that trains a small network."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 128), torch.nn.ReLU(), torch.nn.Linear(128, CLASSES)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of = torch.nn.CrossEntropyLoss()

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        loss_of(model(batch[0]), batch[1]).backward()
        optimizer.step()

    return step


def nothing(batch: Any) -> None:
    """A step that does nothing with its batch."""


def timed_steps(batches: Iterable[Any], body: Body, epoch: Epoch) -> Iterator[None]:
    """Train on all batches; a loader's own work is all in the gaps.  Yield after each step."""
    add = epoch.gaps_ns.append
    end = clock()
    for batch in batches:
        start = clock()
        add(start - end)
        body(batch)
        yield  # what others do meanwhile is in no gap
        end = clock()


class Plain:
    """A `DataLoader` of torch, with the evaluation of one batch behind each epoch."""

    def __init__(self, steps: int) -> None:
        self._train: DataLoader[Any] = DataLoader(Batches(steps), **LOADER_ARGUMENTS)
        self._evaluation: DataLoader[Any] = DataLoader(Batches(1), **LOADER_ARGUMENTS)

    def epoch(self, body: Body, epoch: Epoch) -> Iterator[None]:
        """Train for one epoch."""
        begin = clock()
        yield from timed_steps(self._train, body, epoch)
        for _ in self._evaluation:
            pass
        epoch.whole_ns = clock() - begin


def trained(train: Train, body: Body) -> Epoch:
    """Return one epoch, trained alone."""
    epoch = Epoch()
    for _ in train(body, epoch):
        pass
    return epoch


def trained_in_turns(one: Train, other: Train, body: Body) -> tuple[Epoch, Epoch]:
    """Return an epoch of each, trained step by step in turns: what slows one slows both."""
    first, second = Epoch(), Epoch()
    for _ in zip(one(body, first), other(body, second), strict=True):
        pass
    return first, second


def others_cpu_ns() -> int:
    """Return the processor time that all threads but this one have used."""
    own = str(threading.get_native_id())
    used = 0
    for task in Path("/proc/self/task").iterdir():
        if task.name != own:
            used += int((task / "schedstat").read_text().split()[0])
    return used


def counted(train: Train, body: Body) -> int:
    """Return how many file-system calls Python code makes in an epoch."""
    calls: Counter[str] = Counter()

    def see(frame: Any, event: str, function: Any) -> None:
        del frame
        if event == "c_call" and getattr(function, "__module__", None) in FILE_MODULES:
            calls[function.__name__] += 1

    sys.setprofile(see)
    try:
        trained(train, body)
    finally:
        sys.setprofile(None)
    return sum(calls.values())


def added_ns(plain: Train, rival: Train, body: Body) -> float:
    """Return what the rival adds to a step: the median over an epoch's steps, taken in turns."""
    without, within = trained_in_turns(plain, rival, body)
    pairs = zip(within.gaps_ns[1:], without.gaps_ns[1:], strict=True)
    return statistics.median(one - other for one, other in pairs)


def serve(rival: Train, settled: Callable[[], bool], steps: int) -> None:
    """Answer the driver until it closes the pipe.

    Args:
        rival: trains for one epoch.
        settled: whether the rival has ended profiling.
        steps: of an epoch.
    """
    torch.set_num_threads(1)
    plain = Plain(steps)
    bodies: dict[str, Body] = {"data": nothing, "model": small_model()}
    answers = os.fdopen(int(sys.argv[3]), "w")  # what is printed must not come between them
    for line in sys.stdin:
        wish = json.loads(line)
        body = bodies[wish["body"]]
        if wish["who"] == "both":
            print(json.dumps(added_ns(plain.epoch, rival, body)), file=answers, flush=True)
            continue
        train = plain.epoch if wish["who"] == "plain" else rival
        if wish.get("count"):
            print(json.dumps(counted(train, body)), file=answers, flush=True)
            continue
        cpu, begin = others_cpu_ns(), clock()
        epoch = trained(train, body)
        answer = {
            "mean_ns": statistics.fmean(epoch.gaps_ns[1:]),
            "whole_ns": epoch.whole_ns,
            "wall_ns": clock() - begin,
            "others_cpu_ns": others_cpu_ns() - cpu,
            "settled": settled(),
        }
        print(json.dumps(answer), file=answers, flush=True)
