"""The chart, installed by helm on a whole cluster, and what its pods show."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import urllib3

from gpu_simulator import Simulator
from tests.chart.support.helm import CHART, Helm, merged
from tests.cluster.support.api import Api, Object
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.install.images import REGISTRY
from tests.full_cluster.node import Node, is_ready
from tests.support.eventually import eventually

NAME = "zeus-operator"
NAMESPACE = "zeus-system"
DATABASE_SECRET = "zeus-database"
GPUS = ("V100", "V100")
DEFAULT_LIMIT_WATTS = 250.0
_SIMULATED_GPUS = "/var/lib/gpu-simulator/state"
_AGENT_STATE = "/var/lib/zeus-agent"
_INSTALL = ("--wait", "--timeout", "5m")
_SAMPLE = re.compile(r"^(\w+)(\{.*\})? (\S+)$", re.MULTILINE)

VALUES: Mapping[str, Any] = {
    "image": {"registry": REGISTRY},
    "database": {"existingSecret": DATABASE_SECRET},
    # A fifth of the time: a run then trains for some five seconds.
    "gpuSimulator": {"enabled": True, "gpus": list(GPUS), "timeScale": 0.2},
}


class Release:
    """One release; `install` before use.

    Args:
        database: its URL, as pods reach it.
        changes: of the values.
    """

    def __init__(
        self,
        cluster: FullCluster,
        helm: Helm,
        api: Api,
        database: str,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.cluster = cluster
        self.helm = helm
        self.api = api
        self.database = database
        self._values = merged(VALUES, changes or {})

    # What a person does --------------------------------------------------------

    def prepare(self) -> None:
        """Make the namespace and the Secret that the chart wants to be there."""
        kubectl = self.cluster.kubectl
        kubectl("create", "namespace", NAMESPACE)
        level = "pod-security.kubernetes.io/enforce=privileged"
        kubectl("label", "namespace", NAMESPACE, level)
        url = f"--from-literal=url={self.database}"
        kubectl("create", "secret", "generic", DATABASE_SECRET, "--namespace", NAMESPACE, url)

    def install(self) -> str:
        """Install it; return the notes."""
        return self.helm.install(self._values, namespace=NAMESPACE, release=NAME, more=_INSTALL)

    def upgrade(self, changes: Mapping[str, Any]) -> None:
        """Upgrade it, with other values; returns when every pod is new."""
        arguments = ("upgrade", NAME, str(CHART), "--namespace", NAMESPACE, *_INSTALL)
        self.helm.run(*arguments, values=merged(self._values, changes))
        for each in ("deployment/zeus-operator", "daemonset/zeus-agent"):
            self.cluster.kubectl("rollout", "status", each, "-n", NAMESPACE, "--timeout=3m")

    def check(self) -> str:
        """Run `helm test`; return what it says."""
        return self.helm.run("test", NAME, "--namespace", NAMESPACE)

    def uninstall(self) -> None:
        """Remove it and wait until its pods are gone."""
        self.helm.run("uninstall", NAME, "--namespace", NAMESPACE, "--wait")
        eventually(lambda: not self.pods(), "no pod of the release is left", 120.0)

    def remove_all(self) -> None:
        """Remove what is left on purpose, too, with every ZeusJob."""
        if self.is_installed:
            self.uninstall()
        self.cluster.kubectl("delete", "crd", "zeusjobs.zeus.energy", "--ignore-not-found")
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")

    # What there is -------------------------------------------------------------

    @property
    def is_installed(self) -> bool:
        """Whether helm knows it."""
        return NAME in self.helm.run("list", "--short", "--namespace", NAMESPACE)

    def pods(self, name: str = "", node: Node | None = None) -> list[Object]:
        """Return its pods, of one component and one node if these are given."""
        of = f",app.kubernetes.io/name={name}" if name else ""
        selector = f"app.kubernetes.io/instance={NAME}{of}"
        found = self.api.items(f"/api/v1/namespaces/{NAMESPACE}/pods", selector)
        return [pod for pod in found if node is None or pod["spec"].get("nodeName") == node.name]

    def agent(self, node: Node) -> Object:
        """Return the pod of the node's agent, the one that is not on its way out."""
        (pod,) = [
            each
            for each in self.pods("zeus-agent", node)
            if "deletionTimestamp" not in each["metadata"]
        ]
        return pod

    def lease(self) -> Object | None:
        """Return the Lease by which one replica leads; None if it is not there."""
        return self.api.find(
            f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/zeus-operator"
        )

    def await_agents(self) -> None:
        """Wait until every node is ready, offers its GPUs and has an agent that is ready."""
        for node in self.cluster.nodes:
            is_served = functools.partial(self._is_served, node)
            eventually(is_served, f"{node.name} is served", 180.0)

    def node_of(self, pod: Object) -> Node:
        """Return the node that a pod is on."""
        (node,) = [each for each in self.cluster.nodes if each.name == pod["spec"]["nodeName"]]
        return node

    def gpus(self, node: Node) -> Simulator:
        """Return the GPUs that the chart simulates on a node that has power."""
        return Simulator(node.path(_SIMULATED_GPUS))

    def limits_watts(self, node: Node) -> list[float]:
        """Return the power limits of a node's GPUs."""
        gpus = self.gpus(node)
        return [gpus.power_limit_watts(uuid) for uuid in gpus.uuids()]

    def await_a_limit(self, node: Node) -> None:
        """Wait until a GPU of the node is held below its default."""
        eventually(
            lambda: min(self.limits_watts(node)) < DEFAULT_LIMIT_WATTS,
            f"a limit is set on {node.name}",
            120.0,
        )

    def await_limits_put_back(self, *nodes: Node) -> None:
        """Wait until every GPU of the nodes has its default again, and the agents keep no more."""

        def put_back() -> bool:
            limits = {watts for node in nodes for watts in self.limits_watts(node)}
            return limits == {DEFAULT_LIMIT_WATTS} and not any(map(self.to_put_back, nodes))

        eventually(put_back, f"limits are put back on {[node.name for node in nodes]}")

    def to_put_back(self, node: Node) -> list[str]:
        """Return what the agent keeps on the node's disk of limits that it has not put back."""
        return [each.name for each in (node.path(_AGENT_STATE) / "saved").iterdir()]

    def metrics(self, pod: Object) -> dict[str, float]:
        """Return the samples that a pod serves, by name and labels as they are written."""
        url = f"http://{pod['status']['podIP']}:8080/metrics"
        text = urllib3.request("GET", url, timeout=10.0).data.decode()
        return {name + labels: float(value) for name, labels, value in _SAMPLE.findall(text)}

    def log(self, pod: Object) -> str:
        """Return what a pod has printed."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/log"
        return self.api.text(path)

    def _is_served(self, node: Node) -> bool:
        there = self.api.get(f"/api/v1/nodes/{node.name}")
        offered = int(there["status"]["allocatable"].get("nvidia.com/gpu", 0))
        agents = self.pods("zeus-agent", node)
        return (
            is_ready(there)
            and offered == len(GPUS)
            and len(agents) == 1
            and _pod_is_ready(agents[0])
        )


def _pod_is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
