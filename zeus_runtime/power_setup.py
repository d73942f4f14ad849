"""Decides whether a run turns its power limit, and from which knowledge it starts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Optional

from zeus_runtime.gpu import GpuFacts
from zeus_runtime.ledger import Ledger
from zeus_runtime.notices import Notices
from zeus_runtime.power_control import PowerControl
from zeus_runtime.power_parts import EnergySource, LimitHolder, PowerWishes, Steps
from zeus_runtime.protocol import Decision, PowerProfilePoint


def make_power_control(
    facts: GpuFacts,
    decision: Optional[Decision],
    eta: float,
    agent: Optional[LimitHolder],
    meter: EnergySource,
    ledger: Ledger,
    notices: Notices,
    steps: Steps,
) -> Optional[PowerControl]:
    """Return what turns the limit; None: it stays as it is, and if nobody wished so, says why."""
    if decision is not None and not decision.optimize_power:
        return None
    if facts.min_limit_watts is None or facts.max_limit_watts is None:
        notices.warn("limits", f"{facts.model} has no power limit that can be set")
        return None
    if agent is None:
        notices.warn(
            "agent", "no agent was found: training goes on at the power limit that there is"
        )
        return None
    return PowerControl(
        facts, power_wishes(facts, decision, eta), agent, meter, ledger, notices, steps
    )


def power_wishes(facts: GpuFacts, decision: Optional[Decision], eta: float) -> PowerWishes:
    """Return what is wanted; a profile counts only on the GPUs and the driver it is from."""
    if decision is None:
        return PowerWishes(eta=eta)
    measured_on = (
        decision.profile_gpu_model,
        decision.profile_driver,
        decision.profile_gpu_count,
    )
    return PowerWishes(
        decision.eta,
        decision.power_min_percent,
        decision.power_max_percent,
        tuple(_sound(point) for point in decision.power_profile)
        if measured_on == (facts.model, facts.driver, facts.count)
        else (),
    )


def _sound(point: PowerProfilePoint) -> PowerProfilePoint:
    """Take a certainty that makes no sense for none: the point may then be measured again."""
    known = isinstance(point.certainty, (int, float)) and 0.0 <= point.certainty < math.inf
    return point if known else replace(point, certainty=0.0)
