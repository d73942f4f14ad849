"""Walking the pure machine of one GPU's limit as its controller does."""

from __future__ import annotations

import itertools

from zeus_agent.leases import LeaseMachine
from zeus_agent.limits import Apply, Approval, Bounds, Forget, HoldDefault, LeaseView, Restore

ADMIN_CAP = 200_000
"""The limit found, milliwatts: no device's default."""

GPU = "GPU-0"


def machine() -> LeaseMachine:
    """Return a machine whose device accepts 100 to 300 W."""
    made = LeaseMachine(GPU, itertools.count(1).__next__)
    made.bounds = Bounds(100_000, 300_000)
    return made


def apply(of: LeaseMachine, found: int, readback: int | None = None) -> LeaseView | None:
    """Do the next work, which must be a wish."""
    work = of.next_work(0.0)
    assert isinstance(work, Apply)
    if work.dry_run:
        return of.tried(work, found)
    saved = of.approve_apply(work, found)
    assert saved is not None
    of.claim.stored(saved)
    return of.applied(work, work.target_milliwatts if readback is None else readback)


def hold(of: LeaseMachine, found: int) -> int:
    """Do the next work, which must be to hold the node default; return what was written."""
    work = of.next_work(0.0)
    assert isinstance(work, HoldDefault)
    saved = of.approve_default(work, found)
    assert saved is not None
    of.claim.stored(saved)
    of.default_held(work, work.target_milliwatts)
    return work.target_milliwatts


def restore(of: LeaseMachine, found: int) -> int | None:
    """Do what is left after a lease; return what was written."""
    written = None
    work = of.next_work(0.0)
    if isinstance(work, Restore):
        approval = of.approve_restore(found)
        if approval is Approval.WRITE:
            written = work.target_milliwatts
        if approval in (Approval.WRITE, Approval.IN_PLACE):
            of.restored()
        work = of.next_work(0.0)
    assert isinstance(work, Forget)
    of.forgotten()
    assert of.next_work(0.0) is None
    assert of.is_settled()
    return written
