"""Leading: the Lease is renewed in a thread, the leader's work runs in the asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Awaitable, Callable

from zeus_operator.kube import KubeError
from zeus_operator.lease import Candidate, LeaseTimes

_log = logging.getLogger(__name__)


class LeadershipLost(Exception):  # noqa: N818 - a state, as ConnectionRefused is
    """This process leads no more and must end: it can't know what its successor does."""


class LeaderElector:
    """Runs a candidate in a thread of its own and the leader's work in the asyncio loop.

    The thread renews however busy the loop is; the loop judges by the clock however long a request
    in the thread hangs.
    """

    def __init__(
        self,
        candidate: Candidate,
        times: LeaseTimes,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self.candidate = candidate
        self._times = times
        self._rng = rng or random.Random()
        self._stop = threading.Event()
        self._complaint = ""

    @property
    def is_leader(self) -> bool:
        """Whether this process may act as the leader at this moment; from any thread."""
        return self.candidate.is_leader

    @property
    def observed_holder(self) -> str | None:
        """Who held the Lease when it was last seen."""
        return self.candidate.observed_holder

    def check(self) -> None:
        """Do nothing if this process leads.

        Raises:
            LeadershipLost: it does not.
        """
        if not self.candidate.is_leader:
            raise LeadershipLost(self.candidate.lost or "another replica leads")

    async def run(self, on_started: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then run `on_started()` until it ends. To be called once.

        Whether it returns, raises or is cancelled, `on_started` has ended before the Lease is
        released.

        Raises:
            LeadershipLost: the Lease is lost; `on_started` was cancelled.
            Exception: what `on_started` raised.
        """
        loop = asyncio.get_running_loop()
        tried = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(tried.set)

        thread = threading.Thread(target=self._keep, args=(tell,), name="lease", daemon=True)
        thread.start()
        try:
            while not self.is_leader:
                await tried.wait()
                tried.clear()
                self._raise_if_lost()
            _log.info("%s leads", self.candidate.identity)
            await self._lead(asyncio.ensure_future(on_started()), tried)
        finally:
            self._stop.set()
            if not self.candidate.lost:
                # A release that hangs is left behind; the Lease runs out by itself.
                await asyncio.to_thread(thread.join, 2 * self._times.request_timeout_seconds)

    async def _lead(self, work: asyncio.Future[None], tried: asyncio.Event) -> None:
        try:
            while not work.done() and not self.candidate.lost:
                tried.clear()
                news = asyncio.create_task(_wait(tried))
                await asyncio.wait(
                    {work, news},
                    timeout=self.candidate.seconds_left,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                news.cancel()
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled() and (error := work.exception()) is not None:
                _log.error("the leader's work has failed while it was stopped", exc_info=error)
            raise
        if not work.done():
            work.cancel()
            # Until others may take over; the process ends in any case.
            spare = self._times.lease_duration_seconds - self._times.renew_deadline_seconds
            await asyncio.wait({work}, timeout=spare)
            self._raise_if_lost()
        work.result()

    def _raise_if_lost(self) -> None:
        if self.candidate.lost:
            raise LeadershipLost(self.candidate.lost)

    def _keep(self, tell: Callable[[], None]) -> None:
        """Try again and again until told to stop, then release."""
        while not self._stop.is_set():
            self._attempt(self.candidate.try_once)
            tell()
            if self.candidate.lost:
                return
            self._stop.wait(self._pause_seconds())
        self._attempt(self.candidate.release)

    def _pause_seconds(self) -> float:
        period = self._times.retry_period_seconds
        if self.candidate.is_leader:
            return period
        return period * (0.75 + 0.5 * self._rng.random())  # standbys not in step

    def _attempt(self, request: Callable[[], None]) -> None:
        try:
            request()
            complaint = ""
        except KubeError as error:
            complaint = error.message
        except Exception as error:  # not JSON, a proxy's page, a Lease of another shape
            complaint = f"{type(error).__name__}: {error}"
        if complaint and complaint != self._complaint:
            _log.warning("no use of the Lease: %s", complaint)
        self._complaint = complaint


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
