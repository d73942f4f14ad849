"""Talks to the node's agent; standard library only.

`AgentClient` is the plain, blocking client: one call, one answer, short time-outs.
`zeus_runtime.agent_transport` knows how the agent is reached, and
`zeus_runtime.agent_background.BackgroundAgent` holds limits from a daemon thread, so that a
training step never waits for the agent.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import threading
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, TypeVar
from urllib.parse import quote

from zeus_runtime.agent_transport import AgentConnection, TokenUnusable, open_transport
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

CALL_TIMEOUT_SECONDS = 2.0
SYSTEM_SOCKET = "/run/zeus/agent.sock"
_MAX_RESPONSE_BYTES = 1 << 20
_MAX_REPORT_BYTES = 60_000  # the agent takes bodies of 64 KiB


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


class AgentClient:
    """A blocking client with one keep-alive connection; safe to share between threads.

    A forked child closes its copy of the connection at once, so that the parent's ends with the
    parent, and gets one of its own with its next call.

    Args:
        address: `unix:///path/to/socket` or `https://host:port`.
        timeout_seconds: longest wait for one answer.
        environ: for https, where `ZEUS_AGENT_CA` and `ZEUS_AGENT_TOKEN_FILE` are looked up.

    Raises:
        ValueError: the address is not one that this client understands.
    """

    def __init__(
        self,
        address: str,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.address = address
        self._transport = open_transport(address, environ)
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._connection: Optional[AgentConnection] = None
        self._pid = os.getpid()
        _CLIENTS.add(self)

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
        """Hand over the result so far; of very many milestones the older ones are thinned out."""
        self._call("PUT", _path(session, "report"), _report_body(result))

    def close_session(self, session: str) -> None:
        """End the session; returns when every limit that it held is back in place."""
        self._call("DELETE", _path(session))

    def close(self) -> None:
        """Close the connection.  Sessions stay open until closed, expired or this process ends."""
        self._after_fork()
        with self._lock:
            self._drop()

    def fileno(self) -> Optional[int]:
        """Return the connection's descriptor while connected.

        Readable while no call is going on: ask `has_ended`.
        """
        connection = self._connection
        if connection is None or connection.sock is None:
            return None
        return connection.sock.fileno()

    def has_ended(self) -> bool:
        """Whether the agent has closed the connection; it is then closed here too."""
        with self._lock:
            ended = self._connection is None or self._connection.has_ended()
            if ended:
                self._drop()
            return ended

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
                if status == 401 and self._transport.has_newer_proof():
                    status, payload = self._exchange(method, API_PREFIX + path, data)
        except TokenUnusable as error:
            raise AgentError(ErrorCode.UNAUTHENTICATED.value, str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise AgentUnavailable(f"agent at {self.address}: {reason}") from error
        if not 200 <= status < 300:
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
        except (OSError, http.client.HTTPException) as error:
            if not (reused and self._transport.closed(error)):
                raise
            return self._send(method, path, data)

    def _send(self, method: str, path: str, data: Optional[bytes]) -> Tuple[int, bytes]:
        headers = self._transport.headers(fresh=self._connection is None)
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self._connection is None:
            self._connection = self._transport.connection(self._timeout_seconds)
        try:
            answer = self._connection.ask(method, path, headers, data, _MAX_RESPONSE_BYTES)
        except BaseException:
            # The connection may hold half an answer; nobody may take it for the next one.
            self._drop()
            raise
        if answer.closes:
            self._drop()
        return answer.status, answer.payload

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


_CLIENTS: weakref.WeakSet[AgentClient] = weakref.WeakSet()


def _forget_in_child() -> None:
    for client in list(_CLIENTS):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _report_body(result: Result) -> Dict[str, Any]:
    """Return the body of a report; every second milestone goes until the agent takes it."""
    body = asdict(result)
    milestones = result.milestones
    while len(milestones) > 1 and len(json.dumps(body)) > _MAX_REPORT_BYTES:
        milestones = milestones[::-2][::-1]  # the last one (the best metric) always stays
        body["milestones"] = milestones
    return body


@functools.lru_cache(maxsize=64)  # of few sessions and GPUs, asked for again and again
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
