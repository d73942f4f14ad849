"""A service for connections that does next to nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from zeus_agent.answers import Answer
from zeus_agent.connections import Connection
from zeus_agent.http1 import BadHttp, Request

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@dataclass
class Echo:
    """Answers with the body; `/as/NAME` is somebody's request, `…/wait` waits until let go."""

    needed: set[Connection] = field(default_factory=set)
    lost: int = 0
    bodies: list[bytes] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    answer_bytes: int = 0
    refusal_bytes: int = 0

    async def answer(self, request: Request, connection: Connection) -> Answer:
        self.bodies.append(request.body)
        if request.head.target.startswith("/as/"):
            connection.recognised(request.head.target[4:].removesuffix("/wait"))
        if request.head.target == "/needed":
            connection.recognised("needed")
            self.needed.add(connection)
        if request.head.target.endswith("/wait"):
            await self.let_go.wait()
        return Answer(200, request.body + b"x" * self.answer_bytes)

    def malformed(self, error: BadHttp) -> Answer:
        return Answer(error.status, str(error).encode() + b"x" * self.refusal_bytes)

    def is_needed(self, connection: Connection) -> bool:
        return connection in self.needed

    def connection_lost(self, connection: Connection) -> None:
        self.lost += 1
