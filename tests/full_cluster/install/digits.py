"""The example, as a team of its own runs it: a namespace that enforces `restricted`."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.support.api import Api, Object
from tests.cluster.support.kubectl_zeus import KubectlZeus
from tests.cluster.support.namespaces import create_namespace
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.install.images import REPOSITORY
from tests.support.eventually import eventually
from zeus_runtime.protocol import Result, decode_result

EXAMPLE: Object = yaml.safe_load((REPOSITORY / "examples/digits/zeusjob.yaml").read_text())
EXAMPLE_IMAGE: str = EXAMPLE["spec"]["workload"]["template"]["spec"]["template"]["spec"][
    "containers"
][0]["image"]
JOB = "digits"
RUN_SECONDS = 120.0
"""Of one recurrence at most: a run that hangs, not a slow one, is what it finds."""


class Team:
    """A namespace and the ZeusJob `digits` in it.

    Args:
        folder: that `kubectl zeus` is called in.
    """

    def __init__(self, cluster: FullCluster, api: Api, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.api = api
        self.namespace = namespace
        self.zeus = KubectlZeus(cluster.kubeconfig, namespace, folder)

    # What a person does --------------------------------------------------------

    def apply(self, change_pod: Callable[[Object], None] = lambda _: None) -> None:
        """Apply the example; `change_pod` may change the spec of its pods."""
        document = copy.deepcopy(EXAMPLE)
        change_pod(document["spec"]["workload"]["template"]["spec"]["template"]["spec"])
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump(document))

    def run(self, recurrences: int) -> None:
        """Ask for runs."""
        self.zeus.out("run", JOB, "--recurrences", str(recurrences))

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, input=input)

    # What there is -------------------------------------------------------------

    @property
    def job(self) -> Object:
        """The ZeusJob."""
        return self.api.get(
            f"/apis/zeus.energy/v1alpha1/namespaces/{self.namespace}/zeusjobs/{JOB}"
        )

    @property
    def status(self) -> Object:
        """Its status, {} if there is none yet."""
        found: Object = self.job.get("status") or {}
        return found

    def condition(self, kind: str) -> Object:
        """Return a condition; {} if it is not there."""
        for each in self.status.get("conditions") or ():
            if each["type"] == kind:
                found: Object = each
                return found
        return {}

    def pods(self) -> list[Object]:
        """Return the pods of the runs."""
        return self.api.items(f"/api/v1/namespaces/{self.namespace}/pods")

    def running(self) -> Object | None:
        """Return the pod that trains just now, None if none does."""
        for pod in self.pods():
            if (
                pod["status"].get("phase") == "Running"
                and "deletionTimestamp" not in pod["metadata"]
            ):
                return pod
        return None

    def await_training(self, *, not_the_pod: str = "") -> Object:
        """Return the pod of a run that is past its start and reports epochs.

        Args:
            not_the_pod: the UID of one that does not count.
        """

        def trains() -> Object | None:
            pod = self.running()
            if pod is None or pod["metadata"]["uid"] == not_the_pod:
                return None
            return pod if "epoch 1:" in self.log(pod) else None

        found = eventually(trains, "a run trains", RUN_SECONDS)
        assert found is not None
        return found

    def await_runs(self, recurrences: int) -> list[Object]:
        """Wait until so many recurrences have ended; return the latest, newest first."""

        def ended() -> bool:
            return self._ended_recurrences() >= recurrences

        try:
            eventually(ended, f"{recurrences} recurrences have ended", RUN_SECONDS * recurrences)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.zeus.out('status', JOB)}") from None
        runs: list[Object] = self.status["runs"]
        return runs

    def await_convergence(self, most_recurrences: int) -> None:
        """Wait until the job has converged, then let nothing new start and what runs end."""

        def over() -> bool:
            return self.condition("Converged").get("status") == "True" or (
                self._ended_recurrences() >= most_recurrences
            )

        eventually(over, "it converges", RUN_SECONDS * most_recurrences)
        self.zeus.out("suspend", JOB)
        eventually(lambda: not self.status.get("active"), "the last run ends", RUN_SECONDS)

    def _ended_recurrences(self) -> int:
        return int((self.status.get("totals") or {}).get("recurrences", 0))

    def log(self, pod: Object) -> str:
        """Return what a pod has printed, as `kubectl logs` shows it."""
        return self.kubectl("logs", pod["metadata"]["name"])


def result_of(pod: Mapping[str, Any]) -> Result | None:
    """Return what the run has left in its pod's termination message; None: nothing of ours."""
    (container,) = pod["status"]["containerStatuses"]
    return decode_result(container["state"]["terminated"].get("message", "").encode())


@contextmanager
def team(cluster: FullCluster, api: Api, folder: Path) -> Iterator[Team]:
    """Make a namespace that enforces `restricted`; it is deleted afterwards."""
    namespace = f"team-{uuid.uuid4().hex[:8]}"
    create_namespace(cluster.plane, namespace)
    level = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", namespace, level)
    try:
        yield Team(cluster, api, namespace, folder)
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--timeout=120s")
