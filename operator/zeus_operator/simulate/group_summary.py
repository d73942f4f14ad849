"""What the replayed groups of one workload took together, against always the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zeus_operator.simulate.groups import JobGroup
from zeus_operator.simulate.replay import GroupHistory
from zeus_operator.simulate.workload import Workload

RECORDED, SYNTHETIC = "recorded", "synthetic"


@dataclass(frozen=True)
class GroupSummary:
    """All groups of a workload on one GPU model under a policy; means are over the seeds.

    Args:
        arrivals: "recorded", or "synthetic" if a generator made any of the groups.
        groups, runs: how many there are.
        overlapping_runs: runs that start before an earlier one of their group ended.
        cost_mean, energy_joules_mean, time_seconds_mean: of all runs together, each weighed
            by its runtime ratio.
        cost_default, energy_joules_default, time_seconds_default: the same if every run took
            the default batch size at full power, expected.
        attempts_mean: attempts of all runs together.
        failed_mean: runs that ended without a model.
        worse_than_default: share of the seeds whose sum costs more than the default's.
    """

    workload: str
    gpu: str
    policy: str
    arrivals: str
    groups: int
    runs: int
    overlapping_runs: int
    seeds: int
    cost_mean: float
    cost_default: float
    energy_joules_mean: float
    energy_joules_default: float
    time_seconds_mean: float
    time_seconds_default: float
    attempts_mean: float
    failed_mean: float
    worse_than_default: float


def arrivals_of(groups: Sequence[JobGroup]) -> str:
    """Return "synthetic" if a generator made any of `groups`, else "recorded"."""
    return SYNTHETIC if any(group.synthetic for group in groups) else RECORDED


def summarize_groups(
    workload: Workload,
    policy: str,
    groups: Sequence[JobGroup],
    histories: Sequence[Sequence[GroupHistory]],
) -> GroupSummary:
    """Return the summary of all groups of `workload`.

    Args:
        workload: the one that the groups recur.
        policy: its name.
        groups: all of the workload's.
        histories: one entry a seed, each with one history a group.

    Raises:
        ValueError: there is no group or no seed.
    """
    if not groups or not histories:
        raise ValueError("needs at least one group and one seed")
    seeds = len(histories)
    weight = sum(run.runtime_ratio for group in groups for run in group.runs)
    default = workload.default_recurrence.times(weight)
    costs = [sum(h.cost_joules for h in of_seed) for of_seed in histories]
    every = [history for of_seed in histories for history in of_seed]
    return GroupSummary(
        workload=workload.name,
        gpu=workload.gpu,
        policy=policy,
        arrivals=arrivals_of(groups),
        groups=len(groups),
        runs=sum(len(group.runs) for group in groups),
        overlapping_runs=sum(group.overlapping_runs for group in groups),
        seeds=seeds,
        cost_mean=sum(costs) / seeds,
        cost_default=default.cost_joules,
        energy_joules_mean=sum(h.energy_joules for h in every) / seeds,
        energy_joules_default=default.energy_joules,
        time_seconds_mean=sum(h.time_seconds for h in every) / seeds,
        time_seconds_default=default.time_seconds,
        attempts_mean=sum(h.attempts for h in every) / seeds,
        failed_mean=sum(h.failed for h in every) / seeds,
        worse_than_default=sum(cost > default.cost_joules for cost in costs) / seeds,
    )
