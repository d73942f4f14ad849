"""What `PowerControl` is told, and what it needs of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Protocol, Tuple

from zeus_runtime.agent_background import AgentStatus
from zeus_runtime.ledger import Moment
from zeus_runtime.protocol import PowerProfilePoint


@dataclass(frozen=True)
class PowerWishes:
    """What is wanted of the power limit.

    Args:
        eta: energy preference.
        known: points measured before on this kind of GPU and batch size.
    """

    eta: float = 0.5
    min_percent: float = 0.0
    max_percent: float = 100.0
    known: Tuple[PowerProfilePoint, ...] = ()


@dataclass(frozen=True)
class Steps:
    """What is known of a run's steps.

    Args:
        per_epoch: None: not known.
        partial_last: the last batch of an epoch is smaller.
        synchronize: waits until the GPU has done what was asked of it.
    """

    per_epoch: Optional[int] = None
    partial_last: bool = False
    synchronize: Optional[Callable[[], None]] = None


class LimitHolder(Protocol):
    """What is needed of the agent (`agent_background.BackgroundAgent`)."""

    @property
    def status(self) -> AgentStatus:
        """What is known now."""

    def want_power_limit(self, uuid: str, watts: float) -> None:
        """Ask for a limit; returns at once."""

    def release(self, uuid: str) -> None:
        """Ask for the former limit; returns at once."""


class EnergySource(Protocol):
    """What is needed of the meter (`meter.EnergyMeter`)."""

    @property
    def period_seconds(self) -> Optional[float]:
        """Distance of the moments at which energy is known; None: not learned yet."""

    @property
    def problem(self) -> str:
        """Why energy is unknown now; "" if it is known."""

    def mark(self, time_seconds: Optional[float] = None) -> Moment:
        """Return a mark at this moment or one just past."""
