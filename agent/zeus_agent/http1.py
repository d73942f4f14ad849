"""HTTP/1.1 of a connection: bytes to requests, answers to bytes.  Pure; no sockets.

llhttp parses (through httptools); where a request ends is told by nobody else.  Here is what it
leaves to a server: how much may come, what may not be said twice, which bodies are taken.
API: https://github.com/MagicStack/httptools
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

MAX_HEAD_BYTES = 16 * 1024  # a ServiceAccount token has one to a few KiB
MAX_HEADERS = 64
MAX_BODY_BYTES = 64 * 1024
MAX_CHUNKED_BYTES = 2 * MAX_BODY_BYTES
"""Of a body in chunks, with the lines between them."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TARGET = re.compile(r"/[!-~]*")
_ONCE: Final = frozenset({"host", "content-length", "transfer-encoding", "authorization", "expect"})
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadHttp(Exception):  # noqa: N818 -- a fact about what the peer sent
    """What came is not a request that is served; the connection can't go on after it.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers.

    Args:
        target: path and query as sent, percent-encoded.
        headers: by name in lower case; repeated ones joined by a comma.
        body_bytes: length of the body; None: it comes in chunks.
        keep_alive: whether the peer goes on with the connection.
    """

    method: str
    target: str
    headers: dict[str, str]
    body_bytes: int | None
    keep_alive: bool
    expects_continue: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    head: Head
    body: bytes

    def segments(self) -> tuple[str, ...]:
        """Return the parts of the path, decoded; `/` inside a part was `%2F`.

        Raises:
            BadHttp: a part is not UTF-8.
        """
        path = self.head.target.partition("?")[0]
        if "%" not in path:
            return tuple(path[1:].split("/"))
        try:
            return tuple(unquote_to_bytes(part).decode() for part in path[1:].split("/"))
        except UnicodeDecodeError:
            raise BadHttp(400, "the path is not percent-encoded UTF-8") from None


class _Parsed:
    """What the parser has told of one request; after the head, `headers` are trailers."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.body = bytearray()
        self.is_whole = False

    def on_url(self, piece: bytes) -> None:
        self.url += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.is_whole = True


class RequestReader:
    """Cuts what a connection sends into requests, one at a time."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._known: tuple[bytes, Head] | None = None  # the last head, as it came and as parsed
        self._begin()

    def _begin(self) -> None:
        self._raw_head: bytes | None = None  # where it came in one piece
        self._parsed: _Parsed | None = None  # made when something comes: many ask but once
        self._parser: HttpRequestParser | None = None
        self._head: Head | None = None
        self._head_bytes = 0  # that the parser has had
        self._body_bytes = 0  # likewise, with the lines between chunks
        self._continue_due = False

    @property
    def waiting_bytes(self) -> int:
        """How much has come and is not dealt with."""
        return len(self._waiting)

    @property
    def is_between_requests(self) -> bool:
        """Whether nothing of a next request has come."""
        return not self._head_bytes and not self._waiting

    @property
    def is_in_body(self) -> bool:
        """Whether a head has come whose body has not, as far as `next_request` has looked."""
        return self._head is not None

    def feed(self, data: bytes | memoryview) -> None:
        """Take what has come."""
        self._waiting += data

    def take_continue(self) -> bool:
        """Whether the peer waits for leave to send its body; true once a request."""
        due, self._continue_due = self._continue_due, False
        return due

    def next_request(self) -> Request | None:
        """Return the next whole request, or None if it has not come whole.

        Raises:
            BadHttp: it is none.
        """
        if not self._head_bytes and (repeated := self._repeated()) is not None:
            return repeated
        while self._waiting:
            is_first, piece = not self._head_bytes, self._next_piece()
            parsed = self._parse(piece)
            if is_first and self._head is not None:
                self._raw_head = piece
            if self._head is not None and parsed.is_whole:
                request = Request(self._head, bytes(parsed.body))
                if self._raw_head is not None and _says_all(self._head):
                    self._known = self._raw_head, self._head
                self._begin()
                return request
        return None

    def _repeated(self) -> Request | None:
        """Return a request that is all here and whose head is, byte for byte, the last one again.

        The same bytes mean the same: to parse them anew takes as long as to do what is asked.
        """
        if self._known is None:
            return None
        raw, head = self._known
        body_bytes = head.body_bytes or 0
        end = len(raw) + body_bytes
        waiting = self._waiting
        if len(waiting) < end or not waiting.startswith(raw):
            return None
        body = bytes(waiting[len(raw) : end])
        del waiting[:end]
        return Request(head, body)

    def _next_piece(self) -> bytes:
        """Take bytes that reach at most to the end of the request.

        The parser can't be stopped at an end.  But a request ends with a line, or with the
        last byte of a body whose length was told; its head, when all of it is here, with the
        first empty line (to pass it at once saves a quarter of the time).
        """
        head, waiting = self._head, self._waiting
        if head is not None and head.body_bytes:
            size = head.body_bytes - self._body_bytes
        elif not self._head_bytes and (end := waiting.find(b"\r\n\r\n")) >= 0:
            size = end + 4
        else:
            size = waiting.find(b"\n") + 1 or len(waiting)
        piece = bytes(waiting[:size])
        del waiting[:size]
        return piece

    def _parse(self, piece: bytes) -> _Parsed:
        """Have the parser go on, and return what it has told so far.

        Raises:
            BadHttp: this is not HTTP/1.1, or more than is served.
        """
        parsed, parser = self._parsed, self._parser
        if parsed is None or parser is None:
            parsed = self._parsed = _Parsed()
            parser = self._parser = HttpRequestParser(parsed)
        if self._head is None:
            self._head_bytes += len(piece)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise BadHttp(431, f"the headers are longer than {MAX_HEAD_BYTES} bytes")
        else:
            self._body_bytes += len(piece)
        try:
            parser.feed_data(piece)
        except HttpParserUpgrade:
            pass  # another protocol is offered, which a server need not take
        except HttpParserError as error:
            raise BadHttp(400, f"this is not HTTP/1.1: {error}") from None
        if self._head is not None:
            if len(parsed.body) > MAX_BODY_BYTES or self._body_bytes > MAX_CHUNKED_BYTES:
                raise _too_long()
            if parsed.headers:
                raise BadHttp(400, "the body has trailers")
        elif parsed.has_head:
            self._head = head = _head(parsed, parser)
            if parsed.is_whole and head.body_bytes != 0:  # the parser skips it at an upgrade
                raise BadHttp(400, "a request for another protocol has a body")
            self._continue_due = head.expects_continue
        return parsed


def _says_all(head: Head) -> bool:
    """Whether a request with this head is the head and so many bytes, and no more is to be said."""
    return head.body_bytes is not None and not head.expects_continue


def _head(parsed: _Parsed, parser: HttpRequestParser) -> Head:
    """Return the head that has just ended.

    Raises:
        BadHttp: it asks for what is not served.
    """
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise BadHttp(505, "speak HTTP/1.1")
    target = parsed.url.decode("latin-1")
    if not _TARGET.fullmatch(target):
        raise BadHttp(400, "the request's target is no path")
    headers = _joined(parsed.headers)
    parsed.headers.clear()
    if version == "1.1" and "host" not in headers:
        raise BadHttp(400, "the header Host is missing")
    return Head(
        method=parser.get_method().decode(),
        target=target,
        headers=headers,
        body_bytes=_body_bytes(headers),
        keep_alive=version == "1.1" and "close" not in headers.get("connection", "").lower(),
        expects_continue=headers.get("expect", "").lower() == "100-continue",
    )


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    if len(pairs) > MAX_HEADERS:
        raise BadHttp(431, f"there are more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in _ONCE:
            raise BadHttp(400, f"the header {name} is given twice")
        else:
            headers[name] += ", " + value
    return headers


def _body_bytes(headers: dict[str, str]) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise BadHttp(501, "the only transfer coding understood is chunked")
        return None
    length = int(headers.get("content-length", "0"))  # the parser has let only digits through
    if length > MAX_BODY_BYTES:
        raise _too_long()
    return length


def _too_long() -> BadHttp:
    return BadHttp(413, f"the body is longer than {MAX_BODY_BYTES} bytes")


def response(
    status: int,
    body: bytes,
    content_type: str,
    headers: tuple[tuple[str, str], ...] = (),
    *,
    keep_alive: bool = True,
) -> bytes:
    """Return the bytes of an answer.  Header values must be ours: they are not escaped."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
    if status != 204:  # which has neither body nor length (RFC 9110, 8.6)
        if body:
            lines.append(f"Content-Type: {content_type}")
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers]
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body
