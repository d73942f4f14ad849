"""What may run where the bound on exploring holds in every single history.  Pure.

A run costs at most its threshold, but never less than its first epoch: that is what it
takes to know what an epoch costs, and it is the one that profiles.  So an arm may run
only if what is left pays for a first epoch at the worst, and an arm that has reached the
target only if it pays for most of its runs; the others are paid for nothing.
"""

from __future__ import annotations

import math

from zeus_operator.optimizer.gaussian import safe_exp
from zeus_operator.optimizer.valuation import Arm

_WORST_SDS = 3.0
_WORST_OVERHEAD = 2.0  # of the default's, measured
_WORST_UNMEASURED = 2.0  # of what an epoch costs where each step costs what the default's does
_LONG_SDS = 1.0  # of a run of an arm that has reached the target
_ROUNDING = 1e-9
_SWEEP_SHARE = 0.02
"""Of a run of the default: what measuring one batch size may take, twice what it is expected to."""


def affordable_epochs(arm: Arm, budget: float) -> int:
    """Return how many epochs of `arm` the budget pays for, its profiling included."""
    return int(max(budget / arm.epoch_cost - arm.overhead_epochs + _ROUNDING, 0.0))


def may_run(arm: Arm, default: Arm, budget: float) -> bool:
    """Whether an attempt at `arm` can't cost more than `budget`, and is of use within it."""
    epoch = safe_exp(arm.log_cost + _WORST_SDS * math.sqrt(arm.log_cost_variance))
    if not arm.cost_measured:
        # It may break with the trend; but hardly any step costs more than twice another.
        steps = max(default.batch_size / arm.batch_size, 1.0)
        epoch = max(epoch, _WORST_UNMEASURED * steps)
    # Profiling takes some steps at each limit: as many joules, or as large a part of an epoch.
    overhead = _WORST_OVERHEAD * arm.overhead_epochs * max(epoch, 1.0)
    if epoch + overhead > budget:
        return False
    spread = math.sqrt(arm.log_epochs_variance + arm.run_variance)
    useful = safe_exp(arm.log_epochs + _LONG_SDS * spread) if arm.proven else 1.0
    return affordable_epochs(arm, budget) >= useful


def sweepable(budget: float, run_cost: float) -> int:
    """Return how many batch sizes may be measured in passing; half of the budget stays.

    Args:
        budget: what may still be spent.
        run_cost: of the default.
    """
    return int(max(0.5 * budget / (_SWEEP_SHARE * run_cost), 0.0))
