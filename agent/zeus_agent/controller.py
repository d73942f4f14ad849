"""Does the work of one GPU, one thing after another: the hands of its `LeaseMachine`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Callable

from zeus_agent.durable import DurableLimits
from zeus_agent.gpu import Gpu
from zeus_agent.hands import Hands
from zeus_agent.leases import LeaseMachine
from zeus_agent.limit_events import Counter, LimitEvents
from zeus_agent.limits import (
    Apply,
    Approval,
    Forget,
    HoldDefault,
    LeaseView,
    Refused,
    Restore,
    is_same_limit,
)
from zeus_agent.logs import note
from zeus_agent.nvml import Kind, NvmlFailure
from zeus_agent.policing import Policing
from zeus_agent.refusals import (
    DeviceTrouble,
    dry_run_changed,
    foreign_refusal,
    ignored_refusal,
    refusal_for,
    session_over,
    unsteady_refusal,
)
from zeus_agent.waiting import Waiting
from zeus_agent.worker import WorkerTimeout
from zeus_runtime.protocol import ErrorCode

logger = logging.getLogger("zeus_agent.limits")

PROFILING_SECONDS = 5.0
"""A lease whose limit has changed within this time is taken to be profiling."""

_DECISIONS = 3  # on what is found, where it is another limit each time when it is to be replaced
_WORKS_AT_ONCE = 4
_WORTH_A_LINE_SECONDS = 8.0  # of back-off: the first failure is told, and then these


class Controller:
    """Owns one GPU's limit on behalf of its machine.

    Args:
        machine: decides.
        gpu: the device.
        disk: where limits are saved.
        clock: monotonic seconds.
        counter: counts.
        events: whom to tell.
        on_profiling: called when a lease's limit has changed: `is_profiling` is true now.
    """

    def __init__(
        self,
        machine: LeaseMachine,
        gpu: Gpu,
        disk: DurableLimits,
        clock: Callable[[], float],
        counter: Counter,
        events: LimitEvents | None = None,
        on_profiling: Callable[[], None] = lambda: None,
    ) -> None:
        self.machine = machine
        self.gpu = gpu
        self.policing = Policing(machine, gpu, clock)
        self._hands = Hands(machine, gpu, disk)
        self._disk = disk
        self._clock = clock
        self._counter = counter
        self._events = events or LimitEvents()
        self._on_profiling = on_profiling
        self._line: Callable[[], None] | None = None  # to be logged when the callers have theirs
        self._changed_at_seconds = -math.inf
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._waiting = Waiting()

    @property
    def version(self) -> int:
        """A number that changes before and after each write; odd while one goes on."""
        return self._hands.version

    # ---- what others ask --------------------------------------------------------

    def wish(
        self,
        session: str,
        milliwatts: int,
        sequence: int,
        *,
        namespace: str | None = None,
        shared: bool = False,
    ) -> int:
        """Take a session's wish, as the policy allows, and return its ticket for `result_of`.

        Args:
            session: who asks.
            milliwatts: the limit.
            sequence: of this wish; older ones than one seen are refused.
            namespace: of the caller's pod; None: a process on this machine.
            shared: others use the board too.

        Raises:
            Refused: by the policy, its rate, or the machine.
        """
        return self.policing.wish(session, milliwatts, sequence, namespace, shared)

    def wake(self) -> None:
        """Tell that the machine has changed."""
        self._settled.clear()
        self._wake.set()

    def follow_policy(self) -> None:
        """Do what the policy says now: end a lease that it does not allow, move one that it does.

        To be called whenever the policy, the sharing of the board, or what the device accepts has
        changed.
        """
        holder = self.machine.holder
        refusal = self.policing.refusal_of_holder()
        if holder is not None and refusal is not None:
            self.machine.release(holder)
        self.machine.set_rules(self.policing.rules())
        if holder is not None and self.machine.holder is None:
            self._tell_revoked(holder, refusal or dry_run_changed())
        self.wake()

    def revoke(self, session: str, why: Refused) -> None:
        """End a session's lease, if it has this GPU's, and tell why."""
        if self.machine.release(session):
            self._tell_revoked(session, why)
            self.wake()

    async def result_of(self, ticket: int, session: str) -> LeaseView:
        """Wait until a session's wish, or a newer one of its lease, was done.

        Raises:
            Refused: it could not be done.
        """
        future = self._waiting.add(ticket, session)
        self.wake()
        return await future

    async def settled(self, timeout_seconds: float) -> bool:
        """Wait until nothing is to be done any more; return whether that came in time."""
        self.wake()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def is_profiling(self) -> bool:
        """Whether a lease's limit has just changed, as it does while limits are compared."""
        return self._clock() - self._changed_at_seconds < PROFILING_SECONDS

    def tell_foreign(self, found_milliwatts: int) -> None:
        """Tell that somebody else has changed the limit."""
        uuid, watts, holder = self.gpu.uuid, found_milliwatts / 1000.0, self.machine.holder
        self._counter.foreign_change(uuid)
        note(
            logger,
            logging.WARNING,
            "power limit changed by someone else; left alone",
            gpu=uuid,
            session=holder,
            found_watts=watts,
        )
        self._events.on_foreign_change(uuid, watts, holder)

    # ---- work -------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        for number in itertools.count(1):
            if number % _WORKS_AT_ONCE == 0:
                await asyncio.sleep(0)  # a quick device keeps nothing waiting, the loop neither
            self._wake.clear()
            work = self.machine.next_work(self._clock())
            if isinstance(work, Apply):
                await self._apply(work)
            elif isinstance(work, HoldDefault):
                await self._hold_default(work)
            elif isinstance(work, Restore):
                await self._restore(work)
            elif isinstance(work, Forget):
                await self._forget()
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Wait for something to do."""
        # What still waits here has lost its lease before its turn came.
        if self._waiting:
            self._answer(None, self.machine.holder, None)
        delay: float | None = None
        if self.machine.is_settled():
            self._settled.set()
        else:
            delay = max(0.0, self.machine.retry_at_seconds - self._clock())
        if delay is None:
            await self._wake.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wake.wait()

    def _answer(
        self, up_to_ticket: int | None, session: str | None, refusal: Refused | None
    ) -> None:
        self._waiting.answer(up_to_ticket, session, refusal, self.machine.view())

    def _tell_revoked(self, holder: str, refusal: Refused) -> None:
        uuid = self.gpu.uuid
        self._answer(None, holder, refusal)
        self._counter.lease_revoked(refusal.code.value)
        note(
            logger,
            logging.WARNING,
            "lease taken back",
            gpu=uuid,
            session=holder,
            reason=refusal.message,
        )
        self._events.on_lease_revoked(uuid, holder, refusal)

    # ---- a lease's wish -----------------------------------------------------------

    async def _apply(self, work: Apply) -> None:
        """Do a wish and answer; where the bounds have changed, leave it due, within new ones."""
        session = self.machine.holder
        self.policing.begun(work.ticket)
        try:
            refusal = await (self._try_dry(work) if work.dry_run else self._try_to_apply(work))
        except DeviceTrouble as error:
            if await self._is_outside_new_bounds(work, error):
                return
            self.machine.apply_failed(work, self._clock())
            refusal = refusal_for(error)
        # What somebody else has set is the answer to those too who have asked since.
        is_foreign = refusal is not None and refusal.code is ErrorCode.FOREIGN_CHANGE
        self._answer(None if is_foreign else work.ticket, session, refusal)
        if self._line is not None:
            # After the callers, who are next: a line takes longer than their answer.
            asyncio.get_running_loop().call_soon(self._line)
            self._line = None

    async def _is_outside_new_bounds(self, work: Apply, error: Exception) -> bool:
        """Where the driver took offence at the limit, look whether its bounds are others now."""
        if not (isinstance(error, NvmlFailure) and error.kind is Kind.ARGUMENT):
            return False
        await self._hands.learn_bounds()
        target, bounds = work.target_milliwatts, self.machine.bounds
        return bounds is not None and bounds.clamp(target) != target

    async def _try_to_apply(self, work: Apply) -> Refused | None:
        machine = self.machine
        expected = machine.expected(work)
        if expected is not None and not machine.rules.enable_persistence:
            is_done, refusal = await self._apply_over(work, expected)
            if is_done:
                return refusal
        for _ in range(_DECISIONS):
            found = await self.gpu.limit()
            persistence = await self._hands.found_persistence()
            saved = machine.approve_apply(work, found, persistence)
            if saved is None:
                if not machine.is_wanted(work):
                    return session_over()
                self.tell_foreign(found)
                return foreign_refusal(self.gpu.uuid, found)
            refusal = await self._hands.save(saved)
            if refusal is not None:
                machine.apply_failed(work, self._clock())
                return refusal
            if not machine.is_wanted(work):
                return session_over()
            readback = await self._hands.put(work, found, persistence)
            if readback is not None:
                return await self._applied(work, found, readback)
        machine.apply_failed(work, self._clock())
        return unsteady_refusal(self.gpu.uuid)

    async def _apply_over(self, work: Apply, expected: int) -> tuple[bool, Refused | None]:
        """Do a wish of a lease that holds a limit, in one visit to the device.

        Returns:
            whether it was done or refused, and why refused; False: the disk must be waited for,
            or what is there is not as expected, and nothing was written.
        """
        machine = self.machine
        saved = machine.approve_apply(work, expected)
        if saved is None:
            return False, None
        if not self._hands.may_write_over(saved):
            return False, None
        written = await self._hands.write_over(expected, work, saved)
        if isinstance(written, Refused):
            machine.apply_failed(work, self._clock())
            return True, written
        found, readback = written
        if not machine.is_wanted(work) and readback is None:
            return True, session_over()
        if readback is None:
            return False, None
        return True, await self._applied(work, found, readback)

    async def _applied(self, work: Apply, found: int, readback: int) -> Refused | None:
        """Note what the device has after a write; return why that is not what was wished."""
        machine, target = self.machine, work.target_milliwatts
        if not is_same_limit(readback, target) and is_same_limit(readback, found):
            machine.apply_failed(work, self._clock())
            return ignored_refusal(self.gpu.uuid, target, readback)
        machine.applied(work, readback)
        await self._hands.save_readback(readback)
        self._counter.limit_set(self.gpu.uuid)
        if not is_same_limit(found, readback):  # else nothing has changed that a log should tell
            self._changed_at_seconds = self._clock()
            self._on_profiling()
            self._note_set("power limit set", work, readback, found)
        return None

    async def _try_dry(self, work: Apply) -> Refused | None:
        found = await self.gpu.limit()
        if self.machine.tried(work, found) is None:
            return session_over()
        self._counter.limit_tried(self.gpu.uuid)
        self._note_set("dry run: power limit not set", work, work.target_milliwatts, found)
        return None

    def _note_set(self, message: str, work: Apply, milliwatts: int, found: int) -> None:
        view = self.machine.view()
        self._line = functools.partial(
            note,
            logger,
            logging.INFO,
            message,
            gpu=self.gpu.uuid,
            session=self.machine.holder,
            namespace=None if view is None else view.namespace,
            watts=milliwatts / 1000.0,
            found_watts=found / 1000.0,
            clamped=work.clamped or None,
        )

    # ---- without a lease ------------------------------------------------------------

    async def _hold_default(self, work: HoldDefault) -> None:
        machine, target = self.machine, work.target_milliwatts
        try:
            found = await self.gpu.limit()
            persistence = await self._hands.found_persistence()
            saved = machine.approve_default(work, found, persistence)
            if saved is None:
                if machine.default_yields:
                    self.tell_foreign(found)
                return
            refusal = await self._hands.save(saved)
            if refusal is not None:
                self._failed("node default not set; tried again", refusal.message)
                return
            if not machine.is_wanted(work):
                return
            readback = await self._hands.put(work, found, persistence)
            if readback is None:
                return  # somebody came between, or a lease: it is decided anew
        except DeviceTrouble as error:
            await self._hands.learn_from(error)
            self._failed("node default not set; tried again", str(error))
            return
        if not is_same_limit(readback, target) and is_same_limit(readback, found):
            refusal = ignored_refusal(self.gpu.uuid, target, readback)
            self._failed("node default not set; tried again", refusal.message)
            return
        machine.default_held(work, readback)
        await self._hands.save_readback(readback)
        self._counter.default_set(self.gpu.uuid)
        if not is_same_limit(found, readback):
            self._note_back("node default set", readback, found)

    async def _restore(self, work: Restore) -> None:
        machine = self.machine
        try:
            found = readback = await self.gpu.limit()
            approval = machine.approve_restore(found)
            if approval is Approval.FOREIGN:
                self.tell_foreign(found)
            if approval in (Approval.FOREIGN, Approval.NOT_NOW):
                return
            if approval is Approval.WRITE:
                readback = await self._hands.write(work.target_milliwatts)
                if not is_same_limit(readback, work.target_milliwatts):
                    reason = f"the driver took it, but the limit is {readback / 1000:g} W"
                    self._failed(_NOT_RESTORED, reason)
                    return
            await self._hands.put_back_persistence(work.persistence)
        except DeviceTrouble as error:
            await self._hands.learn_from(error)
            self._failed(_NOT_RESTORED, str(error))
            return
        machine.restored()
        if approval is Approval.WRITE:
            self._counter.limit_restored(self.gpu.uuid)
            self._note_back("power limit restored", readback, found)

    def _note_back(self, message: str, milliwatts: int, found: int) -> None:
        note(
            logger,
            logging.INFO,
            message,
            gpu=self.gpu.uuid,
            watts=milliwatts / 1000.0,
            found_watts=found / 1000.0,
        )

    def _failed(self, message: str, reason: str) -> None:
        """Note that what is to hold without a lease could not be set."""
        is_first = self.machine.restore_failures == 0
        is_of_ours = self.machine.restore_pending
        delay = self.machine.failed(self._clock())
        if is_of_ours:
            self._counter.restore_failed(self.gpu.uuid)
        if not is_first and delay < _WORTH_A_LINE_SECONDS:
            return
        note(
            logger,
            logging.ERROR,
            message,
            gpu=self.gpu.uuid,
            reason=reason,
            next_try_seconds=delay,
        )
        if is_of_ours:
            self._events.on_restore_failed(self.gpu.uuid, reason)

    async def _forget(self) -> None:
        try:
            await self._disk.forget(self.gpu.uuid)
        except (OSError, WorkerTimeout) as error:
            delay = self.machine.forget_failed(self._clock())
            note(
                logger,
                logging.WARNING,
                "saved limit not removed",
                gpu=self.gpu.uuid,
                reason=str(error),
                next_try_seconds=delay,
            )
            return
        # Even if a new lease has come meanwhile: nothing is stored now, so it stores anew.
        self.machine.forgotten()


_NOT_RESTORED = "power limit not restored; it stays saved and is tried again"
