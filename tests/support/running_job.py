"""A job whose runs go epoch by epoch, held to their terms as the runtime holds them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from tests.support.optimizer_histories import GPU, problem
from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation, SweepPoint
from zeus_runtime.protocol import Outcome
from zeus_runtime.stopping import CostSoFar, exceeds_threshold

SWEEP_SHARE = 0.01  # of the run, for each batch size that is measured


@dataclass(frozen=True)
class RunningJob:
    """A job with known epochs and costs.

    Args:
        epochs: batch size -> mean epochs to the target; None: never reaches it.
        epoch_costs: batch size -> joules of one epoch at its best power limit.
        spread: sd of ln(epochs) between runs.
        profiling: what the first epoch of a batch size costs more, as a share.
        full_power: what an epoch costs at the power limit found, in epochs at the best.
        curves: whether runs report milestones; a hopeless one then comes up to nine tenths.
    """

    epochs: dict[int, float | None]
    epoch_costs: dict[int, float]
    default: int
    spread: float = 0.1
    max_epochs: int = 60
    profiling: float = 0.3
    full_power: float = 1.15
    curves: bool = True

    def problem(self, **changes: object) -> Problem:
        """Return the problem, on other terms if need be."""
        terms = {"max_epochs": self.max_epochs, "max_attempts": 5, **changes}
        return problem(tuple(sorted(self.epochs)), self.default, **terms)  # type: ignore[arg-type]

    def expected_default_joules(self, limit: float = 1.0) -> float:
        """Return what a recurrence of the default costs; `limit`: factor of its power limit."""
        mean = self.epochs[self.default]
        assert mean is not None
        longer = math.exp(0.5 * self.spread**2)
        return mean * longer * self.epoch_costs[self.default] * limit

    def run(
        self, policy: FoldingPolicy, recurrences: int, seed: int = 0, **changes: object
    ) -> list[tuple[Situation, Choice, Observation]]:
        """Run; return every attempt: what it was decided for, its terms and how it ended."""
        history = JobHistory(self, policy.begin(self.problem(**changes)), seed)
        for _ in range(recurrences):
            history.recur()
        return history.attempts


@dataclass
class JobHistory:
    """A job under way; `job` may be changed between recurrences for one of the same arms."""

    job: RunningJob
    learner: Learner
    seed: int
    attempts: list[tuple[Situation, Choice, Observation]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._luck = random.Random(self.seed)
        self._profiled: set[int] = set()
        self._recurrences = 0

    def recur(self) -> None:
        """Run the next recurrence, with as many attempts as it takes."""
        self._recurrences += 1
        failed: tuple[int, ...] = ()
        while len(failed) < self.learner.problem.max_attempts:
            situation = Situation(self._recurrences, failed, gpu_model=GPU)
            choice = self.learner.choose(situation, self.seed)
            seen = self._attempt(situation, choice)
            self.learner.observe(seen)
            if seen.outcome is Outcome.REACHED:
                break
            failed += (choice.batch_size,)

    def _attempt(self, situation: Situation, choice: Choice) -> Observation:
        job, size = self.job, choice.batch_size
        unit, mean = job.epoch_costs[size], job.epochs[size]
        factor = math.exp(job.spread * self._luck.gauss(0.0, 1.0))
        needed = None if mean is None else max(1, round(mean * factor))
        profiles = size not in self._profiled
        self._profiled.add(size)
        cost, epochs, milestones = unit * job.profiling * profiles, 0, []
        outcome = None
        while outcome is None:
            epochs += 1
            cost += unit
            if job.curves:
                milestones.append((epochs, _metric(epochs, needed, job.max_epochs)))
            outcome = self._end(epochs, needed, cost, choice, milestones)
        others = choice.sweep
        sweeping = SWEEP_SHARE * len(others) * cost
        seen = Observation(
            attempt_id=len(self.attempts) + 1,
            recurrence=situation.recurrence,
            attempt=situation.attempt,
            batch_size=size,
            outcome=outcome,
            epochs=epochs,
            cost_joules=cost + sweeping,
            epoch_cost_joules=unit,
            gpu_model=situation.gpu_model,
            milestones=tuple(milestones),
            full_power_epoch_cost_joules=unit * job.full_power if profiles else None,
            sweep=tuple(SweepPoint(s, job.epoch_costs[s] * job.full_power) for s in others),
            sweep_cost_joules=sweeping,
        )
        self.attempts.append((situation, choice, seen))
        return seen

    def _end(
        self,
        epochs: int,
        needed: int | None,
        cost: float,
        choice: Choice,
        milestones: list[tuple[int, float]],
    ) -> Outcome | None:
        if needed is not None and epochs >= needed:
            return Outcome.REACHED
        if epochs >= self.job.max_epochs:
            return Outcome.MAX_EPOCHS
        unit, rule = self.job.epoch_costs[choice.batch_size], choice.stop_rule
        so_far = CostSoFar(epochs, cost, unit)
        over = exceeds_threshold(so_far, choice.cost_threshold_joules)
        if over or (rule is not None and not rule.goes_on(epochs, milestones, unit)):
            return Outcome.COST_EXCEEDED
        return None


def _metric(epoch: int, needed: int | None, max_epochs: int) -> float:
    """A metric that rises by the root of the way gone; at 1 the target is reached."""
    if needed is None:
        return 0.9 * math.sqrt(epoch / max_epochs)
    return math.sqrt(min(epoch / needed, 1.0))
