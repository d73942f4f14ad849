"""Holds power limits through the agent from a daemon thread, so that training never waits.

The training thread says what it wants (`want_power_limit`) and looks at what is
(`status`); both return at once.  The thread opens the session, applies the
newest wish, hands over the newest report, renews, and after the agent was gone
connects again (at once, then after 1 s, doubling to 30 s) and takes its leases again.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Mapping, Optional, Tuple, Union

from zeus_runtime.agent_client import AgentClient, AgentError, AgentUnavailable
from zeus_runtime.agent_wishes import BACKOFF_FIRST_SECONDS, Backoff, Wish, said_pause
from zeus_runtime.protocol import ErrorCode, Lease, NodeInfo, Result, SessionRequest

RENEWAL_SECONDS = 5.0
REPORT_SECONDS = 1.0
"""Least distance of two reports but the last: epochs may take milliseconds."""

_OF_THE_SESSION = frozenset(
    {
        ErrorCode.NOT_FOUND.value,
        ErrorCode.UNAUTHENTICATED.value,
        ErrorCode.IDENTITY_UNAVAILABLE.value,
    }
)
"""Refusals of a report that are no fault of the report."""


@dataclass(frozen=True)
class AgentStatus:
    """What is known now; a snapshot that never changes.

    Args:
        connected: the last call was answered and the session is open.
        error: why not, in one sentence; "" while connected.
        refusal: the agent answers and refuses the session; None: it does not answer, or serves.
        leases: by GPU UUID, the leases held, as the agent last told.  Empty while not connected.
        problems: by GPU UUID, why a wanted limit is not held.
        losses: how many times a lease that was held was lost (agent gone or
            restarted, session expired, foreign change); it only grows.
        node: the machine as the agent told when the session was opened.
    """

    connected: bool = False
    error: str = "not connected yet"
    refusal: Optional[AgentError] = None
    leases: Mapping[str, Lease] = field(default_factory=dict)
    problems: Mapping[str, AgentError] = field(default_factory=dict)
    losses: int = 0
    node: Optional[NodeInfo] = None


class BackgroundAgent:
    """Wishes in, status out; every call but `close` and `wait` returns at once.

    A forked child does nothing with it: the session is its parent's, and so is the thread.

    Args:
        client: an address (`unix://…`, `https://…`) or a client that nobody else uses.
        session: name of the session, unique on the machine or in the pod.
        request: who trains what.
        renewal_seconds: period of renewals; never longer than a third of the time to live.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: Union[str, AgentClient],
        session: str,
        request: SessionRequest,
        *,
        renewal_seconds: float = RENEWAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = AgentClient(client) if isinstance(client, str) else client
        self._session = session
        self._request = request
        self._renewal_seconds = min(renewal_seconds, request.ttl_seconds / 3.0)
        self._clock = clock
        self._changed = threading.Condition()
        self._status = AgentStatus()
        self._wishes: Dict[str, Wish] = {}
        self._report: Optional[Result] = None
        self._report_at = self._renew_at = self._good_until = 0.0
        self._backoff = Backoff()
        self._is_open = self._was_open = False
        self._sequence = 0
        self._closing = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="zeus-agent", daemon=True)

    def start(self) -> None:
        """Start connecting."""
        self._thread.start()

    @property
    def status(self) -> AgentStatus:
        """The latest snapshot; any thread may read it."""
        return self._status

    def want_power_limit(self, uuid: str, watts: float) -> None:
        """Ask that the GPU be held at `watts` from now on; the newest wish wins."""
        self._wish(uuid, watts)

    def release(self, uuid: str) -> None:
        """Ask that the GPU get its former limit back."""
        self._wish(uuid, None)

    def report(self, result: Result) -> None:
        """Hand over the result so far; an older one not yet sent is dropped.

        At most one a second is sent, and the last one when this is closed.
        """
        if self._pid != os.getpid():
            return
        with self._changed:
            awaited = self._report is not None
            self._report = result
        if not awaited:  # else the thread knows that there is one to send, and when
            self._wake()

    def wait(self, condition: Callable[[AgentStatus], bool], timeout_seconds: float) -> AgentStatus:
        """Block until `condition` holds or the time is over; return the status then."""
        if self._pid != os.getpid():
            return self._status
        with self._changed:
            self._changed.wait_for(lambda: condition(self._status), timeout_seconds)
            return self._status

    def close(self, timeout_seconds: float = 3.0) -> None:
        """End the session, so that limits are restored, and stop the thread.

        What can't be done in time is left to the agent: it restores when this process ends.
        In a forked child this does nothing: the session belongs to the parent.
        """
        if self._pid != os.getpid():
            return
        with self._changed:
            self._closing = True
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    # ---- called by any thread -------------------------------------------------

    def _wish(self, uuid: str, watts: Optional[float]) -> None:
        if self._pid != os.getpid():
            return  # whoever held the lock when this process was forked is not in it
        with self._changed:
            current = self._wishes.get(uuid)
            if current is not None and current.watts == watts and not current.gave_up:
                return
            self._sequence += 1
            not_before = 0.0 if current is None else current.not_before
            self._wishes[uuid] = Wish(watts, self._sequence, not_before=not_before)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"\0")
        except OSError:
            return  # full: a wake-up is pending already; closed: nobody to wake

    def _update(self, **changes: object) -> None:
        with self._changed:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]  # names are ours
            self._changed.notify_all()

    # ---- the thread -----------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._visit()
            self._finish()
        except Exception as error:
            # A fault of ours: the run must not go on believing that its limits are held.
            self._lost_session(f"the client of the agent failed: {error!r}")
            raise
        finally:
            self._client.close()
            self._wake_receiver.close()
            self._wake_sender.close()

    def _visit(self) -> None:
        """Do what is due and sleep; what fails is told and tried again later."""
        try:
            if not self._is_open:
                self._open()
            next_visit = self._work()
        except AgentUnavailable as error:
            self._lost_session(str(error))
            self._sleep(self._backoff.next_seconds())
        except AgentError as error:
            self._sleep(self._refused(error))
        else:
            self._backoff.succeeded()
            self._sleep_until(next_visit, watch_connection=True)

    def _refused(self, error: AgentError) -> float:
        """The session itself is refused or gone; return the pause before the next try, seconds."""
        # Who can't be checked now keeps the session until its time is over.
        unsure = error.code == ErrorCode.IDENTITY_UNAVAILABLE.value
        if not (unsure and self._is_open and self._clock() < self._good_until):
            self._lost_session(str(error), error)
        pause = self._backoff.next_seconds()
        if error.code == ErrorCode.NOT_FOUND.value:
            return pause
        said = said_pause(error.details)
        return max(BACKOFF_FIRST_SECONDS, pause) if said is None else said

    def _open(self) -> None:
        """Open or renew the session; wishes whose lease it does not hold are due again."""
        node = self._client.node()
        info = self._client.open_session(self._session, self._request)
        self._is_open = self._was_open = True
        self._renewed()
        self._take_leases(info.leases)
        self._update(connected=True, error="", refusal=None, node=node)

    def _renewed(self) -> None:
        now = self._clock()
        self._renew_at = now + self._renewal_seconds
        self._good_until = now + self._request.ttl_seconds

    def _work(self) -> float:
        """Do what is due and return when to come back at the latest."""
        now = self._clock()
        while True:
            uuid, wish = self._next_due(now)
            if wish is None:
                break
            self._grant(uuid, wish)
        if self._renew_at <= self._clock():
            leases = self._client.renew(self._session).leases
            self._renewed()
            self._take_leases(leases)
        if self._report is not None and self._report_at <= now:
            self._send_report(self._report)
        with self._changed:
            times = [wish.due_at for wish in self._wishes.values() if wish.open]
            if self._report is not None:
                times.append(self._report_at)
        return min([self._renew_at, *times])

    def _next_due(self, now: float) -> Tuple[str, Optional[Wish]]:
        with self._changed:
            for uuid, wish in self._wishes.items():
                if wish.open and wish.due_at <= now:
                    return uuid, wish
        return "", None

    def _grant(self, uuid: str, wish: Wish) -> None:
        """Bring one wish to the agent."""
        leases = dict(self._status.leases)
        problems = dict(self._status.problems)
        try:
            if wish.watts is None:
                leases.pop(uuid, None)
                self._client.release(self._session, uuid)
            else:
                leases[uuid] = self._client.set_power_limit(
                    self._session, uuid, wish.watts, wish.sequence
                )
            problems.pop(uuid, None)
            wish.granted()
        except AgentError as error:
            if error.code == ErrorCode.NOT_FOUND.value and "session" in error.details:
                raise
            problems[uuid] = error
            wish.refused(error.code, error.details, self._clock())
        self._update(leases=leases, problems=problems)

    def _send_report(self, report: Result) -> None:
        self._report_at = self._clock() + REPORT_SECONDS
        try:
            self._client.report(self._session, report)
        except AgentError as error:
            if error.code in _OF_THE_SESSION:
                raise
            pause = said_pause(error.details)
            if pause is not None:
                self._report_at = self._clock() + pause
                return
            # A refused report would be refused again; the next one may pass.
        with self._changed:
            if self._report is report:
                self._report = None

    def _take_leases(self, leases: Tuple[Lease, ...]) -> None:
        """Compare what the agent says that we hold with what we had."""
        held = {lease.gpu_uuid: lease for lease in leases if not lease.foreign_change}
        problems = dict(self._status.problems)
        lost = [uuid for uuid in self._status.leases if uuid not in held]
        foreign = {lease.gpu_uuid for lease in leases if lease.foreign_change}
        with self._changed:
            for uuid, wish in self._wishes.items():
                if wish.watts is None:
                    continue
                if uuid in foreign:
                    wish.gave_up, wish.refusal = True, ErrorCode.FOREIGN_CHANGE.value
                    problems[uuid] = AgentError(
                        ErrorCode.FOREIGN_CHANGE.value,
                        f"someone else changed the power limit of {uuid}; it is left alone",
                    )
                elif uuid not in held:
                    wish.done = False  # released by another part of this process
        self._update(leases=held, problems=problems, losses=self._status.losses + len(lost))

    def _lost_session(self, reason: str, refusal: Optional[AgentError] = None) -> None:
        self._is_open = False
        with self._changed:
            for wish in self._wishes.values():
                wish.session_lost()
        losses = self._status.losses + len(self._status.leases)
        self._update(connected=False, error=reason, refusal=refusal, leases={}, losses=losses)

    def _sleep(self, seconds: float) -> None:
        self._sleep_until(self._clock() + seconds, watch_connection=False)

    def _sleep_until(self, deadline: float, *, watch_connection: bool) -> None:
        """Sleep until the deadline, a wish, or (if watched) the end of the connection."""
        poll = select.poll()
        poll.register(self._wake_receiver, select.POLLIN)
        descriptor = self._client.fileno() if watch_connection else None
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        while not self._closing:
            remaining = deadline - self._clock()
            if remaining <= 0.0:
                return
            ready = {number for number, _ in poll.poll(remaining * 1000.0)}
            if self._wake_receiver.fileno() in ready:
                self._wake_receiver.recv(4096)
                if watch_connection:
                    return
                continue  # while disconnected, only the back-off decides when to try again
            if descriptor is not None and descriptor in ready and self._client.has_ended():
                self._renew_at = self._clock()  # the session may end with it unless used again
                return

    def _finish(self) -> None:
        # Where this fails, the agent restores when this process ends or the session expires.
        with contextlib.suppress(AgentUnavailable, AgentError):
            if self._was_open and not self._is_open and self._report is not None:
                self._open()  # once more, for the last report
            if self._is_open:
                if self._report is not None:
                    self._send_report(self._report)
                self._client.close_session(self._session)
        self._update(connected=False, error="closed", leases={})
