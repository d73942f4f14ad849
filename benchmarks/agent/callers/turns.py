"""What every caller does around its own requests.  Standard library only: Zeus's Python runs it.

A caller is a process.  It takes its arguments as one JSON object and prints `ready`.  For each line
on its standard input, a JSON object with `requests` and `way`, it makes so many requests one after
another in that way, and prints one line: when the first began and the last ended (seconds of the
monotonic clock, which all processes share), and what each took (seconds).
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

SetLimit = Callable[[int], None]
"""Sets a limit, watts, and returns when it is confirmed."""


def arguments() -> dict[str, Any]:
    """Return the caller's arguments."""
    parsed: dict[str, Any] = json.loads(sys.argv[1])
    return parsed


def take_turns(
    ways: Mapping[str, Callable[[], AbstractContextManager[SetLimit]]], lowest: int, highest: int
) -> None:
    """Make requests when told, until the standard input ends.

    Args:
        ways: by name, what gets ready to set limits and, in the end, gives the GPU free.
        lowest: of the limits, watts; no two in a row are the same.
        highest: likewise.
    """
    draw, span = random.Random(1), highest - lowest
    offset = 0
    print("ready", flush=True)
    for line in sys.stdin:
        turn = json.loads(line)
        took: list[float] = []
        with ways[turn["way"]]() as set_limit:
            began = time.monotonic()
            for _ in range(turn["requests"]):
                offset = (offset + draw.randint(1, span)) % (span + 1)
                before = time.perf_counter()
                set_limit(lowest + offset)
                took.append(time.perf_counter() - before)
            ended = time.monotonic()
        print(json.dumps({"began": began, "ended": ended, "took": took}), flush=True)
