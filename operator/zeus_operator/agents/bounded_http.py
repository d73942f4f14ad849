"""One question over TLS that ends in time, whoever answers and however slowly.

A time-out of a socket begins anew with each byte, so one who drips could hold a thread for hours.
Here each wait is for what is left of the time of the whole question: connection, handshake, header
and body.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

_CHUNK_BYTES = 64 * 1024


class NoAnswer(OSError):  # noqa: N818 - a state, as ConnectionRefused is
    """What comes is no answer that can be used; the text says why."""


@dataclass(frozen=True)
class Limits:
    """What a question may cost.

    Args:
        connect_seconds: until the connection is made, and once more until its handshake is.
        silence_seconds: longest time in which nothing comes.
        total_seconds: all of it, but for at most one scheduling of the thread.
        body_bytes: longest answer, without its header (which `http.client` bounds).
    """

    connect_seconds: float
    silence_seconds: float
    total_seconds: float
    body_bytes: int


def get(
    address: tuple[str, int],
    path: str,
    headers: Mapping[str, str],
    context: ssl.SSLContext,
    server_name: str,
    limits: Limits,
) -> tuple[int, bytes]:
    """Return status and body of what is at `path`.

    Args:
        server_name: for which the certificate has to be.

    Raises:
        OSError: `NoAnswer` or what the system says, in the same words for the same reason.
    """
    connection = _Connection(address, context, server_name, limits)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, _body(response, limits)
    except HTTPException as error:
        # Not its words: they quote what was sent.
        raise NoAnswer(f"it sends no HTTP ({type(error).__name__})") from error
    finally:
        connection.hang_up()


def _body(response: HTTPResponse, limits: Limits) -> bytes:
    data = bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        data += chunk
        if len(data) > limits.body_bytes:
            raise NoAnswer(f"its answer is longer than {limits.body_bytes} bytes")
    return bytes(data)


class _Connection(HTTPConnection):
    """Of one question: its time runs from here on."""

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, server_name: str, limits: Limits
    ) -> None:
        super().__init__(*address)
        self._tls = context
        self._server_name = server_name
        self._limits = limits
        self._deadline = time.monotonic() + limits.total_seconds
        self._made: ssl.SSLSocket | None = None

    def connect(self) -> None:
        """Make the connection and the handshake, each bounded as a whole."""
        seconds = min(self._limits.connect_seconds, self._limits.total_seconds)
        raw = socket.create_connection((self.host, self.port), seconds)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._tls.wrap_socket(raw, server_hostname=self._server_name)
        except BaseException:
            raw.close()
            raise
        self._made = tls
        self.sock = _TimedSocket(tls, self._deadline, self._limits)

    def hang_up(self) -> None:
        """Close the connection for good; `close` comes where its answer may still be read."""
        self.close()
        if self._made is not None:
            self._made.close()


class _TimedSocket:
    """As much of a socket as `http.client` uses."""

    def __init__(self, tls: ssl.SSLSocket, deadline: float, limits: Limits) -> None:
        self._tls = tls
        self._deadline = deadline
        self._limits = limits

    def sendall(self, data: Any) -> None:
        self._wait_no_longer()
        self._tls.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self))

    def receive_into(self, buffer: Any) -> int:
        seconds = self._wait_no_longer()
        try:
            return self._tls.recv_into(buffer)
        except TimeoutError:
            if seconds < self._limits.silence_seconds:
                raise self._too_long() from None
            raise NoAnswer(f"nothing has come for {self._limits.silence_seconds:g} s") from None

    def close(self) -> None:
        """Leave it open for who reads: `http.client` is done with it before the body is read."""

    def _wait_no_longer(self) -> float:
        """Bound the next call by what is left; returns how long it may take."""
        left = self._deadline - time.monotonic()
        if left <= 0.0:
            raise self._too_long()
        seconds = min(left, self._limits.silence_seconds)
        self._tls.settimeout(seconds)
        return seconds

    def _too_long(self) -> NoAnswer:
        return NoAnswer(f"its answer takes longer than {self._limits.total_seconds:g} s")


class _TimedReader(io.RawIOBase):
    """What comes."""

    def __init__(self, source: _TimedSocket) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.receive_into(buffer)
