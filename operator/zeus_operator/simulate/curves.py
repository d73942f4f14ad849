"""How a policy's histories went, recurrence by recurrence: what the figures draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zeus_operator.simulate.single_job import History
from zeus_operator.simulate.workload import Workload

Floats = NDArray[np.float64]
_BAND = (0.1, 0.9)  # quantiles of the batch sizes


@dataclass(frozen=True)
class Curves:
    """Means over the histories; entry i is after recurrence i + 1.

    Args:
        regret: (cumulative cost - n x cost of the best arm) / cost of the best arm.
        cost_ratio, energy_ratio: cumulative, against always the default, expected; empty
            where the default never reaches the target.
        batch_size_low, batch_size_middle, batch_size_high: 10 %, median and 90 % of the
            batch sizes that ended the recurrence; each is one that was chosen.
    """

    regret: tuple[float, ...]
    cost_ratio: tuple[float, ...]
    energy_ratio: tuple[float, ...]
    batch_size_low: tuple[float, ...]
    batch_size_middle: tuple[float, ...]
    batch_size_high: tuple[float, ...]


def curves(workload: Workload, histories: Sequence[History]) -> Curves:
    """Return the curves of `histories`, which are of one length."""
    cost = _cumulative([h.cost_joules for h in histories])
    energy = _cumulative([h.energy_joules for h in histories])
    count = np.arange(1, len(cost) + 1)
    best, default = workload.best_arm_cost_joules, workload.default_recurrence
    sizes = np.quantile(
        np.array([h.batch_sizes for h in histories], dtype=np.float64),
        (_BAND[0], 0.5, _BAND[1]),
        axis=0,
        method="inverted_cdf",
    )
    known = math.isfinite(default.cost_joules)
    return Curves(
        regret=_tuple(cost / best - count),
        cost_ratio=_tuple(cost / (default.cost_joules * count)) if known else (),
        energy_ratio=_tuple(energy / (default.energy_joules * count)) if known else (),
        batch_size_low=_tuple(sizes[0]),
        batch_size_middle=_tuple(sizes[1]),
        batch_size_high=_tuple(sizes[2]),
    )


def _cumulative(values: Sequence[Sequence[float]]) -> Floats:
    mean: Floats = np.cumsum(np.array(values, dtype=np.float64).mean(axis=0))
    return mean


def _tuple(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
