"""Talks to the node's agent over its Unix socket; standard library only.

`AgentClient` is the plain, blocking client: one call, one answer, short time-outs.
`zeus_runtime.agent_background.BackgroundAgent` holds limits from a daemon thread, so that a
training step never waits for the agent.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, TypeVar
from urllib.parse import quote

from zeus_runtime.protocol import (
    AGENT_UNIX_SCHEME,
    API_PREFIX,
    ENV_AGENT,
    ErrorCode,
    Lease,
    NodeInfo,
    ProtocolError,
    Result,
    SessionInfo,
    SessionRequest,
)

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 1.0
CALL_TIMEOUT_SECONDS = 2.0
SYSTEM_SOCKET = "/run/zeus/agent.sock"
_MAX_RESPONSE_BYTES = 1 << 20
_FULL_BACKLOG_PAUSE_SECONDS = 0.01


class AgentUnavailable(Exception):  # noqa: N818 -- a state of the world, nobody's error
    """No usable answer: nothing listens, the connection broke, a call took too long."""


class AgentError(Exception):
    """The agent answered with an error.

    Attributes:
        code: a value of `protocol.ErrorCode`, or one that a newer agent knows.
        message: what, where and what to do.
        status: the HTTP status.
        details: more facts, by name.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 0,
        details: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.details: Dict[str, Any] = dict(details or {})


def find_agent(environ: Mapping[str, str] = os.environ) -> Optional[str]:
    """Return the address of an agent: `ZEUS_AGENT`, else the user's or the system's socket.

    A default socket counts only if its file exists; whether anything answers is
    learned by connecting.
    """
    configured = environ.get(ENV_AGENT)
    if configured:
        return configured
    candidates = [Path(SYSTEM_SOCKET)]
    runtime_dir = environ.get("XDG_RUNTIME_DIR")
    if runtime_dir:
        candidates.insert(0, Path(runtime_dir) / "zeus" / "agent.sock")
    for path in candidates:
        if path.is_socket():
            return f"{AGENT_UNIX_SCHEME}{path}"
    return None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, call_timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=call_timeout_seconds)
        self._path = path
        self._call_timeout_seconds = call_timeout_seconds

    def connect(self) -> None:
        """Connect within `CONNECT_TIMEOUT_SECONDS`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(min(CONNECT_TIMEOUT_SECONDS, self._call_timeout_seconds))
            self._connect_patiently(connection)
            connection.settimeout(self._call_timeout_seconds)
        except OSError:
            connection.close()
            raise
        self.sock = connection

    def _connect_patiently(self, connection: socket.socket) -> None:
        """Connect; where many callers wait already, Linux says so at once instead of waiting."""
        deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
        while not self._try_to_connect(connection):
            if time.monotonic() >= deadline:
                raise TimeoutError("too many callers are waiting")
            time.sleep(_FULL_BACKLOG_PAUSE_SECONDS)

    def _try_to_connect(self, connection: socket.socket) -> bool:
        try:
            connection.connect(self._path)
        except BlockingIOError:
            return False
        return True


class AgentClient:
    """A blocking client with one keep-alive connection; safe to share between threads.

    After a fork the child gets a connection of its own with its next call; the
    agent then sees the child's pid, to which the parent's sessions do not belong.

    Args:
        address: `unix:///path/to/socket`.
        timeout_seconds: longest wait for one answer.

    Raises:
        ValueError: the address is not one that this client understands.
    """

    def __init__(self, address: str, timeout_seconds: float = CALL_TIMEOUT_SECONDS) -> None:
        if not address.startswith(AGENT_UNIX_SCHEME) or len(address) == len(AGENT_UNIX_SCHEME):
            raise ValueError(
                f"agent address {address!r}: expected {AGENT_UNIX_SCHEME}/path/to/socket"
            )
        self.address = address
        self._path = address[len(AGENT_UNIX_SCHEME) :]
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._connection: Optional[_UnixConnection] = None
        self._pid = os.getpid()

    def node(self) -> NodeInfo:
        """Return what the agent knows of this machine and its GPUs."""
        return self._parsed(NodeInfo.from_body, self._call("GET", "/node"))

    def open_session(self, session: str, request: SessionRequest) -> SessionInfo:
        """Open the session, or renew it if this process has it open already."""
        body = self._call("PUT", _path(session), asdict(request))
        return self._parsed(SessionInfo.from_body, body)

    def session(self, session: str) -> SessionInfo:
        """Return the session and its leases, without renewing it."""
        return self._parsed(SessionInfo.from_body, self._call("GET", _path(session)))

    def renew(self, session: str) -> SessionInfo:
        """Give the session its whole time to live again."""
        return self._parsed(SessionInfo.from_body, self._call("POST", _path(session, "renew")))

    def set_power_limit(self, session: str, uuid: str, watts: float, sequence: int = 0) -> Lease:
        """Set the limit of a GPU and return the lease with what was read back.

        Args:
            session: an open session of this process.
            uuid: the GPU's UUID as NVML gives it, e.g. `GPU-…`.
            watts: the limit; moved to the nearest bound if it is outside (`Lease.clamped`).
            sequence: a number lower than one that this lease has seen is refused.
        """
        body = {"power_limit_watts": watts, "sequence": sequence}
        path = _path(session, "gpus", uuid, "power-limit")
        return self._parsed(Lease.from_body, self._call("PUT", path, body))

    def release(self, session: str, uuid: str) -> None:
        """Give the GPU's lease back; returns when the limit found before is back in place."""
        self._call("DELETE", _path(session, "gpus", uuid, "power-limit"))

    def report(self, session: str, result: Result) -> None:
        """Hand over the result so far."""
        self._call("PUT", _path(session, "report"), asdict(result))

    def close_session(self, session: str) -> None:
        """End the session; returns when every limit that it held is back in place."""
        self._call("DELETE", _path(session))

    def close(self) -> None:
        """Close the connection.  Sessions stay open until closed, expired or this process ends."""
        self._after_fork()
        with self._lock:
            self._drop()

    def fileno(self) -> Optional[int]:
        """Return the connection's descriptor while connected; readable when idle means EOF."""
        connection = self._connection
        if connection is None or connection.sock is None:
            return None
        return connection.sock.fileno()

    def _call(self, method: str, path: str, body: Optional[Mapping[str, Any]] = None) -> Any:
        """Make one call.

        Raises:
            AgentUnavailable: see there.
            AgentError: the agent refused, or the body is none that it could be asked with.
        """
        self._after_fork()
        try:
            data = None if body is None else json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:  # NaN, or a number of a type of its own
            raise AgentError(ErrorCode.BAD_REQUEST.value, f"can't be sent: {error}") from error
        try:
            with self._lock:
                status, payload = self._exchange(method, API_PREFIX + path, data)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise AgentUnavailable(f"agent at {self.address}: {reason}") from error
        if status >= 400:
            raise _as_error(status, payload)
        try:
            return json.loads(payload) if payload else {}
        except ValueError as error:
            raise AgentUnavailable(f"agent at {self.address}: not JSON: {error}") from error

    def _parsed(self, parse: Callable[[Mapping[str, Any]], T], body: Any) -> T:
        """Parse an answer; one that is not what it should be comes from no agent of ours."""
        if not isinstance(body, dict):
            raise AgentUnavailable(f"agent at {self.address}: the answer is not an object")
        try:
            return parse(body)
        except (ProtocolError, AttributeError, TypeError) as error:
            raise AgentUnavailable(f"agent at {self.address}: {error}") from error

    def _exchange(self, method: str, path: str, data: Optional[bytes]) -> Tuple[int, bytes]:
        """Send and receive, once more if a kept connection turns out to be closed.

        Every call of the API is idempotent, so repeating one is safe.
        """
        reused = self._connection is not None
        try:
            return self._send(method, path, data)
        except (ConnectionError, http.client.BadStatusLine):
            if not reused:
                raise
            return self._send(method, path, data)

    def _send(self, method: str, path: str, data: Optional[bytes]) -> Tuple[int, bytes]:
        if self._connection is None:
            self._connection = _UnixConnection(self._path, self._timeout_seconds)
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, path, body=data, headers=headers)
            response = self._connection.getresponse()
            _check_length(response)
            payload = response.read()
        except BaseException:
            # The connection may hold half an answer; nobody may take it for the next one.
            self._drop()
            raise
        if response.will_close:
            self._drop()
        return response.status, payload

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _after_fork(self) -> None:
        """In a forked child, forget the parent's connection and a lock that may be held."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._drop()


def _check_length(response: http.client.HTTPResponse) -> None:
    """Refuse what can't be an answer of the agent before it takes memory here."""
    if (response.length or 0) > _MAX_RESPONSE_BYTES:
        raise http.client.HTTPException("the answer is too long")


def _path(session: str, *rest: str) -> str:
    return "/".join(["/sessions", *(quote(part, safe="") for part in (session, *rest))])


def _as_error(status: int, payload: bytes) -> AgentError:
    """Read an `ApiError` body; whatever else is kept as the message."""
    try:
        raw = json.loads(payload)
        if not isinstance(raw, dict):
            raise ProtocolError("not an object")
        details = raw.get("details")
        return AgentError(
            str(raw.get("code", "")),
            str(raw.get("message", "")),
            status,
            details if isinstance(details, dict) else None,
        )
    except ValueError:
        text = payload[:200].decode("utf-8", "replace").strip()
        return AgentError("", text or f"HTTP status {status}", status)
