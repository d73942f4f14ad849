"""Belief about ln(epochs to the target) of each arm.  It does not depend on the GPU model."""

from __future__ import annotations

import math

from zeus_operator.optimizer.gaussian import Array, Belief, QuadraticPrior, cdf, density
from zeus_operator.optimizer.parameters import Parameters

_NO_INFORMATION = 1e-9


class EpochModel:
    """Sufficient statistics of complete and of stopped runs, per arm."""

    def __init__(self, x: Array, parameters: Parameters) -> None:
        self._parameters = parameters
        self._prior = QuadraticPrior.at(
            x,
            parameters.epochs_level,
            parameters.epochs_slope,
            parameters.epochs_level_sd,
            parameters.epochs_slope_sd,
            parameters.epochs_curve_sd,
            parameters.epochs_own_sd,
        )
        self._arms = len(x)
        self.forget()

    def forget(self) -> None:
        """Go back to the prior."""
        self.runs = [0] * self._arms
        self._mean = [0.0] * self._arms
        self._squares = 0.0  # within arms, summed over them
        self._censored_precision = [0.0] * self._arms
        self._censored_weighted = [0.0] * self._arms
        self._belief: Belief | None = None

    def reached(self, arm: int, epochs: int) -> None:
        """Take in a run that reached the target in `epochs` epochs."""
        value = math.log(max(epochs, 1))
        self.runs[arm] += 1
        step = value - self._mean[arm]
        self._mean[arm] += step / self.runs[arm]
        self._squares += step * (value - self._mean[arm])
        self._belief = None

    def stopped(self, arm: int, epochs: int, success_probability: float) -> float:
        """Take in a run that was stopped after `epochs` epochs without the target.

        The belief is moment-matched to "it would have needed more", weighted by
        the probability that it would have reached the target at all.

        Returns:
            That probability, given the belief before.
        """
        belief = self.belief()
        mean, variance = belief.mean[arm], belief.variance[arm]
        spread = math.sqrt(variance + self.run_variance)
        z = (math.log(epochs + 0.5) - mean) / spread
        beyond = max(cdf(-z), 1e-300)
        p = success_probability
        weight = p * beyond / (p * beyond + 1.0 - p) if p > 0.0 else 0.0
        # Mills ratio; its asymptote where both terms underflow.
        ratio = density(z) / beyond if z < 30.0 else z + 1.0 / z
        shrink = ratio * (ratio - z)
        if shrink > _NO_INFORMATION and ratio > z:
            noise = max(spread**2 / shrink - variance, self.run_variance)
            value = mean + spread / (ratio - z)
            self._censored_precision[arm] += weight / noise
            self._censored_weighted[arm] += weight * value / noise
            self._belief = None
        return weight

    @property
    def run_variance(self) -> float:
        """Variance of ln(epochs) between runs of an arm, pooled over arms."""
        parameters = self._parameters
        weight = parameters.run_sd_weight
        freedom = sum(max(runs - 1, 0) for runs in self.runs)
        variance = (weight * parameters.run_sd**2 + self._squares) / (weight + freedom)
        return max(variance, parameters.run_sd_floor**2)

    def belief(self, in_flight: tuple[int, ...] = ()) -> Belief:
        """Return the posterior; runs at the arms `in_flight` narrow it."""
        if in_flight:
            return self._compute(in_flight)
        if self._belief is None:
            self._belief = self._compute(())
        return self._belief

    def _compute(self, in_flight: tuple[int, ...]) -> Belief:
        noise = self.run_variance
        precision = [
            runs / noise + censored
            for runs, censored in zip(self.runs, self._censored_precision, strict=True)
        ]
        weighted = [
            runs * mean / noise + censored
            for runs, mean, censored in zip(
                self.runs, self._mean, self._censored_weighted, strict=True
            )
        ]
        unknown = [in_flight.count(arm) / noise for arm in range(self._arms)]
        return self._prior.given(precision, weighted, unknown)
