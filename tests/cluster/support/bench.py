"""A ZeusJob of one kind of child, and the rights that its operator needs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import yaml

from tests.cluster.support.control_plane import ControlPlane, KubectlError
from tests.cluster.support.installed import OPERATOR_NAMESPACE, SERVICE_ACCOUNT
from tests.cluster.support.two_ranks import TEMPLATES
from tests.cluster.support.workload_controllers import suspended
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.support.eventually import eventually
from zeus_operator.api.rbac import cluster_wide, namespaced
from zeus_operator.records import AttemptRecord
from zeus_operator.store.store import Store
from zeus_operator.workloads.registry import KINDS

Object = dict[str, Any]
NARROW = "zeus-narrow"
"""Namespace of an operator that serves some namespaces only, and name of what its rights are in."""


def allow_all(plane: ControlPlane) -> None:
    """Give the operator the rights to all kinds, as a chart with all of them does."""
    rights = cluster_wide(OPERATOR_NAMESPACE, tuple(KINDS.values()))
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(rights))


def allow_some(plane: ControlPlane, watched: str) -> str:
    """Give an operator in a namespace of its own the rights to all kinds in `watched` alone.

    As a chart with `watchNamespaces` does, but under names beside those of the rights to all.
    """
    rights = []
    for each in namespaced([watched], NARROW, tuple(KINDS.values())):
        if each["kind"] not in ("Namespace", "ServiceAccount", "Role", "RoleBinding"):
            if each["metadata"]["name"] != SERVICE_ACCOUNT:
                continue
            each["metadata"]["name"] = NARROW
            if each["kind"] == "ClusterRoleBinding":
                each["roleRef"]["name"] = NARROW
        rights.append(each)
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(rights))
    return NARROW


def applied(plane: ControlPlane, manifest: Object) -> bool:
    try:
        plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))
    except KubectlError:
        return False
    return True


class Bench:
    """One ZeusJob of a kind."""

    def __init__(self, kind: str, zeusjobs: ZeusJobs, stored: Store) -> None:
        self.kind = KINDS[kind]
        self.zeusjobs = zeusjobs
        self.stored = stored

    def apply(self, *, suspend: bool = False, template: Object | None = None, **spec: Any) -> None:
        template = dict(template or TEMPLATES[self.kind.kind])
        if suspend:
            template |= suspended(self.kind.kind, True)["spec"]
        workload = {
            "apiVersion": self.kind.api_version,
            "kind": self.kind.kind,
            "template": {
                "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
                "spec": template,
            },
        }
        self.zeusjobs.apply("job", **{"runs": 1, "workload": workload, **spec})

    @property
    def path(self) -> str:
        return (
            f"/apis/{self.kind.api_version}/namespaces/{self.zeusjobs.namespace}/{self.kind.plural}"
        )

    def children(self) -> list[Object]:
        return self.zeusjobs.api.items(self.path)

    def suspend(self, value: bool) -> None:
        (child,) = self.children()
        name = child["metadata"]["name"]
        self.zeusjobs.api.patch(f"{self.path}/{name}", dict(suspended(self.kind.kind, value)))

    def attempts(self) -> list[AttemptRecord]:
        record = self.stored.job_by_uid(self.zeusjobs.uid("job"))
        assert record is not None
        return [each for one in self.stored.history(record.id) for each in one.attempts]

    def wait_for_state(self, state: str) -> None:
        eventually(
            lambda: (
                [each["state"] for each in self.zeusjobs.status("job").get("active") or ()]
                == [state]
            ),
            f"the run is {state}",
        )

    @property
    def pods_path(self) -> str:
        return f"/api/v1/namespaces/{self.zeusjobs.namespace}/pods"

    def pods_in(self, phase: str) -> int:
        """Return how many pods are in a phase, as the API server shows them."""
        pods = self.zeusjobs.api.items(self.pods_path)
        return sum(each.get("status", {}).get("phase") == phase for each in pods)

    def pods_asked_to_end(self) -> int:
        """Return how many pods are there that somebody has deleted."""
        pods = self.zeusjobs.api.items(self.pods_path)
        return sum("deletionTimestamp" in each["metadata"] for each in pods)

    def youngest_pod_seconds(self) -> float:
        """Return the age of the youngest pod."""
        pods = self.zeusjobs.api.items(self.pods_path)
        made = (datetime.fromisoformat(each["metadata"]["creationTimestamp"]) for each in pods)
        return (datetime.now(UTC) - max(made)).total_seconds()

    def runtimes(self) -> list[Object]:
        """Return the TrainingRuntimes of the namespace."""
        namespace = f"namespaces/{self.zeusjobs.namespace}"
        return self.zeusjobs.api.items(
            f"/apis/trainer.kubeflow.org/v1alpha1/{namespace}/trainingruntimes"
        )
