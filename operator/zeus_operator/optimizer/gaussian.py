"""Gaussian beliefs over arms whose values are close to a quadratic in log2(batch size)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TENTH = 1.2815515655446004
"""Standard deviations from a normal's mean to its first and last tenth: 80 % lie between."""

_LEAST_VARIANCE = 1e-9
_LARGEST_EXPONENT = 600.0  # exp() of more is not a double


def safe_exp(value: float) -> float:
    """`exp`, held within what a double can hold."""
    return math.exp(max(-_LARGEST_EXPONENT, min(value, _LARGEST_EXPONENT)))


@dataclass(frozen=True)
class Belief:
    """What is believed of the arms' values.

    Args:
        mean: of each arm, shape (K,).
        covariance: shape (K, K).
    """

    mean: Array
    covariance: Array

    @property
    def variance(self) -> Array:
        """Of each arm, shape (K,)."""
        variance: Array = np.maximum(np.diagonal(self.covariance), _LEAST_VARIANCE)
        return variance

    def difference_sd(self, arm: int, other: int) -> float:
        """Standard deviation of the difference between two arms."""
        c = self.covariance
        return math.sqrt(max(float(c[arm, arm] + c[other, other] - 2.0 * c[arm, other]), 0.0))


@dataclass(frozen=True)
class QuadraticPrior:
    """Gaussian prior of a value that is nearly a + b x + c x^2 over arms at positions x.

    Args:
        mean: of each arm, shape (K,).
        covariance: shape (K, K).
    """

    mean: Array
    covariance: Array

    @classmethod
    def at(cls, x: Array, mean: Sequence[float], sds: Sequence[float]) -> QuadraticPrior:
        """Return the prior at positions `x`.

        Args:
            x: shape (K,).
            mean: prior means of a, b and c.
            sds: prior standard deviations of a, b and c, and of how far an arm may lie
                off the quadratic.
        """
        level, slope, curve = mean
        level_sd, slope_sd, curve_sd, own_sd = sds
        outer = np.outer(x, x)
        covariance = (
            level_sd**2 + slope_sd**2 * outer + curve_sd**2 * outer**2 + own_sd**2 * np.eye(len(x))
        )
        return cls(level + slope * x + curve * x * x, covariance)

    def given(self, precision: Sequence[float], weighted: Sequence[float]) -> Belief:
        """Return the posterior after independent observations of the arms.

        Args:
            precision: per arm, the sum of 1 / variance of its observations; 0: none.
            weighted: per arm, the sum of value / variance.
        """
        seen = [i for i, value in enumerate(precision) if value > 0.0]
        if not seen:
            return Belief(self.mean, self.covariance)
        noise = np.array([1.0 / precision[i] for i in seen])
        value = np.array([weighted[i] for i in seen]) * noise
        cross = self.covariance[seen]
        system = cross[:, seen]
        system.flat[:: len(seen) + 1] += noise
        gain = np.linalg.solve(system, cross)
        mean: Array = self.mean + (value - self.mean[seen]) @ gain
        covariance: Array = self.covariance - gain.T @ cross
        return Belief(mean, covariance)
