"""Lines of a stream, wherever its chunks end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.async_scenario import scenario
from zeus_agent.cluster.json_lines import BrokenStream, split_lines

TEXT = b'{"a":1}\n{"b":2}\n\n{"c":"' + b"x" * 50 + b'"}\n'


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000])
@scenario
async def test_chunks_may_end_anywhere(size: int) -> None:
    lines = [line async for line in split_lines(chunks(TEXT, size))]
    assert lines == [line for line in TEXT.split(b"\n") if line]


@scenario
async def test_a_stream_that_ends_within_a_line_is_broken() -> None:
    with pytest.raises(BrokenStream):
        _ = [line async for line in split_lines(chunks(TEXT[:-2], 10))]


@scenario
async def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    with pytest.raises(BrokenStream, match="longer than 20 bytes"):
        _ = [line async for line in split_lines(chunks(b"x" * 1000, 10), max_bytes=20)]
