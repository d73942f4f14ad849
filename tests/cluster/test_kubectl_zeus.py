"""`kubectl zeus` against a cluster: with the user's rights, each request once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.kubectl_zeus import KubectlZeus
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs


@pytest.fixture
def zeus(cluster: ControlPlane, namespace: str, tmp_path: Path) -> KubectlZeus:
    """The plugin with an administrator's rights."""
    return KubectlZeus(cluster.kubeconfig, namespace, tmp_path)


def test_a_job_is_run_looked_at_suspended_and_reset(
    zeus: KubectlZeus,
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
) -> None:
    make_node(SyntheticJob())
    make_operator().start().wait_until_leading()
    zeusjobs.apply("job")
    zeusjobs.wait_for_condition("job", "Ready", "True")

    code, said, _ = zeus("run", "job", "--recurrences", "2", "--id", "friday")
    assert code == 0
    assert said == f"{zeusjobs.namespace}/job: asked for 2 recurrences (friday).\n"
    zeusjobs.wait_for_runs("job", 2)
    code, said, _ = zeus("status", "job")
    assert code == 0
    assert "Ready: True" in said
    assert "Progressing: False" in said

    assert zeus("suspend", "job")[0] == 0
    zeusjobs.wait_for_condition("job", "Suspended", "True")
    assert zeus("resume", "job")[0] == 0
    zeusjobs.wait_for_condition("job", "Suspended", "False")
    assert zeus("reset", "job", "--yes")[0] == 0
    zeusjobs.wait_for("nothing is left", lambda: "runs" not in zeusjobs.status("job"))


def test_requests_made_while_no_operator_looks_are_all_kept(
    zeus: KubectlZeus,
    zeusjobs: ZeusJobs,
    make_operator: Callable[..., OperatorProcess],
    make_node: Callable[..., SimulatedNode],
) -> None:
    make_node(SyntheticJob())
    zeusjobs.apply("job")
    for _ in range(3):
        assert zeus("run", "job")[0] == 0

    make_operator().start()

    zeusjobs.wait_for_runs("job", 3)


def test_an_unknown_name_is_told_with_those_there_are(
    zeus: KubectlZeus, zeusjobs: ZeusJobs
) -> None:
    zeusjobs.apply("digits")

    code, _, errors = zeus("run", "digit")

    assert code == 2
    assert errors.strip() == (
        f"there is no ZeusJob {zeusjobs.namespace}/digit; in this namespace: digits"
    )


def test_status_shows_how_far_an_active_run_is(zeus: KubectlZeus, zeusjobs: ZeusJobs) -> None:
    zeusjobs.apply("job")
    run = {
        "recurrence": 7,
        "number": 3,
        "kind": "Learned",
        "state": "Running",
        "scheduledTime": "2026-03-02T12:00:00Z",
        "attempt": 2,
        "maxAttempts": 5,
        "batchSize": 64,
        "epochs": 12,
        "energyJoules": 84_200,
        "lastMetric": "0.81",
    }
    ended = {
        "recurrence": 5,
        "number": 1,
        "kind": "Control",
        "outcome": "MaxEpochs",
        "scheduledTime": "2026-03-01T12:00:00Z",
        "attempts": 2,
        "batchSize": 128,
    }
    shown = {"active": [run], "runs": [ended]}
    zeusjobs.api.patch(f"{zeusjobs.path}/job/status", {"status": shown})

    said = zeus.out("status", "job")

    assert (
        "recurrence 3, attempt 2 of 5: batch size 64, Running, epoch 12, 84.2 kJ, metric 0.81"
    ) in said
    assert "last run             default 1, 2 attempts, batch size 128: MaxEpochs" in said
