"""The server's care for its connections; what it answers is tested with a real agent."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from aiohttp import web

from zeus_agent.broker import Broker
from zeus_agent.journal import Journal
from zeus_agent.metrics import Metrics
from zeus_agent.server import Server

PATIENCE_SECONDS = 60.0


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_sends_no_whole_request_is_closed(tmp_path: Path, sent: bytes) -> None:
    async def scenario(path: Path) -> None:
        journal, metrics = Journal(tmp_path, "boot-1"), Metrics()
        runner = Server(Broker(journal, metrics), metrics).runner(idle_connection_seconds=0.05)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(sent)
                assert await reader.read() == b""
                writer.close()
        finally:
            await runner.cleanup()
            journal.close()

    with tempfile.TemporaryDirectory(prefix="zeus-") as folder:
        asyncio.run(scenario(Path(folder) / "s"))
