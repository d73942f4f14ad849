"""Belief that an arm reaches the target at all, and that it fits into the GPU's memory."""

from __future__ import annotations

import math

from zeus_operator.optimizer.gaussian import Array
from zeus_operator.optimizer.parameters import Parameters

_UNKNOWN = 0.95  # of the default, before it ran
_LEAST, _MOST = 0.01, 0.99  # no arm that never ran is certain, either way


class Feasibility:
    """On each side of the default there may be a point beyond which no arm reaches the target.

    Its distance is exponential, a chance of `hazard` per doubling.  An arm that reached
    the target pushes it outwards; the nearest one that failed holds it, unless that was
    bad luck.  An arm that has reached the target is judged by its own record.
    """

    def __init__(self, x: Array, default: int, parameters: Parameters) -> None:
        self._x = [float(value) for value in x]
        self._default = default
        self._parameters = parameters
        self.forget()

    def forget(self) -> None:
        """Go back to the prior."""
        self.successes = [0] * len(self._x)
        self.failures = [0] * len(self._x)

    def probabilities(self) -> list[float]:
        """Return the probability of reaching the target, per arm."""
        found = [_UNKNOWN] * len(self._x)
        for side in (-1.0, 1.0):
            self._judge_side([a for a, x in enumerate(self._x) if x * side > 0.0], found)
        for arm, (good, bad) in enumerate(zip(self.successes, self.failures, strict=True)):
            if good:
                found[arm] = (good + 0.5) / (good + bad + 0.5)
        default = self._default
        if not self.successes[default] and self.failures[default]:
            found[default] = 0.5 / (self.failures[default] + 1)
        return found

    def _judge_side(self, arms: list[int], found: list[float]) -> None:
        hazard = self._parameters.hazard
        reached = max((abs(self._x[a]) for a in arms if self.successes[a]), default=0.0)
        failed = [
            a
            for a in arms
            if self.failures[a] and not self.successes[a] and abs(self._x[a]) > reached
        ]
        nearest = min(failed, key=lambda a: abs(self._x[a]), default=None)
        for arm in arms:
            distance = max(0.0, abs(self._x[arm]) - reached)
            chance = math.exp(-hazard * distance)
            if nearest is not None:
                # The point lies before the arm that failed, or that one had bad luck.
                limit = abs(self._x[nearest]) - reached
                end = math.exp(-hazard * limit)
                before = 0.0 if distance >= limit else (chance - end) / (1.0 - end)
                luck = self._parameters.luck ** self.failures[nearest]
                chance = luck * chance + (1.0 - luck) * before
            found[arm] = min(max(chance, _LEAST), _MOST)


class Memory:
    """Batch sizes per GPU that ran out of memory, by GPU model."""

    def __init__(self) -> None:
        self._too_large: dict[str, float] = {}

    def ran_out(self, gpu_model: str, gpu_count: int, batch_size: int) -> None:
        """Remember that this batch size, and every larger one, does not fit."""
        share = batch_size / max(gpu_count, 1)
        self._too_large[gpu_model] = min(share, self._too_large.get(gpu_model, share))

    def fitted(self, gpu_model: str, gpu_count: int, batch_size: int) -> None:
        """Forget an out of memory that a run of at least that size contradicts."""
        if not self.fits(gpu_model, gpu_count, batch_size):
            del self._too_large[gpu_model]

    def fits(self, gpu_model: str, gpu_count: int, batch_size: int) -> bool:
        """Whether nothing says that it does not fit."""
        limit = self._too_large.get(gpu_model)
        return limit is None or batch_size / max(gpu_count, 1) < limit
