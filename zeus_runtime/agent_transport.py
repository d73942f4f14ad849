"""How the agent is reached: a Unix socket on this machine, or TLS with the pod's token.

Standard library only.  TLS is imported when it is first needed: a Python without it trains too.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Tuple, Union
from urllib.parse import urlsplit

from zeus_runtime.agent_http import Answer, read_answer, request
from zeus_runtime.protocol import (
    AGENT_AUDIENCE,
    AGENT_HTTPS_SCHEME,
    AGENT_UNIX_SCHEME,
    ENV_AGENT_CA,
    ENV_AGENT_TOKEN_FILE,
)

CONNECT_TIMEOUT_SECONDS = 1.0
DEFAULT_TOKEN_FILE = "/var/run/secrets/zeus.energy/agent-token"  # noqa: S105 -- a path
TOKEN_FRESH_SECONDS = 60.0
"""The kubelet replaces a token long before it expires: one read so lately is good."""

_FULL_BACKLOG_PAUSE_SECONDS = 0.01
_MAX_TOKEN_BYTES = 16 * 1024
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class TokenUnusable(Exception):  # noqa: N818 -- a state of the world, nobody's error
    """There is no token to call with; the text says where it was looked for and what to do."""


class AgentConnection(http.client.HTTPConnection):
    """An HTTP connection to the agent; subclasses know how it is made.

    Args:
        host: for the header `Host`.
        call_timeout_seconds: longest wait for the other side to send or take something.
    """

    def __init__(
        self, host: str, port: Optional[int] = None, *, call_timeout_seconds: float
    ) -> None:
        super().__init__(host, port, timeout=call_timeout_seconds)
        self._call_timeout_seconds = call_timeout_seconds
        self._connect_timeout_seconds = min(CONNECT_TIMEOUT_SECONDS, call_timeout_seconds)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Optional[bytes],
        max_bytes: int,
    ) -> Answer:
        """Make one request, connecting if needed, and read its answer of at most so many bytes.

        Raises:
            OSError, http.client.HTTPException: there is no whole answer; close the connection.
        """
        if self.sock is None:
            try:
                self.connect()
            except (TypeError, ValueError) as error:  # a path, name or certificate that can't be
                raise OSError(f"can't connect: {error}") from error
        self.sock.sendall(request(method, path, self._host_header(), headers, body))
        return read_answer(self.sock.recv, max_bytes)

    def _host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"

    def has_ended(self) -> bool:
        """Whether the other side has closed; for a connection on which no answer is due."""
        if self.sock is None:
            return True
        self.sock.settimeout(0.0)
        try:
            self._look()
        except OSError as error:
            return not self._only_waits(error)
        finally:
            self.sock.settimeout(self._call_timeout_seconds)
        return True  # the end, or an answer that nobody has asked for

    def _look(self) -> bytes:
        return self.sock.recv(1, socket.MSG_PEEK)

    def _only_waits(self, error: OSError) -> bool:
        return isinstance(error, BlockingIOError)


class _UnixConnection(AgentConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, call_timeout_seconds: float) -> None:
        super().__init__("localhost", call_timeout_seconds=call_timeout_seconds)
        self._path = path

    def connect(self) -> None:
        """Connect within `CONNECT_TIMEOUT_SECONDS`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._connect_timeout_seconds)
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


class _TlsConnection(AgentConnection):
    """HTTP over TLS; the other side's name is verified."""

    default_port = 443  # else the header `Host` names it

    def __init__(self, host: str, port: int, ca: str, call_timeout_seconds: float) -> None:
        super().__init__(host, port, call_timeout_seconds=call_timeout_seconds)
        self._ca = ca

    def connect(self) -> None:
        """Connect within `CONNECT_TIMEOUT_SECONDS` for each address that the name has.

        That is without the look-up of the name, for which the system's resolver has time-outs of
        its own, and without the handshake, whose steps may take as long as a call's.

        Raises:
            OSError: nobody answers, or whoever does is not trusted.
        """
        import ssl

        try:
            context = ssl.create_default_context(cadata=_certificates(self._ca))
        except ssl.SSLError as error:
            raise OSError(f"{ENV_AGENT_CA}: these are no certificates in PEM: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        connection = socket.create_connection(
            (self.host, self.port), timeout=self._connect_timeout_seconds
        )
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(self._call_timeout_seconds)
            self.sock = context.wrap_socket(connection, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise OSError(
                f"its certificate is not trusted ({error.verify_message.rstrip('.')}); does "
                f"{ENV_AGENT_CA} hold the certificate that signs it?"
            ) from error
        except BaseException:
            connection.close()
            raise

    def _look(self) -> bytes:
        # TLS sends more than answers (tickets, new keys): reading takes them and tells.
        return self.sock.recv(1)

    def _only_waits(self, error: OSError) -> bool:
        import ssl

        return isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError))


@dataclass(frozen=True)
class UnixTransport:
    """The agent of this machine: the kernel tells it who calls."""

    path: str

    def connection(self, call_timeout_seconds: float) -> AgentConnection:
        """Return a connection that is made with its first call."""
        return _UnixConnection(self.path, call_timeout_seconds)

    def headers(self, *, fresh: bool) -> Dict[str, str]:
        """Return what proves the caller: nothing, the kernel does."""
        del fresh
        return {}

    def has_newer_proof(self) -> bool:
        """Whether a call refused as unauthenticated may pass now: never here."""
        return False

    def closed(self, error: BaseException) -> bool:
        """Whether `error` says that the other side has closed the connection."""
        return isinstance(error, (ConnectionError, http.client.BadStatusLine))


class TlsTransport:
    """The agent of a pod's node: it is known by its certificate, the pod by its token.

    Args:
        host: name or address; the certificate must be for it.
        ca: certificates in PEM, or the path of a file with them, read at each connection;
            empty: those that the system trusts.
        token: the file of the pod's token.
    """

    def __init__(self, host: str, port: int, ca: str, token: TokenFile) -> None:
        self._host, self._port, self._ca, self._token = host, port, ca, token

    def connection(self, call_timeout_seconds: float) -> AgentConnection:
        """Return a connection that is made with its first call."""
        return _TlsConnection(self._host, self._port, self._ca, call_timeout_seconds)

    def headers(self, *, fresh: bool) -> Dict[str, str]:
        """Return what proves the caller.

        Args:
            fresh: read the token anew, as for a new connection.

        Raises:
            TokenUnusable: there is no token.
        """
        return {"Authorization": f"Bearer {self._token.read(fresh=fresh)}"}

    def has_newer_proof(self) -> bool:
        """Whether a call refused as unauthenticated may pass now, with a token put there since."""
        return self._token.has_changed()

    def closed(self, error: BaseException) -> bool:
        """Whether `error` says that the other side has closed the connection."""
        import ssl

        ends = (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError, ssl.SSLZeroReturnError)
        return isinstance(error, ends)


Transport = Union[UnixTransport, TlsTransport]


class TokenFile:
    """A ServiceAccount token that the kubelet keeps fresh in a file.

    Args:
        path: where it is mounted.
        clock: monotonic seconds.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._token = ""
        self._read_at = 0.0

    def read(self, *, fresh: bool = False) -> str:
        """Return the token, as it was at most `TOKEN_FRESH_SECONDS` ago.

        Raises:
            TokenUnusable: there never was one.
        """
        now = self._clock()
        if not self._token or fresh or now - self._read_at >= TOKEN_FRESH_SECONDS:
            self._read_at = now
            try:
                self._token = self._load()
            except TokenUnusable:
                if not self._token:
                    raise
                # The one known may be good for a while yet; the agent says if not.
        return self._token

    def has_changed(self) -> bool:
        """Read the file and return whether it holds another token than the one known."""
        before = self._token
        return self.read(fresh=True) != before

    def _load(self) -> str:
        try:
            with Path(self._path).open("rb") as file:
                data = file.read(_MAX_TOKEN_BYTES + 1)
        except OSError as error:
            raise TokenUnusable(
                f"the pod's token can't be read from {self._path}: {error.strerror or error}; "
                f"mount a ServiceAccount token with the audience {AGENT_AUDIENCE} there, or name "
                f"its file in {ENV_AGENT_TOKEN_FILE}"
            ) from None
        token = data.strip()
        # Nothing of it may be said: it might be a part of another secret.
        if not 0 < len(token) <= _MAX_TOKEN_BYTES or not all(33 <= each < 127 for each in token):
            raise TokenUnusable(f"{self._path} holds no token")
        return token.decode("ascii")


def is_unix(address: str) -> bool:
    """Whether the agent at `address` learns from the kernel which process calls."""
    return address.startswith(AGENT_UNIX_SCHEME)


def open_transport(address: str, environ: Mapping[str, str] = os.environ) -> Transport:
    """Return how to reach `address`; nothing is connected or read yet.

    Args:
        address: `unix:///path/to/socket` or `https://host:port`.
        environ: `ZEUS_AGENT_CA` and `ZEUS_AGENT_TOKEN_FILE`, for https.

    Raises:
        ValueError: the address is neither.
    """
    if is_unix(address) and len(address) > len(AGENT_UNIX_SCHEME):
        return UnixTransport(address[len(AGENT_UNIX_SCHEME) :])
    if address.startswith(AGENT_HTTPS_SCHEME):
        host, port = _host_and_port(address)
        token = TokenFile(environ.get(ENV_AGENT_TOKEN_FILE) or DEFAULT_TOKEN_FILE)
        return TlsTransport(host, port, environ.get(ENV_AGENT_CA, ""), token)
    raise _no_address(address)


def _host_and_port(address: str) -> Tuple[str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        host = (host or "").encode("idna").decode("ascii")  # the form that connecting needs
    except ValueError:
        raise _no_address(address) from None
    # A token goes there: what is more than host and port is a mistake, or someone's trick.
    more = parts.path.rstrip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if not host or more:
        raise _no_address(address)
    return host, _TlsConnection.default_port if port is None else port


def _no_address(address: str) -> ValueError:
    return ValueError(
        f"agent address {address!r}: expected {AGENT_UNIX_SCHEME}/path/to/socket or "
        f"{AGENT_HTTPS_SCHEME}host:port"
    )


def _certificates(ca: str) -> Optional[str]:
    """Return the certificates that are trusted, in PEM; None: those of the system.

    Raises:
        OSError: the file can't be read, or holds none.
    """
    if not ca.strip():
        return None
    text, where = ca, ENV_AGENT_CA
    if "-----BEGIN" not in ca:
        where = f"{ENV_AGENT_CA}={ca}"
        try:
            text = Path(ca).read_text("ascii", "ignore")
        except OSError as error:
            raise OSError(f"{where}: {error.strerror or error}") from error
    # What people write between certificates may be in any language; TLS takes ASCII alone.
    found = _CERTIFICATE.findall(text)
    if not found:
        raise OSError(f"{where}: there is no certificate in PEM")
    return "\n".join(found).encode("ascii", "ignore").decode("ascii")
