"""What a run hands to the one that goes on from its checkpoint, and what is believed of it.  Pure.

A script that was ended from outside starts again in another process, and loads its own checkpoint.
The run there has to know what came before: else it would seem to have reached its target in fewer
epochs, for less energy, than the batch size needs.
"""

from __future__ import annotations

import binascii
import json
import math
from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Optional, Tuple

from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import Result, SweepMeasurement

STATE_VERSION = 1
_LARGEST = 1e15


class StateError(Exception):
    """A state can't be gone on with; the text says why, as the end of a sentence."""


@dataclass(frozen=True)
class Owner:
    """Whose training a state is of: only the same attempt may go on with it.

    Args:
        job, recurrence, attempt: "", "" and 0 outside a ZeusJob.
        batch_size: global; None: not known.
    """

    job: str
    recurrence: str
    attempt: int
    batch_size: Optional[int]


@dataclass(frozen=True)
class Before:
    """What was done until the checkpoint, by one execution or several.

    Args:
        epochs: complete ones.
        steps_into_epoch: done of the one after them, which is gone on with.
        energy_joules: None: not known.
        gpu_model, gpu_count, max_power_watts: what it ran on; "": not known.
        elsewhere: parts of it ran on other GPUs than the last one.
        last_metric, last_metric_epoch: the metric reported last; None, 0: none was.
        diverged: a metric was reported that is not finite.
        milestones, sweep, sweep_joules, sweep_seconds: as of `protocol.Result`.
    """

    epochs: int
    steps: int
    time_seconds: float
    energy_joules: Optional[float]
    gpu_model: str = ""
    gpu_count: int = 0
    max_power_watts: float = 0.0
    elsewhere: bool = False
    last_metric: Optional[float] = None
    last_metric_epoch: int = 0
    milestones: Tuple[Tuple[int, float], ...] = ()
    sweep: Tuple[SweepMeasurement, ...] = ()
    sweep_joules: Optional[float] = None
    sweep_seconds: Optional[float] = None
    steps_into_epoch: int = 0
    diverged: bool = False

    def cost_joules(self, eta: float, max_power_watts: float) -> Optional[float]:
        """Return the cost; None: its energy is not known."""
        if self.energy_joules is None:
            return None
        return cost_joules(self.energy_joules, self.time_seconds, max_power_watts, eta)

    def added_to(self, own: Result) -> Result:
        """Return the result of the whole run.

        Args:
            own: what this execution did, but for epochs and metric, which are of the whole run.
        """
        if own.time_seconds == 0.0:  # it has done nothing yet, and perhaps need not
            own = replace(
                own,
                energy_joules=0.0,
                gpu_model=self.gpu_model,
                gpu_count=self.gpu_count,
                max_power_watts=self.max_power_watts,
            )
        known = bool(own.gpu_model and self.gpu_model)
        gpus, gpus_before = (own.gpu_model, own.gpu_count), (self.gpu_model, self.gpu_count)
        elsewhere = self.elsewhere or (known and gpus != gpus_before)
        swept: Dict[str, Any] = {}
        if self.sweep_seconds is not None:
            again = own.sweep_seconds is not None
            swept = {
                "sweep": own.sweep or self.sweep,
                "sweep_seconds": self.sweep_seconds + (own.sweep_seconds or 0.0),
                "sweep_joules": _sum(own.sweep_joules, self.sweep_joules)
                if again
                else self.sweep_joules,
            }
        return replace(
            own,
            **swept,
            energy_joules=_sum(own.energy_joules, self.energy_joules),
            time_seconds=own.time_seconds + self.time_seconds,
            carried_epochs=self.epochs,
            carried_energy_joules=self.energy_joules,
            carried_time_seconds=self.time_seconds,
            carried_elsewhere=True if elsewhere else None,
        )


def state_of(
    result: Result,
    before: Optional[Before],
    steps: int,
    last_metric_epoch: int,
    *,
    steps_into_epoch: int = 0,
    diverged: bool = False,
) -> Dict[str, Any]:
    """Return the state after `result`, as plain JSON.

    Args:
        result: of the whole run so far.
        before: what it has gone on with.
        steps: of this execution.
        last_metric_epoch: after which the metric was reported last.
        steps_into_epoch: of the steps, those of an epoch that will be gone on with.
        diverged: a metric was reported that is not finite.
    """
    state: Dict[str, Any] = {
        "version": STATE_VERSION,
        "job": result.job,
        "recurrence": result.recurrence,
        "attempt": result.attempt,
        "batch_size": result.batch_size,
        "epochs": result.epochs,
        "steps": max(steps + (0 if before is None else before.steps), 0),
        "steps_into_epoch": steps_into_epoch,
        "time_seconds": result.time_seconds,
        # Before the first epoch nothing was taken, which is not the same as not known.
        "energy_joules": result.energy_joules if result.time_seconds else 0.0,
        "gpu_model": result.gpu_model,
        "gpu_count": result.gpu_count,
        "max_power_watts": result.max_power_watts,
        "elsewhere": bool(result.carried_elsewhere),
        "last_metric": result.last_metric,
        "last_metric_epoch": last_metric_epoch,
        "diverged": diverged,
        "milestones": [list(each) for each in result.milestones],
        "sweep": [[s.batch_size, s.epoch_seconds, s.epoch_joules] for s in result.sweep],
        "sweep_joules": result.sweep_joules,
        "sweep_seconds": result.sweep_seconds,
    }
    return {**state, "checksum": _checksum(state)}


def read_state(state: Mapping[str, Any], owner: Owner) -> Before:
    """Return what `state` says.

    Raises:
        StateError: it is damaged, or another run's.
    """
    try:
        theirs, before = _parsed(state)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"it is damaged ({type(error).__name__}: {error})") from None
    _refuse_stranger(theirs, owner)
    return before


def _parsed(state: Mapping[str, Any]) -> Tuple[Owner, Before]:
    if not isinstance(state, Mapping):
        raise StateError(f"it is no mapping but {type(state).__name__}")
    version = state.get("version")
    if version != STATE_VERSION:
        raise StateError(f"its version is {version!r}, and this runtime knows {STATE_VERSION}")
    content = {key: value for key, value in state.items() if key != "checksum"}
    if state.get("checksum") != _checksum(content):
        raise StateError("it is damaged: its checksum is wrong")
    owner = Owner(
        content["job"], content["recurrence"], content["attempt"], content["batch_size"] or None
    )
    return owner, _before(content)


def _before(content: Mapping[str, Any]) -> Before:
    return Before(
        epochs=_count(content["epochs"]),
        steps=_count(content["steps"]),
        time_seconds=_amount(content["time_seconds"]),
        energy_joules=_optional(content["energy_joules"]),
        gpu_model=str(content["gpu_model"]),
        gpu_count=_count(content["gpu_count"]),
        max_power_watts=_amount(content["max_power_watts"]),
        elsewhere=bool(content["elsewhere"]),
        last_metric=None if content["last_metric"] is None else _number(content["last_metric"]),
        last_metric_epoch=_count(content["last_metric_epoch"]),
        milestones=tuple((_count(epoch), _number(value)) for epoch, value in content["milestones"]),
        sweep=tuple(
            SweepMeasurement(_count(size), _amount(seconds), _optional(joules))
            for size, seconds, joules in content["sweep"]
        ),
        sweep_joules=_optional(content["sweep_joules"]),
        sweep_seconds=_optional(content["sweep_seconds"]),
        # Releases before did not know these.
        steps_into_epoch=_count(content.get("steps_into_epoch", 0)),
        diverged=bool(content.get("diverged", False)),
    )


def _refuse_stranger(theirs: Owner, owner: Owner) -> None:
    if theirs == owner:
        return
    if theirs.batch_size != owner.batch_size:
        raise StateError(
            f"it was saved at a batch size of {theirs.batch_size}, and this run trains with "
            f"{owner.batch_size}"
        )
    raise StateError(f"it is of {_named(theirs)}, and this run is {_named(owner)}")


def _named(owner: Owner) -> str:
    if not owner.job:
        return "no ZeusJob"
    return f"attempt {owner.attempt} of recurrence {owner.recurrence} of {owner.job}"


def _sum(own: Optional[float], before: Optional[float]) -> Optional[float]:
    return None if own is None or before is None else own + before


def _checksum(content: Mapping[str, Any]) -> int:
    """Return that of what JSON makes of it: a checkpoint may have kept a tuple as a list."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return binascii.crc32(text.encode())


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        raise StateError(f"it is damaged: {value!r} is no count")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise StateError(f"it is damaged: {value!r} is no number")
    return float(value)


def _amount(value: Any) -> float:
    number = _number(value)
    if not 0.0 <= number < _LARGEST:
        raise StateError(f"it is damaged: {value!r} is out of range")
    return number


def _optional(value: Any) -> Optional[float]:
    return None if value is None else _amount(value)
