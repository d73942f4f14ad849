"""Bytes to requests: what is served, what is refused, and that nothing else can happen."""

from __future__ import annotations

import http.client
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeus_agent.http1 import (
    MAX_BODY_BYTES,
    MAX_CHUNKED_BYTES,
    MAX_HEAD_BYTES,
    BadHttp,
    Request,
    RequestReader,
    response,
)

HEAD = b"PUT /v1/sessions/a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

REFUSED = [
    # The request line.
    (b"GARBAGE\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
    (b"NOSUCH / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    # Headers.
    (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
    (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    (HEAD + b"Host: y\r\n\r\n", 400),
    (HEAD + b"no colon\r\n\r\n", 400),
    (HEAD + b": value\r\n\r\n", 400),
    (HEAD + b"name : value\r\n\r\n", 400),
    (HEAD + b"a: b\r\n folded\r\n\r\n", 400),
    (HEAD + b"a:\r\n folded\r\n\r\n", 400),
    (HEAD + b"a: b\nc: d\r\n\r\n", 400),
    (HEAD + b"a: b\rc: d\r\n\r\n", 400),
    (HEAD + b"a: \x01\r\n\r\n", 400),
    (HEAD + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
    (HEAD + b"a: " + b"b" * MAX_HEAD_BYTES, 431),
    (HEAD + b"a: b\r\n" * 100 + b"\r\n", 431),
    # Where the head ends.
    (HEAD + b"\n" + SMUGGLED, 400),
    (HEAD + b"\r" + SMUGGLED, 400),
    (HEAD + b"a: b\n\n" + SMUGGLED, 400),
    # Where a body of known length ends.
    (HEAD + b"Content-Length:\r\n\r\n", 400),
    (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    (HEAD + b"Content-Length: +1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 0x1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1_0\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1 0\r\n\r\n", 400),
    (HEAD + b"Content-Length: \xb2\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1, 1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n", 400),
    (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
    # Which of two lengths counts.
    (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: identity\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding:\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    (UPGRADE + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 400),
    (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED, 400),
    # Where a body in chunks ends.
    (CHUNKED + b"zz\r\n", 400),
    (CHUNKED + b"-1\r\n", 400),
    (CHUNKED + b"0x1\r\na\r\n", 400),
    (CHUNKED + b"1 \r\na\r\n", 400),
    (CHUNKED + b"1\na\r\n", 400),
    (CHUNKED + b"1\r\nabc\r\n", 400),
    (CHUNKED + b"1\r\na\n0\r\n\r\n", 400),
    (CHUNKED + b"1;\nx\r\na\r\n", 400),
    (CHUNKED + b"1;a\rb\r\na\r\n", 400),
    (CHUNKED + b"0\r\n\n", 400),
    (CHUNKED + b"0\n\r\n", 400),
    (CHUNKED + b"0\r\nTrailer: x\r\n\r\n", 400),
    (CHUNKED + b"1" * 300, 400),
    (CHUNKED + b"%x\r\n" % (MAX_BODY_BYTES + 1) + b"x" * (MAX_BODY_BYTES + 1), 413),
    (CHUNKED + b"1;" + b"x" * MAX_CHUNKED_BYTES, 413),
]


def requests_in(*pieces: bytes) -> list[Request]:
    reader = RequestReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next_request()) is not None:
            found.append(request)
    return found


def status_of(data: bytes) -> int:
    with pytest.raises(BadHttp) as bad:
        requests_in(data)
    return bad.value.status


def test_a_request_is_what_was_sent() -> None:
    (request,) = requests_in(
        HEAD + b"X-One: 1\r\nx-one: 2\r\nContent-Length: 2\r\n\r\n{}",
    )
    assert (request.head.method, request.head.target) == ("PUT", "/v1/sessions/a")
    assert request.head.headers["x-one"] == "1, 2"
    assert request.body == b"{}"
    assert request.head.keep_alive


def test_requests_that_come_together_are_told_apart() -> None:
    one = HEAD + b"Content-Length: 3\r\n\r\nabc"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
    bodies = [each.body for each in requests_in(one + chunked + b"\r\n" + one)]
    assert bodies == [b"abc", b"def", b"abc"]


def heads() -> st.SearchStrategy[bytes]:
    lines = st.sampled_from(
        [b"A:  b \r\n", b"Expect: 100-continue\r\n", b"Accept: */*\r\n", b"X: \xff\r\n"]
    )
    return st.lists(lines, max_size=3, unique=True).map(lambda found: HEAD + b"".join(found))


def whole_requests() -> st.SearchStrategy[bytes]:
    """Requests with all kinds of bodies, which may look like the end of a head or of chunks."""
    bodies = st.lists(
        st.sampled_from([b"\r\n\r\n", b"\r\n", b"\n", b"0", b"{}", HEAD]) | st.binary(max_size=9),
        max_size=4,
    ).map(b"".join)
    with_length = bodies.map(lambda body: b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    in_chunks = st.lists(bodies.filter(bool), max_size=3).map(
        lambda chunks: (
            b"Transfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%X;x=y\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
            + b"0\r\n\r\n"
        )
    )
    ends = st.just(b"\r\n") | with_length | in_chunks
    return st.builds(lambda head, end: head + end, heads(), ends)


@given(st.lists(whole_requests(), min_size=1, max_size=4), st.data())
def test_where_the_bytes_are_cut_makes_no_difference(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(sent)
    one_by_one = [request for each in sent for request in requests_in(each)]
    assert len(one_by_one) == len(sent)
    cuts = data.draw(st.lists(st.integers(1, len(stream)), max_size=12), label="cuts")
    edges = sorted({0, *cuts, len(stream)})
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    assert requests_in(*pieces) == one_by_one
    assert requests_in(*(stream[at : at + 1] for at in range(len(stream)))) == one_by_one


@given(st.data())
def test_where_the_bytes_are_cut_makes_nothing_served_that_is_refused(data: st.DataObject) -> None:
    bad = data.draw(st.sampled_from([sent for sent, _ in REFUSED]))
    at = data.draw(st.integers(0, len(bad)))
    with pytest.raises(BadHttp):
        requests_in(bad[:at], bad[at:])


@given(st.lists(st.binary(max_size=64) | st.sampled_from([HEAD, b"\r\n\r\n", b"\r\n", b"0"])))
def test_whatever_comes_is_a_request_or_is_refused(pieces: list[bytes]) -> None:
    statuses = []
    try:
        for request in requests_in(*pieces):
            request.segments()
    except BadHttp as error:
        statuses.append(error.status)
    assert all(400 <= status < 600 for status in statuses)


@pytest.mark.parametrize(("data", "status"), REFUSED)
def test_what_is_ambiguous_or_too_large_is_refused(data: bytes, status: int) -> None:
    assert status_of(data) == status


def test_a_body_in_chunks_may_not_grow_past_the_bound() -> None:
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert status_of(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3) == 413


def test_the_largest_head_and_body_that_are_served_are_served() -> None:
    body = b"x" * MAX_BODY_BYTES
    for sent in (
        HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
    ):
        assert [request.body for request in requests_in(sent)] == [body]
    head = HEAD + b"a: " + b"b" * (MAX_HEAD_BYTES - len(HEAD) - 7) + b"\r\n\r\n"
    assert len(requests_in(head)) == 1
    assert status_of(head.replace(b"a: ", b"a: b")) == 431


def test_empty_lines_between_requests_are_skipped_and_another_protocol_is_not_taken() -> None:
    sent = (b"\r\n" + UPGRADE + b"\r\n", b"\r\n" + SMUGGLED)
    assert [request.head.method for request in requests_in(*sent)] == ["PUT", "GET"]
    assert [request.head.method for request in requests_in(b"".join(sent))] == ["PUT", "GET"]


@given(st.lists(whole_requests(), min_size=1, max_size=3), st.data())
def test_a_head_that_comes_again_means_the_same_again(
    sent: list[bytes], data: st.DataObject
) -> None:
    order = data.draw(st.lists(st.sampled_from(sent), min_size=2, max_size=6), label="order")
    one_by_one = [request for each in order for request in requests_in(each)]
    assert requests_in(*order) == one_by_one
    assert requests_in(b"".join(order)) == one_by_one


def test_a_head_that_comes_again_has_a_body_of_its_own() -> None:
    head = HEAD + b"Content-Length: 3\r\n\r\n"
    sent = (head + b"abc", head + b"de", b"f", head + b"ghi" + head + b"jk", b"l")
    assert [each.body for each in requests_in(*sent)] == [b"abc", b"def", b"ghi", b"jkl"]


def test_a_head_that_is_longer_than_the_last_one_is_another_one() -> None:
    first, second = HEAD + b"\r\n", HEAD + b"Content-Length: 1\r\n\r\nx"
    assert [each.body for each in requests_in(first, first, second, first)] == [b"", b"", b"x", b""]


def test_empty_lines_that_come_again_are_no_head() -> None:
    lines = b"\r\n\r\n"
    sent = (lines + SMUGGLED, lines + SMUGGLED, lines, HEAD + b"\r\n")
    assert [request.head.method for request in requests_in(*sent)] == ["GET", "GET", "PUT"]


def test_a_peer_that_waits_for_leave_gets_it_with_each_head_that_asks() -> None:
    reader = RequestReader()
    for _ in range(3):
        reader.feed(HEAD + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert reader.next_request() is None
        assert reader.take_continue()
        reader.feed(b"x")
        assert reader.next_request() is not None


def test_a_pause_is_honest_only_between_requests() -> None:
    reader = RequestReader()
    assert reader.is_between_requests
    reader.feed(HEAD)
    assert reader.next_request() is None
    assert not reader.is_between_requests
    assert not reader.is_in_body
    reader.feed(b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert reader.next_request() is None
    assert reader.is_in_body
    assert not reader.is_between_requests
    assert [reader.take_continue(), reader.take_continue()] == [True, False]
    reader.feed(b"a")
    assert reader.next_request() is not None
    assert reader.is_between_requests
    assert not reader.is_in_body


def test_a_path_is_decoded_after_it_was_split() -> None:
    (request,) = requests_in(b"GET /v1/sessions/a%2Fb%3A%C3%A4?x=/y HTTP/1.1\r\nHost: x\r\n\r\n")
    assert request.segments() == ("v1", "sessions", "a/b:ä")
    (request,) = requests_in(b"GET /v1/%ff HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(BadHttp):
        request.segments()


@pytest.mark.parametrize(
    ("version", "header", "keep_alive"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: close\r\n", False),
        (b"HTTP/1.1", b"Connection: Keep-Alive, Close\r\n", False),
        (b"HTTP/1.0", b"", False),
    ],
)
def test_who_ends_the_connection_is_the_callers_choice(
    version: bytes, header: bytes, keep_alive: bool
) -> None:
    (request,) = requests_in(b"GET / " + version + b"\r\nHost: x\r\n" + header + b"\r\n")
    assert request.head.keep_alive is keep_alive


class _Bytes:
    """What `http.client` reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def test_an_answer_is_read_by_another_implementation() -> None:
    data = response(409, b"{}", "application/json", (("Allow", "GET"),), keep_alive=False)
    answer = http.client.HTTPResponse(_Bytes(data))  # type: ignore[arg-type]
    answer.begin()
    assert (answer.status, answer.reason, answer.read()) == (409, "Conflict", b"{}")
    assert answer.getheader("Allow") == "GET"
    assert answer.getheader("Content-Type") == "application/json"
    assert answer.will_close


def test_an_answer_without_content_has_no_length() -> None:
    assert response(204, b"", "application/json") == b"HTTP/1.1 204 No Content\r\n\r\n"
