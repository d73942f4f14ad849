"""One connection: its requests one after another, each in its caller's turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from zeus_agent import http1, peers
from zeus_agent.answers import Answer
from zeus_agent.http1 import BadHttp, Request, RequestReader

if TYPE_CHECKING:  # which makes them
    from zeus_agent.connections import Connections

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


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        identity: what the service knows of the peer; None until it has looked.
        group: whose connection it is, for limits; None: nobody was recognised yet.
        lane: with whose connections it shares its turns: those of one process, or of one address
            and later, where somebody was recognised, of one group.
    """

    def __init__(self, connections: Connections) -> None:
        self.identity: object | None = None
        self.group: Hashable | None = None
        self.lane: Hashable = None
        self.transport: asyncio.Transport | None = None
        self._connections = connections
        self._reader = RequestReader()
        self._task: asyncio.Task[None] | None = None
        self._since_seconds = connections.clock()  # of the last change of what is waited for
        self._body_since_seconds: float | None = None
        self._unread_since_seconds: float | None = None
        self._is_in_line = False  # for a turn
        self._has_said_all = False  # nothing comes any more
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
        self.lane = _lane_of(self.transport)
        self._connections.made(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's
        """Return where bytes are read to; `buffer_updated` follows before anything else reads."""
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes; answer if a request is whole."""
        if self._is_last:
            return
        self._reader.feed(self._connections.buffer[:nbytes])
        if self._task is None and self._unread_since_seconds is None:
            self._ask_for_turn()
        self._pace_reading()

    def eof_received(self) -> bool:
        """Answer what has come, and nothing after it; TLS has no such half of an end."""
        self._has_said_all = True
        self._is_last = not self._is_in_line
        transport = self.transport
        return self.is_busy and transport is not None and transport.can_write_eof()

    def pause_writing(self) -> None:
        """Note that the peer does not read."""
        self._unread_since_seconds = self._connections.clock()
        self._pace_reading()

    def resume_writing(self) -> None:
        """Go on with what the peer has sent meanwhile."""
        self._unread_since_seconds = None
        if self._task is None and not self._is_last:
            self._ask_for_turn()
        self._pace_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's
        """Stop counting.  What was being done goes on; nobody waits for its answer."""
        self.transport = None
        self._is_last = True
        if self._is_in_line:
            self._is_in_line = False
            self._connections.turns.leave(self.lane, self)
        if self._linger is not None:
            self._linger.cancel()
        self._connections.lost(self)

    # ---- what the registry asks -----------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether something is being answered, or waits for its turn."""
        return self._task is not None or self._is_in_line

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
            if not isinstance(self.lane, _Process):
                self.lane = group
            self._connections.recognised(self)

    def overdue(self, now_seconds: float, limits: Limits) -> bool:
        """Whether to give the connection up; a body that does not come is answered first."""
        unread = self._unread_since_seconds
        if unread is not None:
            return now_seconds - unread > limits.unread_seconds
        if self.is_busy:
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

    # ---- turns ----------------------------------------------------------------

    def take_turn(self) -> None:
        """Begin with the next request, if it is whole."""
        self._is_in_line = False
        if self.transport is None or self._is_last:
            return
        if self._unread_since_seconds is None:
            self._advance()
        if self._has_said_all:
            self._is_last = True
            if self._task is None and self._linger is None:
                self.transport.close()
        self._pace_reading()

    def _ask_for_turn(self) -> None:
        if not self._is_in_line:
            # Said before it is asked, since the turn may come at once.
            self._is_in_line = True
            self._is_in_line = self._connections.turns.ask(self.lane, self)

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
            self._ask_for_turn()
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


@dataclass(frozen=True, slots=True)
class _Process:
    """A caller on this machine.

    Args:
        pid: of the process that has connected, as the kernel says.
    """

    pid: int


def _lane_of(transport: asyncio.Transport) -> Hashable:
    """Return who is at the other end, as far as this is known before anything has come."""
    address = transport.get_extra_info("peername")
    if isinstance(address, tuple):
        return str(address[0])
    try:
        return _Process(peers.credentials(transport.get_extra_info("socket")).pid)
    except OSError:  # it has hung up
        return None
