"""A synthetic arrival process of job groups, where no recorded one can be had.

It is nobody's cluster.  A group recurs at a fixed period with jitter; its runs
take lognormal times around the group's own mean, so that some start before the
one before them ended.  The number of runs of a group is geometric: most groups
are short, a few are long.  Groups are named `synthetic-...`.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

from zeus_operator.simulate.groups import SYNTHETIC_PREFIX, GroupRun, JobGroup

_NORMAL = NormalDist()
_LEAST_UNIFORM = 1e-12
_PERIODS_SECONDS = (3600.0, 86400.0)  # an hour to a day, log-uniform


@dataclass(frozen=True)
class ArrivalProcess:
    """What the synthetic groups are like.

    Args:
        groups: how many.
        runs: mean number of runs of a group.
        load: mean run time over the mean time between two starts; above 1 most runs overlap.
        jitter: of the time between two starts, uniform, as a share of the period; 0 to 1.
        spread: standard deviation of the logarithm of the run time, once between the groups
            and once between the runs of a group.
        seed: the same seed gives the same groups.
    """

    groups: int = 60
    runs: float = 30.0
    load: float = 0.5
    jitter: float = 0.3
    spread: float = 0.5
    seed: int = 0


def synthetic_groups(datasets: Sequence[str], process: ArrivalProcess) -> tuple[JobGroup, ...]:
    """Return groups of `datasets` in turn.

    Raises:
        ValueError: there is no dataset, or a number of `process` is out of its range.
    """
    _check(datasets, process)
    # `random.random()` from a text seed is the one stream that Python promises to keep.
    stream = random.Random(f"arrivals/{process.seed}")
    width = len(str(process.groups))
    groups = [
        JobGroup(
            f"{SYNTHETIC_PREFIX}{number:0{width}}",
            datasets[(number - 1) % len(datasets)],
            _runs(stream, process),
        )
        for number in range(1, process.groups + 1)
    ]
    return _with_ratios(groups)


def _check(datasets: Sequence[str], process: ArrivalProcess) -> None:
    if not datasets:
        raise ValueError("synthetic groups need at least one workload")
    if process.groups < 1 or not (math.isfinite(process.runs) and process.runs >= 1.0):
        raise ValueError("groups and runs must be at least 1")
    if not (math.isfinite(process.load) and process.load > 0.0):
        raise ValueError("load must be above 0")
    if not 0.0 <= process.jitter <= 1.0:
        raise ValueError("jitter must be between 0 and 1")
    if not 0.0 <= process.spread <= 3.0:
        raise ValueError("spread must be between 0 and 3")


def _runs(stream: random.Random, process: ArrivalProcess) -> tuple[GroupRun, ...]:
    shortest, longest = _PERIODS_SECONDS
    period = shortest * (longest / shortest) ** stream.random()
    mean_duration = period * process.load * _lognormal(stream, process.spread)
    start = period * stream.random()
    found = []
    for _ in range(_geometric(stream, process.runs)):
        duration = mean_duration * _lognormal(stream, process.spread)
        found.append(GroupRun(start, start + duration, 1.0))
        start += period * (1.0 + process.jitter * (2.0 * stream.random() - 1.0))
    return tuple(found)


def _lognormal(stream: random.Random, spread: float) -> float:
    """Return a draw of mean 1."""
    uniform = min(max(stream.random(), _LEAST_UNIFORM), 1.0 - _LEAST_UNIFORM)
    return math.exp(spread * _NORMAL.inv_cdf(uniform) - spread**2 / 2.0)


def _geometric(stream: random.Random, mean: float) -> int:
    """Return a draw from 1, 2, ... of that mean."""
    uniform = max(1.0 - stream.random(), _LEAST_UNIFORM)
    if mean == 1.0:
        return 1
    return 1 + math.floor(math.log(uniform) / math.log1p(-1.0 / mean))


def _with_ratios(groups: Sequence[JobGroup]) -> tuple[JobGroup, ...]:
    durations: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        durations[group.dataset] += [run.duration_seconds for run in group.runs]
    means = {dataset: fmean(values) for dataset, values in durations.items()}
    return tuple(
        replace(
            group,
            runs=tuple(
                replace(run, runtime_ratio=run.duration_seconds / means[group.dataset])
                for run in group.runs
            ),
        )
        for group in groups
    )
