"""Log lines to a pipe whose reader may be stuck: whoever logs never waits for it."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import select
import threading

MAX_WAITING_LINES = 2000
FLUSH_SECONDS = 1.0


class PatientLines(logging.Handler):
    """Writes each line at once where there is room for it; else a thread writes it when there is.

    Over `MAX_WAITING_LINES` lines are dropped, and it is said how many.

    Args:
        descriptor: of the file, pipe or terminal.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._changed = threading.Condition()
        self._waiting: collections.deque[bytes] = collections.deque()  # the first: being written
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, now or later."""
        try:
            line = self._line(record)
        except Exception:  # of a record that can't be formatted; as every handler does
            self.handleError(record)
            return
        with self._changed:
            if not self._waiting and self._has_room(line):
                with contextlib.suppress(OSError):  # nobody reads any more
                    os.write(self._descriptor, line)
                return
            if len(self._waiting) >= MAX_WAITING_LINES:
                self._dropped += 1
                return
            self._waiting.append(line)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._write_waiting, name="log lines", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait a moment for the lines that wait: at the end of the program."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, FLUSH_SECONDS)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="backslashreplace")

    def _has_room(self, line: bytes) -> bool:
        """Whether a write does not block: up to PIPE_BUF bytes it does not where poll says so."""
        return len(line) <= select.PIPE_BUF and bool(self._poll.poll(0))

    def _write_waiting(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                line = self._waiting[0]
            self._write(line)
            with self._changed:
                self._waiting.popleft()
                if self._dropped and len(self._waiting) < MAX_WAITING_LINES:
                    self._waiting.append(self._line(_told(self._dropped)))
                    self._dropped = 0
                self._changed.notify_all()

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            while line:
                line = line[os.write(self._descriptor, line) :]


def _told(dropped: int) -> logging.LogRecord:
    message = "%d log lines were dropped: nobody read them in time"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, message, (dropped,), None)
