"""Builders of problems and observations, and a job whose costs are known."""

from __future__ import annotations

import dataclasses
import random

from zeus_operator.optimizer.epochs import EpochModel
from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.types import Candidate, Choice, Observation, Problem, Situation
from zeus_runtime.protocol import Outcome
from zeus_runtime.stopping import Level, StopRule

ARMS = (32, 64, 128, 256, 512)
GPU = "SimGPU-A"


def problem(arms: tuple[int, ...] = ARMS, default: int = 256, **changes: int) -> Problem:
    """Return a problem; `max_attempts` is out of reach unless it is given."""
    values = {"max_epochs": 50, "max_attempts": 21, **changes}
    return Problem(arms, default, **values)


class HistoryBuilder:
    """Observations in the order they are added; ids and recurrences count up by themselves."""

    def __init__(self, gpu_model: str = GPU) -> None:
        self.observations: tuple[Observation, ...] = ()
        self.recurrence = 1
        self.failed: tuple[int, ...] = ()
        self._gpu_model = gpu_model

    def add(
        self,
        batch_size: int,
        cost_joules: float,
        outcome: Outcome = Outcome.REACHED,
        epochs: int = 10,
        **changes: object,
    ) -> HistoryBuilder:
        """Add an attempt of the current recurrence; reaching the target ends the recurrence."""
        observation = Observation(
            attempt_id=len(self.observations) + 1,
            recurrence=self.recurrence,
            attempt=len(self.failed) + 1,
            batch_size=batch_size,
            outcome=outcome,
            epochs=epochs,
            cost_joules=cost_joules,
            epoch_cost_joules=cost_joules / epochs if epochs else None,
            gpu_model=self._gpu_model,
        )
        self.observations += (dataclasses.replace(observation, **changes),)  # type: ignore[arg-type]
        if outcome is Outcome.REACHED:
            self.recurrence += 1
            self.failed = ()
        else:
            self.failed += (batch_size,)
        return self

    def failure(self, batch_size: int, cost_joules: float = 900.0) -> HistoryBuilder:
        """Add an attempt that did not reach the target in all epochs."""
        return self.add(batch_size, cost_joules, Outcome.MAX_EPOCHS, epochs=50)

    def situation(self, **changes: object) -> Situation:
        """Return the situation after what was added."""
        base = Situation(self.recurrence, self.failed, gpu_model=self._gpu_model)
        return dataclasses.replace(base, **changes)  # type: ignore[arg-type]

    def choose(self, policy: FoldingPolicy, seed: int = 0, **changes: object) -> Choice:
        """Ask `policy` what follows on the usual problem."""
        return policy.choose(problem(), self.observations, self.situation(**changes), seed)


def after(*steps: tuple[int, float | None]) -> HistoryBuilder:
    """A history of (batch size, cost); no cost: did not reach the target."""
    history = HistoryBuilder()
    for size, cost in steps:
        if cost is None:
            history.failure(size)
        else:
            history.add(size, cost)
    return history


def candidate(choice: Choice, size: int) -> Candidate:
    """Return how the arm `size` looked."""
    return next(c for c in choice.candidates if c.batch_size == size)


def rule_of(model: EpochModel, arm: int, levels: tuple[Level, ...] = ()) -> StopRule:
    """Return the rule that a run of `arm` would be observed by."""
    belief = model.belief()
    return StopRule(
        log_epochs_mean=float(belief.mean[arm]),
        arm_variance=float(belief.variance[arm]),
        run_variance=float(model.run_variances[arm]),
        probability=0.9,
        best_cost_joules=1.0,
        cap_joules=1e9,
        budget_joules=1e9,
        horizon=0.0,
        leave_factor=2.0,
        max_epochs=100,
        levels=levels,
    )


class SyntheticJob:
    """A job with known epochs and cost per epoch by batch size.

    Args:
        epochs: batch size -> mean epochs to the target; None: never reaches it.
        epoch_costs: batch size -> joules of one epoch.
        spread: sd of ln(epochs) between runs.
    """

    def __init__(
        self,
        epochs: dict[int, float | None],
        epoch_costs: dict[int, float],
        default: int,
        spread: float = 0.1,
        max_epochs: int = 50,
    ) -> None:
        self.epochs = epochs
        self.epoch_costs = epoch_costs
        self.spread = spread
        self.problem = problem(
            tuple(sorted(epochs)), default, max_epochs=max_epochs, max_attempts=5
        )

    def run(
        self, policy: FoldingPolicy, recurrences: int, seed: int = 0, scale: float = 1.0
    ) -> tuple[list[tuple[Situation, int, Choice]], tuple[Observation, ...]]:
        """Run; return (situation, observations seen, choice) of each decision, and what was seen.

        Every decision is made from the whole history, as the operator makes it.
        """
        luck = random.Random(seed)
        decisions: list[tuple[Situation, int, Choice]] = []
        seen: tuple[Observation, ...] = ()
        for recurrence in range(1, recurrences + 1):
            failed: tuple[int, ...] = ()
            while len(failed) < self.problem.max_attempts:
                situation = Situation(recurrence, failed, gpu_model=GPU)
                choice = policy.choose(self.problem, seen, situation, seed)
                decisions.append((situation, len(seen), choice))
                seen += (self._attempt(situation, choice, len(seen) + 1, luck.gauss(0, 1), scale),)
                if seen[-1].outcome is Outcome.REACHED:
                    break
                failed += (choice.batch_size,)
        return decisions, seen

    def _attempt(
        self, situation: Situation, choice: Choice, attempt_id: int, luck: float, scale: float
    ) -> Observation:
        size = choice.batch_size
        cost = self.epoch_costs[size] * scale
        mean = self.epochs[size]
        allowed = self.problem.max_epochs
        if choice.cost_threshold_joules is not None:
            allowed = min(allowed, int(choice.cost_threshold_joules / cost + 1e-9))
        needed = None if mean is None else max(1, round(mean * 2.718281828 ** (self.spread * luck)))
        if needed is not None and needed <= allowed:
            outcome, epochs = Outcome.REACHED, needed
        else:
            whole = allowed >= self.problem.max_epochs
            outcome = Outcome.MAX_EPOCHS if whole else Outcome.COST_EXCEEDED
            epochs = allowed
        return Observation(
            attempt_id=attempt_id,
            recurrence=situation.recurrence,
            attempt=situation.attempt,
            batch_size=size,
            outcome=outcome,
            epochs=epochs,
            cost_joules=cost * epochs,
            epoch_cost_joules=cost if epochs else None,
            gpu_model=GPU,
        )
