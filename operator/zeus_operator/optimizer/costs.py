"""Belief about ln(cost per epoch) of each arm, for one kind of GPU at a time.

Everything is relative to the cost per epoch of the default (the unit), so that
scaling all costs changes no decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zeus_operator.optimizer.drift import Cusum
from zeus_operator.optimizer.gaussian import Array, QuadraticPrior
from zeus_operator.optimizer.parameters import Parameters

Gpu = tuple[str, int]  # model and count

_NOISE_WEIGHT = 4.0  # measurements that the prior of their noise is worth
_MOST_NOISE = 9.0  # what one measurement may add to the noise, in variances
_LEAST_DRIFT_SD = 0.05  # moves of less than about this, relative, are no change of the job
_ALARM = 6.0  # costs hardly vary, so surprises soon mean a change


@dataclass
class _Measured:
    """ln(cost per epoch) of one arm: running mean, and extra variance if it is second-hand."""

    mean: float
    count: int = 1
    doubt: float = 0.0


@dataclass
class _Table:
    """What was measured on one kind of GPU."""

    arms: dict[int, _Measured] = field(default_factory=dict)
    squares: float = 0.0
    freedom: int = 0
    cusum: Cusum = field(default_factory=lambda: Cusum(_ALARM))
    surprises: list[tuple[int, float]] = field(default_factory=list)
    full_power_ratio: float = 1.0  # of the default: at the limit found over at the best one


@dataclass(frozen=True)
class CostBelief:
    """Belief about ln(cost per epoch / unit), and the unit.

    Args:
        mean, variance: of each arm, shape (K,).
        unit_log_joules: ln of the unit, the default's cost per epoch; None where nothing
            was measured at all.
        full_power_ratio: the default's cost per epoch at the power limit found over that at
            its best limit.
        borrowed: the unit comes from another kind of GPU.
    """

    mean: Array
    variance: Array
    unit_log_joules: float | None
    full_power_ratio: float = 1.0
    borrowed: bool = False


class CostModel:
    """Measured costs per epoch by kind of GPU, and the prior that joins the arms."""

    def __init__(self, x: Array, default: int, parameters: Parameters) -> None:
        self._x = x
        self._default = default
        self._parameters = parameters
        p = parameters
        self._prior = QuadraticPrior.at(
            x,
            (0.0, p.cost_slope, 0.0),
            (p.cost_level_sd, p.cost_slope_sd, p.cost_curve_sd, p.cost_own_sd),
        )
        self._tables: dict[Gpu, _Table] = {}
        self._last: Gpu | None = None
        self._beliefs: dict[Gpu, CostBelief] = {}

    def observe(self, gpu: Gpu, arm: int, cost_joules: float, rough: bool = False) -> None:
        """Take in a cost per epoch.

        Args:
            gpu: where it was measured.
            arm: index of the arm.
            cost_joules: positive.
            rough: a whole run's mean, profiling included, not an epoch at one limit.
        """
        self._take_in(gpu, arm, cost_joules, self._parameters.transfer_sd**2 if rough else 0.0)

    def observe_full_power(
        self, gpu: Gpu, arm: int, full_joules: float, held_joules: float
    ) -> None:
        """Take in what an epoch costs at the power limit found and at the one held, above 0."""
        if arm == self._default:
            table = self._tables.setdefault(gpu, _Table())
            table.full_power_ratio = full_joules / held_joules
            self._beliefs.clear()

    def observe_sweep(self, gpu: Gpu, arm: int, cost_joules: float) -> None:
        """Take in a cost per epoch of a few steps, scaled to the best limit."""
        self._take_in(gpu, arm, cost_joules, self._parameters.sweep_sd**2)

    def knows(self, gpu: Gpu) -> bool:
        """Whether anything was measured on that kind of GPU; an unknown GPU: on any."""
        return gpu in self._tables if gpu[0] else bool(self._tables)

    def measured(self, gpu: Gpu, arm: int) -> bool:
        """Whether a cost per epoch of `arm` was measured there, in whatever way."""
        table = self._tables.get(gpu)
        return table is not None and arm in table.arms

    def unit_joules(self, gpu: Gpu, arm: int) -> float | None:
        """Return the default's measured cost per epoch there, or that of `arm`; None: neither."""
        table = self._tables.get(gpu)
        if table is None:
            return None
        known = table.arms.get(self._default) or table.arms.get(arm)
        return None if known is None else math.exp(known.mean)

    def _take_in(self, gpu: Gpu, arm: int, cost_joules: float, doubt: float) -> None:
        value = math.log(cost_joules)
        table = self._tables.setdefault(gpu, _Table())
        self._last = gpu
        self._beliefs.clear()
        known = table.arms.get(arm)
        if known is None or known.doubt > doubt:
            table.arms[arm] = _Measured(value, doubt=doubt)
        elif known.doubt >= doubt:
            self._again(table, arm, known, value)

    def belief(self, gpu: Gpu) -> CostBelief:
        """Return the belief for `gpu`; an unknown GPU is taken for the last one seen."""
        chosen = gpu if gpu[0] else self._last
        if chosen is None or self._last is None:
            prior = self._prior.given(*self._nothing())
            return CostBelief(prior.mean, prior.variance, None)
        if chosen not in self._beliefs:
            self._beliefs[chosen] = self._compute(chosen, self._last)
        return self._beliefs[chosen]

    def _again(self, table: _Table, arm: int, known: _Measured, value: float) -> None:
        """Take in another measurement of an arm, and look whether the job has changed."""
        noise = max(self._noise_variance(table), _LEAST_DRIFT_SD**2)
        step = value - known.mean
        table.surprises.append((arm, value))
        alarm = table.cusum.surprise(step / math.sqrt(noise * (1.0 + 1.0 / known.count)))
        if alarm:
            self._shift(table)
            return
        keep = table.cusum.memory
        table.surprises = table.surprises[-keep:] if keep else []
        known.count += 1
        known.mean += step / known.count
        # Held in: the first measurements after a change must not pass for noise and hide it.
        table.squares += min(step * (value - known.mean), _MOST_NOISE * noise)
        table.freedom += 1

    def _shift(self, table: _Table) -> None:
        """Start over from the measurements since the change.

        A job whose cost per epoch moved has most likely other data or another
        machine, which moves all arms alike: the others follow, with doubt.
        """
        recent: dict[int, list[float]] = {}
        for arm, value in table.surprises[-table.cusum.onset :]:
            recent.setdefault(arm, []).append(value)
        new = {arm: sum(values) / len(values) for arm, values in recent.items()}
        moved = sum(value - table.arms[arm].mean for arm, value in new.items()) / len(new)
        for arm, measured in table.arms.items():
            if arm in new:
                table.arms[arm] = _Measured(new[arm], count=len(recent[arm]))
            else:
                doubt = self._parameters.transfer_sd**2
                table.arms[arm] = _Measured(measured.mean + moved, doubt=doubt)
        table.cusum.reset()
        table.surprises = []

    def _noise_variance(self, table: _Table) -> float:
        prior = self._parameters.measurement_sd**2
        pooled = (_NOISE_WEIGHT * prior + table.squares) / (_NOISE_WEIGHT + table.freedom)
        return max(prior, pooled)

    def _compute(self, gpu: Gpu, last: Gpu) -> CostBelief:
        own = self._tables.get(gpu)
        # Nothing measured on this kind of GPU: the last one seen is the nearest there is.
        donor = own if own is not None else self._tables[last]
        unit = self._unit(donor)
        precision, weighted = self._nothing()
        for table in self._tables.values():
            if table is not donor:
                self._carry_over(table, donor, precision, weighted)
        noise = self._noise_variance(donor)
        measured = {
            arm: (each.mean - unit, noise / each.count + each.doubt)
            for arm, each in donor.arms.items()
        }
        for arm, (value, variance) in measured.items():
            precision[arm] += 1.0 / variance
            weighted[arm] += value / variance
        belief = self._prior.given(precision, weighted)
        mean, spread = belief.mean.copy(), belief.variance.copy()
        for arm, (value, variance) in measured.items():
            # What was measured counts as it is; the quadratic only fills in the other arms.
            mean[arm], spread[arm] = value, variance
        return CostBelief(mean, spread, unit, donor.full_power_ratio, donor is not own)

    def _carry_over(
        self, table: _Table, donor: _Table, precision: list[float], weighted: list[float]
    ) -> None:
        """Add what another kind of GPU says of arms not measured here, relative to the default."""
        if self._default not in table.arms:
            return
        base = table.arms[self._default].mean
        weight = 1.0 / self._parameters.transfer_sd**2
        for arm, measured in table.arms.items():
            if arm not in donor.arms and arm != self._default:
                precision[arm] += weight
                weighted[arm] += weight * (measured.mean - base)

    def _unit(self, table: _Table) -> float:
        if self._default in table.arms:
            return table.arms[self._default].mean
        arm = min(table.arms, key=lambda i: abs(float(self._x[i])))
        return table.arms[arm].mean - float(self._prior.mean[arm])

    def _nothing(self) -> tuple[list[float], list[float]]:
        return [0.0] * len(self._x), [0.0] * len(self._x)
