"""A kind that is not allowed any more: nothing of it starts, and what runs is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
import yaml
from kubernetes.client import Configuration

from tests.support.api_objects import COMPLETE, at, stamp
from tests.support.manifests import VALID
from zeus_operator.executors.child import ChildSettings
from zeus_operator.executors.kubernetes import KubernetesExecutor
from zeus_operator.intake import Intake
from zeus_operator.kube import KubeClient
from zeus_operator.metrics import Metrics
from zeus_operator.reconcile import Reconciler, TryLater
from zeus_operator.records import AttemptRecord
from zeus_operator.status_writer import StatusWriter
from zeus_operator.store.store import Store
from zeus_operator.workloads.served import ServedKinds
from zeus_operator.world import Key, Resource, World

pytestmark = pytest.mark.postgres
KEY = Key("default", "digits")
Object = dict[str, Any]


class Cluster(KubeClient):
    """What an API server answers to the requests of one reconcile.

    Attributes:
        asked: method and path of all requests about Jobs.
        status: of the ZeusJob, as written last.
    """

    def __init__(self) -> None:
        super().__init__(Configuration())
        self.asked: list[tuple[str, str]] = []
        self.job: Object = {}
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
        if "/jobs" in path and not query:
            self.asked.append((method, path))
            if method == "POST":
                assert body is not None
                made = {"uid": "uid-of-the-child", "creationTimestamp": stamp(0)}
                self.job = {**body, "metadata": {**body["metadata"], **made}, "status": {}}
            return self.job
        if method == "PATCH":
            assert body is not None
            self.status = body["status"]
        if path.endswith("/pods"):
            return {"items": []}
        return {"metadata": {"uid": "uid-of-the-namespace", "resourceVersion": "7"}}


class Site:
    """A ZeusJob with one run that goes on."""

    def __init__(self, store: Store) -> None:
        self.store, self.cluster, self.world = store, Cluster(), World()
        self.seconds = 70
        document = yaml.safe_load(VALID)
        document["spec"] |= {"schedule": "* * * * *", "retry": {"maxAttempts": 1}}
        document["metadata"] |= {
            "namespace": KEY.namespace,
            "uid": "uid-of-the-job",
            "resourceVersion": "1",
            "generation": 1,
        }
        self.world.apply(Resource.ZEUSJOBS, "ADDED", document)
        self.seconds = 10
        self.operator("Job").reconcile(KEY)
        self.seconds = 70
        self.operator("Job").reconcile(KEY)
        self.cluster.asked.clear()

    def clock(self) -> datetime:
        return at(self.seconds)

    def operator(self, *allowed: str) -> Reconciler:
        """Return a new process that serves these kinds."""
        return Reconciler(
            self.store,
            self.world,
            Intake(self.store, self.cluster, self.clock),
            KubernetesExecutor(
                self.cluster,
                self.world,
                ChildSettings,
                self.clock,
                lambda _uid, _node: None,
                kinds=ServedKinds(allowed),
            ),
            StatusWriter(self.store, self.cluster, Metrics(), self.clock, lambda _uid: None),
            self.clock,
        )

    def attempts(self) -> list[AttemptRecord]:
        job = self.store.job_by_uid("uid-of-the-job")
        assert job is not None
        return [each for one in self.store.history(job.id) for each in one.attempts]


@pytest.fixture
def site(store: Store) -> Site:
    return Site(store)


def ready(site: Site) -> Object:
    (found,) = [each for each in site.cluster.status["conditions"] if each["type"] == "Ready"]
    return dict(found)


def test_what_runs_is_left_alone_and_the_status_says_why(site: Site) -> None:
    site.seconds = 190  # the next run is due

    with pytest.raises(TryLater, match="Job is not allowed here; allowed: JobSet"):
        site.operator("JobSet").reconcile(KEY)

    assert (ready(site)["status"], ready(site)["reason"]) == ("False", "WorkloadNotAllowed")
    assert site.cluster.asked == [], "there are no rights to ask"
    assert [each.outcome for each in site.attempts()] == [None]


def test_once_it_is_allowed_again_the_run_is_followed_to_its_end(site: Site) -> None:
    with pytest.raises(TryLater):
        site.operator("JobSet").reconcile(KEY)
    site.cluster.job["status"] = {"conditions": [COMPLETE]}
    site.world.apply(Resource.JOBS, "MODIFIED", site.cluster.job)

    site.operator("Job").reconcile(KEY)

    assert ready(site)["status"] == "True"
    assert site.attempts()[0].outcome is not None
