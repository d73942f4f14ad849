"""The database, the API server, the Lease and the other replica: away, back, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import create_engine, text

from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Gate, held
from tests.cluster.support.happened_once import Started, counted, everything_happened_once
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.own_postgres import OwnPostgres
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.executors.checkpoints import ClusterCheckpoint
from zeus_operator.store.store import Store

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]


def test_postgresql_is_killed_while_a_run_goes_on(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, own_postgres: OwnPostgres
) -> None:
    gate, started = Gate(), Started()
    make_node(counted(held(gate, SyntheticJob()), started))
    operator = make_operator(database_url=own_postgres.url).start().wait_until_leading()
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    own_postgres.kill()
    gate.open()  # the run ends while nobody can store that
    zeusjobs.wait_for_condition("job", "Ready", "False", "StoreUnavailable")
    assert operator.get("/healthz")[0] == 200, "a restart would not heal the database"
    eventually(lambda: operator.get("/readyz")[0] == 503, "it is not ready")
    own_postgres.start()

    zeusjobs.wait_for_runs("job", 2)
    zeusjobs.wait_for_condition("job", "Ready", "True")
    store = Store.connect(own_postgres.url)
    everything_happened_once(zeusjobs, store, started, 2)
    store.close()
    assert not operator.has_ended, "the same process has gone on"


def test_the_api_server_restarts_while_a_run_goes_on(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    stored: Store,
) -> None:
    gate, started = Gate(), Started()
    make_node(counted(held(gate, SyntheticJob()), started))
    times = {"lease_duration_seconds": "15", "renew_deadline_seconds": "10"}
    operator = make_operator(**times).start().wait_until_leading()
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    cluster.restart_api_server()
    gate.open()

    zeusjobs.wait_for_runs("job", 2)
    everything_happened_once(zeusjobs, stored, started, 2)
    assert not operator.has_ended, "it was away for less than the renew deadline"


def test_the_api_server_is_away_for_longer_than_the_lease(
    cluster: ControlPlane,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    stored: Store,
) -> None:
    gate, started = Gate(), Started()
    make_node(counted(held(gate, SyntheticJob()), started))
    operator = make_operator().start().wait_until_leading()
    zeusjobs.apply("job", runs=2)
    zeusjobs.wait_for_condition("job", "Progressing", "True", "Running")

    cluster.stop_api_server()
    assert operator.wait_for_end() == 1, "it may not act any more, and ends to be started again"
    again = make_operator().start()  # as the kubelet does
    eventually(lambda: "no use of the Lease" in again.log, "it has tried")
    cluster.start_api_server()
    gate.open()

    zeusjobs.wait_for_runs("job", 2)
    everything_happened_once(zeusjobs, stored, started, 2)


def test_a_leader_stands_still_between_its_decision_and_the_child(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, stored: Store
) -> None:
    started = Started()
    make_node(counted(SyntheticJob(), started))
    old = make_operator().start(at=ClusterCheckpoint.BEFORE_CREATE_CHILD, send="SIGSTOP")
    old.wait_until_leading()
    zeusjobs.apply("job", runs=2)
    eventually(lambda: old.is_stopped, "it stands still, its decision stored")

    make_operator().start().wait_until_leading()
    zeusjobs.wait_for_runs("job", 1)
    old.resume()

    assert old.wait_for_end() == 1, "it creates nothing of its own and ends"
    zeusjobs.wait_for_runs("job", 2)
    everything_happened_once(zeusjobs, stored, started, 2)


def test_a_leader_stands_still_within_a_transaction(
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    stored: Store,
    database: str,
) -> None:
    """Its open transaction holds the fence: a successor waits for it, but not for ever."""
    started = Started()
    make_node(counted(SyntheticJob(), started))
    old = make_operator().start().wait_until_leading()
    zeusjobs.apply("job", suspend=True)
    zeusjobs.wait_for_condition("job", "Suspended", "True")
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"))

    with engine.connect() as other:
        other.execute(text("SELECT 1 FROM jobs FOR UPDATE"))  # whoever changes a job now waits
        zeusjobs.patch("job", {"spec": {"suspend": False, "runs": 2}})
        with engine.connect() as look:
            look = look.execution_options(isolation_level="AUTOCOMMIT")
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            eventually(lambda: look.execute(waiting).scalar_one(), "a transaction of it waits")
        old.pause()
        other.rollback()

    make_operator().start().wait_until_leading()
    zeusjobs.wait_for_runs("job", 2)
    old.resume()

    assert old.wait_for_end() == 1
    everything_happened_once(zeusjobs, stored, started, 2)
    engine.dispose()


def test_two_replicas_lead_one_after_the_other(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, stored: Store
) -> None:
    started = Started()
    make_node(counted(SyntheticJob(), started))
    first = make_operator().start().wait_until_leading()
    second = make_operator().start().wait_until_ready()
    assert not second.leads
    zeusjobs.apply("job", runs=3)
    zeusjobs.wait_for_runs("job", 1)

    assert first.stop() == 0, "it ends cleanly and releases the Lease"
    second.wait_until_leading()

    zeusjobs.wait_for_runs("job", 3)
    everything_happened_once(zeusjobs, stored, started, 3)


def test_the_clock_jumps_ahead_by_a_week_and_back(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, stored: Store
) -> None:
    """The schedule is not silent until next week, and no tick has two runs."""
    started = Started()
    make_node(counted(SyntheticJob(), started))
    # A tick comes every other second.
    operator = make_operator(clock_speed=30).start().wait_until_leading()
    zeusjobs.apply("job", schedule="* * * * *")
    zeusjobs.wait_for_runs("job", 1)

    def ticks() -> list[datetime]:
        record = stored.job_by_uid(zeusjobs.uid("job"))
        assert record is not None
        return [each.scheduled_time for each in stored.history(record.id)]

    operator.set_clock_ahead(timedelta(days=7))
    week = timedelta(days=6)
    eventually(lambda: max(ticks()) - min(ticks()) > week, "a tick of next week has its run")
    operator.set_clock_ahead(timedelta())
    seen = len(ticks())

    eventually(lambda: len(ticks()) >= seen + 3, "the schedule goes on")
    later = ticks()[seen + 1 :]  # one may have been on its way
    assert all(tick - min(ticks()) < week for tick in later)
    assert len(set(ticks())) == len(ticks())
    said = [each["message"] for each in zeusjobs.events("MissedSchedule")]
    assert any("the operator's clock was ahead" in message for message in said)
    zeusjobs.patch("job", {"spec": {"suspend": True}})
    zeusjobs.wait_for_condition("job", "Progressing", "False")
    assert all(count == 1 for count in started.values())
