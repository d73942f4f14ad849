"""A policy on other terms than a job's own: what it may spend on exploring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Problem


@dataclass(frozen=True)
class Terms:
    """What exploring may cost; see `Problem`."""

    exploration_share: float
    bound_every_history: bool


class OnTerms(FoldingPolicy):
    """A policy that puts its terms in the place of those of every problem.

    Args:
        policy: whose choices they are.
        terms: what it may spend; a policy that knows no bound takes no notice.
    """

    def __init__(self, policy: FoldingPolicy, terms: Terms) -> None:
        self.name = policy.name
        self._policy = policy
        self._terms = terms

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> Learner:
        """Return a learner of the policy that has observed nothing."""
        held = replace(
            problem,
            exploration_share=self._terms.exploration_share,
            bound_every_history=self._terms.bound_every_history,
        )
        return self._policy.begin(held, retired)
