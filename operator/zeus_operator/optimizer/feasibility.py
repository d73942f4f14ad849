"""Belief that an arm reaches the target at all, and that it fits into the GPU's memory."""

from __future__ import annotations

import numpy as np

from zeus_operator.optimizer.gaussian import Array
from zeus_operator.optimizer.parameters import Parameters

_MOST = 0.98  # no arm is believed to be certain


class Feasibility:
    """Successes and failures per arm, and how far they tell of other arms.

    A success at x speaks fully for the arms between it and the default, a
    failure for the arms beyond it; both fade with distance elsewhere.
    """

    def __init__(self, x: Array, parameters: Parameters) -> None:
        self._parameters = parameters
        # Row: the arm told of; column: the arm that was run.
        told, run = x[:, None], x[None, :]
        fading = np.exp(-np.abs(told - run) / parameters.reach)
        between = (told * run >= 0.0) & (np.abs(told) <= np.abs(run))
        beyond = (told * run > 0.0) & (np.abs(told) >= np.abs(run))
        self._success_reach = np.where(between, 1.0, fading)
        self._failure_reach = np.where(beyond, 1.0, fading)
        self.forget()

    def forget(self) -> None:
        """Go back to the prior."""
        arms = len(self._success_reach)
        self.successes = np.zeros(arms)
        self.failures = np.zeros(arms)

    def succeed(self, arm: int) -> None:
        """Count a run that reached the target."""
        self.successes[arm] += 1.0

    def fail(self, arm: int, weight: float = 1.0) -> None:
        """Count a run that did not, by the probability that it never would have."""
        self.failures[arm] += weight

    def probabilities(self) -> list[float]:
        """Return the probability of reaching the target, per arm."""
        parameters = self._parameters
        good = parameters.success_weight + self._success_reach @ self.successes
        bad = parameters.failure_weight + self._failure_reach @ self.failures
        own = (self.successes + 0.5) / (self.successes + self.failures + 0.5)
        tried = (self.successes + self.failures) > 0.0
        pooled = np.minimum(good / (good + bad), _MOST)
        believed: Array = np.where(tried, np.minimum(pooled, own), pooled)
        return [float(value) for value in believed]


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
