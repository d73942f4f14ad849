"""One recurring job on a trace, run after run.

Rules: the first run of an arm pays the mean over all power limits for its
first epoch (profiling), every other epoch costs what the best limit costs.  A
run may do as many epochs as its threshold pays for at that cost, and at most
`max_epochs`; where that is none the attempt failed at no cost.  The recurrence
goes on with another attempt until the target is reached or it is out of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.types import Observation, Problem, Situation
from zeus_operator.simulate.traces import Workload
from zeus_runtime.protocol import Outcome

ATTEMPTS = 20
_EPOCH_TOLERANCE = 1e-9  # so that a threshold of exactly n epochs pays for n of them


@dataclass
class History:
    """What one simulated job did; entry i is recurrence i + 1.

    Args:
        cost_joules, energy_joules, time_seconds: of each recurrence, failed attempts included.
        batch_sizes: of the last attempt of each recurrence.
        attempts: how many each recurrence took.
        reached: whether it ended with a model.
    """

    cost_joules: list[float] = field(default_factory=list)
    energy_joules: list[float] = field(default_factory=list)
    time_seconds: list[float] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)


def problem_of(workload: Workload, attempts: int = ATTEMPTS) -> Problem:
    """Return the policy's view of `workload`.

    The product gives the last attempt to the default without a threshold; the
    published simulation does not, so its last attempt is one that never comes.
    """
    return Problem(
        batch_sizes=workload.batch_sizes,
        default_batch_size=workload.default_batch_size,
        max_epochs=workload.max_epochs,
        max_attempts=attempts + 1,
    )


def simulate_job(
    workload: Workload,
    policy: FoldingPolicy,
    recurrences: int,
    seed: int,
    attempts: int = ATTEMPTS,
) -> History:
    """Run `recurrences` recurrences of one job and return what they cost.

    The n-th run of an arm draws the same recorded run under every policy of
    the same seed, so that policies are compared on the same luck.
    """
    return _Job(workload, policy, seed, attempts).run(recurrences)


class _Job:
    def __init__(self, workload: Workload, policy: FoldingPolicy, seed: int, attempts: int) -> None:
        self._workload = workload
        self._learner = policy.begin(problem_of(workload, attempts))
        self._seed = seed
        self._attempts = attempts
        self._arms = {arm.batch_size: arm for arm in workload.arms}
        self._streams = {size: random.Random(f"trace/{seed}/{size}") for size in self._arms}
        self._profiled: set[int] = set()
        self._next_id = 1

    def run(self, recurrences: int) -> History:
        history = History()
        for recurrence in range(1, recurrences + 1):
            self._recur(recurrence, history)
        return history

    def _recur(self, recurrence: int, history: History) -> None:
        cost = energy = seconds = 0.0
        failed: tuple[int, ...] = ()
        for _ in range(self._attempts):
            situation = Situation(recurrence, failed, gpu_model=self._workload.gpu)
            choice = self._learner.choose(situation, self._seed)
            size = choice.batch_size
            outcome, epochs, spent = self._attempt(size, choice.cost_threshold_joules)
            cost, energy, seconds = cost + spent[0], energy + spent[1], seconds + spent[2]
            self._learner.observe(
                Observation(
                    attempt_id=self._next_id,
                    recurrence=recurrence,
                    attempt=situation.attempt,
                    batch_size=size,
                    outcome=outcome,
                    epochs=epochs,
                    cost_joules=spent[0],
                    epoch_cost_joules=self._arms[size].best.cost_joules,
                    gpu_model=self._workload.gpu,
                )
            )
            self._next_id += 1
            if outcome is Outcome.REACHED:
                break
            failed += (size,)
        history.cost_joules.append(cost)
        history.energy_joules.append(energy)
        history.time_seconds.append(seconds)
        history.batch_sizes.append(size)
        history.attempts.append(situation.attempt)
        history.reached.append(outcome is Outcome.REACHED)

    def _attempt(
        self, size: int, threshold_joules: float | None
    ) -> tuple[Outcome, int, tuple[float, float, float]]:
        """Return the outcome, the epochs done, and (cost, energy, seconds)."""
        arm = self._arms[size]
        allowed = self._workload.max_epochs
        if threshold_joules is not None:
            paid_for = threshold_joules / arm.best.cost_joules + _EPOCH_TOLERANCE
            allowed = math.floor(min(paid_for, allowed))
        if allowed < 1:
            return Outcome.COST_EXCEEDED, 0, (0.0, 0.0, 0.0)
        target = arm.target_epochs[int(self._streams[size].random() * len(arm.target_epochs))]
        reached = target <= allowed
        epochs = int(target) if reached else allowed
        first = arm.best if size in self._profiled else arm.profiling
        self._profiled.add(size)
        rest, best = epochs - 1, arm.best
        spent = (
            first.cost_joules + rest * best.cost_joules,
            first.energy_joules + rest * best.energy_joules,
            first.time_seconds + rest * best.time_seconds,
        )
        if reached:
            return Outcome.REACHED, epochs, spent
        whole = epochs >= self._workload.max_epochs
        return (Outcome.MAX_EPOCHS if whole else Outcome.COST_EXCEEDED), epochs, spent


@dataclass(frozen=True)
class Task:
    """One simulation of a batch; picklable."""

    workload: Workload
    policy: FoldingPolicy
    recurrences: int
    seed: int

    def run(self) -> History:
        """Simulate."""
        return simulate_job(self.workload, self.policy, self.recurrences, self.seed)


def simulate_many(tasks: Iterable[Task], processes: int = 1) -> Iterable[History]:
    """Simulate `tasks`, in order, over `processes` processes."""
    if processes <= 1:
        return map(Task.run, tasks)
    return _in_pool(list(tasks), processes)


def _in_pool(tasks: list[Task], processes: int) -> Iterable[History]:
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(Task.run, tasks, chunksize=max(1, min(50, len(tasks) // processes)))
