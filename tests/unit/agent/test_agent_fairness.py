"""Callers that ask for much at once do not keep others waiting: on real sockets, in one loop.

Everything is sent while the loop stands still, so that the server finds all of it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.async_scenario import Clock, scenario, soon
from tests.support.echo_service import OK, Echo
from zeus_agent.connections import Connections
from zeus_agent.http1 import MAX_BODY_BYTES
from zeus_agent.listeners import ACCEPTED_AT_ONCE, Listener, listen_unix
from zeus_agent.turns import PER_ROUND

FLOOD = 5 * PER_ROUND

FLOODING_PROCESS = """
import socket, sys
path, count = sys.argv[1], int(sys.argv[2])
peers = [socket.socket(socket.AF_UNIX) for _ in range(count)]
for peer in peers:
    peer.connect(path)
print("connected", flush=True)
sys.stdin.readline()
for peer in peers:
    peer.sendall(b"PUT / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 5\\r\\n\\r\\nflood")
print("sent", flush=True)
sys.stdin.readline()
"""


def put(body: bytes, target: str = "/") -> bytes:
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Lab:
    """A server on a Unix socket, in this loop."""

    service: Echo
    connections: Connections
    path: Path
    clock: Clock

    def peer(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(self.path))
        return peer

    @contextlib.contextmanager
    def flooding_process(self) -> Iterator[subprocess.Popen[str]]:
        """Yield another process with many connections, ready to send on all of them."""
        command = [sys.executable, "-c", FLOODING_PROCESS, str(self.path), str(FLOOD)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            yield process
            say(process)

    async def place_of_other(self) -> int:
        """Return how many requests were begun before the one of the other caller."""
        await soon(lambda: b"other" in self.service.bodies, "the other caller is served")
        return self.service.bodies.index(b"other")


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    service = Echo()
    clock = Clock()
    connections = Connections(service, clock)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        listener = Listener(listen_unix(path, shared=False), connections)
        serving = asyncio.create_task(listener.serve())
        try:
            yield Lab(service, connections, path, clock)
        finally:
            await listener.close()
            await connections.close(1.0)
            with contextlib.suppress(asyncio.CancelledError):
                await serving


@scenario
async def test_a_process_with_many_requests_keeps_another_one_waiting_for_a_few() -> None:
    async with lab() as at:
        with at.flooding_process() as flood, contextlib.closing(at.peer()) as other:
            assert await asyncio.to_thread(hear, flood) == "connected"
            await soon(lambda: len(at.connections) == FLOOD + 1, "all are accepted")
            say(flood)
            assert hear(flood) == "sent"  # the loop stands still
            other.sendall(put(b"other"))
            assert await at.place_of_other() <= PER_ROUND + 1
            await soon(lambda: len(at.service.bodies) == FLOOD + 1, "the others are served too")


@scenario
async def test_a_group_that_was_recognised_has_its_turns_however_many_connections_it_has() -> None:
    """As on TCP, where an address may be that of a node with many pods."""
    async with lab() as at, lanes_by_group(at) as of_group:
        many = [of_group("flood") for _ in range(FLOOD)]
        other = of_group("other")
        await soon(lambda: len(at.service.bodies) == FLOOD + 1, "all are known")
        at.service.bodies.clear()
        for peer in many:
            peer.sendall(put(b"flood"))
        other.sendall(put(b"other"))
        assert await at.place_of_other() <= PER_ROUND + 1


@contextlib.asynccontextmanager
async def lanes_by_group(at: Lab) -> AsyncIterator[functools.partial[socket.socket]]:
    """Yield what makes a peer over TCP that is recognised as one of a group."""
    server = await asyncio.get_running_loop().create_server(at.connections, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with contextlib.ExitStack() as opened:

        def peer(group: str) -> socket.socket:
            connected = opened.enter_context(socket.create_connection(address))
            connected.sendall(put(b"hello", f"/as/{group}"))
            return connected

        yield functools.partial(peer)
    server.close()


@scenario
async def test_who_has_sent_all_and_says_so_before_its_turn_still_gets_its_answer() -> None:
    async with lab() as at:
        peers = [at.peer() for _ in range(FLOOD)]
        await soon(lambda: len(at.connections) == FLOOD, "all are accepted")
        for peer in peers:
            peer.sendall(put(b"x"))
            peer.shutdown(socket.SHUT_WR)
        await soon(lambda: len(at.connections) == 0, "all are answered and ended")
        for peer in peers:
            assert peer.recv(4096).startswith(OK)
            peer.close()


@scenario
async def test_those_who_hang_up_before_their_turn_leave_nothing_that_waits() -> None:
    async with lab() as at:
        peers = [at.peer() for _ in range(FLOOD)]
        await soon(lambda: len(at.connections) == FLOOD, "all are accepted")
        for peer in peers:
            peer.sendall(put(b"x"))
        for _ in range(2):  # once round, in which all are read
            await asyncio.sleep(0)
        assert len(at.connections.turns) == FLOOD - PER_ROUND
        for connection in tuple(at.connections._strangers):
            connection.abort()
        for _ in range(2):
            await asyncio.sleep(0)
        assert len(at.connections.turns) == 0
        assert len(at.service.bodies) <= PER_ROUND
        for peer in peers:
            peer.close()


@scenario
async def test_who_ends_with_half_a_request_before_its_turn_is_given_up() -> None:
    async with lab() as at:
        peers = [at.peer() for _ in range(FLOOD + 1)]
        await soon(lambda: len(at.connections) == FLOOD + 1, "all are accepted")
        *whole, half = peers
        for peer in whole:
            peer.sendall(put(b"x"))
            peer.shutdown(socket.SHUT_WR)
        half.sendall(put(b"x")[:20])
        half.shutdown(socket.SHUT_WR)
        await soon(lambda: len(at.connections) == 0, "all have ended")
        assert len(at.service.bodies) == FLOOD
        for peer in peers:
            peer.close()


@scenario
async def test_who_waits_for_its_turn_is_not_taken_for_idle() -> None:
    async with lab() as at:
        peers = [at.peer() for _ in range(FLOOD)]
        await soon(lambda: len(at.connections) == FLOOD, "all are accepted")
        for peer in peers:
            peer.sendall(put(b"x"))
        for _ in range(2):  # once round, in which all are read
            await asyncio.sleep(0)
        assert len(at.connections.turns) > 0
        at.clock.advance(2 * at.connections.limits.stranger_seconds)
        at.connections.sweep()
        await soon(lambda: len(at.service.bodies) == FLOOD, "all are served")
        for peer in peers:
            peer.close()


@scenario
async def test_more_than_is_kept_of_who_waits_is_read_when_its_turn_has_come() -> None:
    async with lab() as at:
        peers = [at.peer() for _ in range(FLOOD + 1)]
        await soon(lambda: len(at.connections) == FLOOD + 1, "all are accepted")
        large = b"y" * MAX_BODY_BYTES  # with its head more than is read at a time
        for peer in peers[:-1]:
            peer.sendall(put(b"x"))
        peers[-1].sendall(put(large))
        await soon(lambda: large in at.service.bodies, "the large one is served, whole")
        for peer in peers:
            peer.close()


@scenario
async def test_processes_of_one_user_are_callers_of_their_own() -> None:
    async with lab() as at:
        with contextlib.closing(at.peer()) as peer:
            peer.sendall(put(b"hello", "/as/user"))
            await soon(lambda: len(at.service.bodies) == 1, "it is known")
            (connection,) = at.connections._known
            assert (connection.group, connection.lane == connection.group) == ("user", False)


@scenario
async def test_half_a_request_takes_its_turn_and_goes_on_when_the_rest_has_come() -> None:
    async with lab() as at:
        peers = [at.peer() for _ in range(FLOOD)]
        request = put(b"whole")
        for peer in peers:
            peer.sendall(request[:20])
        await soon(lambda: len(at.connections) == FLOOD, "all are accepted")
        for _ in range(FLOOD):  # turns enough for all
            await asyncio.sleep(0)
        assert at.service.bodies == []
        for peer in peers:
            peer.sendall(request[20:])
        await soon(lambda: len(at.service.bodies) == FLOOD, "all are served")
        for peer in peers:
            peer.close()


@scenario
async def test_of_many_who_connect_at_once_a_part_is_let_in_each_time_round() -> None:
    async with lab() as at:
        await asyncio.sleep(0)  # it listens
        peers = [at.peer() for _ in range(3 * ACCEPTED_AT_ONCE)]
        counted = [0]
        while counted[-1] < len(peers):
            await asyncio.sleep(0)
            counted.append(len(at.connections))
        steps = [after - before for before, after in itertools.pairwise(counted)]
        assert max(steps) <= ACCEPTED_AT_ONCE
        assert sum(step > 0 for step in steps) < len(peers) / 4, "not one at a time"
        for peer in peers:
            peer.close()
