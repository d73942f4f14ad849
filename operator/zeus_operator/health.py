"""Whether the operator lives and whether it is ready, by HTTP, and its metrics beside it.

Alive is what only a restart would heal; it depends on neither the store nor the API server, whose
absence no restart heals.  Ready is who may count as a working replica.  That an answer comes at all
shows that the event loop turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

WORKER_STUCK_SECONDS = 300.0
WATCH_SILENT_SECONDS = 720.0
"""A watch is closed by the server after 600 s and opened again: that is proof of life too."""
LEASE_UNREAD_SECONDS = 30.0
STORE_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One line of an answer.

    Attributes:
        problem: "" if all is well, else why not.
    """

    name: str
    problem: str = ""

    def __str__(self) -> str:
        """Return `name: ok` or `name: failed: why`."""
        return f"{self.name}: failed: {self.problem}" if self.problem else f"{self.name}: ok"


@dataclass(frozen=True)
class WorkerState:
    """A worker thread.

    Attributes:
        busy_seconds: how long it has been at work on `key`; None: it waits for one.
    """

    name: str
    alive: bool
    busy_seconds: float | None = None
    key: str = ""


@dataclass(frozen=True)
class Vitals:
    """How the parts of the process are asked; each returns at once and never raises.

    Attributes:
        workers: the threads that should be there; none on a standby.
        is_leader: whether this replica leads.
        first_list_done: whether each watch has listed all there is.
        watch_ages_seconds: per watched resource, the time since the last proof that its watch
            lives (an event, a bookmark, a list); None: there was none yet.
        lease_age_seconds: since the Lease was last read or written; None: never.
        store_problem: "" if the store answers and its schema is one that this release knows, else
            why not.  For a standby an older schema is well: it migrates when it leads.
    """

    workers: Callable[[], Sequence[WorkerState]]
    is_leader: Callable[[], bool]
    first_list_done: Callable[[], bool]
    watch_ages_seconds: Callable[[], Mapping[str, float | None]]
    lease_age_seconds: Callable[[], float | None]
    store_problem: Callable[[], str]


@dataclass(frozen=True)
class Limits:
    """When a check fails."""

    worker_stuck_seconds: float = WORKER_STUCK_SECONDS
    watch_silent_seconds: float = WATCH_SILENT_SECONDS
    lease_unread_seconds: float = LEASE_UNREAD_SECONDS


def liveness(vitals: Vitals, limits: Limits) -> tuple[Check, ...]:
    """Return what only a restart would heal."""
    problems = []
    for worker in vitals.workers():
        if not worker.alive:
            problems.append(f"{worker.name} has died")
        elif worker.busy_seconds is not None and worker.busy_seconds > limits.worker_stuck_seconds:
            on = f" on {worker.key}" if worker.key else ""
            problems.append(f"{worker.name} has been{on} for {worker.busy_seconds:.0f} s")
    return Check("loop"), Check("workers", "; ".join(problems))


def readiness(vitals: Vitals, limits: Limits) -> tuple[Check, ...]:
    """Return what a replica needs to count as working, as leader or as standby."""
    store = Check("store", vitals.store_problem())
    if not vitals.is_leader():
        return *liveness(vitals, limits), store, _lease(vitals, limits)
    listed = "" if vitals.first_list_done() else "the first list is not complete yet"
    watches = [
        Check(f"watch {resource}", _silence(age, limits.watch_silent_seconds))
        for resource, age in sorted(vitals.watch_ages_seconds().items())
    ]
    return *liveness(vitals, limits), store, Check("first list", listed), *watches


def _silence(age_seconds: float | None, longest_seconds: float) -> str:
    if age_seconds is None:
        return "nothing was heard yet"
    if age_seconds > longest_seconds:
        return f"silent for {age_seconds:.0f} s"
    return ""


def _lease(vitals: Vitals, limits: Limits) -> Check:
    age = vitals.lease_age_seconds()
    if age is None:
        return Check("lease", "it could not be read yet")
    if age > limits.lease_unread_seconds:
        return Check("lease", f"it could not be read for {age:.0f} s")
    return Check("lease")


class Ping:
    """Asks in a thread something that may take long, one question at a time, and knows the answer.

    Args:
        ask: returns "" if all is well, else why not; may block and may raise.
        keep_seconds: an answer younger than that is not asked for again.
        patience_seconds: a question that is open for longer counts as a failure.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        *,
        keep_seconds: float = 1.0,
        patience_seconds: float = STORE_ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._keep_seconds = keep_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._answer: str | None = None
        self._answered_at = 0.0
        self._asked_at = 0.0
        self._open: asyncio.Future[str] | None = None

    async def refresh(self) -> None:
        """Ask again if the answer is old, and wait for it, but not for long."""
        if self._open is None:
            if self._answer is not None and (
                self._clock() - self._answered_at < self._keep_seconds
            ):
                return
            self._asked_at = self._clock()
            self._open = asyncio.ensure_future(asyncio.to_thread(self._ask))
            self._open.add_done_callback(self._take)
        await asyncio.wait({self._open}, timeout=self._patience_seconds)

    def problem(self) -> str:
        """Return "" if the last answer was well and the open question is young, else why not."""
        if self._open is not None:
            waiting = self._clock() - self._asked_at
            if waiting >= self._patience_seconds:
                return f"no answer for {waiting:.0f} s"
        return "it was not asked yet" if self._answer is None else self._answer

    def _take(self, future: asyncio.Future[str]) -> None:
        self._open = None
        self._answered_at = self._clock()
        if future.cancelled():
            self._answer = "the question was cancelled"
        elif (error := future.exception()) is not None:
            self._answer = str(error) or type(error).__name__
        else:
            self._answer = future.result()


class HealthServer:
    """Serves `/healthz`, `/readyz` and `/metrics`.

    Args:
        store: what `vitals.store_problem` reads; refreshed before readiness is judged.
    """

    def __init__(
        self,
        vitals: Vitals,
        registry: CollectorRegistry,
        *,
        limits: Limits | None = None,
        store: Ping | None = None,
    ) -> None:
        self._vitals = vitals
        self._registry = registry
        self._limits = limits or Limits()
        self._store = store
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on `host`:`port` (0: any that is free) and return the port.

        Raises:
            OSError: that address can't be had; the text says which and what to do.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            why = error.strerror or str(error)
            raise OSError(
                error.errno,
                f"can't serve health and metrics on {host}:{port}: {why}. "
                "Set ZEUS_OPERATOR_HTTP_HOST and ZEUS_OPERATOR_HTTP_PORT to an address that is "
                "free on this machine",
            ) from error
        self._runner = runner
        bound: int = runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _answer(liveness(self._vitals, self._limits))

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._store is not None:
            await self._store.refresh()
        return _answer(readiness(self._vitals, self._limits))

    async def _metrics(self, _request: web.Request) -> web.Response:
        # Ten thousand jobs take a while to print; the loop goes on meanwhile.
        text = await asyncio.to_thread(generate_latest, self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _answer(checks: Sequence[Check]) -> web.Response:
    failed = any(check.problem for check in checks)
    text = "".join(f"{check}\n" for check in checks)
    return web.Response(text=text, status=503 if failed else 200)
