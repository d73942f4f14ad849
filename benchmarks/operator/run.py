"""How soon a thousand due jobs have their children, and what ten thousand idle ones cost.

    python -m benchmarks.operator.run [burst|idle|all] [--jobs N] [--idle N] [--write]

On a real etcd, kube-apiserver and controller-manager (tests/cluster) and a real PostgreSQL, all on
this machine.  In the burst the real CronJob controller does the same in the same run, as it comes
and with its client's limits raised.  Nothing plays the kubelet: children stay pending.  Exits with
1 where a threshold is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.cluster.support.api import Api, Object
from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.installed import SERVICE_ACCOUNT, allow_lease, install
from tests.cluster.support.namespaces import create_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.own_postgres import OwnPostgres
from tests.cluster.support.zeusjobs import API_VERSION, zeusjob

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "operator-results.md"
NAMESPACE = "bench"
RAISED = (
    "--kube-api-qps=1000",
    "--kube-api-burst=2000",
    "--concurrent-cron-job-syncs=20",
)
BURST_SECONDS = 30.0
READY_SECONDS = 60.0
IDLE_MEGABYTES = 300.0
QUIET_SECONDS = 60.0
WATCHED = ("zeusjobs", "jobs", "events", "pods")
WRITES = re.compile(
    r'^apiserver_request_total\{.*resource="(\w+)".*verb="(POST|PUT|PATCH|APPLY|DELETE)".*\} (\S+)'
)


@dataclass(frozen=True)
class Figure:
    """One measured line.

    Args:
        limit: what it must not exceed; None: it is for comparison.
    """

    what: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether the threshold is missed."""
        return self.limit is not None and self.value > self.limit

    def __str__(self) -> str:
        """Return a row of the page's table."""
        limit = "" if self.limit is None else f"at most {self.limit:g} {self.unit}"
        return f"| {self.what} | {self.value:.4g} {self.unit} | {limit} |"


@contextmanager
def cluster(folder: Path, *manager_flags: str) -> Iterator[tuple[ControlPlane, Api]]:
    """Yield a control plane with the ZeusJob installed and a namespace to fill."""
    plane = ControlPlane(folder, find_binaries(), controller_manager_flags=manager_flags)
    with plane:
        install(plane)
        create_namespace(plane, NAMESPACE)
        allow_lease(plane, NAMESPACE)
        api = plane.api()
        try:
            yield plane, api
        finally:
            api.close()


def create_many(count: int, make: Callable[[int], tuple[str, Object]], api: Api) -> None:
    """POST `count` objects; `make` gives the collection and the object."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: api.post(*make(number)), range(count)))


def operator(folder: Path, plane: ControlPlane, database: str, **settings: str) -> OperatorProcess:
    """Return an operator with its defaults but for where things are."""
    kubeconfig = plane.kubeconfig_for(SERVICE_ACCOUNT, "zeus-system")
    defaults = {
        "lease_duration_seconds": "15",
        "renew_deadline_seconds": "10",
        "retry_period_seconds": "2",
        "statement_timeout_seconds": "10",
        "transaction_idle_timeout_seconds": "10",
        "resync_seconds": "300",
        "absence_confirm_seconds": "300",
        "workers": "8",
    }
    return OperatorProcess(folder, kubeconfig, database, NAMESPACE, **{**defaults, **settings})


def children(api: Api, prefix: str) -> list[datetime]:
    """Return when each Job whose name begins with `prefix` was created."""
    found = api.items(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")
    return [
        datetime.fromisoformat(each["metadata"]["creationTimestamp"])
        for each in found
        if each["metadata"]["name"].startswith(prefix)
    ]


def wait_for(what: str, holds: Callable[[], bool], seconds: float, pause: float = 0.5) -> float:
    """Wait until `holds`; returns how long that took."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > seconds:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
    return time.monotonic() - begin


def next_minute(seconds_from_now: float) -> datetime:
    """Return the first whole minute at least so far from now."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=1)


def all_created(api: Api, prefix: str, count: int, tick: datetime) -> float:
    """Return the seconds from `tick` to the creation of the last of `count` children."""
    wait_for("the tick", lambda: datetime.now(UTC) >= tick, 3600.0)
    wait_for(f"{count} children", lambda: len(children(api, prefix)) >= count, 900.0, pause=2.0)
    return (max(children(api, prefix)) - tick).total_seconds()


def burst_of_zeusjobs(count: int, folder: Path) -> float:
    """Return the seconds in which `count` due ZeusJobs have their children."""
    with OwnPostgres(folder / "postgres") as postgres, cluster(folder / "plane") as (plane, api):
        process = operator(folder, plane, postgres.url).start().wait_until_leading()
        tick = next_minute(30 + count * 0.12)
        schedule = f"{tick.minute} {tick.hour} * * *"
        path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/zeusjobs"
        create_many(
            count,
            lambda n: (path, zeusjob(f"job-{n:05}", NAMESPACE, schedule=schedule)),
            api,
        )
        try:
            return all_created(api, "job-", count, tick)
        finally:
            process.stop()


def burst_of_cronjobs(count: int, folder: Path, *flags: str) -> float:
    """Return the seconds in which `count` due CronJobs have their Jobs."""
    with cluster(folder / "plane", *flags) as (_plane, api):
        tick = next_minute(20 + count * 0.02)
        template = zeusjob("job", NAMESPACE)["spec"]["workload"]["template"]["spec"]

        def make(number: int) -> tuple[str, Object]:
            spec = {
                "schedule": f"{tick.minute} {tick.hour} * * *",
                "timeZone": "UTC",
                "jobTemplate": {"spec": template},
            }
            body = {"metadata": {"name": f"cron-{number:05}"}, "spec": spec}
            return f"/apis/batch/v1/namespaces/{NAMESPACE}/cronjobs", body

        create_many(count, make, api)
        return all_created(api, "cron-", count, tick)


def writes(api: Api) -> dict[str, float]:
    """Return the API server's count of writes, by resource."""
    found: dict[str, float] = dict.fromkeys(WATCHED, 0.0)
    for line in api.text("/metrics").splitlines():
        match = WRITES.match(line)
        if match and match[1] in found:
            found[match[1]] += float(match[3])
    return found


def resident_megabytes(process: OperatorProcess) -> float:
    """Return the memory that the operator holds."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1000


def idle(count: int, folder: Path) -> list[Figure]:
    """Return what `count` ZeusJobs cost that are not due."""
    with OwnPostgres(folder / "postgres") as postgres, cluster(folder / "plane") as (plane, api):
        path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/zeusjobs"
        schedule = "0 0 1 1 *"
        create_many(
            count, lambda n: (path, zeusjob(f"job-{n:05}", NAMESPACE, schedule=schedule)), api
        )
        first = operator(folder, plane, postgres.url).start().wait_until_leading(600.0)
        took = wait_for("all are seen to", lambda: depth(first) == 0, 1800.0, pause=5.0)
        first.stop()
        begin = time.monotonic()
        again = operator(folder, plane, postgres.url).start().wait_until_leading(600.0)
        ready = time.monotonic() - begin
        wait_for("all are seen to again", lambda: depth(again) == 0, 1800.0, pause=5.0)
        before = writes(api)
        if sum(before.values()) < count:
            raise SystemExit("the API server's count of writes can't be read")
        time.sleep(QUIET_SECONDS)
        written = sum(writes(api).values()) - sum(before.values())
        memory = resident_megabytes(again)
        again.stop()
    return [
        Figure(f"{count:,} new ZeusJobs: all in the store, status written", took, "s"),
        Figure(f"{count:,} idle ZeusJobs: ready after a restart", ready, "s", READY_SECONDS),
        Figure(f"{count:,} idle ZeusJobs: memory (RSS)", memory, "MB", IDLE_MEGABYTES),
        Figure(f"API writes in {QUIET_SECONDS:g} s while nothing happens", written, "writes", 0.0),
    ]


def depth(process: OperatorProcess) -> float:
    """Return how many keys wait for a worker."""
    _, text = process.get("/metrics")
    found = re.search(r"^zeus_operator_queue_depth (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else -1.0


def burst(count: int, folder: Path) -> list[Figure]:
    """Return how long it takes until `count` due jobs have their children, ours and CronJob's."""
    many = f"{count:,}"
    return [
        Figure(
            f"{many} ZeusJobs due at one minute: last child created",
            burst_of_zeusjobs(count, folder / "ours"),
            "s",
            BURST_SECONDS,
        ),
        Figure(
            f"{many} CronJobs, controller as it comes",
            burst_of_cronjobs(count, folder / "cron"),
            "s",
        ),
        Figure(
            f"{many} CronJobs, controller with {' '.join(RAISED)}",
            burst_of_cronjobs(count, folder / "raised", *RAISED),
            "s",
        ),
    ]


def page(figures: Sequence[Figure]) -> str:
    """Return the page of the docs."""
    rows = "\n".join(map(str, figures))
    return f"""\
# Measured: the operator under load

<!-- Written by benchmarks/operator/run.py; do not edit. -->

Command: `python -m benchmarks.operator.run all --write`. etcd, kube-apiserver, controller-manager,
PostgreSQL and the operator share the two cores of one machine; no kubelet, children stay pending.
The end of a burst is the `creationTimestamp` of the last child, in whole seconds.

| what | measured | threshold |
| --- | --- | --- |
{rows}
"""


def main() -> int:
    """Measure, print, and say whether a threshold was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator.run", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("burst", "idle", "all"), default="all")
    parser.add_argument("--jobs", type=int, default=1000, help="due at one minute")
    parser.add_argument("--idle", type=int, default=10_000, help="that are not due")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="zeus-bench-") as name:
        folder = Path(name)
        for part in ("ours", "cron", "raised", "idle"):
            (folder / part).mkdir()
        if options.what in ("burst", "all"):
            figures += burst(options.jobs, folder)
        if options.what in ("idle", "all"):
            figures += idle(options.idle, folder / "idle")
    print("\n".join(map(str, figures)))
    if options.write:
        PAGE.write_text(page(figures), encoding="utf-8")
    return int(any(figure.is_missed for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
