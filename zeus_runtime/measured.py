"""What was measured of a run: for its result, for its judge, and what is missing of it."""

from __future__ import annotations

from typing import Any, Dict, Optional, Union

from zeus_runtime.accounting import Accounting
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.notices import Notices
from zeus_runtime.power_control import PowerControl
from zeus_runtime.protocol import Decision
from zeus_runtime.resume import Before
from zeus_runtime.stopping import CostSoFar
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.team_sweep import LeadSweep


def measured(
    accounting: Accounting,
    gpu: Optional[GpuFacts],
    control: Optional[PowerControl],
    sweep: Union[SweepControl, LeadSweep, None],
) -> Dict[str, Any]:
    """Return fields of `protocol.Result` by name."""
    use, full_power, swept = accounting.use, accounting.full_power, accounting.sweep
    return {
        "time_seconds": accounting.time_seconds,
        "energy_joules": accounting.energy_joules,
        "epoch_energy_joules": None if use is None else use.energy_joules,
        "epoch_time_seconds": None if use is None else use.time_seconds,
        "gpu_model": "" if gpu is None else gpu.model,
        "gpu_count": 0 if gpu is None else gpu.count,
        "gpu_driver": "" if gpu is None else gpu.driver,
        "power_limit_watts": None if control is None else control.held_watts,
        "max_power_watts": 0.0 if gpu is None else gpu.max_power_watts,
        "power_profile": () if control is None else control.points,
        "full_power_epoch_joules": None if full_power is None else full_power.energy_joules,
        "full_power_epoch_seconds": None if full_power is None else full_power.time_seconds,
        "sweep": () if sweep is None else sweep.measurements(),
        "sweep_joules": None if swept is None else swept.energy_joules,
        "sweep_seconds": None if swept is None else swept.time_seconds,
        "sweeping": None if sweep is None else sweep.serving,
    }


def cost_so_far(
    decision: Optional[Decision],
    epochs: int,
    accounting: Accounting,
    gpu: Optional[GpuFacts],
    notices: Notices,
    before: Optional[Before] = None,
) -> Optional[CostSoFar]:
    """Return the cost after the last epoch; None: not known, or nobody asks for it.

    Args:
        before: what the run has gone on with, a part of its cost and `epochs`.
    """
    if decision is None or epochs < 1 or accounting.first is None:
        return None
    if decision.cost_threshold_joules is None and decision.stop_rule is None:
        return None
    total = accounting.cost(decision.eta, gpu)
    if total is not None and before is not None:
        carried = before.cost_joules(decision.eta, 0.0 if gpu is None else gpu.max_power_watts)
        total = None if carried is None else total + carried
    if total is None:
        kind = "stop rule" if decision.cost_threshold_joules is None else "cost threshold"
        notices.warn("threshold", f"energy is unknown: the {kind} is not applied")
        return None
    return CostSoFar(epochs, total, accounting.epoch_cost(decision.eta, gpu))


def say_if_energy_is_lost(
    epochs: int, accounting: Accounting, notices: Notices, finished: bool
) -> None:
    """The GPU was there at first: say once that it no longer answers."""
    if accounting.energy_joules is not None:
        return
    problem = accounting.problem
    if not problem and not finished:
        return  # it may only be slow to answer
    notices.warn(
        "energy",
        f"the GPU could not be read after epoch {epochs} ({problem or 'it did not answer'}). "
        "Energy is unknown while that lasts; training goes on",
    )
