"""A real HTTPS server for tests, and one that stands before an agent as a cluster's would."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.agent_process import raw_request
from tests.support.eventually import eventually
from zeus_operator.trust.certificates import (
    Authority,
    Leaf,
    issue,
    key_pem_of,
    make_authority,
    pem_of,
)

SERVER_NAME = "localhost"


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    token: str
    body: bytes
    connection: int  # number of the connection, from 1


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes = b""
    location: str = ""


Respond = Callable[[Request], Answer]


def error(status: int, code: str, message: str = "no", **details: object) -> Answer:
    """Return an `ApiError`."""
    body = {"code": code, "message": message, "details": details}
    return Answer(status, json.dumps(body).encode())


def new_authority() -> Authority:
    """Return an authority as the operator makes one."""
    return make_authority(datetime.now(UTC), timedelta(days=2))


def certificate_for(authority: Authority, *names: str) -> Leaf:
    """Return a server's certificate as the operator issues one."""
    return issue(authority, names or (SERVER_NAME,), datetime.now(UTC), timedelta(days=1))


class TlsServer:
    """Serves HTTPS on a port of its own, and knows what it has seen.

    Args:
        leaf: the certificate shown.
        respond: answers each request; called by one thread per connection.
    """

    def __init__(self, leaf: Leaf, respond: Respond) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.connections = 0
        self._live: set[ssl.SSLSocket] = set()
        self._lock = threading.Lock()
        self._context = context_of(leaf)
        outer = self

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
                outer._serve(request, client_address, self)

        self._server = Server((SERVER_NAME, 0), http.server.BaseHTTPRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.address = f"https://{SERVER_NAME}:{self._server.server_address[1]}"

    @property
    def open_connections(self) -> int:
        """How many connections are open, as this side sees it."""
        with self._lock:
            return len(self._live)

    def show(self, leaf: Leaf) -> None:
        """Show another certificate to those that connect from now on."""
        self._context = context_of(leaf)

    def drop_connections(self) -> None:
        """Close every connection, as a server that ends does."""
        with self._lock:
            for connection in self._live:
                # The client may have closed it already, which nobody here has read yet.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        eventually(lambda: self.open_connections == 0, "the connections are closed")

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.drop_connections()

    def _serve(
        self, request: socket.socket, client_address: object, server: http.server.HTTPServer
    ) -> None:
        request.settimeout(60)
        try:
            connection = self._context.wrap_socket(request, server_side=True)
        except OSError:
            return  # the client does not trust us
        with self._lock:
            self.connections += 1
            number = self.connections
            self._live.add(connection)
        try:
            self._handler(number)(connection, client_address, server)
        except OSError:
            return  # the client is gone, or we have dropped it
        finally:
            with self._lock:
                self._live.discard(connection)
            connection.close()

    def _handler(self, number: int) -> Callable[..., http.server.BaseHTTPRequestHandler]:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                request = Request(self.command, self.path, token, body, number)
                outer.requests.append(request)
                answer = outer.respond(request)
                self.send_response(answer.status)
                if answer.location:
                    self.send_header("Location", answer.location)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                return

        return Handler


def context_of(leaf: Leaf) -> ssl.SSLContext:
    """Return a server's context with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(key_pem_of(leaf.key) + pem_of(leaf.certificate))
        file.flush()
        context.load_cert_chain(file.name)
    return context


class Front:
    """Stands before an agent's Unix socket: asks for a token, and may answer by itself.

    Attributes:
        tokens: those that are taken.
        instead: answers in the agent's place, unless it returns None.
    """

    def __init__(self, agent_socket: Path, authority: Authority, folder: Path) -> None:
        self.tokens = {"token-1"}
        self.instead: Callable[[Request], Answer | None] = lambda request: None
        self._socket = agent_socket
        self._ca = authority.pem
        self.token_file = folder / "agent-token"
        self.token_file.write_text("token-1\n")
        self.server = TlsServer(certificate_for(authority), self._respond)

    @property
    def environment(self) -> dict[str, str]:
        """What a pod is given."""
        return {
            "ZEUS_AGENT": self.server.address,
            "ZEUS_AGENT_CA": self._ca,
            "ZEUS_AGENT_TOKEN_FILE": str(self.token_file),
        }

    def asked(self, method: str, path_end: str) -> list[Request]:
        """Return the requests of that kind so far."""
        return [
            request
            for request in list(self.server.requests)
            if request.method == method and request.path.endswith(path_end)
        ]

    def _respond(self, request: Request) -> Answer:
        if request.token not in self.tokens:
            return error(401, "unauthenticated", "the token proves nothing here")
        answer = self.instead(request)
        if answer is not None:
            return answer
        try:
            return Answer(*raw_request(self._socket, request.method, request.path, request.body))
        except OSError:
            return error(503, "internal", "no agent")


@contextmanager
def front(agent_socket: Path, folder: Path) -> Iterator[Front]:
    """Serve an agent over TLS for a while."""
    made = Front(agent_socket, new_authority(), folder)
    try:
        yield made
    finally:
        made.server.close()
