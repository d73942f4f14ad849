"""What this process was told: the decision, the ids, and where the result goes."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Union

from zeus_runtime.batch_split import split_batch
from zeus_runtime.protocol import (
    DEFAULT_RESULT_PATH,
    ENV_ATTEMPT,
    ENV_BATCH_SIZE,
    ENV_DECISION,
    ENV_JOB,
    ENV_LEARNING_RATE,
    ENV_RECURRENCE,
    ENV_RESULT_BYTES,
    ENV_RESULT_PATH,
    RESULT_DEFAULT_BYTES,
    RESULT_MIN_BYTES,
    Decision,
    PowerProfilePoint,
    ProtocolError,
    StopRuleError,
)

_LEAST = 1e-12  # of what must be above 0


@dataclass(frozen=True)
class RunSettings:
    """The environment of this run, read once.

    Args:
        decision: None outside a ZeusJob, or if the one handed over is malformed.
        decision_error: why the decision could not be read; "" if there was none or it could.
        result_path: file that takes the result; None: nobody asked for it.
        result_bytes: constant length of the result.
        rule_error: why the decision's stop rule alone could not be read; it then has none.
    """

    decision: Optional[Decision] = None
    decision_error: str = ""
    job: str = ""
    recurrence: str = ""
    attempt: int = 0
    result_path: Optional[str] = None
    result_bytes: int = RESULT_DEFAULT_BYTES
    rule_error: str = ""

    @property
    def in_job(self) -> bool:
        """Whether this is an attempt of a ZeusJob, or somebody else waits for the result."""
        return bool(self.decision or self.decision_error or self.result_path)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> RunSettings:
        """Read the environment.  Never raises: what is malformed is told in `decision_error`."""
        decision: Optional[Decision] = None
        error = rule_error = ""
        try:
            try:
                decision = Decision.from_environment(environ)
            except StopRuleError as problem:
                decision, rule_error = problem.decision, str(problem)
            if decision is not None:
                check_decision(decision)
        except (ValueError, TypeError) as problem:
            decision, error = None, str(problem)
        path = environ.get(ENV_RESULT_PATH) or None
        if path is None and environ.get(ENV_DECISION) and Path(DEFAULT_RESULT_PATH).exists():
            path = DEFAULT_RESULT_PATH
        return cls(
            decision=decision,
            decision_error=error,
            rule_error=rule_error,
            job=environ.get(ENV_JOB, ""),
            recurrence=environ.get(ENV_RECURRENCE, ""),
            attempt=_whole(environ.get(ENV_ATTEMPT), 0),
            result_path=path,
            result_bytes=max(
                RESULT_MIN_BYTES, _whole(environ.get(ENV_RESULT_BYTES), RESULT_DEFAULT_BYTES)
            ),
        )


def check_decision(decision: Decision) -> None:
    """Refuse a decision whose fields have the wrong type or an impossible value.

    Raises:
        ProtocolError: names the first such field.
    """

    def number(
        name: str,
        low: float,
        high: float,
        *,
        whole: bool = False,
        of: Union[Decision, PowerProfilePoint] = decision,
        where: str = ENV_DECISION,
    ) -> None:
        value: Any = getattr(of, name)
        kinds = (int,) if whole else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or not low <= value <= high:
            raise ProtocolError(
                f"{where}.{name}: expected a {'whole ' if whole else ''}number from "
                f"{low:g} to {high:g}, got {value!r}"
            )

    number("batch_size", 1, 2**53, whole=True)
    number("max_epochs", 1, 2**53, whole=True)
    number("profile_gpu_count", 0, 2**53, whole=True)
    number("seed", -(2**63), 2**64, whole=True)
    number("target", -math.inf, math.inf)
    number("eta", 0.0, 1.0)
    number("power_min_percent", 0.0, 100.0)
    number("power_max_percent", 0.0, 1000.0)
    if decision.cost_threshold_joules is not None:
        number("cost_threshold_joules", 0.0, math.inf)
    if decision.learning_rate is not None:
        number("learning_rate", 0.0, math.inf)
    if not isinstance(decision.optimize_power, bool):
        raise ProtocolError(f"{ENV_DECISION}.optimize_power: expected true or false")
    for size in decision.sweep_batch_sizes:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 2**53:
            raise ProtocolError(
                f"{ENV_DECISION}.sweep_batch_sizes: expected whole numbers above 0, got {size!r}"
            )
    for index, point in enumerate(decision.power_profile):
        where = f"{ENV_DECISION}.power_profile[{index}]"
        for name in ("power_limit_watts", "average_power_watts", "seconds_per_step"):
            number(name, _LEAST, math.inf, of=point, where=where)


def processes_by_environment(environ: Mapping[str, str]) -> int:
    """Return how many processes the launcher has started; 1 where there is none."""
    return max(_whole(environ.get("WORLD_SIZE", "").strip() or None, 1), 1)


def batch_size(default: int) -> int:
    """Return the global batch size to train with: the decided one, else `default`.

    Raises:
        ValueError: `ZEUS_BATCH_SIZE` is not a whole number above 0.
    """
    text = os.environ.get(ENV_BATCH_SIZE)
    if text:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if value < 1:
            raise ValueError(f"{ENV_BATCH_SIZE}={text!r}: expected a whole number above 0")
        return value
    decision = RunSettings.from_environment().decision
    return default if decision is None else decision.batch_size


def local_batch_size(default_global: int, *, replicas: Optional[int] = None) -> int:
    """Return the share of one process in the global batch size, which is what its loader takes.

    Args:
        default_global: global batch size where none was decided.
        replicas: how many loaders share the global batch; None: one in each process.  Fewer
            than processes where several work on the same batch, as with tensor parallelism.

    Raises:
        ValueError: the global batch size can't be divided by them; the text names those near it
            that can.
    """
    if replicas is None:
        replicas = _process_group_size() or processes_by_environment(os.environ)
    return split_batch(batch_size(default_global), processes=replicas).per_process


def learning_rate(default: float) -> float:
    """Return the learning rate to train with: the decided one, else `default`.

    Raises:
        ValueError: `ZEUS_LEARNING_RATE` is not a finite number.
    """
    text = os.environ.get(ENV_LEARNING_RATE)
    if text:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{ENV_LEARNING_RATE}={text!r}: expected a finite number")
        return value
    decision = RunSettings.from_environment().decision
    if decision is None or decision.learning_rate is None:
        return default
    return decision.learning_rate


def seed(default: int) -> int:
    """Return the seed decided for this attempt, else `default`."""
    decision = RunSettings.from_environment().decision
    return default if decision is None else decision.seed


def _process_group_size() -> Optional[int]:
    """Return how many processes torch knows of; None: there is no process group (yet)."""
    distributed: Any = sys.modules.get("torch.distributed")  # not imported: nobody made a group
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return None
    return int(distributed.get_world_size())


def _whole(text: Optional[str], default: int) -> int:
    """Parse a whole number; anything else counts as not given."""
    try:
        return int(text) if text else default
    except ValueError:
        return default
