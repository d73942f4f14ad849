"""Holds power limits through the agent from a daemon thread, so that training never waits.

The training thread says what it wants (`want_power_limit`) and looks at what is
(`status`); both return at once.  The thread opens the session, applies the
newest wish, renews, and after the agent was gone connects again (1 s, doubling
to 30 s) and takes its leases again.
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
from zeus_runtime.protocol import ErrorCode, Lease, NodeInfo, Result, SessionRequest

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LAST_SECONDS = 30.0
RENEWAL_SECONDS = 5.0

_GIVE_UP = frozenset(
    {
        ErrorCode.FOREIGN_CHANGE.value,
        ErrorCode.NO_PERMISSION.value,
        ErrorCode.NOT_SUPPORTED.value,
        ErrorCode.BAD_REQUEST.value,
        ErrorCode.FORBIDDEN.value,
    }
)
"""Refusals that asking again by itself won't change; a new wish is tried again."""


@dataclass(frozen=True)
class AgentStatus:
    """What is known now; a snapshot that never changes.

    Args:
        connected: the last call was answered and the session is open.
        error: why not, in one sentence; "" while connected.
        leases: by GPU UUID, the leases held, as the agent last told.  Empty while not connected.
        problems: by GPU UUID, why a wanted limit is not held.
        losses: how many times a lease that was held was lost (agent gone or
            restarted, session expired, foreign change); it only grows.
        node: the machine as the agent told when the session was opened.
    """

    connected: bool = False
    error: str = "not connected yet"
    leases: Mapping[str, Lease] = field(default_factory=dict)
    problems: Mapping[str, AgentError] = field(default_factory=dict)
    losses: int = 0
    node: Optional[NodeInfo] = None


@dataclass
class _Wish:
    """What one GPU shall have: a limit, or (None) its release."""

    watts: Optional[float]
    sequence: int
    done: bool = False
    gave_up: bool = False
    retry_at: float = 0.0
    backoff_seconds: float = BACKOFF_FIRST_SECONDS


class BackgroundAgent:
    """Wishes in, status out; every call but `close` and `wait` returns at once.

    Args:
        client: an address (`unix://…`) or a client that nobody else uses.
        session: name of the session, unique on the machine, e.g. job and attempt.
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
        self._wishes: Dict[str, _Wish] = {}
        self._report: Optional[Result] = None
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
        """Hand over the result so far; an older one not yet sent is dropped."""
        with self._changed:
            self._report = result
        self._wake()

    def wait(self, condition: Callable[[AgentStatus], bool], timeout_seconds: float) -> AgentStatus:
        """Block until `condition` holds or the time is over; return the status then."""
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
        with self._changed:
            current = self._wishes.get(uuid)
            if current is not None and current.watts == watts and not current.gave_up:
                return
            self._sequence += 1
            self._wishes[uuid] = _Wish(watts, self._sequence)
        self._wake()

    def _wake(self) -> None:
        if self._pid != os.getpid():
            return  # the pair of sockets is shared with the parent
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
        backoff_seconds = BACKOFF_FIRST_SECONDS
        is_open = False
        try:
            while not self._closing:
                try:
                    if not is_open:
                        self._open()
                        is_open = True
                        backoff_seconds = BACKOFF_FIRST_SECONDS
                    next_retry = self._work()
                except AgentUnavailable as error:
                    is_open = False
                    self._lost_connection(str(error))
                    next_retry = self._clock() + backoff_seconds
                    backoff_seconds = min(2.0 * backoff_seconds, BACKOFF_LAST_SECONDS)
                    self._sleep_until(next_retry, watch_connection=False)
                    continue
                except AgentError as error:
                    # The session itself is refused or gone.
                    is_open = False
                    self._lost_connection(str(error))
                    gone = error.code == ErrorCode.NOT_FOUND.value
                    pause = BACKOFF_FIRST_SECONDS if gone else BACKOFF_LAST_SECONDS
                    self._sleep_until(self._clock() + pause, watch_connection=False)
                    continue
                self._sleep_until(next_retry, watch_connection=True)
            self._finish(is_open)
        except Exception as error:
            # A fault of ours: the run must not go on believing that its limits are held.
            self._lost_connection(f"the client of the agent failed: {error!r}")
            raise
        finally:
            self._client.close()
            self._wake_receiver.close()
            self._wake_sender.close()

    def _open(self) -> None:
        """Open or renew the session; wishes whose lease it does not hold are due again."""
        node = self._client.node()
        info = self._client.open_session(self._session, self._request)
        self._take_leases(info.leases)
        self._update(connected=True, error="", node=node)

    def _work(self) -> float:
        """Do what is due and return when to come back at the latest."""
        now = self._clock()
        while True:
            uuid, wish = self._next_due(now)
            if wish is None:
                break
            self._grant(uuid, wish)
        report = self._report
        if report is not None:
            self._send_report(report)
        self._take_leases(self._client.renew(self._session).leases)
        with self._changed:
            waiting = [w.retry_at for w in self._wishes.values() if not (w.done or w.gave_up)]
        return min([self._clock() + self._renewal_seconds, *waiting])

    def _next_due(self, now: float) -> Tuple[str, Optional[_Wish]]:
        with self._changed:
            for uuid, wish in self._wishes.items():
                if not wish.done and not wish.gave_up and wish.retry_at <= now:
                    return uuid, wish
        return "", None

    def _grant(self, uuid: str, wish: _Wish) -> None:
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
            wish.done = True
        except AgentError as error:
            if error.code == ErrorCode.NOT_FOUND.value and "session" in error.details:
                raise
            problems[uuid] = error
            wish.gave_up = error.code in _GIVE_UP
            wish.retry_at = self._clock() + wish.backoff_seconds
            wish.backoff_seconds = min(2.0 * wish.backoff_seconds, BACKOFF_LAST_SECONDS)
        self._update(leases=leases, problems=problems)

    def _send_report(self, report: Result) -> None:
        try:
            self._client.report(self._session, report)
        except AgentError as error:
            if error.code == ErrorCode.NOT_FOUND.value:
                raise
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
                    wish.gave_up = True
                    problems[uuid] = AgentError(
                        ErrorCode.FOREIGN_CHANGE.value,
                        f"someone else changed the power limit of {uuid}; it is left alone",
                    )
                elif uuid not in held:
                    wish.done = False  # released by another part of this process
        self._update(leases=held, problems=problems, losses=self._status.losses + len(lost))

    def _lost_connection(self, reason: str) -> None:
        with self._changed:
            for wish in self._wishes.values():
                wish.done = wish.watts is None  # no session: nothing is held, nothing to release
        losses = self._status.losses + len(self._status.leases)
        self._update(connected=False, error=reason, leases={}, losses=losses)

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
            if descriptor is not None and descriptor in ready:
                # Nothing is due from an idle server: the connection has ended.
                self._client.close()
                return

    def _finish(self, is_open: bool) -> None:
        # Where this fails, the agent restores when this process ends or the session expires.
        with contextlib.suppress(AgentUnavailable, AgentError):
            if is_open:
                if self._report is not None:
                    self._send_report(self._report)
                self._client.close_session(self._session)
        self._update(connected=False, error="closed", leases={})
