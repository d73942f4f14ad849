"""Policy `structured` with a part left out or changed: for studies only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from zeus_operator.optimizer.learner import FoldingPolicy
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.structured import StructuredLearner
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation

# Overridden below; a name that is gone must not leave the study measuring nothing.
_OVERRIDDEN = StructuredLearner._has_drifted


@dataclass(frozen=True)
class Variant(FoldingPolicy):
    """Policy `structured`, changed.

    Args:
        parameters: its numbers.
        curves: whether it sees learning curves.
        stop_rule: whether runs are asked by its stop rule; the cost limit holds in any case.
        detector: whether it looks for changes of the job.
        share: what exploring may cost over the default; None: as the problem says.
        every_history: whether that holds in every history.
    """

    parameters: Parameters = field(default_factory=Parameters)
    curves: bool = True
    stop_rule: bool = True
    detector: bool = True
    share: float | None = None
    every_history: bool = False
    name: str = "structured"

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> StructuredLearner:
        """Return a learner that has observed nothing."""
        share = problem.exploration_share if self.share is None else self.share
        changed = replace(problem, exploration_share=share, bound_every_history=self.every_history)
        return _Learner(changed, retired, self)


class _Learner(StructuredLearner):
    def __init__(self, problem: Problem, retired: Iterable[int], variant: Variant) -> None:
        super().__init__(problem, retired, variant.parameters)
        self._variant = variant

    def observe(self, observation: Observation) -> None:
        super().observe(
            observation if self._variant.curves else replace(observation, milestones=())
        )

    def choose(self, situation: Situation, seed: int) -> Choice:
        choice = super().choose(situation, seed)
        return choice if self._variant.stop_rule else replace(choice, stop_rule=None)

    def _has_drifted(self, arm: int, observation: Observation) -> bool:
        return self._variant.detector and super()._has_drifted(arm, observation)
