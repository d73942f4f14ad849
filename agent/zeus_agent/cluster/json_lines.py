"""Lines of a stream of bytes.  Pure."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

MAX_LINE_BYTES = 4 * 1024 * 1024
"""More than etcd stores of one object (1.5 MiB)."""


class BrokenStream(Exception):  # noqa: N818 -- a fact about the stream
    """The other side sends a line without an end."""


async def split_lines(
    chunks: AsyncIterable[bytes], max_bytes: int = MAX_LINE_BYTES
) -> AsyncIterator[bytes]:
    """Yield the lines that are complete, without their ends; empty ones are left out.

    aiohttp's own reader gives up at 64 KiB, which a pod with many environment variables exceeds.

    Raises:
        BrokenStream: a line has more than `max_bytes`, or the stream ends within one.
    """
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        size += len(first)
        for other in others:
            if size:
                yield b"".join(parts)
            parts, size = [other], len(other)
        if size > max_bytes:
            raise BrokenStream(f"a line of the stream is longer than {max_bytes} bytes")
    if size:
        raise BrokenStream("the stream ends within a line")
