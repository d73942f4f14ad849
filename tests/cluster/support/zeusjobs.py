"""ZeusJobs for tests, and how they and their children look in the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cluster.support.api import Api, Object
from tests.support.eventually import eventually
from zeus_operator.store.store import Store

API_VERSION = "zeus.energy/v1alpha1"
CHOICES = [32, 64, 128, 256]
DEFAULT = 128


def zeusjob(name: str, namespace: str, *, template: Object | None = None, **spec: Any) -> Object:
    """Return a ZeusJob whose runs ask for one GPU; `spec` adds to its spec or replaces parts."""
    pod = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "train",
                "image": "example.org/train:1",
                "command": ["python", "train.py"],
                "args": ["--batch-size=$(ZEUS_BATCH_SIZE)"],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
            }
        ],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "ZeusJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "objective": {"metric": {"target": "0.9"}, "maxEpochs": 50},
            "batchSize": {"default": DEFAULT, "choices": CHOICES},
            # Tests of the machinery do not depend on what the policy holds worth a try.
            "exploration": {"maxExtraCostPercent": "0"},
            "successfulJobsHistoryLimit": 100,
            "failedJobsHistoryLimit": 100,
            "workload": {"template": {"spec": template or {"template": {"spec": pod}}}},
            **spec,
        },
    }


class ZeusJobs:
    """The ZeusJobs of one namespace.

    Args:
        store: of the operator, to compare with what the cluster shows.
    """

    def __init__(self, api: Api, namespace: str, store: Store) -> None:
        self.api = api
        self.namespace = namespace
        self.store = store

    @property
    def path(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/zeusjobs"

    def apply(self, name: str, **spec: Any) -> Object:
        """Create a ZeusJob."""
        return self.api.post(self.path, zeusjob(name, self.namespace, **spec))

    def get(self, name: str) -> Object:
        return self.api.get(f"{self.path}/{name}")

    def patch(self, name: str, body: Object) -> Object:
        return self.api.patch(f"{self.path}/{name}", body)

    def annotate(self, name: str, **annotations: str) -> None:
        """Set annotations of the group zeus.energy."""
        named = {f"zeus.energy/{key}": value for key, value in annotations.items()}
        self.patch(name, {"metadata": {"annotations": named}})

    def delete(self, name: str, **options: Any) -> None:
        self.api.delete(f"{self.path}/{name}", **options)

    def status(self, name: str) -> Object:
        found: Object = self.get(name).get("status") or {}
        return found

    def condition(self, name: str, kind: str) -> Object:
        """Return a condition, {} if there is none."""
        for each in self.status(name).get("conditions") or ():
            if each["type"] == kind:
                found: Object = each
                return found
        return {}

    def wait_for(
        self, what: str, holds: Callable[[], object], deadline_seconds: float = 60.0
    ) -> None:
        eventually(holds, what, deadline_seconds)

    def wait_for_condition(self, name: str, kind: str, status: str, reason: str = "") -> Object:
        """Wait until a condition says so, and return it."""

        def found() -> Object:
            condition = self.condition(name, kind)
            fits = condition.get("status") == status and condition.get("reason", "").startswith(
                reason
            )
            return condition if fits else {}

        return eventually(found, f"{kind} is {status} {reason} (it is {self.status(name)})")

    def wait_for_runs(self, name: str, count: int, deadline_seconds: float = 60.0) -> list[Object]:
        """Wait until the status shows so many ended recurrences in total."""
        eventually(
            lambda: (self.status(name).get("totals") or {}).get("recurrences", 0) >= count,
            f"{count} recurrences of {name} have ended",
            deadline_seconds,
        )
        runs: list[Object] = self.status(name)["runs"]
        return runs

    def jobs(self) -> list[Object]:
        """Return the children."""
        return self.api.items(f"/apis/batch/v1/namespaces/{self.namespace}/jobs")

    def events(self, reason: str = "") -> list[Object]:
        """Return our Events about ZeusJobs of this namespace."""
        found = self.api.items(f"/api/v1/namespaces/{self.namespace}/events")
        return [
            event
            for event in found
            if event["involvedObject"]["kind"] == "ZeusJob" and reason in ("", event["reason"])
        ]

    def uid(self, name: str) -> str:
        return str(self.get(name)["metadata"]["uid"])
