"""Tests that are coroutines: each in an event loop of its own, with a limit on its patience."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.support.eventually import DEADLINE_SECONDS

P = ParamSpec("P")


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test of a coroutine."""

    @functools.wraps(test)
    def run(*arguments: P.args, **fixtures: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **fixtures), DEADLINE_SECONDS))

    return run


async def soon(condition: Callable[[], object], what: str) -> None:
    """Return when `condition` is true; fails naming `what` after the deadline."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS / 2):
            while not condition():  # noqa: ASYNC110 -- of anything, also of what has no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"did not come true: {what}") from None


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, seconds: float = 1_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
