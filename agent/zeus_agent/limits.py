"""Power limits as values: what is wanted, found, saved, held, and the work that follows.

Limits are milliwatts, NVML's own unit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from zeus_runtime.protocol import ErrorCode

TOLERANCE_MILLIWATTS = 1000
"""Limits closer than this are the same: drivers round, some to whole watts."""


class Refused(Exception):  # noqa: N818 -- an answer to the caller, named by what it says
    """The wish can't be granted; becomes an `ApiError`."""

    def __init__(self, code: ErrorCode, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True)
class Bounds:
    """What the device accepts, or the administrator allows."""

    min_milliwatts: int
    max_milliwatts: int

    def clamp(self, milliwatts: int) -> int:
        """Return the nearest limit that is accepted."""
        return min(max(milliwatts, self.min_milliwatts), self.max_milliwatts)


@dataclass(frozen=True)
class Rules:
    """What the administrator's policy says of one GPU.

    Args:
        allowed: the limits that a lease may set; None: whatever the device accepts.
        default_milliwatts: the node default, which holds while there is no lease;
            None: the limit found does.
        dry_run: answer as if, and write nothing.
        enable_persistence: persistence mode is on while a limit of ours is held.
    """

    allowed: Bounds | None = None
    default_milliwatts: int | None = None
    dry_run: bool = False
    enable_persistence: bool = False


@dataclass(frozen=True)
class SavedLimit:
    """What is stored before a limit is written.

    Args:
        previous_milliwatts: what was found, to be put back.
        written_milliwatts: what the agent may have written since: what it found
            of its own, the limit last confirmed, and the one on its way.  Anything
            else found on the device was set by somebody else.
        previous_persistence: the persistence mode found, where the agent changes
            it; None: it does not, and puts nothing back.
    """

    gpu_uuid: str
    previous_milliwatts: int
    written_milliwatts: tuple[int, ...]
    previous_persistence: bool | None = None


@dataclass(frozen=True)
class LeaseView:
    """A lease as it stands, for answers and metrics.

    Args:
        namespace: of the holder; "" for a process on this machine.
        dry_run: nothing was written; what is applied and previous is what was found.
    """

    session: str
    gpu_uuid: str
    fence: int
    requested_milliwatts: int
    applied_milliwatts: int
    previous_milliwatts: int
    clamped: bool
    foreign: bool
    namespace: str = ""
    dry_run: bool = False


@dataclass(frozen=True)
class Apply:
    """Read the limit, ask `approve_apply`, write `target_milliwatts`, read back.

    In a dry run: read the limit and tell `tried`.

    Args:
        ticket: of the wish.
        fence: of its lease.
        wanted_milliwatts: the wish.
        target_milliwatts: the same within all bounds.
        dry_run: write nothing.
    """

    ticket: int
    fence: int
    wanted_milliwatts: int
    target_milliwatts: int
    dry_run: bool = False

    @property
    def clamped(self) -> bool:
        """Whether the bounds allow something else than what was wanted."""
        return self.target_milliwatts != self.wanted_milliwatts


@dataclass(frozen=True)
class HoldDefault:
    """Read the limit, ask `approve_default`, write `target_milliwatts`, read back."""

    target_milliwatts: int


@dataclass(frozen=True)
class Restore:
    """Read the limit, ask `approve_restore`, write `target_milliwatts`, read back.

    Args:
        target_milliwatts: the limit found, within what the device accepts now.
        persistence: the persistence mode to put back after it; None: none.
    """

    target_milliwatts: int
    persistence: bool | None = None


@dataclass(frozen=True)
class Forget:
    """Remove what was stored: it is back in place, or somebody else has decided."""


Work = Apply | HoldDefault | Restore | Forget


class Sight(enum.Enum):
    """What a look at the device means."""

    EXPECTED = "expected"
    RESET = "reset"  # the device lost its limit; ours is written again
    LATE = "late"  # a write that had timed out has come after all; it is undone
    FOREIGN = "foreign"  # somebody else has set it


class Approval(enum.Enum):
    """What to do with the limit found where one is to be restored."""

    WRITE = "write"  # it is ours: write the previous one over it
    IN_PLACE = "in_place"  # the previous one is there already
    FOREIGN = "foreign"  # somebody else has decided: leave it
    NOT_NOW = "not_now"  # a lease or a default has come meanwhile, which decides by itself


def is_same_limit(one_milliwatts: int, other_milliwatts: int) -> bool:
    """Whether two limits are the same but for a driver's rounding."""
    return abs(one_milliwatts - other_milliwatts) < TOLERANCE_MILLIWATTS


def is_near_any(milliwatts: int, candidates: Iterable[int]) -> bool:
    """Whether a limit is the same as one of `candidates`."""
    return any(is_same_limit(milliwatts, candidate) for candidate in candidates)
