"""What many simulated histories of one workload say on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zeus_operator.simulate.single_job import History
from zeus_operator.simulate.traces import Workload

_STUCK_FACTOR = 1.2  # of the best arm's cost


@dataclass(frozen=True)
class Summary:
    """A workload, GPU model and policy after `recurrences` recurrences, over `seeds` histories.

    Args:
        cost_mean: joules of all recurrences together, mean over the histories.
        cost_default: the same if every run took the default at full power, expected.
        cost_best_arm: the same if every run took the best arm at its best limit, expected.
        regret_mean: (cost - cost of the best arm) / cost of one recurrence of the best arm.
        regret_standard_error: of `regret_mean`.
        energy_joules_mean, time_seconds_mean, attempts_mean: of all recurrences together.
        worse_than_default: share of the histories that cost more than the default.
        stuck: share of the histories whose last recurrence ended on an arm that is
            expected to cost more than 1.2 times the best.
    """

    workload: str
    gpu: str
    policy: str
    recurrences: int
    seeds: int
    cost_mean: float
    cost_default: float
    cost_best_arm: float
    regret_mean: float
    regret_standard_error: float
    energy_joules_mean: float
    time_seconds_mean: float
    attempts_mean: float
    worse_than_default: float
    stuck: float

    @property
    def cost_ratio(self) -> float:
        """Cost against always the default."""
        return self.cost_mean / self.cost_default


def summarize(
    workload: Workload, policy: str, histories: Sequence[History], recurrences: int
) -> Summary:
    """Return the summary of the first `recurrences` recurrences of `histories`.

    Raises:
        ValueError: there is no history, or one is shorter.
    """
    if not histories or any(len(h.cost_joules) < recurrences for h in histories):
        raise ValueError(f"every history needs at least {recurrences} recurrences")
    costs = np.array([sum(h.cost_joules[:recurrences]) for h in histories])
    best = workload.best_arm_cost_joules
    regrets = (costs - recurrences * best) / best
    default = recurrences * workload.default_cost_joules
    dear = {
        arm.batch_size
        for arm in workload.arms
        if workload.expected_cost_joules(arm) > _STUCK_FACTOR * best
    }
    return Summary(
        workload=workload.name,
        gpu=workload.gpu,
        policy=policy,
        recurrences=recurrences,
        seeds=len(histories),
        cost_mean=float(costs.mean()),
        cost_default=default,
        cost_best_arm=recurrences * best,
        regret_mean=float(regrets.mean()),
        regret_standard_error=float(regrets.std() / len(histories) ** 0.5),
        energy_joules_mean=_mean([sum(h.energy_joules[:recurrences]) for h in histories]),
        time_seconds_mean=_mean([sum(h.time_seconds[:recurrences]) for h in histories]),
        attempts_mean=_mean([float(sum(h.attempts[:recurrences])) for h in histories]),
        worse_than_default=float((costs > default).mean()),
        stuck=_mean([float(h.batch_sizes[recurrences - 1] in dear) for h in histories]),
    )


def regret_ratio(summary: Summary, baseline: Summary) -> float:
    """Regret over the baseline's; 0.05 on both sides keeps small regrets from ruling."""
    return (summary.regret_mean + 0.05) / (baseline.regret_mean + 0.05)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return float(np.exp(np.mean(np.log(values))))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
