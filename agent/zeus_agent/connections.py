"""Connections of callers: one request after another, and what a connection may cost.

Nothing that a caller does with its connections keeps others from being served: it is given up
when it is idle, sends slowly, or does not read; over the limits the one that was used longest ago
makes room, and first of all those that have never said who they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Protocol, cast

from zeus_agent import http1
from zeus_agent.answers import Answer
from zeus_agent.http1 import BadHttp, Request, RequestReader

logger = logging.getLogger("zeus_agent.connections")

SWEEP_SECONDS = 0.5
WAITING_BYTES = 64 * 1024
STRANGERS_WAITING_BYTES = 16 * 1024
"""From here on a connection is not read until what it has sent is dealt with; a stranger's."""
LOW_WAITING_BYTES = 8 * 1024
TLS_BUFFER_BYTES = 16 * 1024


@dataclass(frozen=True)
class Limits:
    """What connections may cost.

    Args:
        total: connections at a time.
        strangers: of them, those on which nobody has been recognised yet.
        per_group: of one pod.
        idle_seconds: without a whole request head.
        stranger_seconds: the same before anybody was recognised.
        body_seconds: from the head of a request to the end of its body.
        unread_seconds: for reading an answer that does not fit into the socket's buffer.
        linger_seconds: a connection that is given up while it sends stays so long, so that its
            answer is read.
    """

    total: int = 2048
    strangers: int = 512
    per_group: int = 64
    idle_seconds: float = 30.0
    stranger_seconds: float = 10.0
    body_seconds: float = 5.0
    unread_seconds: float = 10.0
    linger_seconds: float = 1.0


class Service(Protocol):
    """Who answers."""

    async def answer(self, request: Request, connection: Connection) -> Answer:
        """Answer a request; raises nothing."""

    def malformed(self, error: BadHttp) -> Answer:
        """Answer what is no request."""

    def is_needed(self, connection: Connection) -> bool:
        """Whether more than a request hangs on the connection, so that idleness ends it not."""

    def connection_lost(self, connection: Connection) -> None:
        """Tell that a connection has ended."""


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        identity: what the service knows of the peer; None until it has looked.
        group: whose connection it is, for limits; None: nobody was recognised yet.
    """

    def __init__(self, connections: Connections) -> None:
        self.identity: object | None = None
        self.group: Hashable | None = None
        self.transport: asyncio.Transport | None = None
        self._connections = connections
        self._reader = RequestReader()
        self._task: asyncio.Task[None] | None = None
        self._since_seconds = connections.clock()  # of the last change of what is waited for
        self._body_since_seconds: float | None = None
        self._unread_since_seconds: float | None = None
        self._is_last = False  # no further request is taken
        self._is_paused = False
        self._linger: asyncio.TimerHandle | None = None

    # ---- asyncio's side -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to count."""
        self.transport = cast(asyncio.Transport, transport)
        limit_buffer = getattr(transport, "set_read_buffer_limits", None)  # that of TLS has it
        if limit_buffer is not None:
            limit_buffer(high=TLS_BUFFER_BYTES)
        self._connections.made(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes; answer if a request is whole."""
        if self._is_last:
            return
        self._reader.feed(data)
        if self._task is None and self._unread_since_seconds is None:
            self._advance()
        self._pace_reading()

    def eof_received(self) -> bool:
        """Answer what is being done, and nothing after it; TLS has no such half of an end."""
        self._is_last = True
        transport = self.transport
        return self._task is not None and transport is not None and transport.can_write_eof()

    def pause_writing(self) -> None:
        """Note that the peer does not read."""
        self._unread_since_seconds = self._connections.clock()
        self._pace_reading()

    def resume_writing(self) -> None:
        """Go on with what the peer has sent meanwhile."""
        self._unread_since_seconds = None
        if self._task is None and not self._is_last:
            self._advance()
        self._pace_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's
        """Stop counting.  What was being done goes on; nobody waits for its answer."""
        self.transport = None
        self._is_last = True
        if self._linger is not None:
            self._linger.cancel()
        self._connections.lost(self)

    # ---- what the registry asks -----------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._task is not None

    def require_caller(self) -> None:
        """Check that somebody is still there, after a wait and before more hangs on it.

        Raises:
            ConnectionResetError: the caller has hung up.
        """
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the caller has hung up")

    def recognised(self, group: Hashable) -> None:
        """Count the connection as one of `group`."""
        if self.group is None:
            self.group = group
            self._connections.recognised(self)

    def overdue(self, now_seconds: float, limits: Limits) -> bool:
        """Whether to give the connection up; a body that does not come is answered first."""
        unread = self._unread_since_seconds
        if unread is not None:
            return now_seconds - unread > limits.unread_seconds
        if self._task is not None:
            return False
        if self._linger is not None:  # closing waits for an answer that is not read
            lingers = now_seconds - self._since_seconds
            return lingers > limits.linger_seconds + limits.unread_seconds
        body_since = self._body_since_seconds
        if body_since is not None:
            if now_seconds - body_since > limits.body_seconds:
                self._give_up(BadHttp(408, "the body did not arrive in time"))
            return False
        allowed = limits.stranger_seconds if self.group is None else limits.idle_seconds
        if now_seconds - self._since_seconds <= allowed:
            return False
        # Half a head is given up in any case; only an honest pause may last.
        is_pause = self._reader.is_between_requests and not self._is_last
        return not (is_pause and self._connections.service.is_needed(self))

    def close_when_idle(self) -> None:
        """End the connection now, or after the answer that is under way."""
        self._is_last = True
        if self._task is None and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """End the connection now."""
        self._is_last = True
        if self.transport is not None:
            self.transport.abort()

    def cancel(self) -> None:
        """End the connection and the work for it."""
        if self._task is not None:
            self._task.cancel()
        self.abort()

    # ---- inside ---------------------------------------------------------------

    def _advance(self) -> None:
        """Begin with the next request if it is whole."""
        try:
            request = self._reader.next_request()
        except BadHttp as error:
            self._give_up(error)
            return
        transport = self.transport
        if request is not None:
            self._body_since_seconds = None
            self._connections.used(self)
            self._task = asyncio.get_running_loop().create_task(self._answer(request))
        elif self._reader.is_in_body and self._body_since_seconds is None:
            self._body_since_seconds = self._connections.clock()
            if self._reader.take_continue() and transport is not None:
                transport.write(http1.CONTINUE)

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._connections.service.answer(request, self)
            self._write(answer, keep_alive=request.head.keep_alive)
        finally:
            self._task = None
        if self._is_last:
            self.close_when_idle()
            return
        self._since_seconds = self._connections.clock()
        if self._reader.waiting_bytes and self._unread_since_seconds is None:
            self._advance()
        self._pace_reading()

    def _pace_reading(self) -> None:
        """Read no more than can be dealt with; on again when most of it is."""
        mark = STRANGERS_WAITING_BYTES if self.group is None else WAITING_BYTES
        if self._is_paused:
            mark = LOW_WAITING_BYTES
        is_too_much = self._reader.waiting_bytes >= mark or self._unread_since_seconds is not None
        if is_too_much is self._is_paused or self.transport is None:
            return
        self._is_paused = is_too_much
        if is_too_much:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _write(self, answer: Answer, *, keep_alive: bool) -> None:
        goes_on = keep_alive and not answer.closes and not self._is_last
        self._is_last = not goes_on
        if self.transport is not None:
            self.transport.write(
                http1.response(
                    answer.status,
                    answer.body,
                    answer.content_type,
                    answer.headers,
                    keep_alive=goes_on,
                )
            )

    def _give_up(self, error: BadHttp) -> None:
        """Refuse what can't be gone on with.

        The peer may still be sending: closing at once would make its kernel drop the answer.
        """
        self._write(self._connections.service.malformed(error), keep_alive=False)
        self._since_seconds = self._connections.clock()
        if self.transport is None:
            return
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self._linger = asyncio.get_running_loop().call_later(
            self._connections.limits.linger_seconds, self.transport.close
        )


class Connections:
    """All connections of one or more listeners.

    Args:
        service: answers.
        clock: monotonic seconds.
        limits: what they may cost.
    """

    def __init__(
        self, service: Service, clock: Callable[[], float], limits: Limits | None = None
    ) -> None:
        self.service = service
        self.clock = clock
        self.limits = limits or Limits()
        self._strangers: dict[Connection, None] = {}  # the oldest first
        self._known: dict[Connection, None] = {}  # the one used longest ago first
        self._group_sizes: dict[Hashable, int] = {}
        self._nobody = asyncio.Event()
        self._nobody.set()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    # ---- what connections tell ------------------------------------------------

    def made(self, connection: Connection) -> None:
        """Count a new one; another makes room for it if need be."""
        if len(self._strangers) >= self.limits.strangers:
            self._end(self._least_needed(self._strangers))
        elif len(self) >= self.limits.total:
            self.make_room()
        self._strangers[connection] = None
        self._nobody.clear()

    def recognised(self, connection: Connection) -> None:
        """Count it as one of its group; over the limit the group's own least used one ends."""
        group = connection.group
        if group is None or connection not in self._strangers:
            return
        del self._strangers[connection]
        if self._group_sizes.get(group, 0) >= self.limits.per_group:
            self._end(self._least_needed([c for c in self._known if c.group == group]))
        self._known[connection] = None
        self._group_sizes[group] = self._group_sizes.get(group, 0) + 1

    def used(self, connection: Connection) -> None:
        """Note a request."""
        if connection in self._known:
            del self._known[connection]
            self._known[connection] = None

    def lost(self, connection: Connection) -> None:
        """Count it no more."""
        group = connection.group
        if connection in self._strangers:
            del self._strangers[connection]
        elif connection in self._known and group is not None:
            del self._known[connection]
            self._group_sizes[group] -= 1
            if not self._group_sizes[group]:
                del self._group_sizes[group]
        else:
            return  # it had to make room
        if not len(self):
            self._nobody.set()
        self.service.connection_lost(connection)

    def make_room(self) -> None:
        """End the one that was used longest ago, if possible none that more depends on."""
        if len(self):
            self._end(self._least_needed((*self._strangers, *self._known)))

    # ---- care -----------------------------------------------------------------

    def sweep(self) -> None:
        """Give up those that take too long."""
        now = self.clock()
        for connection in (*self._strangers, *self._known):
            if connection.overdue(now, self.limits):
                connection.abort()

    async def sweep_forever(self) -> None:
        """Sweep twice a second."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep()

    async def close(self, timeout_seconds: float) -> None:
        """End all; those that are being answered get their answer if it comes in time."""
        for connection in (*self._strangers, *self._known):
            connection.close_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._nobody.wait()
        for connection in (*self._strangers, *self._known):
            connection.cancel()

    def _least_needed(self, connections: Collection[Connection]) -> Connection:
        """Return the first that is idle and that nothing depends on, if there is one."""
        idle = (c for c in connections if not c.is_busy and not self.service.is_needed(c))
        return next(idle, next(iter(connections)))

    def _end(self, connection: Connection) -> None:
        connection.abort()
        self.lost(connection)  # now, not when the loop comes to it: another takes its place
