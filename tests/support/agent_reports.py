"""An agent as the operator sees it: reports over TLS, for whoever has the right token."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from zeus_runtime.protocol import Result

RECEIVED = 1772452830.0
"""2026-03-02T12:00:30Z"""


def report(pod_uid: str, *, received_at: object = RECEIVED, **result: Any) -> dict[str, Any]:
    """Return a report as `GET /v1/reports` lists it; `result` are fields of the pod's result."""
    fields = {"job": "default/digits", "recurrence": "7", "attempt": 1, **result}
    return report_body(pod_uid, Result(**fields), received_at)


def report_body(pod_uid: str, result: Result, received_at: object = RECEIVED) -> dict[str, Any]:
    """Return a report of `result`."""
    return {
        "pod_uid": pod_uid,
        "namespace": "default",
        "pod": f"pod-{pod_uid}",
        "received_at": received_at,
        "result": json.loads(json.dumps(asdict(result))),
    }


Answer = tuple[int, bytes]


class ReportServer:
    """Serves until stopped.  A context manager.

    Args:
        certificate, key: PEM files.
        token: what a caller has to show.
        host, port: to listen on; 0: a free port.

    Attributes:
        reports: by pod UID; may be changed while it serves.
        answer: in place of what is asked for; None: that.
        asked: paths, in the order of the questions.
    """

    def __init__(
        self, certificate: Path, key: Path, token: str, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.reports: dict[str, dict[str, Any]] = {}
        self.answer: Callable[[], Answer] | None = None
        self.asked: list[str] = []
        self.token = token
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, body = outer.respond(self.path, self.headers.get("Authorization") or "")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status in (301, 302):
                    self.send_header("Location", "https://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_arguments: Any) -> None:
                """A caller that hangs up is no failure of the test."""

        self._server = Server((host, port), Handler)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def respond(self, path: str, authorization: str) -> Answer:
        if authorization != f"Bearer {self.token}":
            return 401, b'{"code": "unauthenticated", "message": "no"}'
        if self.answer is not None:
            return self.answer()
        if path == "/v1/reports":
            return 200, json.dumps(list(self.reports.values())).encode()
        found = self.reports.get(path.removeprefix("/v1/reports/"))
        return (404, b"{}") if found is None else (200, json.dumps(found).encode())

    def stop(self) -> None:
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> ReportServer:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


class DrippingServer:
    """Sends `start` to whoever asks over TLS, then `drop` again and again.  A context manager.

    Attributes:
        drops: so many were sent.
        has_given_up: it has stopped though the other side was still there.
    """

    _MOST_SECONDS = 20.0

    def __init__(self, certificate: Path, key: Path, start: bytes, drop: bytes) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._start = start
        self._drop = drop
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.drops = 0
        self.has_given_up = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the other side has left
            raw, _ = self._listener.accept()
            with raw, self._context.wrap_socket(raw, server_side=True) as tls:
                tls.recv(4096)
                tls.sendall(self._start)
                for _ in range(int(self._MOST_SECONDS / 0.01)):
                    tls.sendall(self._drop)
                    self.drops += 1
                    if self._stop.wait(0.01):
                        return
                self.has_given_up = True

    def __enter__(self) -> DrippingServer:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._listener.close()
        self._thread.join()
