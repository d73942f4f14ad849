"""What trying an arm is expected to cost and to bring, before its first epoch.

The same quantities as `zeus_runtime.stopping.StopRule.prospect` gives for one run under
way (a test holds the two together), for all arms at once.  Costs are in epochs of the
default at its best power limit, the unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zeus_operator.optimizer.gaussian import Array, safe_exp

_LEAST_PROBABILITY = 0.05
_Z = np.linspace(-4.0, 4.0, 31)
_WEIGHTS: Array = np.exp(-0.5 * _Z * _Z) / np.exp(-0.5 * _Z * _Z).sum()
_LARGEST_EXPONENT = 40.0
_LEAST_OWN_PROBABILITY = 0.3  # of an arm that has just reached its target


@dataclass(frozen=True)
class Arm:
    """One arm as the model sees it now.

    Args:
        arm: its index.
        log_epochs, log_epochs_variance: belief about ln(epochs to the target).
        run_variance: of ln(epochs) between runs.
        log_cost, log_cost_variance: belief about ln(cost per epoch / unit).
        probability: of reaching the target at all.
        runs: that tell of it; an arm is proven if there is one.
        reached: those of them that reached the target; the others were stopped.
        failures: runs that used up all epochs without reaching the target.
        fits: nothing says that it runs out of memory.
        in_flight: another run of it is under way.
        tried_again_from: recurrence from which it may be tried again after a stopped run.
        overhead_epochs: what its first run pays besides the epochs, in epochs of this arm.
        difference_sd: standard deviation of its ln(epochs) less the default's.
        cost_measured: its cost per epoch was measured on this kind of GPU.
    """

    arm: int
    batch_size: int
    log_epochs: float
    log_epochs_variance: float
    run_variance: float
    log_cost: float
    log_cost_variance: float
    probability: float
    runs: int
    reached: int = 0
    failures: int = 0
    fits: bool = True
    in_flight: bool = False
    tried_again_from: float = 0.0
    overhead_epochs: float = 0.0
    difference_sd: float = 0.0
    cost_measured: bool = False

    @property
    def proven(self) -> bool:
        """Whether a run of this arm has reached the target."""
        return self.runs > 0

    @property
    def epoch_cost(self) -> float:
        """Expected cost of an epoch."""
        return safe_exp(self.log_cost + 0.5 * self.log_cost_variance)

    @property
    def value(self) -> float:
        """Expected cost of a model from this arm: its failed runs are paid, too."""
        spread = self.log_epochs_variance + self.run_variance
        cost = safe_exp(self.log_epochs + self.log_cost + 0.5 * spread)
        return cost / max(self.probability, _LEAST_PROBABILITY)

    @property
    def run_cost(self) -> float:
        """Expected cost of a run that reaches the target, at the centre of the belief."""
        return safe_exp(self.log_epochs + self.log_cost + 0.5 * self.run_variance)


@dataclass(frozen=True)
class Trial:
    """What an attempt at an arm promises, in units.

    Args:
        net_gain: what later recurrences are expected to save, less what the attempt costs
            more than a run of the best arm.
        extra: what it is expected to cost more than a run of the best arm.
    """

    net_gain: float
    extra: float


def trials(arms: list[Arm], best: float, caps: list[int], horizon: float) -> list[Trial]:
    """Return what an attempt at each of `arms` promises.

    Args:
        arms: K of them.
        best: cost of a model from the best arm known.
        caps: most epochs of each attempt, each at least 1.
        horizon: later recurrences that a better arm is counted for.
    """
    if not arms:
        return []
    mean = np.array([a.log_epochs for a in arms])[:, None]
    variance = np.array([a.log_epochs_variance for a in arms])[:, None]
    noise = np.array([a.run_variance for a in arms])[:, None]
    p = np.array([a.probability for a in arms])[:, None]
    unit = np.array([a.epoch_cost for a in arms])[:, None]
    overhead = np.array([a.overhead_epochs for a in arms])[:, None]
    most = np.array(caps, dtype=np.float64)[:, None]
    leave = best / unit
    points = mean + _Z * np.sqrt(variance + noise)
    total = np.exp(np.minimum(points, _LARGEST_EXPONENT))
    inside = total <= most + 0.5
    rest = np.minimum(np.maximum(total, 0.5), most) + overhead
    follows = variance / (variance + noise)
    later_log = follows * points + (1.0 - follows) * mean
    later_log += 0.5 * (variance * (1.0 - follows) + noise)
    later = np.exp(np.minimum(later_log, _LARGEST_EXPONENT)) / np.maximum(p, _LEAST_OWN_PROBABILITY)
    weights = np.where(inside, _WEIGHTS, 0.0)
    share = np.cumsum(weights, axis=1)
    plain = np.cumsum(weights * rest, axis=1)
    paid = plain - horizon * np.cumsum(weights * np.maximum(leave - later, 0.0), axis=1)
    ends = (1.0 - p * share) * (rest + leave)
    cost = p * paid + ends
    # Stopping points lie up to the first one beyond the cap.
    reachable = np.concatenate([np.ones((len(arms), 1), dtype=bool), inside[:, :-1]], axis=1)
    cost = np.where(reachable, cost, np.inf)
    stop = np.argmin(cost, axis=1)
    rows = np.arange(len(arms))
    least = cost[rows, stop]
    extra = (p * plain + ends)[rows, stop]
    scale = unit[:, 0]
    return [
        Trial(float(gain), float(more))
        for gain, more in zip(
            (leave[:, 0] - least) * scale, (extra - leave[:, 0]) * scale, strict=True
        )
    ]


def cap_epochs(arm: Arm, joint_cap: float, own_sds: float | None, max_epochs: int) -> int:
    """Return the most epochs of an attempt.

    Args:
        joint_cap: most it may cost, in units.
        own_sds: standard deviations of its own that it may run over; None: it has none.
        max_epochs: most of any attempt.
    """
    epochs = joint_cap / arm.epoch_cost
    if own_sds is not None:
        spread = math.sqrt(arm.log_epochs_variance + arm.run_variance)
        own = math.exp(min(arm.log_epochs + own_sds * spread, _LARGEST_EXPONENT))
        epochs = max(epochs, own, 1.0)
    return int(min(epochs + 1e-9, max_epochs))
