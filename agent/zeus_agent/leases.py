"""What becomes of the power limit of one GPU: a pure state machine.

No clock, file or NVML inside.  The broker brings wishes and ended sessions, the
policy its rules; the GPU's controller asks for `next_work`, does it, and tells
what it found.  The rules it keeps:

* one precedence: the administrator's bounds, then the lease, then the node
  default, then the limit found;
* one owner at a time, told apart by a fence number that only grows;
* nothing is written before what was found is stored (`SavedLimit`);
* of several wishes that wait, only the newest is done;
* a limit that somebody else has set is left alone, while the lease lasts and
  after it; the node default yields to it until the policy names another one, or
  the device is reset.
"""

from __future__ import annotations

from collections.abc import Callable

from zeus_agent.claims import Claim
from zeus_agent.lease import Lease
from zeus_agent.limits import (
    Apply,
    Approval,
    Bounds,
    Forget,
    HoldDefault,
    LeaseView,
    Refused,
    Restore,
    Rules,
    SavedLimit,
    Sight,
    Work,
    is_same_limit,
)

__all__ = [
    "Apply",
    "Approval",
    "Bounds",
    "Forget",
    "HoldDefault",
    "LeaseMachine",
    "LeaseView",
    "Refused",
    "Restore",
    "Rules",
    "SavedLimit",
    "Sight",
    "is_same_limit",
]

RETRY_FIRST_SECONDS = 1.0
RETRY_LAST_SECONDS = 30.0


class LeaseMachine:
    """The state of one GPU's power limit.

    Args:
        gpu_uuid: the GPU.
        next_fence: gives a number larger than every one before, over restarts too.
    """

    def __init__(self, gpu_uuid: str, next_fence: Callable[[], int]) -> None:
        self.gpu_uuid = gpu_uuid
        self.bounds: Bounds | None = None
        self.rules = Rules()
        self.claim = Claim(gpu_uuid)
        self.restore_failures = 0
        self.retry_at_seconds = 0.0
        self._next_fence = next_fence
        self._lease: Lease | None = None
        self._tickets = 0
        self._forget = False
        self._default_held_milliwatts: int | None = None  # the default that is in place
        self._default_yields = False  # to somebody else's decision
        self._default_is_over = False  # the agent stops: what was found comes back

    # ---- wishes ---------------------------------------------------------------

    def check(self, session: str, sequence: int) -> None:
        """Check that a wish could be taken; nothing changes.

        Raises:
            Refused: another session holds the lease, the sequence is older than
                one already seen, or somebody else has set the limit.
        """
        if self._lease is not None:
            self._lease.check(self.gpu_uuid, session, sequence)

    def request(self, session: str, milliwatts: int, sequence: int, namespace: str = "") -> int:
        """Take a wish and return its ticket.

        Raises:
            Refused: see `check`.
        """
        self.check(session, sequence)
        self._tickets += 1
        lease = self._lease
        if lease is None:
            fence, dry_run = self._next_fence(), self.rules.dry_run
            self._lease = Lease(
                session, namespace, dry_run, fence, milliwatts, sequence, self._tickets
            )
            if not dry_run:
                self._forget = False
                self._default_held_milliwatts = None
            return self._tickets
        lease.requested_milliwatts = milliwatts
        lease.sequence = sequence
        lease.wish = self._tickets
        return self._tickets

    def is_change(self, milliwatts: int) -> bool:
        """Whether a wish for this limit would change what the lease has or waits for."""
        lease, target = self._lease, self._within(milliwatts)
        if lease is None or target != self._within(lease.requested_milliwatts):
            return True
        return not lease.is_due and target != lease.target_milliwatts

    def waits_after(self, ticket: int) -> bool:
        """Whether a wish newer than this one waits; a further one only takes its place."""
        return self._lease is not None and self._lease.is_due and self._lease.wish > ticket

    def release(self, session: str) -> bool:
        """End the session's lease, if it has it; what holds without it is due."""
        lease = self._lease
        if lease is None or lease.session != session:
            return False
        self._lease = None
        self.retry_at_seconds = 0.0
        if lease.foreign and self.claim.was_reset:
            self._forget = True  # what somebody else had decided is gone with what we had set
        elif lease.foreign:
            # Somebody else has decided what the limit is: there is nothing of ours to put back.
            self._yield_to_others()
        return True

    def adopt(self, saved: SavedLimit) -> bool:
        """Take over what an earlier agent stored and did not put back; return whether it could.

        It can't while there is a lease, which may be about to store what it has found.
        """
        if self._lease is not None or self.claim.is_stored:
            return False
        self.claim.stored(saved)
        self._forget = False
        return True

    # ---- the administrator's rules ----------------------------------------------

    def set_rules(self, rules: Rules) -> None:
        """Follow these rules from now on; a lease that holds is moved within new bounds.

        Where a dry run begins or ends the lease ends: its holder has been told something else.
        """
        before, self.rules = self.rules, rules
        if rules.default_milliwatts != before.default_milliwatts:
            self._default_yields = False
            self._default_held_milliwatts = None
        wants_persistence = rules.enable_persistence and not before.enable_persistence
        if wants_persistence:
            self._default_held_milliwatts = None
        lease = self._lease
        if lease is None:
            return
        if lease.dry_run != rules.dry_run:
            self.release(lease.session)
            return
        has_other_target = self._within(lease.requested_milliwatts) != lease.target_milliwatts
        if lease.applied_milliwatts is not None and (has_other_target or wants_persistence):
            self._wish_again(lease)

    def give_up_default(self) -> None:
        """Hold the node default no longer: the agent stops, what was found comes back.

        What had failed is tried at once: there may be no later time.
        """
        self._default_is_over = True
        self._reset_retries()

    # ---- work -----------------------------------------------------------------

    def next_work(self, now_seconds: float) -> Work | None:
        """Return what to do now; None: nothing before `retry_at_seconds` or the next wish."""
        is_wish = self._lease is not None and self._lease.is_due
        return self._due() if is_wish or now_seconds >= self.retry_at_seconds else None

    def is_settled(self) -> bool:
        """Whether nothing is due: no wish, no default to set, nothing to restore."""
        return self._due() is None

    def is_wanted(self, work: Apply | HoldDefault) -> bool:
        """Whether what asked for this still holds."""
        if isinstance(work, Apply):
            return self._lease_of(work) is not None
        return self._writing_lease() is None and self._default() == work.target_milliwatts

    def expected(self, work: Apply) -> int | None:
        """Return the limit that a lease which holds one has left on the device; None: look first.

        `approve_apply` may be asked with it before a look, which must then find just that.
        """
        lease = self._lease_of(work)
        is_held = lease is not None and lease.applied_milliwatts is not None and not work.dry_run
        return self.claim.expected_milliwatts if is_held else None

    def approve_apply(
        self, work: Apply, found_milliwatts: int, found_persistence: bool | None = None
    ) -> SavedLimit | None:
        """Decide on what was found before writing.

        Returns:
            What must be on disk before the limit is written (`claim.must_store`
            tells whether it is), or None: do not write, somebody else has set
            the limit or the lease has ended.
        """
        lease = self._lease_of(work)
        if lease is None:
            return None
        claim, target = self.claim, work.target_milliwatts
        persistence = claim.persistence_to_put_back(
            found_persistence, enabling=self.rules.enable_persistence
        )
        if claim.saved is not None and not claim.is_ours(found_milliwatts):
            if lease.applied_milliwatts is not None:
                lease.foreign = True
                lease.refused(lease.wish)
                return None
            # Nothing of this lease is in place yet.  What an ended one has left is still to be
            # given back to `previous`; what anybody else has set is the new thing to give back.
            if not is_same_limit(found_milliwatts, claim.saved.previous_milliwatts):
                self._default_yields = True
                return claim.fresh(target, found_milliwatts, persistence)
        return claim.extended(target, found_milliwatts, persistence)

    def approve_default(
        self, work: HoldDefault, found_milliwatts: int, found_persistence: bool | None = None
    ) -> SavedLimit | None:
        """Decide on what was found before writing the node default.

        Returns:
            What must be on disk first, or None: do not write (`default_yields`
            tells whether because somebody else has set the limit).
        """
        if not self.is_wanted(work):
            return None
        claim = self.claim
        if (
            claim.saved is not None
            and not is_same_limit(found_milliwatts, claim.saved.previous_milliwatts)
            and not claim.is_ours(found_milliwatts)
        ):
            self._yield_to_others()
            return None
        persistence = claim.persistence_to_put_back(
            found_persistence, enabling=self.rules.enable_persistence
        )
        return claim.extended(work.target_milliwatts, found_milliwatts, persistence)

    def applied(self, work: Apply, readback_milliwatts: int) -> LeaseView | None:
        """Note that the limit was written and read back; return the lease if it still lasts."""
        self.claim.confirm(readback_milliwatts)
        self.restore_failures = 0
        return self._done(work, readback_milliwatts)

    def tried(self, work: Apply, found_milliwatts: int) -> LeaseView | None:
        """Note what was found in a dry run; return the lease if it still lasts."""
        return self._done(work, found_milliwatts)

    def default_held(self, work: HoldDefault, readback_milliwatts: int) -> None:
        """Note that the node default was written and read back."""
        self.claim.confirm(readback_milliwatts)
        if self.is_wanted(work):
            self._default_held_milliwatts = work.target_milliwatts
            self._reset_retries()

    def apply_failed(self, work: Apply, now_seconds: float) -> None:
        """Note that a wish could not be done.  A lease that holds nothing yet ends by it.

        It is not done later either, as its caller is told; what a lease holds outside the
        administrator's bounds is tried to be moved again.
        """
        lease = self._lease_of(work)
        if lease is None:
            return
        lease.refused(work.ticket)
        if self._is_out_of_bounds(lease):
            self.failed(now_seconds)
        elif lease.applied_milliwatts is None and lease.done == lease.wish:
            self._lease = None
            self.retry_at_seconds = 0.0

    def approve_restore(self, found_milliwatts: int) -> Approval:
        """Decide on what was found: whether to write the previous limit.

        `restored` is to follow where the answer is WRITE or IN_PLACE.
        """
        saved = self.claim.saved
        if not isinstance(self._due(), Restore) or saved is None:
            # A lease that came during the look decides by itself what becomes of what is saved.
            return Approval.NOT_NOW
        if is_same_limit(found_milliwatts, saved.previous_milliwatts):
            return Approval.IN_PLACE
        if self.claim.is_ours(found_milliwatts):
            return Approval.WRITE
        self._yield_to_others()
        return Approval.FOREIGN

    def restored(self) -> None:
        """Note that the previous limit is in place, read back."""
        self._forget = self._writing_lease() is None
        self._default_held_milliwatts = None
        self.claim.given_back()
        self._reset_retries()

    def failed(self, now_seconds: float) -> float:
        """Note that restoring, or setting the default, failed; return seconds to the next try."""
        delay = min(RETRY_FIRST_SECONDS * 2.0**self.restore_failures, RETRY_LAST_SECONDS)
        self.restore_failures = min(self.restore_failures + 1, 30)
        self.retry_at_seconds = now_seconds + delay
        return delay

    def forget_failed(self, now_seconds: float) -> float:
        """Note that the disk may still have the entry or not; return seconds until the next try."""
        self.claim.is_stored = False
        return self.failed(now_seconds)

    def forgotten(self) -> None:
        """Note that nothing is on disk any more."""
        self.claim.forgotten()
        self._forget = False
        self._reset_retries()

    # ---- looks at the device --------------------------------------------------

    def observed(self, found_milliwatts: int) -> Sight:
        """Compare a reading of the limit with what the lease, or the node default, has set."""
        lease = self._writing_lease()
        if lease is None:
            if self._default_held_milliwatts is None or not self.is_settled():
                return Sight.EXPECTED
        elif lease.applied_milliwatts is None or lease.foreign or lease.is_due:
            return Sight.EXPECTED
        claim = self.claim
        if claim.is_in_place(found_milliwatts):
            claim.confirm(found_milliwatts)
            return Sight.EXPECTED
        # The device's default may be one of the limits that we wrote before.
        if claim.was_reset:
            self._set_again(lease)
            return Sight.RESET
        if claim.was_written(found_milliwatts):
            claim.confirm(found_milliwatts)
            if lease is not None:
                lease.applied_milliwatts = lease.target_milliwatts = found_milliwatts
            if not claim.has_come_late(found_milliwatts):
                return Sight.EXPECTED
            self._set_again(lease)
            return Sight.LATE
        if lease is None:
            self._yield_to_others()
        else:
            lease.foreign = True
        return Sight.FOREIGN

    def device_reset(self) -> None:
        """Note that the device or its driver was reset: any limit found is nobody's decision."""
        self._default_yields = False
        if self.claim.saved is not None:
            self.claim.was_reset = True

    def device_answers(self) -> None:
        """Note that the device answers (again): what waits may be tried at once."""
        self.retry_at_seconds = 0.0

    def view(self) -> LeaseView | None:
        """Return the lease, if one holds a limit."""
        return None if self._lease is None else self._lease.view(self.gpu_uuid, self.claim.saved)

    @property
    def holder(self) -> str | None:
        """The session that has the lease, or is about to get it."""
        return None if self._lease is None else self._lease.session

    @property
    def default_yields(self) -> bool:
        """Whether the node default is not set because somebody else has decided."""
        return self._default_yields

    @property
    def restore_pending(self) -> bool:
        """Whether a limit of an ended lease or default is still to be replaced."""
        return self.claim.saved is not None and isinstance(self._due(), Restore | HoldDefault)

    # ---- inside ---------------------------------------------------------------

    def _due(self) -> Work | None:
        """Return what is to be done, whenever its time comes."""
        lease = self._lease
        if lease is not None and (lease.is_due or self._is_out_of_bounds(lease)):
            wanted = lease.requested_milliwatts
            return Apply(lease.wish, lease.fence, wanted, self._within(wanted), lease.dry_run)
        if self._writing_lease() is not None:
            return None
        saved = self.claim.saved
        if saved is not None and self._forget:
            return Forget()
        default = self._default()
        if default is not None:
            held = self._default_held_milliwatts
            return None if held == default else HoldDefault(default)
        if saved is None:
            return None
        previous = saved.previous_milliwatts
        return Restore(
            previous if self.bounds is None else self.bounds.clamp(previous),
            saved.previous_persistence,
        )

    def _default(self) -> int | None:
        """Return the node default that is to hold where no lease does, within all bounds."""
        default = self.rules.default_milliwatts
        is_off = self.rules.dry_run or self._default_yields or self._default_is_over
        return None if is_off or default is None else self._within(default)

    def _within(self, milliwatts: int) -> int:
        """Return the limit within what is allowed and, above that, what the device accepts."""
        for bounds in (self.rules.allowed, self.bounds):
            milliwatts = milliwatts if bounds is None else bounds.clamp(milliwatts)
        return milliwatts

    def _is_out_of_bounds(self, lease: Lease) -> bool:
        """Whether a lease holds what the bounds do not allow (any more), and could be moved."""
        held = lease.applied_milliwatts
        if held is None or lease.foreign or lease.dry_run:
            return False
        is_moved = lease.target_milliwatts == self._within(lease.requested_milliwatts)
        return not is_moved and not is_same_limit(self._within(held), held)

    def _writing_lease(self) -> Lease | None:
        return None if self._lease is None or self._lease.dry_run else self._lease

    def _lease_of(self, work: Apply) -> Lease | None:
        lease = self._lease
        return lease if lease is not None and lease.fence == work.fence else None

    def _done(self, work: Apply, readback_milliwatts: int) -> LeaseView | None:
        lease = self._lease_of(work)
        if lease is None:
            return None
        lease.granted_milliwatts = work.wanted_milliwatts
        lease.target_milliwatts = work.target_milliwatts
        lease.applied_milliwatts = readback_milliwatts
        lease.clamped = work.clamped
        lease.done = max(lease.done, work.ticket)
        return self.view()

    def _wish_again(self, lease: Lease) -> None:
        if not lease.foreign and not lease.is_due:
            self._tickets += 1
            lease.wish = self._tickets

    def _set_again(self, lease: Lease | None) -> None:
        """Let what is to hold be set again: the lease's limit, or without one the node default."""
        if lease is None:
            self._default_held_milliwatts = None
        else:
            self._wish_again(lease)

    def _yield_to_others(self) -> None:
        self._forget = self.claim.saved is not None
        self._default_yields = True
        self._default_held_milliwatts = None

    def _reset_retries(self) -> None:
        self.restore_failures = 0
        self.retry_at_seconds = 0.0
