"""The operator's metrics.

What concerns the process is counted in the process.  What concerns a job is the store's own sums,
shown as the last projection of the job found them: they survive restarts and changes of leader, and
they disappear with the job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zeus_operator.job_series import JobKey, JobSeries, families

__all__ = ["JOBS_SHOWN", "REASONS", "JobKey", "JobMetrics", "JobSeries", "Metrics"]

JOBS_SHOWN = 20_000

REASONS = frozenset(
    {
        "api_server_unavailable",
        "conflict",
        "fenced_out",
        "internal",
        "refused",
        "result_awaited",
        "store_unavailable",
    }
)
"""Why a reconcile may fail, as a label."""

_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_log = logging.getLogger(__name__)


class JobMetrics(Collector):
    """The series of all jobs, at most `most` of them.  Threads may share it."""

    def __init__(self, most: int = JOBS_SHOWN) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._jobs: dict[JobKey, JobSeries] = {}
        self._left_out: set[JobKey] = set()

    def show(self, key: JobKey, series: JobSeries) -> None:
        """Replace what is shown of the job `key`; beyond the bound a new one is only counted."""
        with self._lock:
            if key in self._jobs or len(self._jobs) < self._most:
                self._jobs[key] = series
                self._left_out.discard(key)
                return
            first = not self._left_out
            self._left_out.add(key)
        if first:
            _log.warning(
                "metrics show the first %d jobs only; raise ZEUS_OPERATOR_METRICS_JOBS for more",
                self._most,
            )

    def remove(self, key: JobKey) -> None:
        """Let the series of a deleted job disappear."""
        with self._lock:
            self._jobs.pop(key, None)
            self._left_out.discard(key)

    def clear(self) -> None:
        """Show no job: this replica leads no more."""
        with self._lock:
            self._jobs.clear()
            self._left_out.clear()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of all jobs, as of now."""
        with self._lock:
            jobs = list(self._jobs.items())
            left_out = len(self._left_out)
        yield from families(jobs)
        yield GaugeMetricFamily(
            "zeus_operator_jobs_without_series",
            "Jobs that are not shown here because there are more than the bound",
            value=left_out,
        )


class Metrics:
    """Everything `/metrics` shows, in a registry of its own."""

    def __init__(self, jobs_shown: int = JOBS_SHOWN) -> None:
        r = self.registry = CollectorRegistry()
        self.jobs = JobMetrics(jobs_shown)
        r.register(self.jobs)
        ProcessCollector(registry=r)
        self._depth = Gauge(
            "zeus_operator_queue_depth", "Keys that are due and wait for a worker", registry=r
        )
        self._oldest = Gauge(
            "zeus_operator_queue_oldest_seconds", "How long the oldest of them waits", registry=r
        )
        self._delayed = Gauge(
            "zeus_operator_queue_delayed", "Keys that are not due yet", registry=r
        )
        self._reconcile = Histogram(
            "zeus_operator_reconcile_seconds",
            "Time of one reconcile, failed ones included",
            buckets=_BUCKETS_SECONDS,
            registry=r,
        )
        self._errors = Counter(
            "zeus_operator_reconcile_errors", "Failed reconciles", ("reason",), registry=r
        )
        for reason in REASONS:  # so that a rate is 0 before the first, and not absent
            self._errors.labels(reason)
        self._watch = Gauge(
            "zeus_operator_watch_proof_age_seconds",
            "Time since the last proof that the watch lives",
            ("resource",),
            registry=r,
        )
        self._leader = Gauge("zeus_operator_leader", "1: this replica leads", registry=r)
        self._store = Gauge("zeus_operator_store_up", "1: the store answers", registry=r)
        self._agents = Gauge(
            "zeus_operator_agent_problems",
            "What is wrong now with the trust in agents or with their reports; the log says what",
            ("of",),
            registry=r,
        )
        for of in ("trust", "reports"):
            self._agents.labels(of)

    def reconciled(self, seconds: float) -> None:
        """Count one reconcile that took `seconds`, whatever came of it."""
        self._reconcile.observe(seconds)

    def reconcile_failed(self, reason: str) -> None:
        """Count a failed reconcile.

        Raises:
            ValueError: `reason` is none of `REASONS`.
        """
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is none of the reasons {sorted(REASONS)}")
        self._errors.labels(reason).inc()

    def agents_looked_at(self, of: str, problems: int) -> None:
        """Take in how much is wrong with the "trust" in agents or with their "reports"."""
        self._agents.labels(of).set(problems)

    def read_queue(
        self,
        depth: Callable[[], float],
        oldest_seconds: Callable[[], float],
        delayed: Callable[[], float],
    ) -> None:
        """Take the figures of the queue from these at each scrape."""
        self._depth.set_function(depth)
        self._oldest.set_function(oldest_seconds)
        self._delayed.set_function(delayed)

    def read_watch(self, resource: str, age_seconds: Callable[[], float | None]) -> None:
        """Take the age of the last sign of life of one watch from this (None: no sign yet)."""

        def age() -> float:
            seconds = age_seconds()
            return float("nan") if seconds is None else seconds

        self._watch.labels(resource).set_function(age)

    def read_leader(self, is_leader: Callable[[], bool]) -> None:
        """Take from this whether the replica leads."""
        self._leader.set_function(lambda: float(is_leader()))

    def read_store(self, answers: Callable[[], bool]) -> None:
        """Take from this whether the store answers."""
        self._store.set_function(lambda: float(answers()))
