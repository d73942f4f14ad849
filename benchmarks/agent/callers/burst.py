"""Sends many requests at once, each on a connection of its own, or one more amid them, or both.

Its argument is a JSON object: the path of the `socket`, requests to make `before` (one by one), the
`requests` of the burst, and the `other` one, which goes out from another thread when all of the
burst has; null: it is another process's, and `sent` is printed for it.  A request is a method, a
URL and a body.  Where it `waits`, `ready` is printed and a line waited for after what comes before.
In the end it prints one JSON object: the `statuses` of the burst, and of the other request when it
`began` and `ended` (seconds of the monotonic clock).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence

from benchmarks.agent.callers.raw import Connection
from benchmarks.agent.callers.turns import arguments

Request = tuple[str, str, str]


async def connect(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, however many wait."""
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except BlockingIOError:  # the queue of connections is full
            await asyncio.sleep(0.005)


async def send(path: str, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request and return where its answer comes."""
    method, url, body = request
    reader, writer = await connect(path)
    head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    await writer.drain()
    return reader, writer


async def status_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Read an answer to its end and return its status."""
    try:
        line = await reader.readline()
        await reader.read()
        return int(line.split()[1])
    finally:
        writer.close()


async def ask(path: str, request: Request) -> int:
    """Make one request and return the status."""
    return await status_of(*await send(path, request))


def ask_from_a_thread(path: str, request: Request) -> dict[str, float]:
    """Make one request as a caller with nothing else to do, and time it."""
    method, url, body = request
    connection = Connection(path)
    began = time.monotonic()
    connection.ask(method, url, body.encode())
    ended = time.monotonic()
    connection.close()
    return {"began": began, "ended": ended}


async def main() -> None:
    """Send the burst and the other request."""
    given = arguments()
    path = given["socket"]
    for request in given["before"]:
        await ask(path, request)
    if given["waits"]:
        print("ready", flush=True)
        sys.stdin.readline()
    sent = await asyncio.gather(*(send(path, each) for each in given["requests"]))
    if given["other"] is None:
        print("sent", flush=True)
        print(json.dumps({"statuses": await answered(sent)}), flush=True)
        return
    other = asyncio.to_thread(ask_from_a_thread, path, given["other"])
    timed, statuses = await asyncio.gather(other, answered(sent))
    print(json.dumps({**timed, "statuses": statuses}), flush=True)


async def answered(
    sent: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
) -> list[int]:
    """Return the statuses of the burst."""
    return await asyncio.gather(*(status_of(*each) for each in sent))


if __name__ == "__main__":
    asyncio.run(main())
