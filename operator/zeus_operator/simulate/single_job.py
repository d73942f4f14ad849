"""One recurring job on a trace, run after run.

Rules: the first run of an arm pays the mean over all power limits for its
first epoch (profiling), every other epoch costs what the best limit costs.  A
run may do as many epochs as its threshold pays for at that cost, and at most
`max_epochs`; where that is none the attempt failed at no cost.  A stop rule is
asked after each epoch that missed the target.  A throughput sweep costs a
hundredth of its run for each batch size that it measures.  The recurrence goes
on with another attempt until the target is reached or it is out of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.types import Observation, Problem, Situation
from zeus_operator.simulate.attempt import Attempt, Recordings
from zeus_operator.simulate.pool import simulate_many
from zeus_operator.simulate.workload import Workload

__all__ = ["ATTEMPTS", "History", "Task", "problem_of", "simulate_job", "simulate_many"]

ATTEMPTS = 20


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


def observation_of(
    attempt: Attempt, attempt_id: int, situation: Situation, recordings: Recordings
) -> Observation:
    """Return what a policy learns from an attempt that has ended."""
    arm = recordings.arm(attempt.batch_size)
    return Observation(
        attempt_id=attempt_id,
        recurrence=situation.recurrence,
        attempt=situation.attempt,
        batch_size=attempt.batch_size,
        outcome=attempt.outcome,
        epochs=attempt.epochs,
        cost_joules=attempt.spent.cost_joules,
        epoch_cost_joules=arm.best.cost_joules,
        gpu_model=recordings.workload.gpu,
        milestones=attempt.milestones,
        full_power_epoch_cost_joules=arm.full_power.cost_joules if attempt.profiled else None,
        sweep=attempt.sweep,
        sweep_cost_joules=attempt.sweep_cost_joules,
        overlapping=bool(situation.in_flight),
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
    job = _Job(workload, policy, seed, attempts)
    history = History()
    for recurrence in range(1, recurrences + 1):
        job.recur(recurrence, history)
    return history


def simulate_changing_job(
    regimes: Sequence[tuple[int, Workload]],
    policy: FoldingPolicy,
    recurrences: int,
    seed: int,
    attempts: int = ATTEMPTS,
) -> History:
    """Run one job that becomes another one on its way.

    Args:
        regimes: (first recurrence, workload), ascending, the first from 1 on; all with the
            same batch sizes and default.
    """
    coming = dict(regimes)
    job = _Job(coming[1], policy, seed, attempts)
    history = History()
    for recurrence in range(1, recurrences + 1):
        if recurrence in coming:
            job.become(coming[recurrence])
        job.recur(recurrence, history)
    return history


class _Job:
    def __init__(self, workload: Workload, policy: FoldingPolicy, seed: int, attempts: int) -> None:
        self._learner = policy.begin(problem_of(workload, attempts))
        self._recordings = Recordings(workload, seed)
        self._seed = seed
        self._attempts = attempts
        self._profiled: set[int] = set()
        self._next_id = 1

    def become(self, workload: Workload) -> None:
        self._recordings.become(workload)

    def recur(self, recurrence: int, history: History) -> None:
        cost = energy = seconds = 0.0
        failed: tuple[int, ...] = ()
        for _ in range(self._attempts):
            situation = Situation(recurrence, failed, gpu_model=self._recordings.workload.gpu)
            attempt = self._try(situation)
            cost += attempt.spent.cost_joules
            energy += attempt.spent.energy_joules
            seconds += attempt.spent.time_seconds
            if attempt.reached:
                break
            failed += (attempt.batch_size,)
        history.cost_joules.append(cost)
        history.energy_joules.append(energy)
        history.time_seconds.append(seconds)
        history.batch_sizes.append(attempt.batch_size)
        history.attempts.append(situation.attempt)
        history.reached.append(attempt.reached)

    def _try(self, situation: Situation) -> Attempt:
        choice = self._learner.choose(situation, self._seed)
        profiles = choice.batch_size not in self._profiled
        attempt = self._recordings.attempt(choice, profiles=profiles)
        if attempt.profiled:
            self._profiled.add(choice.batch_size)
        self._learner.observe(observation_of(attempt, self._next_id, situation, self._recordings))
        self._next_id += 1
        return attempt


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
