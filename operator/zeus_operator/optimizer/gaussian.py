"""Gaussian beliefs over arms whose values are close to a quadratic in log2(batch size)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TENTH = 1.2815515655446004
"""Standard deviations from a normal's mean to its first and last tenth: 80 % lie between."""

_SQRT_HALF = math.sqrt(0.5)
_INVERSE_SQRT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)
_LEAST_VARIANCE = 1e-12
_LARGEST_EXPONENT = 600.0  # exp() of more is not a double


def cdf(z: float) -> float:
    """Distribution function of the standard normal."""
    return 0.5 * math.erfc(-z * _SQRT_HALF)


def density(z: float) -> float:
    """Density of the standard normal."""
    return _INVERSE_SQRT_TWO_PI * math.exp(-0.5 * min(z * z, 1400.0))


def safe_exp(value: float) -> float:
    """`exp`, held within what a double can hold."""
    return math.exp(max(-_LARGEST_EXPONENT, min(value, _LARGEST_EXPONENT)))


@dataclass(frozen=True)
class Belief:
    """Mean and variance of each arm's value.  Lists of K."""

    mean: list[float]
    variance: list[float]


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
    def at(
        cls,
        x: Array,
        level: float,
        slope: float,
        level_sd: float,
        slope_sd: float,
        curve_sd: float,
        own_sd: float,
    ) -> QuadraticPrior:
        """Return the prior at positions `x`.

        Args:
            x: shape (K,).
            level, slope: prior means of a and b.
            level_sd, slope_sd, curve_sd: prior standard deviations of a, b and c.
            own_sd: how far an arm may lie off the quadratic, one standard deviation.
        """
        outer = np.outer(x, x)
        covariance = (
            level_sd**2 + slope_sd**2 * outer + curve_sd**2 * outer**2 + own_sd**2 * np.eye(len(x))
        )
        return cls(level + slope * x, covariance)

    def given(
        self, precision: list[float], weighted: list[float], unknown: list[float] | None = None
    ) -> Belief:
        """Return the posterior after independent observations of the arms.

        Args:
            precision: per arm, the sum of 1 / variance of its observations; 0: none.
            weighted: per arm, the sum of value / variance.
            unknown: per arm, precision of observations that are on their way:
                they will narrow the belief, and their values are not known.
        """
        mean, variance = self._condition(precision, weighted)
        if unknown is not None and any(unknown):
            coming = [have + soon for have, soon in zip(precision, unknown, strict=True)]
            _, variance = self._condition(coming, weighted)
        return Belief(mean, variance)

    def _condition(
        self, precision: list[float], weighted: list[float]
    ) -> tuple[list[float], list[float]]:
        seen = [i for i, value in enumerate(precision) if value > 0.0]
        if not seen:
            return self.mean.tolist(), np.diagonal(self.covariance).tolist()
        noise = np.array([1.0 / precision[i] for i in seen])
        value = np.array([weighted[i] for i in seen]) * noise
        cross = self.covariance[seen]
        system = cross[:, seen]
        system.flat[:: len(seen) + 1] += noise
        gain = np.linalg.solve(system, cross)
        mean = self.mean + (value - self.mean[seen]) @ gain
        variance = np.diagonal(self.covariance) - np.einsum("ij,ij->j", gain, cross)
        return mean.tolist(), np.maximum(variance, _LEAST_VARIANCE).tolist()
