"""Whatever happens in whatever order: nothing is written unsaved, and what was found comes back."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zeus_agent.leases import LeaseMachine
from zeus_agent.limits import (
    Apply,
    Approval,
    Bounds,
    Forget,
    HoldDefault,
    Refused,
    Restore,
    Rules,
    SavedLimit,
    is_same_limit,
)

FOUND = 200_000
DEVICE_DEFAULT = 300_000
DEVICE = Bounds(100_000, 300_000)
WISHES = (150_000, 175_000, 250_000, DEVICE_DEFAULT)
# Further from every limit of ours than a driver rounds: else nobody could tell them apart.
FOREIGN = (211_000, 213_000, 217_000)
POLICIES = (
    Rules(),
    Rules(default_milliwatts=180_000),
    Rules(default_milliwatts=190_000, enable_persistence=True),
    Rules(allowed=Bounds(100_000, 160_000), enable_persistence=True),
    Rules(default_milliwatts=180_000, dry_run=True),
)
GIVES_UP_AFTER = 40  # pieces of work, which is more than anything here needs
NO_FAULT, DISK_BEFORE, DISK_AFTER, WRITE_FAILS, WRITE_LATE, KILLED = range(6)


class Killed(Exception):  # noqa: N818 -- what happens to the agent
    """The agent is killed here."""


class OneGpu(RuleBasedStateMachine):
    """A device, a disk, an agent that may be killed, and everybody who may interfere."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = FOUND
        self.persistence = False
        self.late_write: int | None = None
        self.disk: SavedLimit | None = None
        self.in_force = Rules()
        self.fences = itertools.count(1)
        self.decisions = {FOUND}  # what may be there in the end
        self.all_decisions = {FOUND}
        self.undisturbed = True
        self.machine = self.start()

    def start(self) -> LeaseMachine:
        machine = LeaseMachine("GPU-0", self.fences.__next__)
        machine.bounds = DEVICE
        machine.set_rules(self.in_force)
        if self.disk is not None:
            machine.adopt(self.disk)
        return machine

    # ---- who interferes ---------------------------------------------------------

    @rule(session=st.sampled_from("ab"), milliwatts=st.sampled_from(WISHES))
    def wish(self, session: str, milliwatts: int) -> None:
        try:
            self.machine.request(session, milliwatts, 0)
        except Refused:
            assert self.machine.holder is not None

    @rule(session=st.sampled_from("ab"))
    def release(self, session: str) -> None:
        self.machine.release(session)

    @rule(rules=st.sampled_from(POLICIES))
    def policy(self, rules: Rules) -> None:
        self.in_force = rules
        self.machine.set_rules(rules)

    @rule(milliwatts=st.sampled_from(FOREIGN))
    def somebody_else_sets(self, milliwatts: int) -> None:
        self.land_late_write()
        self.limit = milliwatts
        self.all_decisions.add(milliwatts)
        # Until the agent has looked at a device after its reset, it takes what it finds for the
        # reset's doing.
        was_reset = self.machine.claim.was_reset
        self.decisions = {milliwatts, *(self.all_decisions if was_reset else ())}
        self.undisturbed = False

    @rule()
    def reset(self) -> None:
        self.land_late_write()
        self.limit, self.persistence = DEVICE_DEFAULT, False
        self.machine.device_reset()
        # A decision that nobody had seen yet is lost with the device's memory.
        self.all_decisions.add(DEVICE_DEFAULT)
        self.decisions = set(self.all_decisions)
        self.undisturbed = False

    @rule()
    def look(self) -> None:
        self.land_late_write()
        self.machine.observed(self.limit)
        view = self.machine.view()
        if view is None or view.dry_run or view.foreign or not self.machine.is_settled():
            return
        assert view.applied_milliwatts == self.limit, "what is seen and left so is the lease's"

    @rule(wishes=st.lists(st.sampled_from(WISHES), max_size=3), releases=st.booleans())
    def after_a_reset_and_a_look_what_was_granted_holds(
        self, wishes: list[int], releases: bool
    ) -> None:
        for milliwatts in wishes:
            self.wish(self.machine.holder or "a", milliwatts)
            self.come_to_rest()
        if releases and self.machine.holder is not None:
            self.machine.release(self.machine.holder)
        self.come_to_rest()
        view, default = self.machine.view(), self.in_force.default_milliwatts
        yields = self.machine.default_yields
        self.reset()
        self.look()
        self.come_to_rest()
        if view is not None and not view.dry_run and not view.foreign:
            allowed = self.in_force.allowed or DEVICE
            assert self.limit == allowed.clamp(view.requested_milliwatts)
        elif self.machine.holder is None and not (self.in_force.dry_run or yields):
            assert self.limit == (DEVICE_DEFAULT if default is None else default)

    @rule()
    def kill(self) -> None:
        self.land_late_write()
        self.machine = self.start()

    @rule(fault=st.sampled_from((NO_FAULT, NO_FAULT, NO_FAULT, *range(6))))
    def work(self, fault: int) -> None:
        self.land_late_write()
        work = self.machine.next_work(float("inf"))
        try:
            if isinstance(work, Apply | HoldDefault):
                self.set(work, fault)
            elif isinstance(work, Restore):
                self.restore(work, fault)
            elif isinstance(work, Forget):
                self.forget(fault)
        except Killed:
            self.machine = self.start()

    # ---- the agent's hands ------------------------------------------------------

    def set(self, work: Apply | HoldDefault, fault: int) -> None:
        machine, target = self.machine, work.target_milliwatts
        if isinstance(work, Apply) and work.dry_run:
            machine.tried(work, self.limit)
            return
        persistence = self.persistence if machine.rules.enable_persistence else None
        if isinstance(work, Apply):
            saved = machine.approve_apply(work, self.limit, persistence)
        else:
            saved = machine.approve_default(work, self.limit, persistence)
        if saved is None:
            return
        if machine.claim.must_store(saved):
            if fault in (DISK_BEFORE, DISK_AFTER):
                self.disk = saved if fault == DISK_AFTER else self.disk
                machine.claim.not_stored(saved)
                self.not_done(work)
                return
            self.disk = saved
            machine.claim.stored(saved)
        if fault == KILLED:
            raise Killed
        if persistence is False:
            self.persistence = True
        if fault == WRITE_FAILS:
            self.not_done(work)
        elif fault == WRITE_LATE:
            self.late_write = target
            self.not_done(work)
        else:
            self.limit = target
            if isinstance(work, Apply):
                machine.applied(work, target)
            else:
                machine.default_held(work, target)

    def not_done(self, work: Apply | HoldDefault) -> None:
        if isinstance(work, Apply):
            self.machine.apply_failed(work, 0.0)
        else:
            self.machine.failed(0.0)

    def restore(self, work: Restore, fault: int) -> None:
        approval = self.machine.approve_restore(self.limit)
        if approval in (Approval.FOREIGN, Approval.NOT_NOW):
            return
        if fault in (WRITE_FAILS, WRITE_LATE):
            self.late_write = work.target_milliwatts if fault == WRITE_LATE else None
            self.machine.failed(0.0)
            return
        if approval is Approval.WRITE:
            self.limit = work.target_milliwatts
        if fault == KILLED:
            raise Killed
        if work.persistence is not None:
            self.persistence = work.persistence
        self.machine.restored()

    def forget(self, fault: int) -> None:
        if fault in (DISK_BEFORE, DISK_AFTER):
            self.disk = None if fault == DISK_AFTER else self.disk
            self.machine.forget_failed(0.0)
            return
        self.disk = None
        if fault == KILLED:
            raise Killed
        self.machine.forgotten()

    def land_late_write(self) -> None:
        """A call that hung has come to its end; nothing else could reach the device before."""
        if self.late_write is not None:
            self.limit, self.late_write = self.late_write, None

    # ---- what must hold ---------------------------------------------------------

    @invariant()
    def a_limit_of_ours_is_always_on_disk_with_what_to_put_back(self) -> None:
        ours = {*WISHES, 160_000, 180_000, 190_000} - {DEVICE_DEFAULT}
        if self.limit in ours:
            assert self.disk is not None
            known = (*self.disk.written_milliwatts, self.disk.previous_milliwatts)
            assert any(is_same_limit(self.limit, one) for one in known)
            assert self.disk.previous_milliwatts in self.all_decisions

    @invariant()
    def a_lease_that_is_shown_is_within_the_bounds_of_its_time_or_about_to_be(self) -> None:
        view = self.machine.view()
        if view is None or view.dry_run or view.foreign or not self.machine.is_settled():
            return
        allowed = self.machine.rules.allowed
        assert allowed is None or allowed.clamp(view.applied_milliwatts) == view.applied_milliwatts

    @precondition(lambda self: self.machine.holder is None)
    @rule()
    def in_the_end_what_was_found_is_back(self) -> None:
        self.stop_agent()
        assert self.limit in self.decisions
        assert self.disk is None
        assert not self.undisturbed or not self.persistence
        self.machine = self.start()

    def stop_agent(self) -> None:
        if self.machine.holder is not None:
            self.machine.release(self.machine.holder)
        self.machine.give_up_default()
        self.come_to_rest()

    def come_to_rest(self) -> None:
        for _ in range(GIVES_UP_AFTER):
            if self.machine.is_settled():
                return
            self.work(NO_FAULT)
        raise AssertionError(f"it does not come to rest: {self.machine.next_work(0.0)}")

    def teardown(self) -> None:
        self.stop_agent()
        assert self.limit in self.decisions
        assert self.disk is None


TestOneGpu = OneGpu.TestCase
TestOneGpu.settings = settings(max_examples=150, stateful_step_count=30)
