"""The operator's metrics and its server, with jobs that were recorded in a real PostgreSQL.

Five jobs: one that saves, one that costs more than its default, one that is paused after failures,
one whose script ignores the decision, and one that gave no telemetry.  What is shown of them goes
the operator's own way: store, summary, status, series.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.histories import START, Try, recurrence, store_history
from tests.support.postgres import TestServer
from zeus_operator.health import HealthServer, Vitals
from zeus_operator.job_series import JobSeries
from zeus_operator.metrics import Metrics
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import RecurrenceKind, RecurrenceRecord
from zeus_operator.status.history import summarize
from zeus_operator.status.projection import project
from zeus_operator.status.series import series_of, with_status
from zeus_operator.status.view import StatusView
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

NAMESPACE = "vision"
SAVING, LOSING, PAUSED, IGNORING, SILENT = "cifar100", "forecast", "detector", "legacy", "sensors"

_FULL_POWER_EPOCH = (100.0, 0.8)
_FIRST = Try(
    256, observations_seen=0, cost_threshold_joules=None, full_power_epoch=_FULL_POWER_EPOCH
)
_CONTROL = Try(256, full_power_epoch=_FULL_POWER_EPOCH)


def saving_history() -> tuple[RecurrenceRecord, ...]:
    """A first run of the default, better ones, and control runs that tell what the default costs.

    One attempt was stopped because it had become too dear.
    """
    learned = [recurrence(1, [_FIRST])]
    stopped = Try(32, Outcome.COST_EXCEEDED, energy_joules=400.0)
    learned.append(recurrence(2, [stopped, Try(128, energy_joules=640.0)]))
    learned += [recurrence(n, [Try(128, energy_joules=600.0 + 10.0 * n)]) for n in range(3, 12)]
    return (*learned, *(recurrence(n, [_CONTROL], RecurrenceKind.CONTROL) for n in range(1, 4)))


def losing_history() -> tuple[RecurrenceRecord, ...]:
    """Runs that take three times what the default takes."""
    dear = Try(512, energy_joules=3000.0, time_seconds=24.0)
    learned = (recurrence(1, [_FIRST]), *(recurrence(n, [dear]) for n in range(2, 9)))
    return (*learned, *(recurrence(n, [_CONTROL], RecurrenceKind.CONTROL) for n in range(1, 4)))


HISTORIES: dict[str, tuple[RecurrenceRecord, ...]] = {
    SAVING: saving_history(),
    LOSING: losing_history(),
    PAUSED: tuple(recurrence(n, [Try(256, Outcome.CRASHED)]) for n in range(1, 4)),
    IGNORING: (recurrence(1, [Try(256, Outcome.DECISION_NOT_APPLIED)]),),
    SILENT: (recurrence(1, [Try(256, Outcome.NO_TELEMETRY, energy_joules=None)]),),
}


def shown_of(store: Store, history: Sequence[RecurrenceRecord]) -> JobSeries:
    """Record a history and return what the operator shows of it."""
    job = store_history(store, history)
    recorded = store.history(job.id)
    summary = summarize(recorded)
    view = StatusView(
        generation=1,
        previous={},
        facts=store.facts(job.id),
        spec=JobPlanSpec.from_document(job.spec),
        history=summary,
        children={},
        next_tick=None,
        problems=(),
        request_problems=(),
        refusal=None,
        store_trouble="",
        reset_waits=False,
        now=START,
    )
    return with_status(series_of(recorded, summary), project(view))


@dataclass
class State:
    """What the process says of itself; a test may change it."""

    leads: bool = True
    store_is_up: bool = True
    oldest_seconds: float = 0.4
    watch_age_seconds: float | None = 3.0
    fails: bool = False


class RecordedOperator:
    """One replica's metrics, served as the operator serves them."""

    def __init__(self) -> None:
        self.metrics = Metrics(jobs_shown=len(HISTORIES))
        self.state = State()
        state, metrics = self.state, self.metrics
        metrics.read_leader(lambda: state.leads)
        metrics.read_store(lambda: state.store_is_up)
        metrics.read_queue(lambda: 1.0, lambda: state.oldest_seconds, lambda: 4.0)
        for resource in ("zeusjobs", "jobs", "pods"):
            metrics.read_watch(resource, lambda: state.watch_age_seconds)
        for of in ("trust", "reports"):
            metrics.agents_looked_at(of, 0)
        self.address = ""

    def work(self) -> None:
        """Count a little of what a replica does all the time."""
        for milliseconds in (4, 8, 30):
            self.metrics.reconciled(milliseconds / 1000.0)
        self.metrics.reconcile_failed("refused" if self.state.fails else "conflict")


@contextlib.contextmanager
def recorded_operator(server: TestServer) -> Iterator[RecordedOperator]:
    """Serve all jobs, each from a database of its own."""
    operator = RecordedOperator()
    for name, history in HISTORIES.items():
        with server.database() as url:
            store = Store.connect(url)
            operator.metrics.jobs.show((NAMESPACE, name), shown_of(store, history))
            store.close()
    with _served(operator):
        yield operator


@contextlib.contextmanager
def _served(operator: RecordedOperator) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    server = HealthServer(_vitals(operator.state), operator.metrics.registry)
    port = run(server.start("127.0.0.1", 0))
    operator.address = f"127.0.0.1:{port}"
    try:
        yield
    finally:
        run(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _vitals(state: State) -> Vitals:
    return Vitals(
        workers=lambda: (),
        is_leader=lambda: state.leads,
        first_list_done=lambda: True,
        watch_ages_seconds=lambda: {"zeusjobs": state.watch_age_seconds},
        lease_age_seconds=lambda: 1.0,
        store_problem=lambda: "" if state.store_is_up else "it does not answer",
    )
