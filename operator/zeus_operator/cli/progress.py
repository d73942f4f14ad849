"""Listeners of a run: a live display, plain lines, or one JSON object a line."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from zeus_operator import events
from zeus_operator.cli import lines
from zeus_operator.cli.views import event_view, to_json
from zeus_operator.records import RecurrenceKind, RecurrenceState
from zeus_runtime.protocol import Outcome

PROGRESS_EVERY_SECONDS = 5.0

_STYLES = {Outcome.REACHED: "green", Outcome.COST_EXCEEDED: "yellow"}


class Display(AbstractContextManager["Display"], Protocol):
    """Shows events; used as a context, so that a terminal is always left in order."""

    def show(self, event: events.Event) -> None:
        """Show one event."""
        ...


class JsonLines(AbstractContextManager["JsonLines"]):
    """One JSON object a line, every event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: events.Event) -> None:
        """Write the event and flush, so that a reader sees it now."""
        self._stream.write(to_json(event_view(event)) + "\n")
        self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the stream open; it belongs to the caller."""


class PlainLines(AbstractContextManager["PlainLines"]):
    """One line for each event; the epochs of an attempt at most every few seconds."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        progress_every_seconds: float = PROGRESS_EVERY_SECONDS,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._every = progress_every_seconds
        self._last_progress = -float("inf")

    def show(self, event: events.Event) -> None:
        """Write the event's lines and flush."""
        if isinstance(event, events.AttemptProgress):
            now = self._clock()
            if now - self._last_progress < self._every:
                return
            self._last_progress = now
        elif isinstance(event, events.AttemptStarted):
            self._last_progress = self._clock()
        for line in lines.event_lines(event):
            self._stream.write(line + "\n")
        self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the stream open; it belongs to the caller."""


class LiveDisplay(AbstractContextManager["LiveDisplay"]):
    """Finished attempts scroll by; the running ones stand below, epoch by epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[int, Text] = {}
        self._waiting = ""
        self._spinner = Spinner("dots")
        self._stack = ExitStack()
        self._live = Live(
            get_renderable=self.renderable, console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> LiveDisplay:
        """Take the lower lines of the terminal."""
        self._stack.enter_context(self._live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._stack.close()

    def show(self, event: events.Event) -> None:
        """Print what is final, and renew the lines of what runs."""
        self._waiting = ""
        match event:
            case events.AttemptProgress(recurrence=recurrence, attempt=attempt, result=result):
                label = lines.attempt_label(recurrence, attempt)
                standing = lines.progress(result, attempt.decision.batch_size)
                self._running[attempt.id] = Text(f"{label}: {standing}")
                return
            case events.AttemptStarted(recurrence=recurrence, attempt=attempt):
                label = lines.attempt_label(recurrence, attempt)
                self._running[attempt.id] = Text(f"{label}: started")
            case events.AttemptEnded(attempt=attempt):
                self._running.pop(attempt.id, None)
            case events.Waiting() if text := lines.event_lines(event):
                self._waiting = text[0]
                return
            case _:
                pass
        # Else what is printed now would stand above a line that is not true any more.
        self._live.refresh()
        style = _style(event)
        for index, line in enumerate(lines.event_lines(event)):
            self._console.print(Text(line, style=style if index == 0 else "dim"))

    def renderable(self) -> RenderableType:
        """Return the lower lines: what runs, or what is waited for."""
        rows: list[RenderableType] = []
        for text in tuple(self._running.values()):  # renewed by another thread
            self._spinner.update(text=text)
            rows.append(self._spinner.render(self._console.get_time()))
        if self._waiting and not rows:
            rows.append(Text(self._waiting, style="dim"))
        return Group(*rows)


def _style(event: events.Event) -> str:
    match event:
        case events.AttemptEnded(attempt=attempt):
            return _STYLES.get(attempt.outcome, "red") if attempt.outcome else ""
        case events.RecurrenceEnded(recurrence=recurrence):
            return "red" if recurrence.state is RecurrenceState.FAILED else "dim"
        case events.AttemptDecided(recurrence=recurrence):
            return "dim" if recurrence.kind is RecurrenceKind.CONTROL else ""
        case events.Notice():
            return "cyan"
        case _:
            return "dim"
