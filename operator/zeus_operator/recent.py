"""The last few values by key: what is remembered of very many jobs must not grow without end."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """A bounded, thread-safe mapping that forgets what was put in first.

    Args:
        most: how many values it holds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str) -> V | None:
        """Return the value; None: there is none, or it is forgotten."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: str, value: V) -> None:
        """Remember `value`."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget the value."""
        with self._lock:
            self._values.pop(key, None)
