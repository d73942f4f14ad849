"""A caller that hangs up while its request waits: nothing is left that would end with nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.async_scenario import Clock, scenario, soon
from zeus_agent.api import Api
from zeus_agent.broker import Broker
from zeus_agent.callers import PodCaller
from zeus_agent.cluster.ownership import Share
from zeus_agent.connections import Connection, Connections
from zeus_agent.http1 import Request
from zeus_agent.journal import Journal
from zeus_agent.metrics import Metrics
from zeus_agent.operations import OPERATIONS
from zeus_agent.readiness import Readiness
from zeus_agent.server import Server
from zeus_agent.sessions import CONNECTION_GRACE_SECONDS
from zeus_runtime.protocol import ErrorCode

TRAIN = PodCaller("team", "train", "uid-1", "trainer")
SESSION = json.dumps({"ttl_seconds": 600, "ends_with_connection": True}).encode()
LIMIT = json.dumps({"power_limit_watts": 150}).encode()


class Gate:
    """Lets through, or holds up until the test lets go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0

    async def pass_through(self) -> None:
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1


class SlowTokens:
    """Takes everybody for one pod."""

    is_local = False

    def __init__(self) -> None:
        self.gate = Gate()

    async def caller(
        self, request: Request, connection: Connection, *, for_renewal: bool
    ) -> PodCaller:
        await self.gate.pass_through()
        return TRAIN


class SlowKubelet:
    """Gives each pod every board."""

    def __init__(self) -> None:
        self.gate = Gate()

    async def share(self, caller: PodCaller, gpu_uuid: str) -> Share | None:
        await self.gate.pass_through()
        return Share(exclusive=True)


class Lab:
    def __init__(self, folder: Path) -> None:
        self.port = 0
        self.clock = Clock()
        self.tokens, self.kubelet = SlowTokens(), SlowKubelet()
        self.journal, self.metrics = Journal(folder / "state", "b"), Metrics()
        self.broker = Broker(self.journal, self.metrics, clock=self.clock)
        api = Api(self.broker, self.metrics, Readiness(), owners=self.kubelet)
        server = Server(api, OPERATIONS, self.tokens, self.metrics, self.clock)
        self.connections = Connections(server, self.clock)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def has_lost_it(self) -> None:
        """Return when no connection is left."""
        await soon(lambda: not len(self.connections), "the connection has ended")

    @property
    def ends_in_seconds(self) -> float | None:
        """How long the pod's session lasts yet; None: there is none."""
        sessions = self.broker.sessions.of_pod(TRAIN.pod_uid)
        return sessions[0].expires_at_seconds - self.clock() if sessions else None


def hang_up(writer: asyncio.StreamWriter) -> None:
    """End both directions at once, as the end of a process does where something was unread."""
    ends_at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ends_at_once)
    writer.transport.abort()


def send(writer: asyncio.StreamWriter, path: str, body: bytes) -> None:
    head = f"PUT /v1/sessions/run{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="zeus-") as name:
        made = Lab(Path(name))
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(made.connections, "127.0.0.1", 0)
        made.port = listener.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            listener.close()
            await made.connections.close(1.0)
            made.journal.close()


@scenario
async def test_who_hangs_up_before_it_is_known_who_it_is_opens_no_session() -> None:
    async with lab() as at:
        at.tokens.gate.open.clear()
        _, writer = await at.connect()
        send(writer, "", SESSION)
        await soon(lambda: at.tokens.gate.waiting, "its token is checked")
        hang_up(writer)
        await at.has_lost_it()
        at.tokens.gate.open.set()
        await soon(lambda: not at.tokens.gate.waiting, "its token is good")
        await asyncio.sleep(0)
        assert at.ends_in_seconds is None


@pytest.mark.parametrize("waits_for", ["who it is", "whose the GPU is"])
@scenario
async def test_who_hangs_up_while_it_asks_for_a_limit_does_not_get_it_and_its_session_ends(
    waits_for: str,
) -> None:
    async with lab() as at:
        reader, writer = await at.connect()
        send(writer, "", SESSION)
        await reader.readuntil(b"}")
        assert at.ends_in_seconds == 600.0
        gate = (at.tokens if waits_for == "who it is" else at.kubelet).gate
        gate.open.clear()
        send(writer, "/gpus/GPU-1/power-limit", LIMIT)
        await soon(lambda: gate.waiting, "the request waits")
        hang_up(writer)
        await at.has_lost_it()
        gate.open.set()
        await soon(lambda: not gate.waiting, "it goes on")
        await asyncio.sleep(0)
        assert at.ends_in_seconds == CONNECTION_GRACE_SECONDS
        refused = at.metrics.registry.get_sample_value(
            "zeus_agent_refusals_total", {"code": ErrorCode.NOT_FOUND.value}
        )
        assert not refused, "no limit was asked of the GPU, which is not there"
