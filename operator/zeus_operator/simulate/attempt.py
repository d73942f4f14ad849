"""One attempt at a batch size on a trace: how far it gets and what it takes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from zeus_operator.optimizer.types import Choice, SweepPoint
from zeus_operator.simulate.workload import EpochCost, Milestones, TraceArm, Workload
from zeus_runtime.protocol import Outcome

_EPOCH_TOLERANCE = 1e-9  # so that a threshold of exactly n epochs pays for n of them
_NOTHING = EpochCost(0.0, 0.0, 0.0)
SWEEP_SHARE = 0.01
"""What measuring a few steps at one batch size takes, as a share of the run it is part of."""


@dataclass(frozen=True)
class Attempt:
    """An attempt that will end as it says.

    Args:
        spent: over all of its epochs, profiling and sweep included.
        milestones: (epoch, metric) each time its metric improved.
        profiled: whether it measured the power limits of its batch size.
        sweep: cost of an epoch at other batch sizes and full power, of a few steps each.
        sweep_cost_joules: that part of what was spent.
    """

    batch_size: int
    outcome: Outcome
    epochs: int
    spent: EpochCost
    milestones: Milestones = ()
    profiled: bool = False
    sweep: tuple[SweepPoint, ...] = ()
    sweep_cost_joules: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether it ends with a model."""
        return self.outcome is Outcome.REACHED


class Recordings:
    """The recorded runs of a workload, drawn at random; one object a simulated job.

    The n-th run of an arm is the same recorded run under every policy of the same
    seed, so that policies are compared on the same luck.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self._arms = {arm.batch_size: arm for arm in workload.arms}
        self._streams = {size: random.Random(f"trace/{seed}/{size}") for size in self._arms}

    def become(self, workload: Workload) -> None:
        """Go over to the runs of another regime of the same job, with the luck as it stands.

        Args:
            workload: the same batch sizes.
        """
        self.workload = workload
        self._arms = {arm.batch_size: arm for arm in workload.arms}

    def arm(self, batch_size: int) -> TraceArm:
        """Return the arm of `batch_size`."""
        return self._arms[batch_size]

    def attempt(self, choice: Choice, *, profiles: bool) -> Attempt:
        """Return the next attempt, under the threshold and the stop rule of `choice`.

        The threshold is counted at the best limit's cost per epoch; where it pays for no
        epoch the attempt fails at no cost.

        Args:
            choice: its batch size is one of the workload's.
            profiles: whether its first epoch measures the power limits.
        """
        size = choice.batch_size
        arm, most = self._arms[size], self.workload.max_epochs
        allowed = most
        if choice.cost_threshold_joules is not None:
            paid_for = choice.cost_threshold_joules / arm.best.cost_joules + _EPOCH_TOLERANCE
            allowed = math.floor(min(paid_for, most))
        if allowed < 1:
            return Attempt(size, Outcome.COST_EXCEEDED, 0, _NOTHING)
        run = int(self._streams[size].random() * len(arm.target_epochs))
        target = arm.target_epochs[run]
        epochs = int(target) if target <= allowed else allowed
        stopped_at = _stopped_at(arm, run, epochs, choice)
        reached = target <= allowed and stopped_at is None
        epochs = epochs if stopped_at is None else stopped_at
        if reached:
            outcome = Outcome.REACHED
        else:
            outcome = Outcome.MAX_EPOCHS if epochs >= most else Outcome.COST_EXCEEDED
        spent = _spent(arm, epochs, profiles)
        swept = tuple(b for b in choice.sweep if b in self._arms and b != size)
        sweeping = spent.times(SWEEP_SHARE * len(swept))
        return Attempt(
            size,
            outcome,
            epochs,
            spent.plus(sweeping),
            _until(arm, run, epochs),
            profiled=profiles,
            sweep=tuple(SweepPoint(b, self._arms[b].full_power.cost_joules) for b in swept),
            sweep_cost_joules=sweeping.cost_joules,
        )


def _stopped_at(arm: TraceArm, run: int, epochs: int, choice: Choice) -> int | None:
    """Return after which epoch before the last one the stop rule ends the run; None: never."""
    rule = choice.stop_rule
    if rule is None:
        return None
    whole = arm.milestones[run] if arm.milestones else ()
    for epoch in range(1, epochs):
        so_far = [milestone for milestone in whole if milestone[0] <= epoch]
        if not rule.goes_on(epoch, so_far, arm.best.cost_joules):
            return epoch
    return None


def _spent(arm: TraceArm, epochs: int, profiles: bool) -> EpochCost:
    first, rest = arm.profiling if profiles else arm.best, epochs - 1
    return EpochCost(
        first.cost_joules + rest * arm.best.cost_joules,
        first.energy_joules + rest * arm.best.energy_joules,
        first.time_seconds + rest * arm.best.time_seconds,
    )


def _until(arm: TraceArm, run: int, epochs: int) -> Milestones:
    """Return the milestones that a run saw before it ended."""
    if not arm.milestones:
        return ()
    whole = arm.milestones[run]
    if not whole or whole[-1][0] <= epochs:
        return whole
    return tuple(milestone for milestone in whole if milestone[0] <= epochs)
