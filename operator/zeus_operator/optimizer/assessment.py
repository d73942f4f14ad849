"""How every arm looks at a moment, and what an attempt may be told to hold to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from zeus_operator.optimizer import worst_case
from zeus_operator.optimizer.gaussian import safe_exp
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.types import Problem
from zeus_operator.optimizer.valuation import Arm, cap_epochs
from zeus_runtime.stopping import StopRule

MakeRule = Callable[[Arm, "RuleTerms"], StopRule]
"""Makes the rule that an attempt at an unproven arm is asked by."""


@dataclass(frozen=True)
class RuleTerms:
    """What a stop rule is to hold to, in units: best known cost, cap, budget; and the horizon."""

    best: float
    cap: float
    budget: float
    horizon: float


@dataclass(frozen=True)
class Assessment:
    """How every arm looks, costs in units.

    Args:
        arms: on offer, ascending by batch size.
        positions: of all arms, log2(batch size / default), by index.
        proven_positions: of the arms that have reached the target, offered still or not.
        default: the arm that stands for doing nothing.
        full_power_ratio: of the default, see `budget`.
        budget: what exploring may still cost, in expectation or in the worst case.
        unit_log_joules: ln of the unit; None: no cost was ever measured.
        borrowed: the unit was measured on another kind of GPU.
    """

    arms: tuple[Arm, ...]
    positions: tuple[float, ...]
    proven_positions: tuple[float, ...]
    default: Arm
    full_power_ratio: float
    budget: float
    unit_log_joules: float | None
    borrowed: bool

    @property
    def joules_known(self) -> bool:
        """Whether a cost was measured on this kind of GPU, so that one can be limited."""
        return self.unit_log_joules is not None and not self.borrowed

    def joules(self, units: float) -> float | None:
        """Return a cost in joules; None if the unit is unknown or the cost beyond sense."""
        if self.unit_log_joules is None:
            return None
        value = units * safe_exp(self.unit_log_joules)
        return value if math.isfinite(value) else None


def attempt_cap(
    arm: Arm, best: Arm, problem: Problem, parameters: Parameters, bounded: float | None
) -> int:
    """Return the most epochs of an attempt; `bounded`: most it may cost whatever happens."""
    factor, own = parameters.unproven_cap, None
    if arm.proven:
        # Its own spread is known: to cut its long but normal runs would pay for them twice.
        factor, own = parameters.proven_cap, parameters.proven_sds
    most = cap_epochs(arm, factor * best.value, own, problem.max_epochs)
    return most if bounded is None else min(most, worst_case.affordable_epochs(arm, bounded))
