"""Those who wait for their wishes to be done."""

from __future__ import annotations

import asyncio
import collections

from zeus_agent.limits import LeaseView, Refused
from zeus_runtime.protocol import ErrorCode

PER_ROUND = 4
"""Callers that are answered in one round of the event loop, so that others go between."""

Outcome = LeaseView | Refused


class Waiting:
    """The callers that wait for one GPU."""

    def __init__(self) -> None:
        self._callers: list[tuple[int, str, asyncio.Future[LeaseView]]] = []
        self._answered: collections.deque[tuple[asyncio.Future[LeaseView], Outcome]] = (
            collections.deque()
        )

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._callers)

    def add(self, ticket: int, session: str) -> asyncio.Future[LeaseView]:
        """Return what is set when a session's wish, or a newer one of its lease, was done."""
        future: asyncio.Future[LeaseView] = asyncio.get_running_loop().create_future()
        self._callers.append((ticket, session, future))
        return future

    def answer(
        self,
        up_to_ticket: int | None,
        session: str | None,
        refusal: Refused | None,
        view: LeaseView | None,
    ) -> None:
        """Answer those who wait for a wish up to this one (None: all), the newest first.

        What was done or refused was `session`'s; others that wait had their lease before, and
        lost it before their turn came.
        """
        is_due = bool(self._answered)
        staying = []
        for caller in reversed(self._callers):
            ticket, waiting_session, future = caller
            if up_to_ticket is not None and ticket > up_to_ticket:
                staying.append(caller)
            elif waiting_session != session:
                self._answered.append((future, _ended()))
            elif refusal is None and view is not None and view.session == session:
                self._answered.append((future, view))
            else:
                self._answered.append((future, refusal or _ended()))
        self._callers = staying[::-1]
        if not is_due:
            self._tell_some()

    def _tell_some(self) -> None:
        for _ in range(min(PER_ROUND, len(self._answered))):
            future, outcome = self._answered.popleft()
            if future.done():
                continue  # the caller has gone
            if isinstance(outcome, Refused):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if self._answered:
            asyncio.get_running_loop().call_soon(self._tell_some)


def _ended() -> Refused:
    return Refused(ErrorCode.NOT_FOUND, "the lease was released before the limit was set")
