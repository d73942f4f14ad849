"""The operator's own process on a real API server shows what the reference and the chart name."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from tools.metrics_reference import exported_names

RUNS, CONTROLS = 8, 3


def shown_by(operator: OperatorProcess) -> dict[str, float]:
    """Return the value of each series by the name of its metric; of several, the last."""
    status, text = operator.get("/metrics")
    assert status == 200, text
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_leader_shows_every_metric_of_the_reference(
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
) -> None:
    make_node(SyntheticJob())
    operator = make_operator().start().wait_until_leading()
    zeusjobs.apply("job", runs=RUNS)
    zeusjobs.wait_for_runs("job", RUNS)
    zeusjobs.annotate("job", run=f"controls,runs={CONTROLS},kind=control")
    zeusjobs.wait_for_runs("job", RUNS + CONTROLS)

    expected = {
        name
        for name in exported_names()
        if name.startswith(("zeus_operator_", "zeus_job_"))
        and name != "zeus_operator_reconcile_seconds"  # it is shown by its parts
    }
    eventually(
        lambda: shown_by(operator).get("zeus_job_saved_ratio") is not None, "it knows what is saved"
    )
    shown = shown_by(operator)
    assert expected - set(shown) == set()

    energy = sum(
        attempt.energy_joules or 0.0
        for each in zeusjobs.store.history(_job_id(zeusjobs))
        for attempt in each.attempts
    )
    assert shown["zeus_job_energy_joules_total"] == energy
    assert shown["zeus_job_failures_in_row"] == 0
    compared, default = (
        shown[f"zeus_job_{side}_energy_joules"] for side in ("compared", "default")
    )
    assert 0 < compared < energy
    assert default > 0


def _job_id(zeusjobs: ZeusJobs) -> int:
    record = zeusjobs.store.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    return record.id
