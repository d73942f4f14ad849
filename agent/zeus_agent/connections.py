"""Connections of callers: one request after another, and what a connection may cost.

Nothing that a caller does with its connections keeps others from being served: it is given up
when it is idle, sends slowly, or does not read; over the limits the one that was used longest ago
makes room, and first of all those that have never said who they are.  Requests of different callers
are begun in turns (`turns`), however many connections each of them has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Hashable

from zeus_agent.connection import (
    STRANGERS_WAITING_BYTES,
    WAITING_BYTES,
    Connection,
    Limits,
    Service,
)
from zeus_agent.turns import Turns

__all__ = [
    "STRANGERS_WAITING_BYTES",
    "WAITING_BYTES",
    "Connection",
    "Connections",
    "Limits",
    "Service",
]

READ_BYTES = 64 * 1024
"""At a time, into a buffer for all: one of asyncio's own, of 256 KiB, is made for each read."""

SWEEP_SECONDS = 0.5


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
        self.turns = Turns(asyncio.get_running_loop().call_soon, clock)
        self.buffer = memoryview(bytearray(READ_BYTES))
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
