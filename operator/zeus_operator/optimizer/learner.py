"""Policies as folds: a learner takes observations one by one and answers with choices.

`Policy.choose` is a pure function of the whole history.  Folding the history
anew for every decision would make a simulation quadratic, so each policy also
offers its learner: `choose` is "begin, observe each, choose", and a simulation
keeps one learner per job and feeds it as runs end.  Both give the same choices.
A policy keeps the learners of the histories it was asked about last, see `folds`:
that makes it faster and changes no answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property

from zeus_operator.optimizer.folds import Folds
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.optimizer.words import last_attempt_sentence
from zeus_runtime.protocol import LEARNED_FROM

MOST_JOULES = 1e30
"""More than anything can cost, and little enough that squares and sums of it are numbers."""


class Learner(ABC):
    """What a policy knows of one job after some observations."""

    def __init__(self, problem: Problem) -> None:
        _check(problem)
        self.problem = problem
        self._seen: set[int] = set()

    def observe(self, observation: Observation) -> None:
        """Learn from one attempt; an attempt seen before, or one that teaches nothing, is ignored.

        Measurements cross process and network borders, so a value that is not
        finite, is negative or beyond all sense is dropped here rather than trusted.
        """
        if observation.attempt_id in self._seen:
            return
        self._seen.add(observation.attempt_id)
        if (
            observation.outcome in LEARNED_FROM
            and observation.batch_size > 0
            and observation.epochs >= 0
            and 0.0 <= observation.cost_joules <= MOST_JOULES  # false for NaN
        ):
            self._learn(observation)

    def choose(self, situation: Situation, seed: int) -> Choice:
        """Return the next attempt's batch size and threshold; what was learned stays as it is.

        The last attempt of a recurrence is the default batch size without a
        threshold under every policy: the user needs a model more than a lesson.
        """
        attempts = self.problem.max_attempts
        if situation.attempt >= attempts:
            default = self.problem.default_batch_size
            return Choice(
                batch_size=default,
                cost_threshold_joules=None,
                sentence=last_attempt_sentence(default, situation.attempt, attempts),
                policy=self.policy_name,
            )
        return self._choose(situation, seed)

    @property
    @abstractmethod
    def policy_name(self) -> str:
        """Name of the policy this learner belongs to."""

    @abstractmethod
    def _learn(self, observation: Observation) -> None:
        """Take in one checked observation."""

    @abstractmethod
    def _choose(self, situation: Situation, seed: int) -> Choice:
        """Answer for an attempt that is not the last."""


class FoldingPolicy(ABC):
    """A policy given by its learner."""

    name: str

    @cached_property
    def _folds(self) -> Folds[Learner]:
        return Folds()

    @abstractmethod
    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> Learner:
        """Return a learner that has observed nothing.

        Args:
            problem: what may be chosen.
            retired: batch sizes that were run once and are no longer offered;
                a policy may still learn from them.
        """

    def choose(
        self,
        problem: Problem,
        observations: tuple[Observation, ...],
        situation: Situation,
        seed: int,
    ) -> Choice:
        """Return the batch size and threshold of the next attempt.

        Raises:
            ValueError: the problem offers no arm, or its default is not one of them.
        """
        with self._folds.of(self.begin, problem, observations) as learner:
            return learner.choose(situation, seed)


def _check(problem: Problem) -> None:
    arms = problem.batch_sizes
    if not arms or list(arms) != sorted(set(arms)) or arms[0] <= 0:
        raise ValueError(f"batch sizes must be positive, ascending and without duplicates: {arms}")
    if problem.default_batch_size not in arms:
        raise ValueError(
            f"default batch size {problem.default_batch_size} is not one of {list(arms)}"
        )
    if problem.max_epochs < 1 or problem.max_attempts < 1:
        raise ValueError("max_epochs and max_attempts must be at least 1")
