"""A recorded workload on one GPU model: what an epoch costs and when runs reached the target."""

from __future__ import annotations

import math
from dataclasses import dataclass

Milestones = tuple[tuple[int, float], ...]
"""(epoch, metric) each time the best metric of a run improved, by epoch."""


@dataclass(frozen=True)
class EpochCost:
    """What one epoch, or some of them, takes.  `cost` is in joules at the eta of the workload."""

    cost_joules: float
    energy_joules: float
    time_seconds: float

    def times(self, factor: float) -> EpochCost:
        """Return so many times as much."""
        return EpochCost(
            self.cost_joules * factor, self.energy_joules * factor, self.time_seconds * factor
        )

    def plus(self, other: EpochCost) -> EpochCost:
        """Return both together."""
        return EpochCost(
            self.cost_joules + other.cost_joules,
            self.energy_joules + other.energy_joules,
            self.time_seconds + other.time_seconds,
        )


@dataclass(frozen=True)
class TraceArm:
    """One batch size of a recorded workload on one GPU model.

    Args:
        best: an epoch at the power limit of least cost.
        profiling: the first epoch of a first run: the mean over all power limits.
        full_power: an epoch at the largest power limit.
        target_epochs: one entry a recorded run; infinite if it never reached the target.
        milestones: of the same runs; empty where nothing was recorded.
    """

    batch_size: int
    best: EpochCost
    profiling: EpochCost
    full_power: EpochCost
    target_epochs: tuple[float, ...]
    milestones: tuple[Milestones, ...] = ()

    def expected_epochs(self, max_epochs: int) -> float:
        """Epochs paid per model: failed runs last `max_epochs` and are repeated."""
        reached = [epoch for epoch in self.target_epochs if epoch <= max_epochs]
        if not reached:
            return math.inf
        failed = len(self.target_epochs) - len(reached)
        return (sum(reached) + failed * max_epochs) / len(reached)


@dataclass(frozen=True)
class Workload:
    """A recorded workload on one GPU model, with costs at one eta."""

    name: str
    gpu: str
    arms: tuple[TraceArm, ...]
    default_batch_size: int
    max_epochs: int
    max_power_watts: float

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The arms, ascending."""
        return tuple(arm.batch_size for arm in self.arms)

    def arm(self, batch_size: int) -> TraceArm:
        """Return the arm of `batch_size`."""
        return self.arms[self.batch_sizes.index(batch_size)]

    @property
    def best_arm(self) -> TraceArm:
        """The arm of least expected cost."""
        return min(self.arms, key=self.expected_cost_joules)

    @property
    def best_arm_cost_joules(self) -> float:
        """Expected cost of one recurrence at the best arm and its best power limit."""
        return self.expected_cost_joules(self.best_arm)

    @property
    def default_recurrence(self) -> EpochCost:
        """Expected cost, energy and time of one recurrence of the default at full power.

        Infinite where no recorded run of the default reached the target.
        """
        arm = self.arm(self.default_batch_size)
        return arm.full_power.times(arm.expected_epochs(self.max_epochs))

    @property
    def default_cost_joules(self) -> float:
        """Expected cost of one recurrence at the default batch size and full power."""
        return self.default_recurrence.cost_joules

    def expected_cost_joules(self, arm: TraceArm) -> float:
        """Return the expected cost of one recurrence at `arm` and its best power limit."""
        return arm.expected_epochs(self.max_epochs) * arm.best.cost_joules
