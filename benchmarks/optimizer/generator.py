"""Synthetic workloads, drawn at random by a fixed recipe: nothing was chosen on them.

What is drawn for each (u: uniform, lu: log-uniform):

* 2 to 14 arms, powers of two; the smallest 2 to 64.
* mean epochs of an arm: E (1 + b / b_c) (1 + b_n / b)^a; b_c lu from a fourth of the
  middle arm to 64 times the largest (then the curve is flat to the right), b_n lu from
  1/64 of the smallest to twice the middle arm, a u .3 to 1, E such that the arm of fewest
  epochs takes lu 3 to 30.
* runs of an arm: lognormal around that; standard deviation of ln(epochs) lu .03 to .6,
  times lu 1/2 to 2 of each arm's own; 16 runs are recorded.
* most epochs: lu 1.5 to 8 times those of the arm of fewest; a run that needs more fails.
* in half of the workloads runs can come to a flat stretch from which they do not come
  back: a chance per run of u 0 to .2 per doubling away from a point among the arms, on one
  side of it.
* default: any of the arms whose recorded runs all reach the target.
* an epoch: costs 1 + b_t / b at the best limit, b_t lu from half the smallest arm to 16
  times it, so that it stops falling; at full power 1.03 to 1.4 times as much, a little
  different by arm; the mean over the limits lies half-way.
* milestones: 18 levels; level k is reached after (k / 18)^c of the epochs, c u .7 to 3,
  times lognormal noise of u .02 to .3; from the smallest arm to the largest c changes by up
  to 30 %, so that the arms do not learn alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from zeus_operator.simulate.workload import EpochCost, TraceArm, Workload

_NORMAL = NormalDist()
_RUNS = 16
_LEVELS = 18
_MAX_POWER_WATTS = 300.0
_LEAST = 1e-12


@dataclass(frozen=True)
class _Recipe:
    """One workload's numbers.

    Args:
        critical, noisy: b_c and b_n.
        stall_at: doublings, from the first arm, beyond which runs can stall.
        stall_side: 1 for larger batch sizes, -1 for smaller.
        curve: c at the first arm; `curve_slope` more of it per doubling.
    """

    sizes: tuple[int, ...]
    critical: float
    noisy: float
    exponent: float
    fewest: float
    spread: float
    room: float
    stall_chance: float
    stall_at: float
    stall_side: int
    overhead: float
    full_power: float
    curve: float
    curve_slope: float
    curve_noise: float

    def shape(self, size: int) -> float:
        """Mean epochs, up to a factor."""
        return (1.0 + size / self.critical) * math.pow(1.0 + self.noisy / size, self.exponent)

    def stalls(self, place: int) -> float:
        """Chance that a run of the arm at `place` stalls."""
        beyond = self.stall_side * (place - self.stall_at)
        return min(0.95, self.stall_chance * max(beyond, 0.0))


def synthetic_workloads(count: int, seed: int = 0) -> tuple[Workload, ...]:
    """Return `count` workloads; the same seed gives the same ones."""
    return tuple(_workload(f"synthetic-{i:02}", f"{seed}/{i}") for i in range(1, count + 1))


def _workload(name: str, seed: str) -> Workload:
    stream = random.Random(f"workload/{seed}")
    while True:  # until some arm may be the default
        recipe = _recipe(stream)
        shapes = [recipe.shape(size) for size in recipe.sizes]
        scale = recipe.fewest / min(shapes)
        max_epochs = max(2, round(recipe.room * recipe.fewest))
        arms = tuple(
            _arm(stream, recipe, place, scale * shapes[place], max_epochs)
            for place in range(len(recipe.sizes))
        )
        safe = [arm.batch_size for arm in arms if max(arm.target_epochs) <= max_epochs]
        if safe:
            default = safe[int(stream.random() * len(safe))]
            return Workload(name, "synthetic", arms, default, max_epochs, _MAX_POWER_WATTS)


def _recipe(stream: random.Random) -> _Recipe:
    count = 2 + int(stream.random() * 13)
    smallest = 2 ** (1 + int(stream.random() * 6))
    sizes = tuple(smallest * 2**i for i in range(count))
    middle, largest = sizes[count // 2], sizes[-1]
    return _Recipe(
        sizes=sizes,
        critical=_between(stream, middle / 4.0, 64.0 * largest),
        noisy=_between(stream, smallest / 64.0, 2.0 * middle),
        exponent=_uniform(stream, 0.3, 1.0),
        fewest=_between(stream, 3.0, 30.0),
        spread=_between(stream, 0.03, 0.6),
        room=_between(stream, 1.5, 8.0),
        stall_chance=_uniform(stream, 0.0, 0.2) * (stream.random() < 0.5),
        stall_at=_uniform(stream, 0.0, count - 1.0),
        stall_side=1 if stream.random() < 0.5 else -1,
        overhead=_between(stream, smallest / 2.0, 16.0 * smallest),
        full_power=_uniform(stream, 1.03, 1.4),
        curve=_uniform(stream, 0.7, 3.0),
        curve_slope=_uniform(stream, -0.3, 0.3) / max(count - 1, 1),
        curve_noise=_uniform(stream, 0.02, 0.3),
    )


def _arm(
    stream: random.Random, recipe: _Recipe, place: int, mean: float, max_epochs: int
) -> TraceArm:
    size = recipe.sizes[place]
    spread = recipe.spread * _between(stream, 0.5, 2.0)
    joules = 1000.0 * (1.0 + recipe.overhead / size)
    factor = 1.0 + (recipe.full_power - 1.0) * _uniform(stream, 0.8, 1.2)
    best, profiling, full = (_epoch(joules * f) for f in (1.0, (1.0 + factor) / 2.0, factor))
    targets, milestones = [], []
    shape = recipe.curve * (1.0 + recipe.curve_slope * place)
    for _ in range(_RUNS):
        epochs = max(1, round(mean * math.exp(spread * _normal(stream) - spread**2 / 2.0)))
        stalls = stream.random() < recipe.stalls(place)
        reaches = epochs <= max_epochs and not stalls
        targets.append(float(epochs) if reaches else math.inf)
        last = int(stream.random() * _LEVELS) if stalls else _LEVELS - 1
        levels = _levels(stream, recipe, epochs, shape)[: last + 1]
        seen = {epoch: level for epoch, level in levels if epoch <= max_epochs}
        if reaches:
            seen[epochs] = 1.0
        milestones.append(tuple(seen.items()))
    return TraceArm(size, best, profiling, full, tuple(targets), tuple(milestones))


def _epoch(joules: float) -> EpochCost:
    """Return an epoch at the GPU's most power, where cost and energy are one: only cost counts."""
    return EpochCost(joules, joules, joules / _MAX_POWER_WATTS)


def _levels(
    stream: random.Random, recipe: _Recipe, epochs: int, shape: float
) -> Sequence[tuple[int, float]]:
    """Return (epoch, level) of each level below the target, epochs ascending."""
    found = []
    before = 1
    for k in range(1, _LEVELS):
        way = (k / _LEVELS) ** shape * math.exp(recipe.curve_noise * _normal(stream))
        before = min(max(before, math.ceil(epochs * way)), epochs)
        found.append((before, k / _LEVELS))
    return found


def _uniform(stream: random.Random, low: float, high: float) -> float:
    return low + (high - low) * stream.random()


def _between(stream: random.Random, low: float, high: float) -> float:
    """Return a log-uniform draw."""
    return low * math.pow(high / low, stream.random())


def _normal(stream: random.Random) -> float:
    return _NORMAL.inv_cdf(min(max(stream.random(), _LEAST), 1.0 - _LEAST))
