"""`kubectl zeus` against a cluster: with the user's rights, each request once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs

Zeus = Callable[..., tuple[int, str, str]]


@pytest.fixture
def zeus(cluster: ControlPlane, namespace: str) -> Zeus:
    """Run the program and return exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        program = "from zeus_operator.cli.cluster import main; main()"
        where = ("-n", namespace, "--kubeconfig", str(cluster.kubeconfig))
        done = subprocess.run(
            [sys.executable, "-c", program, arguments[0], *where, *arguments[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_job_is_run_looked_at_suspended_and_reset(
    zeus: Zeus,
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
    zeus: Zeus,
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


def test_an_unknown_name_is_told_with_those_there_are(zeus: Zeus, zeusjobs: ZeusJobs) -> None:
    zeusjobs.apply("digits")

    code, _, errors = zeus("run", "digit")

    assert code == 2
    assert errors.strip() == (
        f"there is no ZeusJob {zeusjobs.namespace}/digit; in this namespace: digits"
    )
