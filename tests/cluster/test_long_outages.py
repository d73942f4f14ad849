"""The API server or PostgreSQL away for a minute: longer than every time-out and Lease.

Each outage lasts at least `OUTAGE_SECONDS`, by the clock: here the duration is the subject.  The
times of the Lease are those that the operator has by default.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Gate, held
from tests.cluster.support.happened_once import counted, everything_happened_once
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.own_postgres import OwnPostgres
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.records import RecurrenceState
from zeus_operator.store.store import Store

pytestmark = pytest.mark.full

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]

OUTAGE_SECONDS = 60.0
BACK_SECONDS = 240.0
"""Long enough for the longest delay of the work queue, two minutes, after the end of an outage."""

DEFAULT_LEASE = {
    "lease_duration_seconds": "15",
    "renew_deadline_seconds": "10",
    "retry_period_seconds": "2",
    "statement_timeout_seconds": "10",
    "transaction_idle_timeout_seconds": "10",
}


class Kubelet:
    """Starts an operator again whenever it has ended, as the kubelet does with its container."""

    def __init__(self, make: Callable[[], OperatorProcess]) -> None:
        self._make = make
        self._stop = threading.Event()
        self.codes: list[int] = []
        self.current = make().start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._stop.wait(0.5):
            if self.current.has_ended:
                self.codes.append(self.current.process.returncode)
                self.current = self._make().start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def running(make_operator: MakeOperator) -> Iterator[Callable[..., Kubelet]]:
    """Start an operator that is restarted; the fixture of the operators ends the last one."""
    made: list[Kubelet] = []

    def start(**settings: str) -> Kubelet:
        made.append(Kubelet(lambda: make_operator(**{**DEFAULT_LEASE, **settings})))
        made[-1].current.wait_until_leading()
        return made[-1]

    yield start
    for kubelet in made:
        kubelet.stop()


def let_pass(begin: float, seconds: float = OUTAGE_SECONDS) -> None:
    """Return when `seconds` have passed since `begin`, a monotonic time."""
    threading.Event().wait(max(0.0, begin + seconds - time.monotonic()))


def test_the_api_server_is_away_for_a_minute_while_a_run_ends(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    running: Callable[..., Kubelet],
    make_node: MakeNode,
    stored: Store,
) -> None:
    gate, started = Gate(), Counter[tuple[str, str]]()
    make_node(counted(held(gate, SyntheticJob()), started))
    kubelet = running()
    zeusjobs.apply("job", runs=3)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    cluster.stop_api_server()
    begin = time.monotonic()
    gate.open()
    let_pass(begin)
    cluster.start_api_server()

    zeusjobs.wait_for_runs("job", 3, BACK_SECONDS)
    everything_happened_once(zeusjobs, stored, started, 3)
    zeusjobs.wait_for_condition("job", "Ready", "True")
    eventually(lambda: kubelet.current.leads, "it leads again")
    kubelet.stop()
    assert set(kubelet.codes) == {1}, "it ended because it could not renew, and of nothing else"


def test_postgresql_is_away_for_a_minute_while_a_run_ends(
    zeusjobs: ZeusJobs,
    running: Callable[..., Kubelet],
    make_node: MakeNode,
    own_postgres: OwnPostgres,
) -> None:
    gate, started = Gate(), Counter[tuple[str, str]]()
    make_node(counted(held(gate, SyntheticJob()), started))
    kubelet = running(database_url=own_postgres.url)
    zeusjobs.apply("job", runs=3)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    own_postgres.kill()
    begin = time.monotonic()
    gate.open()
    zeusjobs.wait_for_condition("job", "Ready", "False", "StoreUnavailable")
    assert kubelet.current.get("/healthz")[0] == 200
    let_pass(begin)
    own_postgres.start()

    zeusjobs.wait_for_runs("job", 3, BACK_SECONDS)
    store = Store.connect(own_postgres.url)
    everything_happened_once(zeusjobs, store, started, 3)
    store.close()
    zeusjobs.wait_for_condition("job", "Ready", "True")
    eventually(lambda: kubelet.current.get("/readyz")[0] == 200, "it is ready again")
    kubelet.stop()
    assert kubelet.codes == [], "the same process has gone on"


def test_both_are_away_for_a_minute_and_come_back_one_after_the_other(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    running: Callable[..., Kubelet],
    make_node: MakeNode,
    own_postgres: OwnPostgres,
) -> None:
    gate, started = Gate(), Counter[tuple[str, str]]()
    make_node(counted(held(gate, SyntheticJob()), started))
    kubelet = running(database_url=own_postgres.url)
    zeusjobs.apply("job", runs=3)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    own_postgres.kill()
    cluster.stop_api_server()
    begin = time.monotonic()
    gate.open()
    let_pass(begin)
    cluster.start_api_server()
    eventually(
        lambda: "waiting for the store" in kubelet.current.log, "it leads, and waits", BACK_SECONDS
    )
    own_postgres.start()

    zeusjobs.wait_for_runs("job", 3, BACK_SECONDS)
    store = Store.connect(own_postgres.url)
    everything_happened_once(zeusjobs, store, started, 3)
    store.close()
    kubelet.stop()
    assert set(kubelet.codes) == {1}


def test_of_the_ticks_of_an_outage_only_the_latest_is_made_up_for(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    running: Callable[..., Kubelet],
    make_node: MakeNode,
    stored: Store,
) -> None:
    """The clock of the operator is the real one; a tick comes each minute."""
    make_node(SyntheticJob())
    kubelet = running()
    zeusjobs.apply("job", schedule="* * * * *")
    zeusjobs.wait_for_runs("job", 1, BACK_SECONDS)

    cluster.stop_api_server()
    let_pass(time.monotonic(), 3 * OUTAGE_SECONDS)
    cluster.start_api_server()

    zeusjobs.wait_for_runs("job", 3, BACK_SECONDS)
    kubelet.stop()
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    before, made_up, *_ = stored.history(record.id)
    assert made_up.state is RecurrenceState.REACHED
    assert "missed" in made_up.reason
    assert (made_up.scheduled_time - before.scheduled_time).total_seconds() >= 120
    assert "MissedSchedule" in {event["reason"] for event in zeusjobs.events()}
