"""What the agent's HTTP layer costs beside aiohttp's server, both answering the same at once.

`python -m benchmarks.agent.http_layers`; the figures are quoted in
docs/decisions/an-http-layer-of-few-lines.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from benchmarks.agent import machines
from benchmarks.agent.callers.raw import Connection
from benchmarks.agent.figures import median, number
from tests.support.tls_server import SERVER_NAME, certificate_for, new_authority
from zeus_agent import connections, listeners
from zeus_agent.answers import Answer, as_json
from zeus_agent.http1 import BadHttp, Request
from zeus_agent.tls import Certificates
from zeus_operator.trust.certificates import key_pem_of, pem_of

LAYERS = ("ours", "aiohttp")
ROUNDS = 9
CALLS = 1500
TLS_CONNECTIONS = 1000
IN_BOTH = aiohttp.ClientSession  # the agent asks the API server with it: its memory is spent anyway
GET = f"GET /healthz HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n".encode()


class Service:
    """Answers everything in the same way."""

    async def answer(self, _request: Request, connection: connections.Connection) -> Answer:
        """Answer a request."""
        connection.recognised(connection)
        return as_json({"status": "ok"})

    def malformed(self, error: BadHttp) -> Answer:
        """Answer what is no request."""
        return Answer(error.status)

    def is_needed(self, _connection: connections.Connection) -> bool:
        """Keep each connection."""
        return True

    def connection_lost(self, _connection: connections.Connection) -> None:
        """Take no notice."""


async def _ours(folder: Path, tcp: socket.socket) -> None:
    certificates = Certificates(folder / "tls.crt", folder / "tls.key")
    certificates.refresh()
    accepted = connections.Connections(Service(), time.monotonic)
    local = listeners.Listener(listeners.listen_unix(folder / "sock", shared=False), accepted)
    remote = listeners.Listener(tcp, accepted, certificates)
    await asyncio.gather(local.serve(), remote.serve(), accepted.sweep_forever())


async def _aiohttp(folder: Path, tcp: socket.socket) -> None:
    from aiohttp import web

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    await web.SockSite(runner, tcp, ssl_context=context).start()
    await web.UnixSite(runner, str(folder / "sock")).start()
    await asyncio.Event().wait()


def serve(layer: str, folder: Path) -> None:
    """Serve until killed, at a Unix socket and with TLS; print the port."""
    listeners.take_little_memory_for_tls()
    listeners.allow_many_connections()
    tcp = listeners.listen_tcp("127.0.0.1:0")
    print(tcp.getsockname()[1], flush=True)
    asyncio.run((_ours if layer == "ours" else _aiohttp)(folder, tcp))


@contextlib.contextmanager
def served(layer: str, authority_pem: Path) -> Iterator[tuple[int, Path, int]]:
    """Yield process id, Unix socket and port of a server."""
    folder = authority_pem.parent / layer
    command = [sys.executable, "-m", "benchmarks.agent.http_layers", layer, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            machines.wait_until_up(server, folder / "sock", authority_pem)  # type: ignore[arg-type]
            yield server.pid, folder / "sock", port
        finally:
            server.kill()


def microseconds_of(pid: int, path: Path) -> float:
    """Return the server's processor time for a request on a kept connection."""
    connection = Connection(str(path))
    before = machines.cpu_seconds(pid)
    for _ in range(CALLS):
        connection.ask("GET", "/healthz")
    spent = machines.cpu_seconds(pid) - before
    connection.close()
    return 1e6 * spent / CALLS


def with_tls_connections(pid: int, port: int, context: ssl.SSLContext) -> tuple[float, float]:
    """Return MB, and ms of processor time per connection, of TLS connections with a request."""
    before = machines.cpu_seconds(pid)
    with contextlib.ExitStack() as opened:
        for _ in range(TLS_CONNECTIONS):
            plain = socket.create_connection((SERVER_NAME, port), timeout=60)
            kept = opened.enter_context(context.wrap_socket(plain, server_hostname=SERVER_NAME))
            kept.sendall(GET)
            kept.recv(4096)
        spent = machines.cpu_seconds(pid) - before
        return machines.resident_megabytes(pid), 1e3 * spent / TLS_CONNECTIONS


def main() -> None:
    """Print the table."""
    listeners.allow_many_connections()
    authority = new_authority()
    leaf = certificate_for(authority)
    with tempfile.TemporaryDirectory(prefix="zeus-bench-") as name, contextlib.ExitStack() as stack:
        pem = Path(name) / "ca.crt"
        pem.write_text(authority.pem)
        for layer in LAYERS:
            folder = Path(name) / layer
            folder.mkdir()
            (folder / "tls.crt").write_text(pem_of(leaf.certificate))
            (folder / "tls.key").write_text(key_pem_of(leaf.key))
        servers = {layer: stack.enter_context(served(layer, pem)) for layer in LAYERS}
        idle = {layer: machines.resident_megabytes(pid) for layer, (pid, _, _) in servers.items()}
        costs: dict[str, list[float]] = {layer: [] for layer in LAYERS}
        for _ in range(ROUNDS):  # in turns: what else the machine does meets both
            for layer, (pid, path, _) in servers.items():
                costs[layer].append(microseconds_of(pid, path))
        context = ssl.create_default_context(cafile=str(pem))
        tls = {layer: with_tls_connections(s[0], s[2], context) for layer, s in servers.items()}
    print("| layer | us/request | MB idle | MB with 1,000 TLS | ms/TLS connection |")
    for layer in LAYERS:
        values = (median(costs[layer]), idle[layer], *tls[layer])
        print(f"| {layer} | " + " | ".join(map(number, values)) + " |")


if __name__ == "__main__":
    if sys.argv[1:] and re.fullmatch("|".join(LAYERS), sys.argv[1]):
        serve(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
