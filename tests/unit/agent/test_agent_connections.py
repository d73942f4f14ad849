"""What a connection may cost, on real sockets and a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.async_scenario import Clock, scenario, soon
from tests.support.echo_service import GET, OK, Echo
from zeus_agent.answers import Answer
from zeus_agent.connections import (
    STRANGERS_WAITING_BYTES,
    WAITING_BYTES,
    Connection,
    Connections,
    Limits,
)
from zeus_agent.http1 import Request

WAITING = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
READ_BYTES = 256 * 1024
"""What asyncio reads at most at a time from a socket without TLS."""


class Counted(Connections):
    """Counts how many connections there have been."""

    seen = 0

    def made(self, connection: Connection) -> None:
        super().made(connection)
        self.seen += 1


@dataclass
class Lab:
    """A server in this loop, and peers that are sockets."""

    service: Echo
    clock: Clock
    connections: Counted
    port: int

    async def peer(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        before = self.connections.seen
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await soon(lambda: self.connections.seen > before, "the connection is counted")
        return reader, writer

    async def sweep(self) -> None:
        """Sweep, and let the ends that come of it happen."""
        self.connections.sweep()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def lab(service: Echo | None = None, **limits: float) -> AsyncIterator[Lab]:
    service, clock = service or Echo(), Clock()
    connections = Counted(service, clock, Limits(**limits))  # type: ignore[arg-type]
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    try:
        yield Lab(service, clock, connections, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        service.let_go.set()
        await connections.close(1.0)


async def is_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether a request is answered on the connection."""
    try:
        writer.write(GET)
        return (await reader.readline()) == OK
    except ConnectionError:
        return False


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@scenario
async def test_requests_sent_at_once_are_answered_one_after_another() -> None:
    async with lab() as at:
        body = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
        reader, _ = await at.peer(
            body + b"a" + body + b"b" + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        assert (await reader.read()).count(OK) == 3
        assert at.service.bodies == [b"a", b"b", b""]


@scenario
async def test_a_peer_that_waits_for_leave_to_send_its_body_gets_it_once() -> None:
    async with lab() as at:
        reader, writer = await at.peer(WAITING + b"Content-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == CONTINUE
        writer.write(b"{}")
        assert await reader.readline() == OK


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"", 10.1, None),  # says nothing
        (GET[:20], 10.1, None),  # half a head
        (GET + GET[:20], 10.1, None),
        (GET.replace(b"/ ", b"/as/a "), 30.1, None),  # known, and idle
        (GET.replace(b"/ ", b"/needed ") + GET[:5], 30.1, None),  # no honest pause
        (WAITING + b"Content-Length: 9\r\n\r\n{", 5.1, b" 408 "),
        (WAITING + b"Transfer-Encoding: chunked\r\n\r\n1", 5.1, b" 408 "),
    ],
)
def test_a_connection_on_which_too_little_comes_is_given_up(
    sent: bytes, seconds: float, status: bytes | None
) -> None:
    @scenario
    async def check() -> None:
        async with lab(linger_seconds=0.0) as at:
            reader, _writer = await at.peer(sent)  # a writer that is forgotten closes
            if status is not None:
                assert await reader.readuntil(b"\r\n\r\n") == CONTINUE
            else:
                for _ in range(sent.count(b"\r\n\r\n")):
                    assert await reader.readline() == OK
                    await reader.readuntil(b"\r\n\r\n")
            at.clock.advance(seconds - 0.2)
            await at.sweep()
            assert len(at.connections) == 1
            at.clock.advance(0.2)
            await at.sweep()
            await soon(lambda: len(at.connections) == 0, "it is given up")
            assert status is None or status in await until_closed(reader)
            assert at.service.lost == 1

    check()


@scenario
async def test_a_body_that_comes_in_drops_is_given_up_all_the_same() -> None:
    async with lab(linger_seconds=0.0) as at:
        reader, writer = await at.peer(WAITING + b"Content-Length: 999\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == CONTINUE
        for _ in range(6):
            at.clock.advance(1.0)
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)
            await at.sweep()
        await soon(lambda: len(at.connections) == 0, "it is given up")


@scenario
async def test_a_pause_on_a_connection_that_a_session_hangs_on_may_last() -> None:
    async with lab() as at:
        peer = await at.peer(GET.replace(b"/ ", b"/needed "))
        assert await peer[0].readline() == OK
        await peer[0].readuntil(b"\r\n\r\n")
        at.clock.advance(3600.0)
        await at.sweep()
        assert await is_open(*peer)
        assert at.service.lost == 0


@scenario
async def test_an_answer_under_way_is_not_given_up() -> None:
    async with lab() as at:
        reader, _ = await at.peer(GET.replace(b"/ ", b"/wait "))
        await soon(lambda: at.service.bodies, "the request has come")
        at.clock.advance(3600.0)
        await at.sweep()
        at.service.let_go.set()
        assert await reader.readline() == OK


@scenario
async def test_who_does_not_read_answers_is_not_waited_for() -> None:
    async with lab() as at:
        at.service.answer_bytes = 1 << 20
        _peer = await at.peer(GET * 30)
        connection = next(iter(at.connections._strangers))
        await soon(lambda: connection._unread_since_seconds is not None, "the buffer is full")
        asked = len(at.service.bodies)
        assert asked < 30, "no request is begun while its answer has no room"
        at.clock.advance(10.1)
        await at.sweep()
        await soon(lambda: len(at.connections) == 0, "it is given up")


class Slow(Echo):
    """Takes a moment for each answer, and notes how much has come before its turn."""

    most_waiting_bytes = 0

    async def answer(self, request: Request, connection: Connection) -> Answer:
        answer = await super().answer(request, connection)
        await asyncio.sleep(0.001)
        waiting = connection._reader.waiting_bytes
        self.most_waiting_bytes = max(self.most_waiting_bytes, waiting)
        return answer


@pytest.mark.parametrize(
    ("target", "bound"), [(b"/ ", STRANGERS_WAITING_BYTES), (b"/as/a ", WAITING_BYTES)]
)
def test_what_a_peer_sends_before_its_turn_is_bounded_answer_after_answer(
    target: bytes, bound: int
) -> None:
    @scenario
    async def check() -> None:
        service = Slow()
        async with lab(service) as at:
            reader, writer = await at.peer(GET.replace(b"/ ", target) * 200_000)
            for _ in range(100):
                assert await reader.readline() == OK
                await reader.readuntil(b"\r\n\r\n")
            assert service.most_waiting_bytes < bound + READ_BYTES
            writer.transport.abort()

    check()


@scenario
async def test_a_peer_that_reads_no_answers_is_not_read_either() -> None:
    async with lab() as at:
        at.service.answer_bytes = 64 << 20  # more than the system's buffers take
        peer = socket.create_connection(("127.0.0.1", at.port))
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, GET)
        await soon(lambda: at.service.bodies, "it is answered")
        at.service.answer_bytes = 0
        (connection,) = at.connections._strangers
        transport = connection.transport
        assert transport is not None
        await soon(lambda: not transport.is_reading(), "it is not read")
        await loop.sock_sendall(peer, GET * 100)
        await asyncio.sleep(0.05)
        assert connection._reader.waiting_bytes == 0
        while len(at.service.bodies) < 101:  # once it reads it is read
            assert await loop.sock_recv(peer, 1 << 20)
        peer.close()


@scenario
async def test_a_peer_that_does_not_read_its_refusal_does_not_stay() -> None:
    async with lab(linger_seconds=0.0) as at:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, ("127.0.0.1", at.port))
        await soon(lambda: len(at.connections) == 1, "it is counted")
        (connection,) = at.connections._strangers
        transport = connection.transport
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        transport.set_write_buffer_limits(high=1 << 24)  # so that nothing tells that it waits
        at.service.answer_bytes = 1 << 20
        at.service.refusal_bytes = 1 << 20
        await loop.sock_sendall(peer, b"NO HTTP\r\n\r\n")
        await soon(lambda: transport.get_write_buffer_size() > 0, "it does not read")
        await soon(transport.is_closing, "it is being closed")
        at.clock.advance(10.1)
        await at.sweep()
        await soon(lambda: len(at.connections) == 0, "it is given up")
        peer.close()


@scenario
async def test_a_connection_that_is_being_answered_does_not_make_room() -> None:
    """Neither the kubelet's probe for idle ones, nor a pod's busy one for its others."""
    async with lab(strangers=3, per_group=3) as at:
        probe = await at.peer(GET.replace(b"/ ", b"/wait "))
        call = await at.peer(GET.replace(b"/ ", b"/as/a/wait "))
        await soon(lambda: len(at.service.bodies) == 2, "they are being answered")
        for _ in range(5):
            await at.peer()
        for _ in range(5):
            other = await at.peer(GET.replace(b"/ ", b"/as/a "))
            assert await other[0].readline() == OK
        at.service.let_go.set()
        assert await probe[0].readline() == OK
        assert await call[0].readline() == OK


@scenario
async def test_a_pods_connection_that_a_session_hangs_on_stays_while_it_has_others() -> None:
    async with lab(per_group=2) as at:
        needed = await at.peer(GET.replace(b"/ ", b"/needed "))
        assert await needed[0].readline() == OK
        await needed[0].readuntil(b"\r\n\r\n")
        for _ in range(4):
            other = await at.peer(GET.replace(b"/ ", b"/as/needed "))
            assert await other[0].readline() == OK
        assert await is_open(*needed)


@scenario
async def test_strangers_make_room_for_strangers_and_never_push_out_who_is_known() -> None:
    async with lab(strangers=3, total=100) as at:
        known = await at.peer(GET.replace(b"/ ", b"/as/a "))
        assert await known[0].readline() == OK
        strangers = [await at.peer() for _ in range(5)]
        assert [await until_closed(r) for r, _ in strangers[:2]] == [b"", b""], "the oldest"
        assert len(at.connections) == 4
        assert await is_open(*strangers[4])
        known[1].write(GET)


@scenario
async def test_over_the_total_the_one_used_longest_ago_makes_room() -> None:
    async with lab(total=3) as at:
        peers = []
        for name in (b"a", b"b", b"c"):
            peer = await at.peer(GET.replace(b"/ ", b"/as/" + name + b" "))
            assert await peer[0].readline() == OK
            await peer[0].readuntil(b"\r\n\r\n")
            peers.append(peer)
        assert await is_open(*peers[0]), "used: now b is the one used longest ago"
        newest = await at.peer()
        assert await until_closed(peers[1][0]) == b""
        assert await is_open(*newest)
        assert len(at.connections) == 3


@scenario
async def test_a_connection_that_a_session_hangs_on_goes_last() -> None:
    async with lab(total=2) as at:
        first = await at.peer(GET.replace(b"/ ", b"/needed "))
        assert await first[0].readline() == OK
        second = await at.peer(GET.replace(b"/ ", b"/as/b "))
        assert await second[0].readline() == OK
        await second[0].readuntil(b"\r\n\r\n")
        await at.peer()
        assert await until_closed(second[0]) == b""
        assert at.service.lost == 1
        assert at.service.needed <= set(at.connections._known)


@scenario
async def test_one_pods_connections_push_out_only_its_own() -> None:
    async with lab(per_group=2) as at:
        other = await at.peer(GET.replace(b"/ ", b"/as/other "))
        assert await other[0].readline() == OK
        await other[0].readuntil(b"\r\n\r\n")
        greedy = []
        for _ in range(4):
            peer = await at.peer(GET.replace(b"/ ", b"/as/greedy "))
            assert await peer[0].readline() == OK
            await peer[0].readuntil(b"\r\n\r\n")
            greedy.append(peer)
        assert [await until_closed(r) for r, _ in greedy[:2]] == [b"", b""]
        assert await is_open(*greedy[3])
        assert await is_open(*other)


@scenario
async def test_after_the_end_of_all_connections_nothing_is_counted() -> None:
    async with lab(per_group=1) as at:
        for _ in range(3):
            reader, writer = await at.peer(GET.replace(b"/ ", b"/as/a "))
            assert await reader.readline() == OK
            writer.close()
            await soon(lambda: len(at.connections) == 0, "it has ended")
        assert at.connections._group_sizes == {}
        assert at.service.lost == 3


@scenario
async def test_stopping_answers_what_is_being_done_and_ends_the_rest() -> None:
    async with lab() as at:
        idle, _ = await at.peer()
        busy, _ = await at.peer(GET.replace(b"/ ", b"/wait "))
        await soon(lambda: at.service.bodies, "the request has come")
        closing = asyncio.create_task(at.connections.close(30.0))
        assert await until_closed(idle) == b""
        at.service.let_go.set()
        answer = await busy.read()
        assert answer.startswith(OK)
        assert b"Connection: close" in answer
        await closing


@scenario
async def test_stopping_does_not_wait_for_ever() -> None:
    async with lab() as at:
        busy, _ = await at.peer(GET.replace(b"/ ", b"/wait "))
        await soon(lambda: at.service.bodies, "the request has come")
        await at.connections.close(0.01)
        assert await until_closed(busy) == b""


@scenario
async def test_a_peer_that_has_sent_all_and_says_so_still_gets_its_answer() -> None:
    async with lab() as at:
        reader, writer = await at.peer(GET.replace(b"/ ", b"/wait "))
        await soon(lambda: at.service.bodies, "the request has come")
        writer.write_eof()
        await asyncio.sleep(0.01)
        at.service.let_go.set()
        assert (await reader.read()).startswith(OK)


@scenario
async def test_what_is_no_request_is_answered_though_the_peer_goes_on_sending() -> None:
    async with lab(linger_seconds=5.0) as at:
        with socket.create_connection(("127.0.0.1", at.port)) as peer:
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(peer, b"NO HTTP\r\n\r\n" + b"x" * 10_000)
            answer = await loop.sock_recv(peer, 4096)
            assert answer.startswith(b"HTTP/1.1 400 ")
            await loop.sock_sendall(peer, b"x" * 10_000)
        await soon(lambda: len(at.connections) == 0, "it has ended")
