"""The histories that a policy has folded last, so that a longer one costs only what is new.

Nothing but time depends on it: a learner is taken up again only for a history that starts
with exactly what it has observed, under the same problem.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from zeus_operator.optimizer.types import Observation, Problem

MOST_KEPT = 8


class Observer(Protocol):
    """What can be taught one observation after the other."""

    def observe(self, observation: Observation) -> None:
        """Learn from one attempt."""
        ...


L = TypeVar("L", bound=Observer)
Begin = Callable[[Problem, Sequence[int]], L]


@dataclass
class _Fold(Generic[L]):
    """A learner, and all that it knows.

    Args:
        sizes: batch sizes that it was begun with, those no longer offered included.
    """

    problem: Problem
    sizes: frozenset[int]
    observed: tuple[Observation, ...]
    learner: L

    def begins(self, problem: Problem, observations: tuple[Observation, ...]) -> bool:
        """Whether a history starts with what was observed and needs no other learner."""
        count = len(self.observed)
        return (
            count <= len(observations)
            and self.problem == problem
            and self.observed == observations[:count]
            and _sizes(observations[count:]) <= self.sizes
        )


class Folds(Generic[L]):
    """The last `MOST_KEPT` learners of a policy.

    A learner in use is taken out, so that no two threads ever share one, and one that
    failed half-way is not put back.  A copy of a policy, in another process say, starts
    without any.
    """

    def __init__(self) -> None:
        self._kept: list[_Fold[L]] = []  # used last at the end
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return Folds, ()

    @contextmanager
    def of(
        self, begin: Begin[L], problem: Problem, observations: tuple[Observation, ...]
    ) -> Iterator[L]:
        """Give a learner that has observed exactly `observations`, in their order.

        It must not be taught more, nor be kept.

        Args:
            begin: makes a learner that has observed nothing; takes the problem and the
                batch sizes that were run once and are no longer offered.
            problem: what may be chosen.
            observations: the whole history.
        """
        fold = self._taken(problem, observations)
        if fold is None:
            sizes = _sizes(observations) | set(problem.batch_sizes)
            learner = begin(problem, sorted(sizes - set(problem.batch_sizes)))
            fold = _Fold(problem, frozenset(sizes), (), learner)
        for observation in observations[len(fold.observed) :]:
            fold.learner.observe(observation)
        fold.observed = observations
        yield fold.learner
        with self._lock:
            self._kept.append(fold)
            del self._kept[:-MOST_KEPT]

    def _taken(self, problem: Problem, observations: tuple[Observation, ...]) -> _Fold[L] | None:
        """Take out the learner that has observed most of the history; None: none has."""
        with self._lock:
            fitting = [fold for fold in self._kept if fold.begins(problem, observations)]
            best = max(fitting, key=lambda fold: len(fold.observed), default=None)
            if best is not None:
                self._kept = [fold for fold in self._kept if fold is not best]
            return best


def _sizes(observations: Sequence[Observation]) -> set[int]:
    return {each.batch_size for each in observations if each.batch_size > 0}
