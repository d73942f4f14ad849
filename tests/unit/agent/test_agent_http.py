"""The client's reader of answers, fed piece by piece."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeus_runtime.agent_http import Answer, read_answer, request

MAX_BYTES = 1000
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'


def pieces(*parts: bytes) -> Callable[[int], bytes]:
    """Return a receiver that gives one part at a time and then says that the other side closed."""
    left = list(parts)
    return lambda _: left.pop(0) if left else b""


def test_a_request_is_one_piece_with_the_length_of_its_body() -> None:
    assert request("PUT", "/v1/x", "localhost", {"Content-Type": "application/json"}, b"{}") == (
        b"PUT /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    assert request("GET", "/v1/x", "h:1", {}, None) == b"GET /v1/x HTTP/1.1\r\nHost: h:1\r\n\r\n"


@given(st.lists(st.integers(1, len(ANSWER) - 1), max_size=6))
def test_an_answer_is_read_whatever_pieces_it_comes_in(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(ANSWER)]
    parts = [ANSWER[begin:end] for begin, end in itertools.pairwise(edges)]
    assert read_answer(pieces(*parts), MAX_BYTES) == Answer(200, b'{"a":1}', closes=False)


@given(st.binary(max_size=200))
def test_whatever_comes_it_is_an_answer_or_said_to_be_none(data: bytes) -> None:
    try:
        answer = read_answer(pieces(b"HTTP/1.1 ", data), MAX_BYTES)
    except http.client.HTTPException:
        return
    assert len(answer.payload) <= MAX_BYTES


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: Close\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", False),
    ],
)
def test_it_is_known_whether_the_connection_can_be_kept(head: bytes, closes: bool) -> None:
    answer = read_answer(pieces(head), MAX_BYTES)
    assert (answer.payload, answer.closes) == (b"", closes)


def test_without_a_length_the_answer_ends_with_the_connection() -> None:
    answer = read_answer(pieces(b"HTTP/1.1 502 Bad\r\n\r\nno", b" good"), MAX_BYTES)
    assert answer == Answer(502, b"no good", closes=True)


@pytest.mark.parametrize(
    "parts",
    [
        [b"garbage\r\n\r\n"],
        [b"HTTP/1.1 2x0 OK\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", b""],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000],
        [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001],
        [b"HTTP/1.1 200"],
    ],
)
def test_what_is_no_whole_answer_of_bounded_size_is_an_error(parts: list[bytes]) -> None:
    with pytest.raises(http.client.HTTPException):
        read_answer(pieces(*parts), MAX_BYTES)


def test_a_connection_closed_without_a_word_is_told_apart() -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        read_answer(pieces(), MAX_BYTES)
