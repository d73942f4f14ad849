"""A job group replayed in time, with its overlapping runs.

Rules: runs start when the group's trace says, and an attempt that trains takes
as long as its row's run did, whatever its batch size: what overlaps what is a
property of the arrivals, not of the policy.  An attempt that its threshold did
not pay an epoch for takes no time.  What ends at a time is observed before what
starts at it is decided.  A run that did not reach the target is tried again at
once, as often as a recurrence may be.  Power limits are known to a batch size
once a run that profiled them has ended.  As in the published simulation, the
policy sees what the recorded run took; the sums weigh it by the row's
`runtime_ratio`.
"""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass

from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.types import Situation
from zeus_operator.simulate.attempt import Attempt, Recordings
from zeus_operator.simulate.groups import GroupRun, JobGroup
from zeus_operator.simulate.single_job import ATTEMPTS, observation_of, problem_of
from zeus_operator.simulate.workload import Workload


@dataclass(frozen=True)
class GroupHistory:
    """What one group took under a policy, weighed by the runtime ratios.

    Args:
        attempts: of all runs together, those without an epoch included.
        failed: runs that ended without a model.
    """

    cost_joules: float
    energy_joules: float
    time_seconds: float
    attempts: int
    failed: int


def replay_group(
    workload: Workload,
    policy: FoldingPolicy,
    group: JobGroup,
    seed: int,
    attempts: int = ATTEMPTS,
) -> GroupHistory:
    """Replay `group`, a recurring job of `workload` that starts without any history.

    Groups of one seed have luck of their own, which every policy shares.
    """
    return _Replay(workload, policy, group, seed, attempts).run()


@dataclass(frozen=True)
class _Running:
    """An attempt under way in the run of a row."""

    row: GroupRun
    situation: Situation
    attempt: Attempt


class _Replay:
    def __init__(
        self, workload: Workload, policy: FoldingPolicy, group: JobGroup, seed: int, attempts: int
    ) -> None:
        self._seed = zlib.crc32(f"{seed}/{group.name}".encode())
        self._learner = policy.begin(problem_of(workload, attempts))
        self._recordings = Recordings(workload, self._seed)
        self._group = group
        self._most_attempts = attempts
        self._profiled: set[int] = set()
        self._running: dict[int, _Running] = {}  # by recurrence, in the order of their start
        self._ends: list[tuple[float, int, int]] = []  # time, number of the attempt, recurrence
        self._cost = self._energy = self._seconds = 0.0
        self._attempts = self._failed = self._observed = 0

    def run(self) -> GroupHistory:
        for recurrence, row in enumerate(self._group.runs, start=1):
            self._end_until(row.start_seconds)
            self._try(row, recurrence, row.start_seconds, ())
        self._end_until(float("inf"))
        return GroupHistory(self._cost, self._energy, self._seconds, self._attempts, self._failed)

    def _end_until(self, now: float) -> None:
        """End what ends by `now`, in order; a retry that ends by then too is ended as well."""
        while self._ends and self._ends[0][0] <= now:
            time, _, recurrence = heapq.heappop(self._ends)
            ended = self._running.pop(recurrence)
            self._observe(ended.situation, ended.attempt)
            spent, ratio = ended.attempt.spent, ended.row.runtime_ratio
            self._cost += ratio * spent.cost_joules
            self._energy += ratio * spent.energy_joules
            self._seconds += ratio * spent.time_seconds
            if not ended.attempt.reached:
                failed = (*ended.situation.failed, ended.attempt.batch_size)
                self._try(ended.row, recurrence, time, failed)

    def _try(self, row: GroupRun, recurrence: int, now: float, failed: tuple[int, ...]) -> None:
        """Start attempts until one trains, or there is none left."""
        gpu = self._recordings.workload.gpu
        while len(failed) < self._most_attempts:
            in_flight = tuple(r.attempt.batch_size for r in self._running.values())
            situation = Situation(recurrence, failed, in_flight, gpu_model=gpu)
            choice = self._learner.choose(situation, self._seed)
            size = choice.batch_size
            attempt = self._recordings.attempt(choice, profiles=size not in self._profiled)
            self._attempts += 1
            if attempt.epochs > 0:
                self._running[recurrence] = _Running(row, situation, attempt)
                end = now + row.duration_seconds
                heapq.heappush(self._ends, (end, self._attempts, recurrence))
                return
            self._observe(situation, attempt)
            failed = (*failed, size)
        self._failed += 1

    def _observe(self, situation: Situation, attempt: Attempt) -> None:
        if attempt.profiled:
            self._profiled.add(attempt.batch_size)
        self._observed += 1
        self._learner.observe(observation_of(attempt, self._observed, situation, self._recordings))


@dataclass(frozen=True)
class GroupTask:
    """One replay of a batch; picklable."""

    workload: Workload
    policy: FoldingPolicy
    group: JobGroup
    seed: int

    def run(self) -> GroupHistory:
        """Simulate."""
        return replay_group(self.workload, self.policy, self.group, self.seed)
