"""Policies compared on many workloads: all simulations, then a summary of each pair.

A pair is a workload on a GPU model.  Nothing here depends on how many processes
do the work: results come in the order of the tasks, and each task has its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.simulate.curves import Curves, curves
from zeus_operator.simulate.group_summary import GroupSummary, summarize_groups
from zeus_operator.simulate.groups import JobGroup
from zeus_operator.simulate.pool import simulate_many
from zeus_operator.simulate.replay import GroupTask
from zeus_operator.simulate.single_job import Task
from zeus_operator.simulate.summary import Summary, summarize
from zeus_operator.simulate.workload import Workload

T = TypeVar("T")
OnProgress = Callable[[int, int], None]
"""Called with the simulations done so far and all of them."""


@dataclass(frozen=True)
class PairResult:
    """One workload on one GPU model under one policy.

    Args:
        summaries: one for each number of recurrences asked for, ascending.
        curves: up to the largest of them.
    """

    workload: Workload
    policy: str
    summaries: tuple[Summary, ...]
    curves: Curves


@dataclass(frozen=True)
class Effort:
    """How much is simulated.

    Args:
        seeds: histories of each pair and policy.
        processes: that share the work.
    """

    seeds: int
    processes: int = 1


def compare(
    workloads: Sequence[Workload],
    policies: Sequence[FoldingPolicy],
    recurrences: Sequence[int],
    effort: Effort,
    on_progress: OnProgress,
) -> list[PairResult]:
    """Simulate every workload under every policy, run after run.

    Args:
        workloads: the pairs.
        policies: to compare, on the same luck.
        recurrences: after how many to sum up; not empty.
        effort: seeds and processes.
        on_progress: is told after each history.
    """
    pairs = [(workload, policy) for workload in workloads for policy in policies]
    longest = max(recurrences)
    tasks = [
        Task(workload, policy, longest, seed)
        for workload, policy in pairs
        for seed in range(effort.seeds)
    ]
    found = _counted(simulate_many(tasks, effort.processes), len(tasks), on_progress)
    results = []
    for workload, policy in pairs:
        histories = list(islice(found, effort.seeds))
        summaries = [
            summarize(workload, policy.name, histories, count) for count in sorted(set(recurrences))
        ]
        shown = curves(workload, histories)
        results.append(PairResult(workload, policy.name, tuple(summaries), shown))
    return results


def compare_groups(
    workloads: Sequence[Workload],
    policies: Sequence[FoldingPolicy],
    groups: Sequence[JobGroup],
    effort: Effort,
    on_progress: OnProgress,
) -> list[GroupSummary]:
    """Replay the groups of every workload under every policy; one without groups is left out."""
    parts = [
        (workload, policy, own)
        for workload in workloads
        if (own := [group for group in groups if group.dataset == workload.name])
        for policy in policies
    ]
    tasks = [
        GroupTask(workload, policy, group, seed)
        for workload, policy, own in parts
        for seed in range(effort.seeds)
        for group in own
    ]
    found = _counted(simulate_many(tasks, effort.processes), len(tasks), on_progress)
    return [
        summarize_groups(
            workload,
            policy.name,
            own,
            [list(islice(found, len(own))) for _ in range(effort.seeds)],
        )
        for workload, policy, own in parts
    ]


def _counted(results: Iterator[T], total: int, on_progress: OnProgress) -> Iterator[T]:
    for done, result in enumerate(results, start=1):
        on_progress(done, total)
        yield result
