"""When a run is not worth another epoch.  Pure; the simulator uses the same functions.

The rule of the paper (NSDI'23, section 4.4): a run ends before the epoch that
would push its cost over the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional


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
