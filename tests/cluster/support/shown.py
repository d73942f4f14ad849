"""What kubectl and its plugin show of a ZeusJob that has converged, as the docs quote it.

`python -m tests.cluster.support.shown` starts a control plane, PostgreSQL, the operator and the
simulated node, lets a job learn, and prints what a user would see: then, and while one more run
goes on.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.endings import Gate, held
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT, install
from tests.cluster.support.kubectl_zeus import KubectlZeus
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.namespaces import create_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.own_postgres import OwnPostgres
from tests.cluster.support.zeusjobs import ZeusJobs
from zeus_operator.store.store import Store

NAMESPACE, NAME = "vision", "digits"
RUNS = 16

COMMANDS = (
    ("get", "zj", "-n", NAMESPACE),
    ("get", "zj", "-n", NAMESPACE, "-o", "wide"),
    ("get", "jobs", "-n", NAMESPACE),
    ("describe", "zj", NAME, "-n", NAMESPACE),
    ("explain", "zeusjob.spec"),
)


def main() -> None:
    """Print each command and what it answers."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zeus-shown-")))
        plane = stack.enter_context(ControlPlane(folder / "plane", find_binaries()))
        postgres = stack.enter_context(OwnPostgres(folder / "postgres"))
        store = Store.connect(postgres.url)
        stack.callback(store.close)
        api = stack.enter_context(contextlib.closing(plane.api()))
        install(plane)
        create_namespace(plane, NAMESPACE)
        node = SimulatedNode(api, SyntheticJob(), namespace=NAMESPACE)
        stack.enter_context(node)
        account = plane.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE)
        operator = OperatorProcess(folder, account, postgres.url, OPERATOR_NAMESPACE)
        stack.callback(operator.kill)
        operator.start().wait_until_leading()
        jobs = ZeusJobs(api, NAMESPACE, store)
        jobs.apply(
            NAME,
            schedule="0 2 * * *",
            timeZone="Europe/Berlin",
            exploration={"maxExtraCostPercent": "100"},
            savings={"controlFraction": "0.2"},
            successfulJobsHistoryLimit=3,
            failedJobsHistoryLimit=1,
        )
        jobs.annotate(NAME, run=f"to-show,runs={RUNS}")
        jobs.wait_for_runs(NAME, RUNS, 240.0)
        jobs.wait_for_condition(NAME, "Converged", "True")
        for command in COMMANDS:
            print(f"$ kubectl {' '.join(command)}")
            print(plane.kubectl(*command), flush=True)
        node.trainer = held(Gate(), SyntheticJob())
        jobs.annotate(NAME, run="to-look-at")
        jobs.wait_for_condition(NAME, "Progressing", "True", "Running")
        plugin = KubectlZeus(plane.kubeconfig, NAMESPACE, folder)
        print(f"$ kubectl zeus status {NAME}")
        print(plugin.out("status", NAME), flush=True)


if __name__ == "__main__":
    sys.exit(main())
