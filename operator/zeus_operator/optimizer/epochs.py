"""Belief about ln(epochs to the target) of each arm.  It does not depend on the GPU model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zeus_operator.optimizer.gaussian import Array, Belief, QuadraticPrior
from zeus_operator.optimizer.parameters import Parameters
from zeus_runtime.stopping import EpochsBelief, StopRule

_NO_INFORMATION = 1e-9


@dataclass
class _Runs:
    """ln(epochs) of the runs of one arm: count, mean and sum of squared deviations."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)


@dataclass(frozen=True)
class _Hint:
    """What the curve of an unproven arm's last stopped run says of ln(epochs)."""

    value: float
    variance: float
    weight: float


class EpochModel:
    """Sufficient statistics of complete and of stopped runs, per arm."""

    def __init__(self, x: Array, parameters: Parameters) -> None:
        self._parameters = p = parameters
        self._prior = QuadraticPrior.at(
            x,
            (p.epochs_level, p.epochs_slope, p.epochs_curve),
            (p.epochs_level_sd, p.epochs_slope_sd, p.epochs_curve_sd, p.epochs_own_sd),
        )
        self._arms = len(x)
        self._belief: Belief | None = None
        self._noise: Array | None = None
        self.forget()

    def forget(self) -> None:
        """Go back to the prior."""
        self._runs = [_Runs() for _ in range(self._arms)]
        self._hints: list[_Hint | None] = [None] * self._arms
        self._changed()

    def runs(self, arm: int) -> int:
        """Return how many runs of `arm` tell of it; an arm with one is proven."""
        return self._runs[arm].count

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the spread between runs that were seen."""
        return sum(max(runs.count - 1, 0) for runs in self._runs)

    def has_hint(self, arm: int) -> bool:
        """Whether a stopped run is all that is known of `arm`."""
        return self._hints[arm] is not None and not self._runs[arm].count

    def forget_hint(self, arm: int) -> None:
        """The next run of `arm` tells anew what its last, stopped one had told."""
        if self.has_hint(arm):
            self._hints[arm] = None
            self._changed()

    def reached(self, arm: int, epochs: int) -> None:
        """Take in a run that reached the target in `epochs` epochs."""
        self._runs[arm].add(math.log(max(epochs, 1)))
        self._changed()

    def stopped(self, arm: int, rule: StopRule, seen: EpochsBelief) -> None:
        """Take in a run that was stopped before it reached the target.

        Args:
            rule: made before the run.
            seen: what it says of the run now.
        """
        if self._runs[arm].count:
            self._runs[arm].add(seen.mean)
            self._changed()
            return
        prior_variance = rule.arm_variance + rule.run_variance
        learned = 1.0 / seen.variance - 1.0 / prior_variance
        if learned <= _NO_INFORMATION:
            return
        value = (seen.mean / seen.variance - rule.log_epochs_mean / prior_variance) / learned
        weight = seen.probability * self._parameters.hint_weight
        self._hints[arm] = _Hint(value, 1.0 / learned, weight) if weight > 0.0 else None
        self._changed()

    @property
    def run_variances(self) -> Array:
        """Variance of ln(epochs) between runs, per arm; shape (K,).

        Scaled inverse chi-square: an arm's own runs count in full, another arm's for at
        most `run_sd_pool` of them, because the spread need not be the same everywhere.
        """
        if self._noise is None:
            self._noise = self._run_variances()
        return self._noise

    def belief(self, in_flight: tuple[int, ...] = (), without_hint: int | None = None) -> Belief:
        """Return the posterior.

        Args:
            in_flight: arms with a run under way, which will narrow the belief.
            without_hint: an arm whose hint is left out.
        """
        if in_flight or without_hint is not None:
            return self._compute(in_flight, without_hint)
        if self._belief is None:
            self._belief = self._compute((), None)
        return self._belief

    def _changed(self) -> None:
        self._belief = None
        self._noise = None

    def _run_variances(self) -> Array:
        p = self._parameters
        freedom = np.array([max(runs.count - 1, 0) for runs in self._runs], dtype=np.float64)
        squares = np.array([runs.squares for runs in self._runs])
        share = np.minimum(1.0, p.run_sd_pool / np.maximum(freedom, 1.0))
        weight = p.run_sd_weight + (share @ freedom) + (1.0 - share) * freedom
        total = p.run_sd_weight * p.run_sd**2 + (share @ squares) + (1.0 - share) * squares
        variances: Array = np.maximum(total / weight, p.run_sd_floor**2)
        return variances

    def _compute(self, in_flight: tuple[int, ...], without_hint: int | None) -> Belief:
        noise = self.run_variances
        precision, weighted = [0.0] * self._arms, [0.0] * self._arms
        for arm, runs in enumerate(self._runs):
            hint = self._hints[arm]
            if runs.count:
                precision[arm] = runs.count / float(noise[arm])
                weighted[arm] = precision[arm] * runs.mean
            elif hint is not None and arm != without_hint:
                precision[arm] = hint.weight / (hint.variance + float(noise[arm]))
                weighted[arm] = precision[arm] * hint.value
        belief = self._prior.given(precision, weighted)
        if not in_flight:
            return belief
        for arm in in_flight:  # their values are not known: only the spread shrinks
            precision[arm] += 1.0 / float(noise[arm])
        return Belief(belief.mean, self._prior.given(precision, weighted).covariance)
