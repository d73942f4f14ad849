"""A result that an agent may have is waited for: said in the status, counted apart, then over."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
import yaml
from kubernetes.client import Configuration

from tests.support.api_objects import COMPLETE, at, container_status, stamp, terminated
from tests.support.eventually import eventually
from tests.support.manifests import VALID
from zeus_operator import names
from zeus_operator.alarms import Alarms
from zeus_operator.executors.base import ResultNotYet
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.intake import Intake
from zeus_operator.kube import KubeClient, NotFound
from zeus_operator.metrics import Metrics
from zeus_operator.reconcile import Reconciler, ResultAwaited
from zeus_operator.status_writer import StatusWriter
from zeus_operator.store.store import Store
from zeus_operator.workers import Workers
from zeus_operator.workqueue import WorkQueue
from zeus_operator.world import Key, Resource, World
from zeus_runtime.protocol import Result

pytestmark = pytest.mark.postgres
KEY = Key("default", "digits")
Object = dict[str, Any]


class Cluster(KubeClient):
    """What an API server answers to the requests of one reconcile.

    Attributes:
        status: of the ZeusJob, as written last.
    """

    def __init__(self) -> None:
        super().__init__(Configuration())
        self._uids = (f"uid-{number}" for number in itertools.count(1))
        self.jobs: dict[str, Object] = {}
        self.pods: list[Object] = []
        self.status: Object = {}

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        **_rest: Any,
    ) -> Object:
        name = path.rsplit("/", 1)[1]
        match method, path:
            case "POST", _ if body is not None and name == "jobs" and not query:
                made = {"uid": next(self._uids), "creationTimestamp": stamp(0)}
                job = {**body, "metadata": {**body["metadata"], **made}, "status": {}}
                self.jobs[body["metadata"]["name"]] = job
                return job
            case "GET", _ if "/jobs/" in path:
                if name not in self.jobs:
                    raise NotFound(404, "NotFound", path)
                return self.jobs[name]
            case "GET", _ if name == "pods":
                wanted = dict(each.split("=") for each in (query or {})["labelSelector"].split(","))
                return {
                    "items": [
                        pod
                        for pod in self.pods
                        if wanted.items() <= pod["metadata"]["labels"].items()
                    ]
                }
            case "GET", _:
                return {"metadata": {"uid": "uid-of-the-namespace"}}
            case "PATCH", _ if body is not None:
                self.status = body["status"]
        return {"metadata": {"resourceVersion": "7"}}

    def end_runs(self, world: World) -> list[str]:
        """Let all runs end well and leave no message; returns the UIDs of their pods."""
        for job in self.jobs.values():
            job["status"] = {"conditions": [COMPLETE]}
            world.apply(Resource.JOBS, "MODIFIED", job)
            labels = job["spec"]["template"]["metadata"]["labels"]
            uid = f"pod-of-{job['metadata']['uid']}"
            metadata = {"namespace": KEY.namespace, "name": uid, "uid": uid, "labels": labels}
            status = {
                "phase": "Succeeded",
                "containerStatuses": [container_status("train", terminated(0))],
            }
            spec = {"nodeName": "gpu-1", "containers": []}
            pod = {"metadata": metadata, "spec": spec, "status": status}
            self.pods.append(pod)
            world.apply(Resource.PODS, "ADDED", pod)
        return [pod["metadata"]["uid"] for pod in self.pods]


class Agents:
    """Agents that know no result, once they answer.

    Attributes:
        silent: how often those of a pod do not answer, by its UID.
    """

    def __init__(self) -> None:
        self.silent: dict[str, int] = {}

    def result_of(self, pod_uid: str, node: str) -> Result | None:
        left = self.silent.get(pod_uid, 0)
        if left:
            self.silent[pod_uid] = left - 1
            raise ResultNotYet(f"try {left}: no answer", f"the agent of node {node}")
        return None


class Site:
    """A ZeusJob of which two runs were started."""

    def __init__(self, store: Store) -> None:
        self.cluster, self.agents, self.world = Cluster(), Agents(), World()
        self.seconds = 0
        document = yaml.safe_load(VALID)
        document["spec"] |= {
            "schedule": "* * * * *",
            "concurrencyPolicy": "Allow",
            "retry": {"maxAttempts": 1},
        }
        document["metadata"] |= {
            "namespace": KEY.namespace,
            "uid": "uid-of-the-job",
            "resourceVersion": "1",
            "generation": 1,
        }
        self.document = document
        self.world.apply(Resource.ZEUSJOBS, "ADDED", document)
        executor = KubernetesExecutor(
            self.cluster, self.world, ChildSettings, self.clock, self.agents.result_of
        )
        self.reconciler = Reconciler(
            store,
            self.world,
            Intake(store, self.cluster, self.clock),
            executor,
            StatusWriter(store, self.cluster, Metrics(), self.clock, lambda _uid: None),
            self.clock,
        )
        for self.seconds in (10, 70, 130):
            self.reconciler.reconcile(KEY)
        assert len(self.cluster.jobs) == 2

    def clock(self) -> datetime:
        return at(self.seconds)

    def ask_for_a_reset(self) -> None:
        metadata = self.document["metadata"]
        metadata |= {"resourceVersion": "8", "annotations": {names.ANNOTATION_RESET: "now"}}
        self.world.apply(Resource.ZEUSJOBS, "MODIFIED", self.document)

    def active(self) -> list[Object]:
        found: list[Object] = self.cluster.status.get("active", [])
        return found


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def test_while_an_agent_is_waited_for_the_status_says_so_in_words_that_stay(site: Site) -> None:
    awaited, _ = site.cluster.end_runs(site.world)
    site.agents.silent[awaited] = 1000
    seen = []
    for _ in range(2):
        with pytest.raises(ResultAwaited, match="no answer"):
            site.reconciler.reconcile(KEY)
        seen.append(site.active())
    (run,) = seen[0]
    assert run["state"] == "Ending"
    assert run["message"] == (
        "Its pod has ended and left no result; waiting for the agent of node gpu-1."
    )
    assert seen[0] == seen[1]


def test_to_wait_for_a_result_is_counted_as_that_and_not_as_a_refusal(site: Site) -> None:
    awaited, _ = site.cluster.end_runs(site.world)
    site.agents.silent[awaited] = 1000
    metrics, queue = Metrics(), WorkQueue[Key]()
    workers = Workers(1, site.reconciler, queue, Alarms(), metrics, lambda: None)

    def counted(reason: str) -> float | None:
        return metrics.registry.get_sample_value(
            "zeus_operator_reconcile_errors_total", {"reason": reason}
        )

    workers.start()
    try:
        queue.add(KEY)
        eventually(lambda: counted("result_awaited"), "it is counted")
        assert counted("refused") == 0
    finally:
        workers.stop()


def test_what_is_there_in_a_later_round_is_not_waited_for(site: Site) -> None:
    """One run has ended and leads to another round, in which the other's agent answers."""
    awaited, _ = site.cluster.end_runs(site.world)
    site.agents.silent[awaited] = 1
    assert site.reconciler.reconcile(KEY) == at(180), "the next tick"
    assert site.active() == []
    assert site.cluster.status["totals"]["recurrences"] == 2


def test_a_reset_that_waits_for_runs_needs_no_event_once_they_have_ended(
    site: Site, store: Store
) -> None:
    site.ask_for_a_reset()
    site.reconciler.reconcile(KEY)
    assert len(site.active()) == 2
    site.cluster.end_runs(site.world)

    look_again = site.reconciler.reconcile(KEY)

    assert look_again == site.clock()
    site.reconciler.reconcile(KEY)
    job = store.job(*KEY)
    assert job is not None
    assert store.history(job.id) == ()
