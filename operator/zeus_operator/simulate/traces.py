"""Recorded workloads: epochs to the target and cost per epoch by batch size.

Files of a trace folder (CSV, with a header):

* `summary_train.csv`: dataset, network, batch_size, optimizer, learning_rate,
  run, target_metric, target_epoch.  Each row at the job's target is one run
  that may be drawn, each equally likely; an empty or `nan` epoch did not reach it.
* `summary_power_<gpu>.csv`: dataset, network, batch_size, optimizer,
  power_limit (W), time_per_epoch (s), average_power (W).
* `jobs.json`, optional: per dataset what the files do not say; without it the
  jobs of the paper.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zeus_runtime.cost import cost_joules

_TARGET_TOLERANCE = 1e-9
_POWER_PREFIX = "summary_power_"


class TraceError(ValueError):
    """A trace folder lacks what is needed; the text says which file and what."""


@dataclass(frozen=True)
class TraceJob:
    """What a trace file does not say of a workload."""

    network: str
    optimizer: str
    target: float
    max_epochs: int
    default_batch_size: int
    higher_is_better: bool


PAPER_JOBS: Mapping[str, TraceJob] = {
    "cifar100": TraceJob("shufflenetv2", "adadelta", 0.6, 100, 1024, True),
    "imagenet": TraceJob("resnet50", "adadelta", 0.65, 100, 256, True),
    "librispeech": TraceJob("deepspeech2", "adamw", 40.0, 16, 256, False),
    "movielens-1m": TraceJob("ncf", "adam", 0.41, 100, 1024, True),
    "sentiment140": TraceJob("bert_base_uncased", "adamw", 0.84, 10, 128, True),
    "squad": TraceJob("bert_base_uncased", "adamw", 84.0, 6, 32, True),
}
"""The jobs of the paper (NSDI'23, table 1)."""


@dataclass(frozen=True)
class EpochCost:
    """What one epoch takes.  `cost` is in joules at the eta of the workload."""

    cost_joules: float
    energy_joules: float
    time_seconds: float


@dataclass(frozen=True)
class TraceArm:
    """One batch size of a recorded workload on one GPU model.

    Args:
        best: an epoch at the power limit of least cost.
        profiling: the first epoch of a first run: the mean over all power limits.
        full_power: an epoch at the largest power limit.
        target_epochs: one entry a recorded run; infinite if it never reached the target.
    """

    batch_size: int
    best: EpochCost
    profiling: EpochCost
    full_power: EpochCost
    target_epochs: tuple[float, ...]

    def expected_epochs(self, max_epochs: int) -> float:
        """Epochs paid per model: failed runs last `max_epochs` and are repeated."""
        reached = [epoch for epoch in self.target_epochs if epoch <= max_epochs]
        if not reached:
            return math.inf
        failed = len(self.target_epochs) - len(reached)
        return (sum(reached) + failed * max_epochs) / len(reached)


@dataclass(frozen=True)
class Workload:
    """A recorded workload on one GPU model, with costs at one eta."""

    name: str
    gpu: str
    arms: tuple[TraceArm, ...]
    default_batch_size: int
    max_epochs: int
    max_power_watts: float

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The arms, ascending."""
        return tuple(arm.batch_size for arm in self.arms)

    def arm(self, batch_size: int) -> TraceArm:
        """Return the arm of `batch_size`."""
        return self.arms[self.batch_sizes.index(batch_size)]

    @property
    def best_arm(self) -> TraceArm:
        """The arm of least expected cost."""
        return min(self.arms, key=self.expected_cost_joules)

    @property
    def best_arm_cost_joules(self) -> float:
        """Expected cost of one recurrence at the best arm and its best power limit."""
        return self.expected_cost_joules(self.best_arm)

    @property
    def default_cost_joules(self) -> float:
        """Expected cost of one recurrence at the default batch size and full power."""
        arm = self.arm(self.default_batch_size)
        return arm.expected_epochs(self.max_epochs) * arm.full_power.cost_joules

    def expected_cost_joules(self, arm: TraceArm) -> float:
        """Return the expected cost of one recurrence at `arm` and its best power limit."""
        return arm.expected_epochs(self.max_epochs) * arm.best.cost_joules


def load_jobs(path: Path) -> dict[str, TraceJob]:
    """Read a jobs file: JSON, dataset -> the fields of `TraceJob`.

    Raises:
        TraceError: the file is not of that form.
    """
    try:
        raw = json.loads(path.read_text())
        return {name: TraceJob(**fields) for name, fields in raw.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: {error}") from None


def gpus(folder: Path) -> list[str]:
    """Names of the GPU models that `folder` has power measurements of."""
    return sorted(p.stem.removeprefix(_POWER_PREFIX) for p in folder.glob(f"{_POWER_PREFIX}*.csv"))


def load_workloads(
    folder: Path, eta: float = 0.5, jobs: Mapping[str, TraceJob] | None = None
) -> list[Workload]:
    """Return every pair of workload and GPU model that `folder` holds, by name and GPU.

    Args:
        folder: the trace folder.
        eta: energy preference, for the costs.
        jobs: by dataset; None: `jobs.json` of the folder, else the paper's.

    Raises:
        TraceError: a file or column is missing, or there is nothing to simulate.
    """
    if jobs is None:
        own = folder / "jobs.json"
        jobs = load_jobs(own) if own.exists() else PAPER_JOBS
    epochs = _target_epochs(folder / "summary_train.csv", jobs)
    workloads = [
        workload
        for gpu in gpus(folder)
        for workload in _on_gpu(folder / f"{_POWER_PREFIX}{gpu}.csv", gpu, eta, jobs, epochs)
    ]
    if not workloads:
        raise TraceError(f"{folder} holds no workload with both {_POWER_PREFIX}*.csv and runs")
    return sorted(workloads, key=lambda w: (w.name, w.gpu))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.exists():
        raise TraceError(f"{path} is missing")
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


_Epochs = dict[str, dict[int, tuple[float, ...]]]


def _target_epochs(path: Path, jobs: Mapping[str, TraceJob]) -> _Epochs:
    found: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    known: dict[str, set[int]] = defaultdict(set)
    for row in _rows(path):
        job = jobs.get(row["dataset"])
        if job is None or (row["network"], row["optimizer"]) != (job.network, job.optimizer):
            continue
        batch_size = int(row["batch_size"])
        known[row["dataset"]].add(batch_size)
        if abs(float(row["target_metric"]) - job.target) > _TARGET_TOLERANCE:
            continue
        text = row["target_epoch"].strip().lower()
        epoch = float(text) if text not in ("", "nan") else math.inf
        found[row["dataset"]][batch_size].append(epoch)
    # A batch size whose runs never came near the target has no row at it: it never reaches it.
    return {
        name: {size: tuple(found[name].get(size, [math.inf])) for size in sorted(sizes)}
        for name, sizes in known.items()
    }


def _on_gpu(
    path: Path, gpu: str, eta: float, jobs: Mapping[str, TraceJob], epochs: _Epochs
) -> Iterator[Workload]:
    measured: defaultdict[str, defaultdict[int, dict[float, tuple[float, float]]]]
    measured = defaultdict(lambda: defaultdict(dict))
    max_power_watts = 0.0
    for row in _rows(path):
        limit_watts = float(row["power_limit"])
        max_power_watts = max(max_power_watts, limit_watts)
        job = jobs.get(row["dataset"])
        if job is None or (row["network"], row["optimizer"]) != (job.network, job.optimizer):
            continue
        seconds, watts = float(row["time_per_epoch"]), float(row["average_power"])
        measured[row["dataset"]][int(row["batch_size"])][limit_watts] = (seconds, watts)
    for name, sizes in measured.items():
        arms = tuple(
            _arm(size, sizes[size], max_power_watts, eta, epochs[name][size])
            for size in sorted(sizes)
            if size in epochs.get(name, {})
        )
        job = jobs[name]
        offered = [arm.batch_size for arm in arms if arm.batch_size <= job.default_batch_size]
        if offered:
            default = max(offered)
            yield Workload(name, gpu, arms, default, job.max_epochs, max_power_watts)


def _arm(
    batch_size: int,
    limits: dict[float, tuple[float, float]],
    max_power_watts: float,
    eta: float,
    target_epochs: tuple[float, ...],
) -> TraceArm:
    points = [
        EpochCost(
            cost_joules(watts * seconds, seconds, max_power_watts, eta), watts * seconds, seconds
        )
        for _, (seconds, watts) in sorted(limits.items())
    ]
    count = len(points)
    mean = EpochCost(
        sum(p.cost_joules for p in points) / count,
        sum(p.energy_joules for p in points) / count,
        sum(p.time_seconds for p in points) / count,
    )
    best = min(points, key=lambda p: p.cost_joules)
    return TraceArm(batch_size, best, mean, points[-1], target_epochs)
