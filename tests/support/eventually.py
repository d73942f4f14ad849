"""Waiting for a condition with a deadline that only a broken program meets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_SECONDS = 60.0
_pause = threading.Event()


def eventually(
    condition: Callable[[], T], what: str, deadline_seconds: float = DEADLINE_SECONDS
) -> T:
    """Return the first true value of `condition`; fails naming `what` after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {deadline_seconds:g} s: {what}")
        _pause.wait(0.02)
