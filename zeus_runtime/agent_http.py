"""Just enough HTTP/1.1 to ask the agent; `http.client` spends half of a call on general headers.

A request goes out in one piece, so that the agent wakes once for it.  Answers have a
`Content-Length`, or end with the connection.
"""

from __future__ import annotations

import http.client
from typing import Callable, Mapping, NamedTuple, Optional, Tuple

_CHUNK_BYTES = 65536
_MAX_HEAD_BYTES = 65536
_MAX_LENGTH_DIGITS = 12
_END_OF_HEAD = b"\r\n\r\n"
_WITHOUT_BODY = (204, 304)


class Answer(NamedTuple):
    """What came back.

    Args:
        status: of HTTP.
        payload: the body.
        closes: the other side closes the connection after it.
    """

    status: int
    payload: bytes
    closes: bool


def request(
    method: str, path: str, host: str, headers: Mapping[str, str], body: Optional[bytes]
) -> bytes:
    """Return a request as it goes over the wire; path and headers hold no control characters."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode("ascii") + _END_OF_HEAD
    return head if body is None else head + body


def read_answer(receive: Callable[[int], bytes], max_bytes: int) -> Answer:
    """Read one answer.

    Args:
        receive: returns what has come, at most so many bytes; nothing: the other side has closed.
        max_bytes: longest body.

    Raises:
        http.client.RemoteDisconnected: the other side has closed without a word.
        http.client.HTTPException: it is no answer, or too long, or not whole.
        OSError: of `receive`.
    """
    data = receive(_CHUNK_BYTES)
    if not data:
        raise http.client.RemoteDisconnected("closed without an answer")
    while True:
        end = data.find(_END_OF_HEAD)
        if end < 0:
            if len(data) > _MAX_HEAD_BYTES:
                raise http.client.HTTPException("the head of the answer is too long")
            data += _more(receive)
            continue
        status, length, closes = _parse_head(data[:end])
        data = data[end + len(_END_OF_HEAD) :]
        if status >= 200:
            break
    if status in _WITHOUT_BODY:
        length = 0
    if length is None:
        return Answer(status, _read_to_end(receive, data, max_bytes), closes=True)
    if length > max_bytes:
        raise http.client.HTTPException("the answer is too long")
    while len(data) < length:
        data += _more(receive)
    if len(data) > length:
        raise http.client.HTTPException("more came than one answer")
    return Answer(status, data, closes)


def _more(receive: Callable[[int], bytes]) -> bytes:
    data = receive(_CHUNK_BYTES)
    if not data:
        raise http.client.HTTPException("closed in the middle of an answer")
    return data


def _read_to_end(receive: Callable[[int], bytes], data: bytes, max_bytes: int) -> bytes:
    while True:
        if len(data) > max_bytes:
            raise http.client.HTTPException("the answer is too long")
        more = receive(_CHUNK_BYTES)
        if not more:
            return data
        data += more


def _parse_head(head: bytes) -> Tuple[int, Optional[int], bool]:
    """Return status, length of the body if it is told, and whether the connection closes."""
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    digits = rest[:3]
    if not version.startswith(b"HTTP/1.") or not (len(digits) == 3 and digits.isdigit()):
        raise http.client.BadStatusLine(repr(first[:80]))
    length: Optional[int] = None
    closes = version == b"HTTP/1.0"
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name == b"content-length":
            if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                raise http.client.HTTPException(f"a body of length {value[:20]!r}")
            length = int(value)
        elif name == b"connection":
            closes = value.lower() == b"close"
        elif name == b"transfer-encoding":
            raise http.client.HTTPException("an answer in parts")
    return int(digits), length, closes
