"""Sees how the process ends: by an exception, a signal, or at its end.

Hooks are chained, never replaced: whatever was there before runs too.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Optional, Protocol, Type


class Watched(Protocol):
    """What a run must offer."""

    def failed(self, error: Optional[BaseException]) -> None:
        """The script is ending by an exception."""

    def finish(self) -> None:
        """The process is ending."""

    def write_result_now(self) -> None:
        """A signal is about to end the process."""


class _Watcher:
    """The hooks of this process, installed once; they act on the newest run.

    A forked child inherits them, so that installing them again would chain them to themselves.
    """

    def __init__(self) -> None:
        self.run: Optional[Watched] = None
        self._pid: Optional[int] = None
        self._excepthook = sys.excepthook
        self._on_sigterm: Any = None
        self._sees_exit = self._sees_sigterm = False
        self.asked_to_end = False

    def watch(self, run: Watched) -> None:
        """Act on `run` from now on."""
        self.run, self._pid = run, os.getpid()
        if not self._sees_exit:
            self._sees_exit = True
            self._excepthook, sys.excepthook = sys.excepthook, self._exception
            atexit.register(self._exit)
        if not self._sees_sigterm and threading.current_thread() is threading.main_thread():
            self._sees_sigterm = True
            self._on_sigterm = signal.signal(signal.SIGTERM, self._sigterm)

    def _mine(self) -> Optional[Watched]:
        """The run, unless this is a forked worker that inherited the hooks."""
        return self.run if self._pid == os.getpid() else None

    def _exception(
        self, kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        run = self._mine()
        if run is not None:
            run.failed(error)
        self._excepthook(kind, error, trace)

    def _exit(self) -> None:
        run = self._mine()
        if run is not None:
            run.finish()

    def _sigterm(self, number: int, frame: Optional[FrameType]) -> None:
        self.asked_to_end = True
        run = self._mine()
        if run is not None:
            run.write_result_now()
        if callable(self._on_sigterm):
            self._on_sigterm(number, frame)
        elif self._on_sigterm == signal.SIG_IGN:
            return
        elif signal.getsignal(signal.SIGTERM) == self._sigterm:  # else its handler has called us
            # Die by the signal itself, so that whoever sent it sees that it worked.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)


_WATCHER = _Watcher()


def watch(run: Watched) -> None:
    """Let `run` know how this process ends."""
    _WATCHER.watch(run)


def asked_to_end() -> bool:
    """Whether SIGTERM has come: a script that ends well after it has not ended by itself."""
    return _WATCHER.asked_to_end
