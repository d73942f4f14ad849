"""Progress of a simulation: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_REDRAW_EVERY_SECONDS = 0.1
_LINE_EVERY_SECONDS = 5.0


class SimulationProgress(AbstractContextManager["SimulationProgress"]):
    """Shows how many simulations are done.

    The bar is drawn by whoever reports, not by a thread: the simulation forks
    worker processes, which must not inherit a lock that a thread held.

    Args:
        label: what is simulated.
        console: on stderr, so that it never mixes with results.
        clock: seconds.
    """

    def __init__(
        self, label: str, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._console = console
        self._clock = clock
        self._last = clock()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
                auto_refresh=False,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=None)

    def __enter__(self) -> SimulationProgress:
        """Show the bar, where there is one."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Take how many of how many simulations are done."""
        now = self._clock()
        every = _REDRAW_EVERY_SECONDS if self._bar is not None else _LINE_EVERY_SECONDS
        if now - self._last < every and done < total:
            return
        self._last = now
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, refresh=True)
        else:
            self._console.print(f"{self._label}: {done} of {total}", highlight=False)
