"""A ZeusJob on a real API server and Job controller: it runs, learns, converges and is shown."""

from __future__ import annotations

from collections.abc import Callable

from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from zeus_operator.store.store import Store

MakeOperator = Callable[..., OperatorProcess]
MakeNode = Callable[..., SimulatedNode]


def test_a_zeusjob_runs_learns_and_converges(
    zeusjobs: ZeusJobs, make_operator: MakeOperator, make_node: MakeNode, stored: Store
) -> None:
    make_node(SyntheticJob())
    make_operator().start().wait_until_leading()

    zeusjobs.apply("digits", runs=12, exploration={"maxExtraCostPercent": "100"})
    zeusjobs.wait_for_runs("digits", 12, 120.0)

    zeusjobs.wait_for_condition("digits", "Converged", "True")
    status = zeusjobs.status("digits")
    record = stored.job_by_uid(zeusjobs.uid("digits"))
    assert record is not None
    assert len(stored.observations(record.id)) >= 12
    assert status["lastOutcome"] == "Reached"
    assert status["best"]["batchSize"] in (32, 64)
    assert status["observedGeneration"] == 1
    assert len(status["runs"]) == 10
    assert "active" not in status
