"""Those who wait for their wishes to be done."""

from __future__ import annotations

import asyncio

from zeus_agent.limits import LeaseView, Refused
from zeus_runtime.protocol import ErrorCode


class Waiting:
    """The callers that wait for one GPU."""

    def __init__(self) -> None:
        self._callers: list[tuple[int, str, asyncio.Future[LeaseView]]] = []

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
        """Answer those who wait for a wish up to this one (None: all).

        What was done or refused was `session`'s; others that wait had their lease before, and
        lost it before their turn came.
        """
        callers, self._callers = self._callers, []
        for caller in callers:
            ticket, waiting_session, future = caller
            if up_to_ticket is not None and ticket > up_to_ticket:
                self._callers.append(caller)
            elif future.done():
                continue  # the caller has gone
            elif waiting_session != session:
                future.set_exception(_ended())
            elif refusal is None and view is not None and view.session == session:
                future.set_result(view)
            else:
                future.set_exception(refusal or _ended())


def _ended() -> Refused:
    return Refused(ErrorCode.NOT_FOUND, "the lease was released before the limit was set")
