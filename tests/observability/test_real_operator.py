"""The operator's own process on a real API server shows what the reference and the chart name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from tools.metrics_reference import exported_names

RUNS, CONTROLS = 8, 3
PATIENCE_SECONDS = 300.0
"""For all runs, on a machine that has other work."""
# The chart's own: a Lease of 3 s, which other tests take, is lost on a busy machine.
LEASE = {
    "lease_duration_seconds": "15",
    "renew_deadline_seconds": "10",
    "retry_period_seconds": "2",
}

Shown = Mapping[str, list[float]]


def shown_by(operator: OperatorProcess) -> Shown:
    """Return the values of all series by the name of their metric; none if it does not answer."""
    status, text = operator.get("/metrics")
    shown = defaultdict(list)
    for family in text_string_to_metric_families(text if status == 200 else ""):
        for sample in family.samples:
            shown[sample.name].append(sample.value)
    return shown


def test_a_leader_shows_every_metric_of_the_reference(
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
) -> None:
    make_node(SyntheticJob())
    operator = make_operator(**LEASE).start().wait_until_leading(PATIENCE_SECONDS)
    zeusjobs.apply("job", runs=RUNS)
    zeusjobs.wait_for_runs("job", RUNS, PATIENCE_SECONDS)
    zeusjobs.annotate("job", run=f"controls,runs={CONTROLS},kind=control")
    zeusjobs.wait_for_runs("job", RUNS + CONTROLS, PATIENCE_SECONDS)

    expected = {
        name
        for name in exported_names()
        if name.startswith(("zeus_operator_", "zeus_job_"))
        and name != "zeus_operator_reconcile_seconds"  # it is shown by its parts
    }
    energy = energy_in_store(zeusjobs)

    def all_runs_shown() -> Shown:
        """The status tells of a run before the metrics do."""
        shown = shown_by(operator)
        runs = sum(shown["zeus_operator_recurrences_total"])
        has_all = runs == RUNS + CONTROLS and shown["zeus_job_energy_joules_total"] == [energy]
        return shown if has_all else {}

    shown = eventually(all_runs_shown, f"{RUNS + CONTROLS} runs and {energy} J are shown")
    assert expected - set(shown) == set()
    assert shown["zeus_job_failures_in_row"] == [0]
    (compared,) = shown["zeus_job_compared_energy_joules"]
    (default,) = shown["zeus_job_default_energy_joules"]
    assert 0 < compared < energy
    assert default > 0


def energy_in_store(zeusjobs: ZeusJobs) -> float:
    """Return the energy of all runs of the job, joules."""
    record = zeusjobs.store.job_by_uid(zeusjobs.uid("job"))
    assert record is not None
    return sum(
        attempt.energy_joules or 0.0
        for each in zeusjobs.store.history(record.id)
        for attempt in each.attempts
    )
