"""Recorded workloads: epochs to the target and cost per epoch by batch size.

Files of a trace folder (CSV, with a header):

* `summary_train.csv`: dataset, network, batch_size, optimizer, learning_rate,
  run, target_metric, target_epoch.  Each row at the job's target is one run
  that may be drawn, each equally likely; an empty or `nan` epoch did not reach
  it.  The rows of the same run at other levels of the metric are its milestones.
* `summary_power_<gpu>.csv`: dataset, network, batch_size, optimizer,
  power_limit (W), time_per_epoch (s), average_power (W).
* `jobs.json`, optional: per dataset what the files do not say; without it the
  jobs of the paper.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zeus_operator.simulate.jobs import PAPER_JOBS, TraceJob, load_jobs
from zeus_operator.simulate.rows import Row, TraceError, read_rows
from zeus_operator.simulate.workload import EpochCost, Milestones, TraceArm, Workload
from zeus_runtime.cost import cost_joules

__all__ = [
    "PAPER_JOBS",
    "EpochCost",
    "TraceArm",
    "TraceError",
    "TraceJob",
    "Workload",
    "datasets",
    "gpus",
    "jobs_of",
    "load_jobs",
    "load_workloads",
]

_TARGET_TOLERANCE = 1e-9
_TRAIN_FILE = "summary_train.csv"
_POWER_PREFIX = "summary_power_"
_IDENTITY = ("dataset", "network", "batch_size", "optimizer")
_TRAIN_COLUMNS = (*_IDENTITY, "learning_rate", "run", "target_metric", "target_epoch")
_POWER_COLUMNS = (*_IDENTITY, "power_limit", "time_per_epoch", "average_power")


def gpus(folder: Path) -> list[str]:
    """Names of the GPU models that `folder` has power measurements of."""
    return sorted(p.stem.removeprefix(_POWER_PREFIX) for p in folder.glob(f"{_POWER_PREFIX}*.csv"))


def jobs_of(folder: Path) -> Mapping[str, TraceJob]:
    """Return the jobs of the folder's own `jobs.json`, else the paper's.

    Raises:
        TraceError: `jobs.json` is malformed.
    """
    own = folder / "jobs.json"
    return load_jobs(own) if own.exists() else PAPER_JOBS


def datasets(folder: Path) -> list[str]:
    """Names of all datasets that `folder` has training runs of, with or without a job.

    Raises:
        TraceError: `summary_train.csv` is missing or malformed.
    """
    path = folder / _TRAIN_FILE
    if not path.exists():
        raise TraceError(
            f"{path} is missing; a trace folder holds {_TRAIN_FILE} and "
            f"{_POWER_PREFIX}<gpu>.csv for each GPU model"
        )
    return sorted({row.text("dataset") for row in read_rows(path, _TRAIN_COLUMNS)})


def load_workloads(
    folder: Path,
    eta: float = 0.5,
    jobs: Mapping[str, TraceJob] | None = None,
    on_gpus: Collection[str] | None = None,
) -> list[Workload]:
    """Return every pair of workload and GPU model that `folder` holds, by name and GPU.

    Args:
        folder: the trace folder.
        eta: energy preference, for the costs.
        jobs: by dataset; None: `jobs.json` of the folder, else the paper's.
        on_gpus: GPU models to load; None: all of the folder.

    Raises:
        TraceError: a file or column is missing, a value is wrong, or there is nothing
            to simulate.
    """
    if jobs is None:
        jobs = jobs_of(folder)
    runs = _recorded_runs(folder / _TRAIN_FILE, jobs)
    found = gpus(folder)
    if not found:
        raise TraceError(
            f"{folder} holds no power measurements; needed: {_POWER_PREFIX}<gpu>.csv, "
            "one file for each GPU model"
        )
    workloads = [
        workload
        for gpu in found
        if on_gpus is None or gpu in on_gpus
        for workload in _on_gpu(folder / f"{_POWER_PREFIX}{gpu}.csv", gpu, eta, jobs, runs)
    ]
    if not workloads:
        raise TraceError(
            f"{folder} holds no workload of the jobs {', '.join(sorted(jobs))} with both "
            f"{_POWER_PREFIX}*.csv and runs; name the folder's own workloads in a jobs file"
        )
    return sorted(workloads, key=lambda w: (w.name, w.gpu))


@dataclass(frozen=True)
class _Runs:
    """The recorded runs of one batch size, in the order of the file."""

    target_epochs: tuple[float, ...]
    milestones: tuple[Milestones, ...]


_RunsByArm = dict[str, dict[int, _Runs]]


def _is_of(row: Row, job: TraceJob | None) -> bool:
    if job is None:
        return False
    return (row.text("network"), row.text("optimizer")) == (job.network, job.optimizer)


_Run = tuple[str, str]  # learning rate and run: what tells the runs of an arm apart
_Levels = dict[_Run, list[tuple[float, float]]]  # (epoch, level of the metric), by run


def _recorded_runs(path: Path, jobs: Mapping[str, TraceJob]) -> _RunsByArm:
    levels: dict[str, dict[int, _Levels]] = {}
    at_target: dict[str, dict[int, list[tuple[_Run, float]]]] = {}
    for row in read_rows(path, _TRAIN_COLUMNS):
        name = row.text("dataset")
        job = jobs.get(name)
        if job is None or not _is_of(row, job):
            continue
        batch_size = row.whole("batch_size")
        run = (row.text("learning_rate"), row.text("run"))
        level, epoch = row.number("target_metric"), row.epoch("target_epoch")
        sizes = levels.setdefault(name, {})
        sizes.setdefault(batch_size, {}).setdefault(run, []).append((epoch, level))
        if abs(level - job.target) <= _TARGET_TOLERANCE:
            found = at_target.setdefault(name, {}).setdefault(batch_size, [])
            found.append((run, epoch))
    for name in levels:
        if name not in at_target:
            raise TraceError(_no_target(path, name, jobs[name], levels[name]))
    return {
        name: {
            size: _runs_of(sizes[size], at_target[name].get(size), jobs[name])
            for size in sorted(sizes)
        }
        for name, sizes in levels.items()
    }


def _no_target(path: Path, name: str, job: TraceJob, sizes: Mapping[int, _Levels]) -> str:
    rows = [row for levels in sizes.values() for run in levels.values() for row in run]
    known = ", ".join(f"{level:g}" for level in sorted({level for _, level in rows}))
    return (
        f"{path}: no row of {name} has target_metric {job.target:g}, the target of its job; "
        f"the file has {known}"
    )


def _runs_of(
    levels: _Levels, at_target: Sequence[tuple[_Run, float]] | None, job: TraceJob
) -> _Runs:
    # A batch size whose runs never came near the target has no row at it: it never reaches it.
    drawn = at_target or [(run, math.inf) for run in levels]
    return _Runs(
        target_epochs=tuple(epoch for _, epoch in drawn),
        milestones=tuple(_milestones(levels[run], job.higher_is_better) for run, _ in drawn),
    )


def _milestones(rows: list[tuple[float, float]], higher_is_better: bool) -> Milestones:
    """Return the hardest level reached by each epoch at which a new one was reached.

    Args:
        rows: (epoch, level), the epoch infinite where the level was not reached.
        higher_is_better: of the metric.
    """
    sign = 1.0 if higher_is_better else -1.0
    hardest: dict[int, float] = {}
    best = -math.inf
    for epoch, level in sorted(rows):
        if math.isfinite(epoch) and sign * level > best:
            best = sign * level
            hardest[int(epoch)] = level
    return tuple(hardest.items())


def _on_gpu(
    path: Path, gpu: str, eta: float, jobs: Mapping[str, TraceJob], runs: _RunsByArm
) -> Iterator[Workload]:
    measured: defaultdict[str, defaultdict[int, dict[float, tuple[float, float]]]]
    measured = defaultdict(lambda: defaultdict(dict))
    max_power_watts = 0.0
    for row in read_rows(path, _POWER_COLUMNS):
        limit_watts = row.positive("power_limit")
        max_power_watts = max(max_power_watts, limit_watts)
        name = row.text("dataset")
        if not _is_of(row, jobs.get(name)):
            continue
        seconds, watts = row.positive("time_per_epoch"), row.positive("average_power")
        measured[name][row.whole("batch_size")][limit_watts] = (seconds, watts)
    for name, sizes in measured.items():
        arms = tuple(
            _arm(size, sizes[size], max_power_watts, eta, runs[name][size])
            for size in sorted(sizes)
            if size in runs.get(name, {})
        )
        if arms:
            default = _default(path, name, jobs[name], arms)
            yield _checked(
                Workload(name, gpu, arms, default, jobs[name].max_epochs, max_power_watts),
                path,
                jobs[name],
            )


def _default(path: Path, name: str, job: TraceJob, arms: Sequence[TraceArm]) -> int:
    """Return the job's default, lowered to the largest batch size that the GPU's file has."""
    offered = [arm.batch_size for arm in arms]
    if job.default_batch_size < offered[0]:
        raise TraceError(
            f"{path}: every batch size of {name} ({', '.join(map(str, offered))}) is above the "
            f"default of its job, {job.default_batch_size}; correct it in a jobs file"
        )
    return max(size for size in offered if size <= job.default_batch_size)


def _checked(workload: Workload, path: Path, job: TraceJob) -> Workload:
    if math.isinf(workload.best_arm_cost_joules):
        raise TraceError(
            f"{path.parent / _TRAIN_FILE}: no run of {workload.name} reaches the target "
            f"{job.target:g} within {job.max_epochs} epochs at a batch size that {path.name} "
            "has; choose an easier target or more epochs in a jobs file"
        )
    return workload


def _arm(
    batch_size: int,
    limits: Mapping[float, tuple[float, float]],
    max_power_watts: float,
    eta: float,
    runs: _Runs,
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
    return TraceArm(batch_size, best, mean, points[-1], runs.target_epochs, runs.milestones)
