"""The measurements that the GPU model is fitted to, read from where they lie.

Two sources, neither kept in this repository:

* `ZEUS_GPU_PROFILES`: windows of equal work under each power limit, single GPU
  (`<GPU>+<network>+gpu0.csv`): time and energy, batch size not recorded.
* `ZEUS_TRACES`: `summary_power_<gpu>.csv`, time per epoch and mean power by batch size and
  power limit.  Of several folders the first counts: others may borrow its measurements.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GPUS = ("V100", "A40")
NETWORKS = {
    "shufflenetv2": "shufflenetv2",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "bert": "bert-base-uncased",
}
"""Workload of the simulator -> network in the names of the window files."""

_TRACED = {"shufflenetv2": "shufflenetv2", "resnet50": "resnet50", "bert": "bert_base_uncased"}
_SAMPLES_PER_EPOCH = {
    "cifar100": 50_000,
    "imagenet": 1_281_167,
    # Not in the trace: 80% of the 1.6 million.  It scales step times and nothing else.
    "sentiment140": 1_280_000,
}


class MissingMeasurementsError(RuntimeError):
    """The folder of the measurements is not named or not there."""


@dataclass(frozen=True)
class Window:
    """Equal work under one power limit."""

    limit_watts: float
    seconds: float
    joules: float


@dataclass(frozen=True)
class Step:
    """The mean training step of one batch size under one power limit."""

    samples: int
    limit_watts: float
    seconds: float
    joules: float


def _folder(variable: str) -> Path:
    named = os.environ.get(variable)
    if not named:
        raise MissingMeasurementsError(f"set {variable} to the folder with the measurements")
    first = Path(named.split(os.pathsep)[0])
    if not first.is_dir():
        raise MissingMeasurementsError(f"{variable}: {first} is no folder")
    return first


def windows(gpu: str, workload: str) -> tuple[Window, ...]:
    """Return the windows of `workload` on one `gpu`, highest limit first."""
    path = _folder("ZEUS_GPU_PROFILES") / f"{gpu}+{NETWORKS[workload]}+gpu0.csv"
    with path.open() as file:
        return tuple(
            Window(
                limit_watts=float(row["window_name"].rsplit("_", 1)[1]),
                seconds=float(row["elapsed_time"]),
                joules=float(row["gpu0_energy"]),
            )
            for row in csv.DictReader(file)
        )


def steps(gpu: str, workload: str) -> tuple[Step, ...]:
    """Return the steps of `workload` on `gpu` by batch size and limit; empty if not traced."""
    return tuple(_steps(gpu, workload)) if workload in _TRACED else ()


def _steps(gpu: str, workload: str) -> Iterator[Step]:
    path = _folder("ZEUS_TRACES") / f"summary_power_{gpu.lower()}.csv"
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["network"] != _TRACED[workload]:
                continue
            samples = int(row["batch_size"])
            seconds = float(row["time_per_epoch"]) * samples / _SAMPLES_PER_EPOCH[row["dataset"]]
            yield Step(
                samples=samples,
                limit_watts=float(row["power_limit"]),
                seconds=seconds,
                joules=seconds * float(row["average_power"]),
            )
