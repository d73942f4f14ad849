"""Warnings that people see once: training goes on, so a repeated one would only be noise."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import Dict, Set

LOGGER = logging.getLogger("zeus_runtime")


class Notices:
    """Says each kind of thing once and remembers the sentences for the result's note."""

    def __init__(self, logger: logging.Logger = LOGGER) -> None:
        self._logger = logger
        self._lock = threading.RLock()  # a signal handler may come in between
        self._said: Set[str] = set()
        self._facts: Dict[str, str] = {}

    def warn(self, kind: str, sentence: str) -> None:
        """Log `sentence` as a warning, unless one of this `kind` was logged before."""
        if self._first(kind, sentence):
            self._logger.warning("%s", sentence)

    def error(self, kind: str, sentence: str) -> None:
        """Log `sentence` as an error, unless one of this `kind` was logged before."""
        if self._first(kind, sentence):
            self._logger.error("%s", sentence)

    def remark(self, kind: str, sentence: str) -> None:
        """Keep `sentence` for the note alone: nothing is wrong."""
        self._first(kind, sentence)

    def note(self) -> str:
        """Return all sentences so far, in order, as one text."""
        with self._lock:
            return " ".join(self._facts.values())

    def _first(self, kind: str, sentence: str) -> bool:
        with self._lock:
            if kind in self._said:
                return False
            self._said.add(kind)
            self._facts[kind] = sentence if sentence.endswith((".", "!", "?")) else sentence + "."
            return True


def say(sentence: str) -> None:
    """Write one plain line for people to standard error, if somebody still reads that."""
    with contextlib.suppress(OSError, ValueError):
        print(f"zeus_runtime: {sentence}", file=sys.stderr, flush=True)
