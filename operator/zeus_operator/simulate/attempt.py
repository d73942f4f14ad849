"""One attempt at a batch size on a trace: how far it gets and what it takes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from zeus_operator.simulate.workload import EpochCost, Milestones, TraceArm, Workload
from zeus_runtime.protocol import Outcome

_EPOCH_TOLERANCE = 1e-9  # so that a threshold of exactly n epochs pays for n of them
_NOTHING = EpochCost(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Attempt:
    """An attempt that will end as it says.

    Args:
        spent: over all of its epochs, profiling included.
        milestones: (epoch, metric) each time its metric improved.
        profiled: whether it measured the power limits of its batch size.
    """

    batch_size: int
    outcome: Outcome
    epochs: int
    spent: EpochCost
    milestones: Milestones = ()
    profiled: bool = False

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

    def arm(self, batch_size: int) -> TraceArm:
        """Return the arm of `batch_size`."""
        return self._arms[batch_size]

    def attempt(
        self, batch_size: int, threshold_joules: float | None, *, profiles: bool
    ) -> Attempt:
        """Return the next attempt at `batch_size`.

        Args:
            batch_size: one of the workload's.
            threshold_joules: most it may cost, counted at the best limit's cost per epoch;
                None: no threshold.  Where it pays for no epoch the attempt fails at no cost.
            profiles: whether its first epoch measures the power limits.
        """
        arm, most = self._arms[batch_size], self.workload.max_epochs
        allowed = most
        if threshold_joules is not None:
            paid_for = threshold_joules / arm.best.cost_joules + _EPOCH_TOLERANCE
            allowed = math.floor(min(paid_for, most))
        if allowed < 1:
            return Attempt(batch_size, Outcome.COST_EXCEEDED, 0, _NOTHING)
        run = int(self._streams[batch_size].random() * len(arm.target_epochs))
        target = arm.target_epochs[run]
        reached = target <= allowed
        epochs = int(target) if reached else allowed
        if reached:
            outcome = Outcome.REACHED
        else:
            outcome = Outcome.MAX_EPOCHS if epochs >= most else Outcome.COST_EXCEEDED
        return Attempt(
            batch_size,
            outcome,
            epochs,
            _spent(arm, epochs, profiles),
            _until(arm, run, epochs),
            profiled=profiles,
        )


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
