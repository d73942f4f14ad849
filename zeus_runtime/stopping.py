"""When a run is not worth another epoch.  Pure; the simulator uses the same functions.

Two rules.  That of the paper (NSDI'23, section 4.4): a run ends before the epoch
that would push its cost over the threshold.  And a rule by the learning curve
(`StopRule`): a run at a batch size that has not proven itself ends as soon as what
is left of it is no longer worth what it promises.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple


@dataclass(frozen=True)
class CostSoFar:
    """What a run has cost after `epochs` complete epochs.

    Args:
        epochs: complete epochs.
        cost_joules: cost of all of the run so far, profiling included.
        epoch_cost_joules: cost of one epoch at the limit that will be held;
            None: not measured yet, then the mean of the epochs so far is used.
    """

    epochs: int
    cost_joules: float
    epoch_cost_joules: Optional[float] = None

    @property
    def next_epoch_joules(self) -> float:
        """Predicted cost of the next epoch."""
        if self.epoch_cost_joules is not None:
            return self.epoch_cost_joules
        return self.cost_joules / self.epochs if self.epochs else 0.0


def exceeds_threshold(so_far: CostSoFar, threshold_joules: Optional[float]) -> bool:
    """Whether the next epoch would push the cost over the threshold.

    Never before the first epoch: one epoch is what it takes to know its cost, and
    a run stopped at a cost of 0 would look like the cheapest of all.
    """
    if threshold_joules is None or so_far.epochs < 1:
        return False
    return so_far.cost_joules + so_far.next_epoch_joules > threshold_joules


def affordable_epochs(
    threshold_joules: Optional[float],
    epoch_cost_joules: float,
    max_epochs: int,
    first_epoch_cost_joules: Optional[float] = None,
) -> int:
    """Return how many epochs a run of constant cost per epoch completes, if never reached.

    The closed form of `exceeds_threshold` asked before each epoch, for simulations
    and plans.

    Args:
        threshold_joules: None: no threshold.
        epoch_cost_joules: cost of every epoch after the first; above 0.
        max_epochs: most epochs of the run, at least 1.
        first_epoch_cost_joules: cost of the first epoch where it differs (profiling).
    """
    if threshold_joules is None:
        return max_epochs
    first = epoch_cost_joules if first_epoch_cost_joules is None else first_epoch_cost_joules
    if epoch_cost_joules <= 0.0:
        return max_epochs if first <= threshold_joules else 1
    more = math.floor((threshold_joules - first) / epoch_cost_joules)
    return int(min(max_epochs, 1 + max(more, 0)))


Milestones = Sequence[Tuple[int, float]]
"""(epoch, metric) each time the best metric improved, ascending."""

_POINTS = 31  # of the grid over ln(epochs)
_REACH = 4.0  # standard deviations that the grid covers on either side
_LARGEST_EXPONENT = 40.0
_SETTLED_SD = 0.1  # how sharply "not reached yet" cuts off the epochs gone by
_LEVEL_SD = 0.1  # the same for a level of the curve, beside its own spread
_EVERY_EPOCH_UNTIL = 16  # from then on it is asked sixteen times a doubling
_LEAST_PROBABILITY = 0.3  # of an arm that has just reached its target
_NOTHING = 1e-300


@dataclass(frozen=True)
class Level:
    """A level of the metric on the way to the target, from complete runs of the job.

    Args:
        metric: its value.
        log_gap: ln(epochs to the target) - ln(epoch of the level - 0.5), expected.
        log_gap_sd: standard deviation of that.
    """

    metric: float
    log_gap: float
    log_gap_sd: float


@dataclass(frozen=True)
class EpochsBelief:
    """Belief about u = ln(epochs to the target) of one run, on a grid.

    Args:
        points: values of u, ascending.
        weights: of the points, given that the run reaches its target; sum 1.
        probability: that it reaches its target at all.
        mean, variance: of u, given that it does.
    """

    points: Tuple[float, ...]
    weights: Tuple[float, ...]
    probability: float
    mean: float
    variance: float


@dataclass(frozen=True)
class Prospect:
    """What the rest of a run is worth, in epochs of this run.

    Args:
        net_gain: what leaving would cost, less what going on is expected to cost, the
            savings of later recurrences counted in.
        extra: what going on is expected to cost more than leaving now and running the
            best known arm; later recurrences not counted.
    """

    net_gain: float
    extra: float


@dataclass(frozen=True)
class StopRule:
    """Whether a run at an unproven batch size is worth another epoch.

    Made by the optimizer for one attempt; asked by the runtime after each epoch.

    Args:
        log_epochs_mean, arm_variance: belief about ln(epochs to the target) of this
            batch size.
        run_variance: of ln(epochs) between its runs.
        probability: that the batch size reaches the target at all.
        best_cost_joules: of a model from the best batch size known.
        cap_joules: cost at which the attempt ends in any case.
        budget_joules: expected extra cost that exploring may still add.
        horizon: later recurrences that a better batch size is counted for.
        leave_factor: what leaving a run under way is taken to cost, in models from the
            best batch size: above 1, for what a stopped run has paid teaches little.
        max_epochs: most epochs of the attempt.
        rising: whether a larger metric is better.
        levels: of complete runs, the easiest first, the target left out; empty: none known.
    """

    log_epochs_mean: float
    arm_variance: float
    run_variance: float
    probability: float
    best_cost_joules: float
    cap_joules: float
    budget_joules: float
    horizon: float
    leave_factor: float
    max_epochs: int
    rising: bool = True
    levels: Tuple[Level, ...] = ()

    def to_body(self) -> Dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_body(cls, raw: Mapping[str, Any]) -> StopRule:
        """Parse what `to_body` made; unknown fields are ignored (a newer operator may send them).

        Raises:
            TypeError, ValueError: a field is missing or malformed.
        """
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in raw.items() if name in known}
        levels = tuple(Level(**level) for level in values.pop("levels", ()))
        rule = cls(**values, levels=levels)
        numbers = [value for name, value in values.items() if name != "rising"]
        numbers += [number for level in levels for number in asdict(level).values()]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"expected a number, got {number!r}")
            if not abs(number) <= sys.float_info.max:  # an integer may be beyond any float
                raise ValueError("every number must be finite")
        if min(rule.arm_variance, rule.run_variance) <= 0.0 or rule.best_cost_joules <= 0.0:
            raise ValueError("variances and best_cost_joules must be above 0")
        return rule

    def goes_on(self, epochs: int, milestones: Milestones, epoch_cost_joules: float) -> bool:
        """Whether to train another epoch after `epochs` complete ones that missed the target.

        Args:
            epochs: at least 1.
            milestones: of this run so far.
            epoch_cost_joules: what one more epoch costs; positive.
        """
        rest = self.budget_joules / epoch_cost_joules - epochs
        if epochs >= self._most_epochs(epoch_cost_joules):
            return False
        if epochs > _EVERY_EPOCH_UNTIL and epochs % (epochs // _EVERY_EPOCH_UNTIL):
            return True
        prospect = self.prospect(epochs, milestones, epoch_cost_joules, self.leave_factor)
        return prospect.net_gain > 0.0 and prospect.extra <= max(0.0, rest)

    def prospect(
        self,
        epochs: int,
        milestones: Milestones,
        epoch_cost_joules: float,
        leave_factor: float = 1.0,
        overhead_epochs: float = 0.0,
    ) -> Prospect:
        """Return what the rest of the run is worth, left at the best moment.

        Going on until u is known to exceed a grid point costs the epochs up to there,
        and if the target was not reached until then also what leaving costs; the least
        over all such points is what going on costs.  Reaching the target early lowers
        what is expected of this arm, which pays in `horizon` later recurrences.

        Args:
            epochs: complete ones; 0 before the first.
            milestones: of this run so far.
            epoch_cost_joules: what one more epoch costs; positive.
            leave_factor: cost of leaving, in models from the best batch size.
            overhead_epochs: what is to be paid once, besides the epochs.
        """
        belief = self.belief(epochs, milestones)
        best = self.best_cost_joules / epoch_cost_joules
        leave = leave_factor * best
        most = self._most_epochs(epoch_cost_joules)
        longest_rest = max(0.5, float(most - epochs))
        # How far the arm's mean follows what this run shows (one observation among its runs).
        follows = self.arm_variance / (self.arm_variance + self.run_variance)
        later_variance = self.arm_variance * (1.0 - follows) + self.run_variance
        staying = (1.0 - follows) * self.log_epochs_mean + 0.5 * later_variance
        arm_probability = max(self.probability, _LEAST_PROBABILITY)
        reaches, fails = belief.probability, 1.0 - belief.probability
        share = paid = plain = 0.0
        least, extra = math.inf, 0.0
        for point, weight in zip(belief.points, belief.weights):
            total = _exp(point)
            beyond = total > most + 0.5
            rest = min(max(total - epochs, 0.5), longest_rest) + overhead_epochs
            if not beyond:
                later = _exp(follows * point + staying) / arm_probability
                share += weight
                plain += weight * rest
                paid += weight * (rest - self.horizon * max(best - later, 0.0))
            missed = 1.0 - share
            cost = reaches * (paid + missed * (rest + leave)) + fails * (rest + leave)
            if cost < least:
                least = cost
                extra = reaches * (plain + missed * (rest + best)) + fails * (rest + best)
            if beyond:
                break
        return Prospect(leave - least, extra - best)

    def belief(self, epochs: int, milestones: Milestones) -> EpochsBelief:
        """Return what is believed of ln(epochs to the target) after `epochs` that missed it.

        The prior is Gaussian.  Of the levels reached, the one that tells most (a later
        one as a rule) is an observation of u; the first level not reached yet, and the
        target itself, cut off what is by now too early.
        """
        mean, variance = self.log_epochs_mean, self.arm_variance + self.run_variance
        waiting: Optional[Level] = None
        if epochs > 0 and self.levels:
            least = math.inf
            seen = 0.0
            for level, epoch in zip(self.levels, self.level_epochs(milestones)):
                if epoch is not None and epoch <= epochs:
                    spread = level.log_gap_sd**2 + 1.0 / (12.0 * (epoch - 0.5) ** 2)
                    if spread < least:
                        # A metric reported before the first epoch has the epoch 0.
                        least, seen = spread, math.log(max(epoch, 1) - 0.5) + level.log_gap
                elif waiting is None:
                    waiting = level
            if math.isfinite(least):
                prior_mean, prior_variance = mean, variance
                variance = 1.0 / (1.0 / prior_variance + 1.0 / least)
                mean = variance * (prior_mean / prior_variance + seen / least)
        return self._on_grid(mean, math.sqrt(variance), epochs, waiting)

    def level_epochs(self, milestones: Milestones) -> List[Optional[int]]:
        """Return the first epoch at which each level was reached; None: not yet."""
        return [first_epoch_at(level.metric, milestones, self.rising) for level in self.levels]

    def _on_grid(
        self, mean: float, sd: float, epochs: int, waiting: Optional[Level]
    ) -> EpochsBelief:
        points, weights = [], []
        total = whole = 0.0
        for i in range(_POINTS):
            z = _REACH * (2.0 * i / (_POINTS - 1) - 1.0)
            point = mean + z * sd
            weight = math.exp(-0.5 * z * z)
            whole += weight
            if waiting is not None:
                spread = math.hypot(waiting.log_gap_sd, _LEVEL_SD)
                weight *= _cdf((point - waiting.log_gap - math.log(epochs)) / spread)
            if epochs > 0:
                weight *= _cdf((point - math.log(epochs + 0.5)) / _SETTLED_SD)
            points.append(point)
            weights.append(weight)
            total += weight
        if total <= _NOTHING:  # it should long have reached its target: it never will
            return EpochsBelief(
                tuple(points), (0.0,) * (_POINTS - 1) + (1.0,), 0.0, points[-1], sd * sd
            )
        weights = [weight / total for weight in weights]
        share = total / whole
        p = self.probability
        centre = sum(w * u for w, u in zip(weights, points))
        variance = sum(w * (u - centre) ** 2 for w, u in zip(weights, points))
        return EpochsBelief(
            tuple(points),
            tuple(weights),
            p * share / (p * share + 1.0 - p) if p < 1.0 else 1.0,
            centre,
            max(variance, 1e-6),
        )

    def _most_epochs(self, epoch_cost_joules: float) -> int:
        paid_for = self.cap_joules / epoch_cost_joules + 1e-9
        return int(min(paid_for, self.max_epochs))


def first_epoch_at(metric: float, milestones: Milestones, rising: bool) -> Optional[int]:
    """Return the first epoch at which `metric` was reached; None: never."""
    for epoch, value in milestones:
        if value >= metric if rising else value <= metric:
            return epoch
    return None


def _cdf(z: float) -> float:
    """Distribution function of the standard normal."""
    return 0.5 * math.erfc(-z * math.sqrt(0.5))


def _exp(value: float) -> float:
    return math.exp(min(value, _LARGEST_EXPONENT))
