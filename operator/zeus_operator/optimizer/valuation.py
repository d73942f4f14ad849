"""What trying an arm is expected to cost and to bring.  Costs relative to any one unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zeus_operator.optimizer.gaussian import cdf, safe_exp

_LEAST_PROBABILITY = 0.05


@dataclass(frozen=True)
class Prospect:
    """One arm as the model sees it now.

    Args:
        log_mean, log_variance: belief about ln(mean cost of a run that reaches the target).
        run_variance: of ln(cost) between runs.
        success_probability: of reaching the target at all.
        runs: that reached the target; an arm is proven if there is one.
        failures: runs that did not, each by the probability that it never would have.
        fits: nothing says that it runs out of memory.
        in_flight: another run of it is under way.
    """

    arm: int
    batch_size: int
    log_mean: float
    log_variance: float
    run_variance: float
    success_probability: float
    runs: int
    failures: float = 0.0
    fits: bool = True
    in_flight: bool = False

    @property
    def proven(self) -> bool:
        """Whether a run of this arm has reached the target."""
        return self.runs > 0

    @property
    def log_expected(self) -> float:
        """Logarithm of the expected cost of a run that reaches the target."""
        return self.log_mean + 0.5 * self.log_variance

    @property
    def value(self) -> float:
        """Expected cost of a model from this arm, failures included."""
        return safe_exp(self.log_expected) / max(self.success_probability, _LEAST_PROBABILITY)


def attempt_cost(prospect: Prospect, best: float, cap: float) -> float:
    """Expected cost of an attempt that is stopped at `cap`, and of what must follow if it fails.

    Args:
        prospect: the arm.
        best: cost of the best known arm, which follows a failure.
        cap: most that the attempt itself costs; positive.
    """
    p = prospect.success_probability
    spread = math.sqrt(prospect.log_variance + prospect.run_variance)
    z = (math.log(cap) - prospect.log_mean) / spread
    # Mean of a lognormal below the cap, times the probability to be there.
    below = safe_exp(prospect.log_mean + 0.5 * spread**2) * cdf(z - spread)
    reached = min(below, cap * cdf(z))
    return p * (reached + cdf(-z) * (cap + best)) + (1.0 - p) * (cap + best)


def improvement(prospect: Prospect, best: float) -> float:
    """Expected improvement of the arm's mean cost over `best`; not negative."""
    deviation = math.sqrt(prospect.log_variance)
    u = (math.log(best) - prospect.log_mean) / deviation
    expected = safe_exp(prospect.log_expected)
    return max(best * cdf(u) - min(expected * cdf(u - deviation), best * cdf(u)), 0.0)
