"""A recorded workload as it would be after its data or model had changed."""

from __future__ import annotations

import math
from dataclasses import replace

from zeus_operator.simulate.workload import Milestones, TraceArm, Workload


def changed(workload: Workload, log_level: float, log_slope: float) -> Workload:
    """Return `workload` with other numbers of epochs to the target and to each milestone.

    Args:
        log_level: ln of the factor at the default batch size.
        log_slope: more of it per doubling of the batch size.
    """
    arms = []
    for arm in workload.arms:
        doublings = math.log2(arm.batch_size / workload.default_batch_size)
        arms.append(_scaled(arm, math.exp(log_level + log_slope * doublings)))
    return replace(workload, arms=tuple(arms))


def _scaled(arm: TraceArm, factor: float) -> TraceArm:
    return replace(
        arm,
        target_epochs=tuple(_epochs(epoch, factor) for epoch in arm.target_epochs),
        milestones=tuple(_milestones(run, factor) for run in arm.milestones),
    )


def _epochs(epoch: float, factor: float) -> float:
    return float(max(1, round(epoch * factor))) if math.isfinite(epoch) else epoch


def _milestones(run: Milestones, factor: float) -> Milestones:
    """Scale the epochs; of several that fall on one, the last (the best metric) stays."""
    return tuple({int(_epochs(epoch, factor)): metric for epoch, metric in run}.items())
