"""Figures about simulated histories: regret, cost, harm, stuck; and their intervals.

Regret is (cumulative cost - N x cost of the best arm) / cost of the best arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zeus_operator.simulate.single_job import History
from zeus_operator.simulate.workload import Workload

RECURRENCES = (10, 20, 50)
HARM = 1.05
"""Dearer than this, relative to always the default at full power, a pair counts as harmed."""
STUCK_SHARE = 0.05
STUCK_AFTER = 20
_HARM_FROM, _HARM_TO = 10, 50
_STUCK_FACTOR = 1.2
_ROOM = 0.05  # on both sides of a ratio of regrets: small ones must not rule
_DRAWS = 1000
_TAIL = 2.5  # percent on either side of an interval

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Runs:
    """The histories of one pair (a workload on a GPU model) under one policy.

    Args:
        costs: joules by seed and recurrence, shape (S, N).
        sizes: batch size of the last attempt, shape (S, N).
    """

    workload: Workload
    costs: Floats
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, workload: Workload, histories: Sequence[History]) -> Runs:
        """Return the figures of histories of one length."""
        return cls(
            workload,
            np.array([history.cost_joules for history in histories]),
            np.array([history.batch_sizes for history in histories]),
        )

    @property
    def name(self) -> str:
        """The pair in words."""
        return f"{self.workload.name} on {self.workload.gpu}"

    def regrets(self, n: int) -> Floats:
        """Regret after `n` recurrences, by seed."""
        best = self.workload.best_arm_cost_joules
        regrets: Floats = self.costs[:, :n].sum(axis=1) / best - n
        return regrets

    def cost_ratio(self, n: int) -> float:
        """Mean cost of `n` recurrences over that of always the default at full power."""
        mean = float(self.costs[:, :n].sum(axis=1).mean())
        return mean / (n * self.workload.default_cost_joules)

    @property
    def worst(self) -> tuple[float, int]:
        """The highest cost ratio at any N from 10 to 50, and that N."""
        means = np.cumsum(self.costs.mean(axis=0)) / self.workload.default_cost_joules
        ratios = means / np.arange(1, len(means) + 1)
        place = _HARM_FROM + int(np.argmax(ratios[_HARM_FROM - 1 : _HARM_TO]))
        return float(ratios[place - 1]), place

    @property
    def stuck(self) -> float:
        """Share of the histories whose 20th recurrence ended on a dear arm."""
        limit = _STUCK_FACTOR * self.workload.best_arm_cost_joules
        dear = [a.batch_size for a in self.workload.arms if self._cost(a.batch_size) > limit]
        return float(np.isin(self.sizes[:, STUCK_AFTER - 1], dear).mean())

    def _cost(self, batch_size: int) -> float:
        return self.workload.expected_cost_joules(self.workload.arm(batch_size))


def ratio(ours: float, base: float) -> float:
    """Return one regret over another; below 0 counts as 0, with room on both sides."""
    return (max(ours, 0.0) + _ROOM) / (max(base, 0.0) + _ROOM)


def pair_ratio(ours: Runs, base: Runs, n: int) -> float:
    """Return the mean regret over the baseline's after `n` recurrences."""
    return ratio(float(ours.regrets(n).mean()), float(base.regrets(n).mean()))


def mean_ratio(ours: Sequence[Runs], base: Sequence[Runs], ns: Sequence[int]) -> float:
    """Return the geometric mean of the ratios over the pairs and over `ns`."""
    logs = [math.log(pair_ratio(a, b, n)) for n in ns for a, b in zip(ours, base, strict=True)]
    return math.exp(sum(logs) / len(logs))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def log_draws(ours: Sequence[Runs], base: Sequence[Runs], n: int) -> Floats:
    """Return bootstrap draws of ln(geometric mean of the ratios), shape (draws,).

    Workloads are drawn with all of their GPU models, which share their recorded runs;
    within a pair seeds are drawn, the same for both policies, which share their luck.
    Draw i is the same resample for every `n`, so that differences can be taken.
    """
    random = np.random.default_rng(0)
    names = sorted({each.workload.name for each in ours})
    counts = random.multinomial(len(names), [1.0 / len(names)] * len(names), size=_DRAWS)
    total, weight = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for a, b in zip(ours, base, strict=True):
        seeds = len(a.costs)
        drawn = random.integers(seeds, size=(_DRAWS, seeds))
        ours_mean, base_mean = (each.regrets(n)[drawn].mean(axis=1) for each in (a, b))
        logs = np.log((np.maximum(ours_mean, 0.0) + _ROOM) / (np.maximum(base_mean, 0.0) + _ROOM))
        times = counts[:, names.index(a.workload.name)]
        total += times * logs
        weight += times
    found: Floats = total / weight
    return found


def interval(ours: Sequence[Runs], base: Sequence[Runs], ns: Sequence[int]) -> Interval:
    """Return the 95 % bootstrap interval of `mean_ratio`."""
    draws = np.mean([log_draws(ours, base, n) for n in ns], axis=0)
    return quantiles(draws)


def quantiles(log_values: Floats) -> Interval:
    """Return the 95 % interval of exp(values)."""
    low, high = np.percentile(log_values, (_TAIL, 100.0 - _TAIL))
    return math.exp(low), math.exp(high)


def harmed(found: Sequence[Runs]) -> list[Runs]:
    """Return the pairs that cost more than 1.05 times the default at some N from 10 to 50."""
    return [each for each in found if each.worst[0] > HARM]


def stuck(found: Sequence[Runs]) -> list[Runs]:
    """Return the pairs with more than 5 % stuck histories."""
    return [each for each in found if each.stuck > STUCK_SHARE]


def summary(ours: Sequence[Runs], base: Sequence[Runs]) -> dict[str, object]:
    """Return the line of a table about many pairs, as JSON."""
    return {
        "ratios": [mean_ratio(ours, base, [n]) for n in RECURRENCES],
        "harmed": len(harmed(ours)),
        "worst": max(each.worst[0] for each in ours),
        "stuck": len(stuck(ours)),
        "most_stuck": max(each.stuck for each in ours),
        "stuck_share": sum(each.stuck for each in ours) / len(ours),
        "pairs": len(ours),
    }


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def slashed(values: Sequence[float], form: str = ".3f") -> str:
    """Return numbers in a cell."""
    return " / ".join(f"{value:{form}}" for value in values)


def between(bounds: Sequence[float]) -> str:
    """Return an interval in words."""
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"
