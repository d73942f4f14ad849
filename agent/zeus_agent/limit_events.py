"""Whom to tell, besides the log, of what happens to limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zeus_agent.limits import Refused


class Counter(Protocol):
    """Counts what happens to limits."""

    def limit_set(self, gpu_uuid: str) -> None:
        """Count a limit that was set for a lease."""

    def limit_tried(self, gpu_uuid: str) -> None:
        """Count a limit that a dry run would have set."""

    def default_set(self, gpu_uuid: str) -> None:
        """Count a node default that was set."""

    def limit_restored(self, gpu_uuid: str) -> None:
        """Count a limit that was put back."""

    def restore_failed(self, gpu_uuid: str) -> None:
        """Count a try to put a limit back that failed."""

    def foreign_change(self, gpu_uuid: str) -> None:
        """Count a limit found changed by somebody else."""

    def lease_revoked(self, code: str) -> None:
        """Count a lease that the policy ended."""


def _nobody(*_: object) -> None:
    """Tell nobody."""


class LimitEvents:
    """Called on the event loop; must not block or raise.

    Attributes:
        on_restore_failed: (GPU UUID, reason): the first failure, those about 7, 15 and 31
            seconds after it, and then one each half a minute.  Also what an earlier agent has
            left and this one can't put back (yet), once.
        on_foreign_change: (GPU UUID, watts found, the holder's session or None).
        on_lease_revoked: (GPU UUID, session, why): by a change of the policy or of sharing.
        on_energy: (GPU UUID, joules used since the last call for it).
        on_identified: (GPU UUID): it was found, or has come back from where it did not answer.
    """

    def __init__(self) -> None:
        self.on_restore_failed: Callable[[str, str], None] = _nobody
        self.on_foreign_change: Callable[[str, float, str | None], None] = _nobody
        self.on_lease_revoked: Callable[[str, str, Refused], None] = _nobody
        self.on_energy: Callable[[str, float], None] = _nobody
        self.on_identified: Callable[[str], None] = _nobody
