"""What an administrator decides: how far the operator may go, what it keeps, what it runs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.kubectl_zeus import KubectlZeus
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import CHOICES, DEFAULT, ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.store.migrate import NEWEST_REVISION
from zeus_operator.store.store import Store

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]

HISTORY = "job-zeus-history"


@pytest.fixture
def zeus(cluster: ControlPlane, namespace: str, tmp_path: Path) -> KubectlZeus:
    """The plugin with an administrator's rights."""
    return KubectlZeus(cluster.kubeconfig, namespace, tmp_path)


def apply_curious(zeusjobs: ZeusJobs) -> None:
    """Apply a ZeusJob that tries another batch size in its second recurrence."""
    zeusjobs.apply("job", runs=2, exploration={"maxExtraCostPercent": "100"})


def test_a_job_that_asks_for_more_than_its_namespace_may_runs_at_the_most(
    zeus: KubectlZeus,
    zeusjobs: ZeusJobs,
    make_operator: MakeOperator,
    make_node: MakeNode,
    stored: Store,
) -> None:
    make_node(SyntheticJob())
    limits = f"other=Optimize,{zeusjobs.namespace[:-3]}*=Recommend,*=Optimize"
    limited = make_operator(max_mode="Observe", max_mode_by_namespace=limits).start()
    apply_curious(zeusjobs)
    runs = zeusjobs.wait_for_runs("job", 2)

    words = (
        "spec.mode is Optimize, and the operator allows Recommend at most in this namespace: no "
        "batch size is chosen"
    )
    assert [run["batchSize"] for run in runs] == [DEFAULT, DEFAULT]
    assert zeusjobs.status("job")["mode"] == "Recommend"
    assert zeusjobs.status("job")["recommendation"]["batchSize"] in CHOICES
    condition = zeusjobs.condition("job", "Converged")
    assert (condition["status"], condition["reason"]) == ("False", "ModeLimited")
    assert condition["message"] == words
    assert zeusjobs.condition("job", "Degraded")["status"] == "False"
    assert [event["message"] for event in zeusjobs.events("ModeLimited")] == [words]
    shown = zeus.out("status", "job")
    assert (
        "  mode                 Recommend; spec.mode is Optimize, and the operator allows no more "
        "here\n"
    ) in shown
    assert f"  last run             recurrence 2, 1 attempt, batch size {DEFAULT}: Reached" in shown
    record = stored.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    for recurrence in stored.history(record.id):
        (attempt,) = recurrence.attempts
        assert not attempt.decision.optimize_power
        assert "the most that the operator allows in this namespace" in attempt.decision.sentence
    assert "the most that the operator allows" in zeus.out("explain", "job")

    limited.stop()
    make_operator().start()  # with no such setting
    zeusjobs.wait_for("it may choose now", lambda: zeusjobs.status("job")["mode"] == "Optimize")
    zeusjobs.annotate("job", run="more,runs=2")
    more = zeusjobs.wait_for_runs("job", 4)

    assert [run["number"] for run in more] == [4, 3, 2, 1]
    assert {run["batchSize"] for run in more[:2]} - {DEFAULT}
    assert "ModeLimited" not in zeus.out("status", "job")


def test_histories_are_bounded_emptied_when_none_are_wanted_and_made_again(
    zeus: KubectlZeus, zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode
) -> None:
    make_node(SyntheticJob())
    path = f"/api/v1/namespaces/{zeusjobs.namespace}/configmaps/{HISTORY}"

    def held() -> bool:
        found = zeusjobs.api.find(path) or {}
        return bool(found.get("binaryData"))

    first = make_operator(history_kibibytes="16").start()
    zeusjobs.apply("job", runs=1)
    eventually(held, "there is a history")
    zeusjobs.wait_for_runs("job", 1)
    assert zeusjobs.status("job")["historyKibibytes"] == 16
    first.stop()

    without = make_operator(history_kibibytes="0").start()
    eventually(lambda: not held(), "it is emptied")
    zeusjobs.apply("fresh", runs=1)
    zeusjobs.wait_for_runs("fresh", 1)
    assert zeusjobs.api.find(path.replace("job-", "fresh-")) is None
    for command in ("history", "explain", "report"):
        for name in ("job", "fresh"):
            code, said, errors = zeus(command, name)
            assert (code, said) == (1, "")
            assert "the operator is set to write no histories" in errors
            assert "operator.settings.historyKibibytes" in errors
    without.stop()

    make_operator().start()
    eventually(held, "it is there again")
    eventually(lambda: zeus("history", "job")[0] == 0, "it is shown again")


def test_an_operator_runs_on_the_schema_after_its_own_and_on_no_later_one(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, database: str
) -> None:
    make_node(SyntheticJob())
    be_at(database, 1)
    running = make_operator().start().wait_until_leading()
    zeusjobs.apply("job", runs=1)
    zeusjobs.wait_for_runs("job", 1)
    assert "of a newer release" in running.log

    be_at(database, 2)
    words = f"the schema of the database is {revision(2)}, and this release runs on"
    eventually(lambda: words in running.get("/readyz")[1], "it says so")
    assert running.get("/readyz")[0] == 503
    assert running.get("/healthz")[0] == 200, "a restart would not heal it"
    running.stop()

    late = make_operator().start()
    assert late.wait_for_end() == 1
    assert words in late.log
    assert "install the newer release again" in late.log


def revision(steps: int) -> str:
    """Return the revision so many steps after this release's."""
    return f"{int(NEWEST_REVISION) + steps:04}"


def be_at(database: str, steps: int) -> None:
    """Let the database say that its schema is of a release so many steps after this one."""
    with create_engine(database, poolclass=NullPool).begin() as connection:
        asked = text("UPDATE alembic_version SET version_num = :it")
        connection.execute(asked, {"it": revision(steps)})
