"""Who holds the power limit of one GPU: a pure state machine.

No clock, file or NVML inside.  The broker brings wishes and ended sessions; the
GPU's controller asks for `next_work`, does it, and tells what it found.  The
rules it keeps:

* one owner at a time, told apart by a fence number that only grows;
* nothing is written before what was found is stored (`SavedLimit`);
* of several wishes that wait, only the newest is done;
* a limit that somebody else has set is left alone, while the lease lasts and
  after it.

Limits are milliwatts, NVML's own unit.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from zeus_runtime.protocol import ErrorCode

TOLERANCE_MILLIWATTS = 1000
"""Limits closer than this are the same: drivers round, some to whole watts."""

RETRY_FIRST_SECONDS = 1.0
RETRY_LAST_SECONDS = 30.0


class Refused(Exception):  # noqa: N818 -- an answer to the caller, named by what it says
    """The wish can't be granted; becomes an `ApiError`."""

    def __init__(self, code: ErrorCode, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True)
class Bounds:
    """What the device accepts."""

    min_milliwatts: int
    max_milliwatts: int

    def clamp(self, milliwatts: int) -> int:
        """Return the nearest limit that is accepted."""
        return min(max(milliwatts, self.min_milliwatts), self.max_milliwatts)


@dataclass(frozen=True)
class SavedLimit:
    """What is stored before a limit is written.

    Args:
        previous_milliwatts: what was found, to be put back.
        written_milliwatts: what the agent may have written since: what it found
            of its own, the limit last confirmed, and the one on its way.  Anything
            else found on the device was set by somebody else.
    """

    gpu_uuid: str
    previous_milliwatts: int
    written_milliwatts: tuple[int, ...]


@dataclass
class _Lease:
    session: str
    fence: int
    requested_milliwatts: int
    sequence: int
    wish: int  # number of the newest wish
    done: int = 0  # number of the newest wish that was answered
    applied_milliwatts: int | None = None
    clamped: bool = False
    foreign: bool = False


@dataclass(frozen=True)
class LeaseView:
    """A lease as it stands, for answers and metrics."""

    session: str
    gpu_uuid: str
    fence: int
    requested_milliwatts: int
    applied_milliwatts: int
    previous_milliwatts: int
    clamped: bool
    foreign: bool


@dataclass(frozen=True)
class Apply:
    """Read the limit, ask `approve_apply`, write `target_milliwatts`, read back."""

    ticket: int
    fence: int
    target_milliwatts: int
    clamped: bool


@dataclass(frozen=True)
class Restore:
    """Read the limit, ask `approve_restore`, write `target_milliwatts`, read back."""

    target_milliwatts: int


@dataclass(frozen=True)
class Forget:
    """Remove what was stored: it is back in place, or somebody else has decided."""


Work = Apply | Restore | Forget


class Sight(enum.Enum):
    """What a look at the device means."""

    EXPECTED = "expected"
    RESET = "reset"  # the device lost its limit; the lease's is written again
    FOREIGN = "foreign"  # somebody else has set it


class LeaseMachine:
    """The state of one GPU's power limit.

    Args:
        gpu_uuid: the GPU.
        next_fence: gives a number larger than every one before, over restarts too.
    """

    def __init__(self, gpu_uuid: str, next_fence: Callable[[], int]) -> None:
        self.gpu_uuid = gpu_uuid
        self.bounds: Bounds | None = None
        self.saved: SavedLimit | None = None
        self.is_stored = False  # whether the disk is known to have just that
        self.restore_failures = 0
        self.retry_at_seconds = 0.0
        self._next_fence = next_fence
        self._lease: _Lease | None = None
        self._tickets = 0
        self._forget = False
        self._was_reset = False
        self._confirmed_milliwatts: int | None = None

    # ---- wishes ---------------------------------------------------------------

    def request(self, session: str, milliwatts: int, sequence: int) -> int:
        """Take a wish and return its ticket.

        Raises:
            Refused: another session holds the lease, the sequence is older than
                one already seen, or somebody else has set the limit.
        """
        lease = self._lease
        if lease is not None and lease.session != session:
            raise Refused(
                ErrorCode.GPU_LEASED,
                f"session {lease.session!r} holds the power limit of {self.gpu_uuid}; "
                "wait until it ends",
                holder=lease.session,
            )
        self._tickets += 1
        if lease is None:
            self._lease = _Lease(session, self._next_fence(), milliwatts, sequence, self._tickets)
            self._forget = False
            return self._tickets
        if sequence < lease.sequence:
            raise Refused(
                ErrorCode.STALE_SEQUENCE,
                f"sequence {sequence} is older than {lease.sequence}, which was already seen",
                newest=lease.sequence,
            )
        if lease.foreign:
            raise self._foreign_refusal()
        lease.requested_milliwatts = milliwatts
        lease.sequence = sequence
        lease.wish = self._tickets
        return self._tickets

    def release(self, session: str) -> bool:
        """End the session's lease, if it has it; what was found before is due to be restored."""
        lease = self._lease
        if lease is None or lease.session != session:
            return False
        # Somebody else has decided what the limit is: there is nothing of ours to put back.
        self._forget = lease.foreign
        self._lease = None
        self.retry_at_seconds = 0.0
        return True

    def adopt(self, saved: SavedLimit) -> None:
        """Take over what an earlier agent stored and did not put back."""
        if self.saved is None and self._lease is None:
            self.stored(saved)

    # ---- work -----------------------------------------------------------------

    def next_work(self, now_seconds: float) -> Work | None:
        """Return what to do now; None: nothing before `retry_at_seconds` or the next wish."""
        lease = self._lease
        if lease is not None:
            if lease.foreign or lease.wish == lease.done:
                return None
            wanted = lease.requested_milliwatts
            target = wanted if self.bounds is None else self.bounds.clamp(wanted)
            return Apply(lease.wish, lease.fence, target, clamped=target != wanted)
        if self.saved is None or now_seconds < self.retry_at_seconds:
            return None
        if self._forget:
            return Forget()
        previous = self.saved.previous_milliwatts
        return Restore(previous if self.bounds is None else self.bounds.clamp(previous))

    def is_settled(self) -> bool:
        """Whether nothing is waiting: no wish, nothing to restore."""
        if self._lease is not None:
            return self._lease.foreign or self._lease.wish == self._lease.done
        return self.saved is None

    def approve_apply(self, work: Apply, found_milliwatts: int) -> SavedLimit | None:
        """Decide on what was found before writing.

        Returns:
            What must be on disk before the limit is written (`must_store`
            tells whether it is), or None: do not write, somebody else has set
            the limit or the lease has ended.
        """
        lease = self._lease_of(work)
        if lease is None:
            return None
        fresh = SavedLimit(self.gpu_uuid, found_milliwatts, (work.target_milliwatts,))
        saved = self.saved
        if saved is None:
            return fresh
        was_written = _near(found_milliwatts, self._ours())
        is_ours = self._was_reset or was_written
        if lease.applied_milliwatts is None:
            # Nothing of this lease is in place yet.  What an ended one has left is still to be
            # given back to `previous`; what anybody else has set is the new thing to give back.
            if not is_ours and not _near(found_milliwatts, (saved.previous_milliwatts,)):
                return fresh
        elif not is_ours:
            lease.foreign = True
            lease.done = lease.wish
            return None
        # Until the write is done the device has what was found: it must still count as ours then.
        written = [found_milliwatts] if was_written else []
        if self._confirmed_milliwatts is not None:
            written.append(self._confirmed_milliwatts)
        written.append(work.target_milliwatts)
        return replace(saved, written_milliwatts=tuple(dict.fromkeys(written)))

    def must_store(self, saved: SavedLimit) -> bool:
        """Whether `saved` is not known to be on disk."""
        return saved != self.saved or not self.is_stored

    def stored(self, saved: SavedLimit) -> None:
        """Note that `saved` is on disk."""
        self.saved = saved
        self.is_stored = True

    def not_stored(self, saved: SavedLimit) -> None:
        """Note that storing `saved` failed: the disk may have it, now or later, or not.

        Nothing was written for it, but an entry that may be there must be removed some day.
        """
        self.is_stored = False
        if self.saved is None:
            self.saved = replace(saved, written_milliwatts=())

    def is_wanted(self, work: Apply) -> bool:
        """Whether the lease that asked for this still lasts."""
        return self._lease_of(work) is not None

    def applied(self, work: Apply, readback_milliwatts: int) -> LeaseView | None:
        """Note that the limit was written and read back; return the lease if it still lasts."""
        self._confirmed_milliwatts = readback_milliwatts
        self._was_reset = False
        self.restore_failures = 0
        lease = self._lease_of(work)
        if lease is None:
            return None
        lease.applied_milliwatts = readback_milliwatts
        lease.clamped = work.clamped
        lease.done = max(lease.done, work.ticket)
        return self.view()

    def apply_failed(self, work: Apply) -> None:
        """Note that a wish could not be done.  A lease that holds nothing yet ends by it."""
        lease = self._lease_of(work)
        if lease is None:
            return
        lease.done = max(lease.done, work.ticket)
        if lease.applied_milliwatts is None and lease.done == lease.wish:
            self._lease = None
            self.retry_at_seconds = 0.0

    def approve_restore(self, found_milliwatts: int) -> bool:
        """Decide on what was found: whether to write the previous limit.

        If not, it is there already, or somebody else has set another one; either
        way `Forget` follows.
        """
        if self.saved is None:
            return False
        previous = (self.saved.previous_milliwatts,)
        if not _near(found_milliwatts, previous) and (
            self._was_reset or _near(found_milliwatts, self._ours())
        ):
            return True
        # A lease that came during the look decides by itself what becomes of what is saved.
        self._forget = self._lease is None
        return False

    def restored(self) -> None:
        """Note that the previous limit was written and read back."""
        self._forget = self._lease is None
        self._was_reset = False
        self._confirmed_milliwatts = None
        self._reset_retries()

    def failed(self, now_seconds: float) -> float:
        """Note that restoring failed; return seconds until the next try."""
        delay = min(RETRY_FIRST_SECONDS * 2.0**self.restore_failures, RETRY_LAST_SECONDS)
        self.restore_failures = min(self.restore_failures + 1, 30)
        self.retry_at_seconds = now_seconds + delay
        return delay

    def forget_failed(self, now_seconds: float) -> float:
        """Note that the disk may still have the entry or not; return seconds until the next try."""
        self.is_stored = False
        return self.failed(now_seconds)

    def forgotten(self) -> None:
        """Note that nothing is on disk any more."""
        self.saved = None
        self.is_stored = False
        self._forget = False
        self._was_reset = False
        self._confirmed_milliwatts = None
        self._reset_retries()

    # ---- looks at the device --------------------------------------------------

    def observed(self, found_milliwatts: int) -> Sight:
        """Compare a reading of the limit with what the lease has set."""
        lease = self._lease
        if lease is None or lease.applied_milliwatts is None or lease.foreign:
            return Sight.EXPECTED
        if lease.wish != lease.done:
            return Sight.EXPECTED
        if _near(found_milliwatts, (lease.applied_milliwatts, *self._ours())):
            # A write that had timed out may have come to its end late.
            lease.applied_milliwatts = self._confirmed_milliwatts = found_milliwatts
            self._was_reset = False
            return Sight.EXPECTED
        if self._was_reset:
            self._tickets += 1
            lease.wish = self._tickets
            return Sight.RESET
        lease.foreign = True
        return Sight.FOREIGN

    def device_reset(self) -> None:
        """Note that the device or its driver was reset: any limit found is nobody's decision."""
        if self.saved is not None:
            self._was_reset = True

    def device_answers(self) -> None:
        """Note that the device answers (again): what waits may be tried at once."""
        self.retry_at_seconds = 0.0

    def view(self) -> LeaseView | None:
        """Return the lease, if one holds a limit."""
        lease = self._lease
        if lease is None or lease.applied_milliwatts is None or self.saved is None:
            return None
        return LeaseView(
            session=lease.session,
            gpu_uuid=self.gpu_uuid,
            fence=lease.fence,
            requested_milliwatts=lease.requested_milliwatts,
            applied_milliwatts=lease.applied_milliwatts,
            previous_milliwatts=self.saved.previous_milliwatts,
            clamped=lease.clamped,
            foreign=lease.foreign,
        )

    @property
    def holder(self) -> str | None:
        """The session that has the lease, or is about to get it."""
        return None if self._lease is None else self._lease.session

    @property
    def restore_pending(self) -> bool:
        """Whether a limit of an ended lease is still to be put back."""
        return self._lease is None and self.saved is not None and not self._forget

    def _lease_of(self, work: Apply) -> _Lease | None:
        lease = self._lease
        return lease if lease is not None and lease.fence == work.fence else None

    def _ours(self) -> tuple[int, ...]:
        written = () if self.saved is None else self.saved.written_milliwatts
        confirmed = self._confirmed_milliwatts
        return written if confirmed is None else (*written, confirmed)

    def _reset_retries(self) -> None:
        self.restore_failures = 0
        self.retry_at_seconds = 0.0

    def _foreign_refusal(self) -> Refused:
        return Refused(
            ErrorCode.FOREIGN_CHANGE,
            f"someone else has changed the power limit of {self.gpu_uuid}; the agent leaves it "
            "alone until this lease is released",
        )


def is_same_limit(one_milliwatts: int, other_milliwatts: int) -> bool:
    """Whether two limits are the same but for a driver's rounding."""
    return abs(one_milliwatts - other_milliwatts) < TOLERANCE_MILLIWATTS


def _near(milliwatts: int, candidates: Iterable[int]) -> bool:
    return any(is_same_limit(milliwatts, candidate) for candidate in candidates)
