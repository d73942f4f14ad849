"""A node: containerd, kubelet, kube-proxy, policies and simulated GPUs, in its own namespaces."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_simulator import Simulator, WritableBy, create_state
from tests.cluster.support.control_plane import ControlPlane
from tests.full_cluster import cgroups
from tests.full_cluster.instance import Instance
from tests.full_cluster.network import Network
from tests.full_cluster.node_config import (
    CONTAINERD_SOCKET,
    KubeletFacts,
    cni_conflist,
    containerd_toml,
    kubelet_yaml,
)
from tests.full_cluster.node_processes import NodeError, NodeProcesses
from tests.full_cluster.programs import Programs
from tests.support.eventually import eventually

_ALWAYS = datetime.min.replace(tzinfo=UTC)
GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
# What enforces NetworkPolicies makes the chain at once, and this rule of it with all the others.
_POLICIES_CHAIN, _POLICIES_LAST_RULE = "KUBE-ROUTER-FORWARD", "--mark 0x20000/0x20000 -j ACCEPT"


@dataclass(frozen=True)
class Surroundings:
    """What all nodes of a cluster share.

    Attributes:
        kube_proxy: kubeconfig of every node's kube-proxy.
        network_policies: kubeconfig of what enforces NetworkPolicies on every node.
        kubelet_options: of the kubelet's configuration; they override the harness's own.
        gpu_options: of `gpu_simulator.create_state`, e.g. `{"time_scale": 0.05}`.
    """

    instance: Instance
    network: Network
    plane: ControlPlane
    programs: Programs
    kube_proxy: Path
    network_policies: Path
    kubelet_options: Mapping[str, Any] = field(default_factory=dict)
    gpu_options: Mapping[str, Any] = field(default_factory=dict)


class Node:
    """One node; `start` before use.

    Args:
        number: from 1.
        gpus: models of its simulated GPUs, as `gpu_simulator.create_state` takes them; none: it
            is a node without GPUs and without a device plug-in.

    Attributes:
        name: of the Node object.
        folder: what stays on its disk when it loses power.
    """

    def __init__(self, number: int, around: Surroundings, gpus: Sequence[str]) -> None:
        self.number = number
        self.name = f"node-{number}"
        self.folder = around.instance.folder / self.name
        self.address = around.instance.addresses.node(number)
        self._around = around
        self._models = tuple(gpus)
        self._processes = NodeProcesses(self.name, self.folder, _environment(around.programs))
        self._kubeconfig: Path | None = None
        self._kubelet_started = datetime.now(UTC)

    # Life ----------------------------------------------------------------------

    def start(self) -> None:
        """Switch the node on; what its disk holds is still there.

        Raises:
            NodeError: a part of it does not work.
        """
        assert not self.is_running, f"{self.name} runs already"
        try:
            self._write_files()
            cgroups.create(self._cgroup)
            self._processes.start()
            self._around.network.attach(self.number, self._processes.first_pid)
            self._start_containerd()
            self._start_kube_proxy()
            self._start_network_policies()
            self.start_kubelet()
            if self._models:
                self._start_device_plugin()
        except BaseException:
            self.power_cut()
            raise

    def stop(self) -> None:
        """Shut the node down: its programs end in order.  Pods end as with a machine halted."""
        for name in reversed(self._processes.parts):
            self._processes.end_part(name)
        self.power_cut()

    def power_cut(self) -> None:
        """Everything on the node ends at once; the API server hears nothing of it."""
        if not self._processes.are_running:
            return
        self._processes.kill()
        self._around.network.detach(self.number)
        cgroups.remove(self._cgroup)

    # Faults --------------------------------------------------------------------

    def stop_kubelet(self, *, kill: bool = False) -> None:
        """Take the kubelet away; containers go on."""
        self._processes.end_part("kubelet", kill=kill)

    def start_kubelet(self) -> None:
        """Start the kubelet; `await_ready` tells when the cluster knows."""
        self._kubelet_started = datetime.now(UTC).replace(microsecond=0)  # as the API counts
        self._processes.start_part(
            "kubelet",
            self._around.programs.kubelet,
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--kubeconfig={self._kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            *([f"--node-labels={GPU_PRODUCT_LABEL}={self._product}"] if self._models else []),
        )

    def restart_kubelet(self, *, kill: bool = False) -> None:
        """End the kubelet, by SIGKILL if `kill`, and start it again; containers go on."""
        self.stop_kubelet(kill=kill)
        self.start_kubelet()

    def restart_containerd(self, *, kill: bool = False) -> None:
        """End containerd and start it again; containers go on under their shims."""
        self._processes.end_part("containerd", kill=kill)
        self._start_containerd()

    # Use -----------------------------------------------------------------------

    def await_ready(self) -> None:
        """Wait until the cluster takes the node for ready, its GPUs counted.

        Raises:
            NodeError: it does not become ready.
        """
        api = self._around.plane.api()

        def ready() -> bool:
            self._processes.need_running()
            node = api.find(f"/api/v1/nodes/{self.name}")
            # What the kubelet before this one has said does not count.
            if node is None or not is_ready(node, since=self._kubelet_started):
                return False
            return int(node["status"]["allocatable"].get(GPU_RESOURCE, 0)) == len(self._models)

        gpus = f"{self.name} is ready and offers {len(self._models)} GPUs"
        policies = f"{self.name} enforces NetworkPolicies"
        try:
            self._await(ready, gpus, "kubelet")
            self._await(self._enforces_policies, policies, "network-policies")
        finally:
            api.close()

    def load_image(self, archive: Path) -> None:
        """Give the node the images of an OCI archive; pods say `imagePullPolicy: IfNotPresent`.

        Raises:
            NodeError: containerd does not take it.
        """
        self.ctr("images", "import", "--snapshotter", "overlayfs", str(archive.resolve()))

    def ctr(self, *arguments: str) -> str:
        """Run containerd's client on the node, for the kubelet's images; return its output."""
        socket = ("--address", CONTAINERD_SOCKET, "--namespace", "k8s.io")
        return self.run(self._around.programs.ctr, *socket, *arguments)

    def run(self, *command: str | Path) -> str:
        """Run a program in the node's namespaces; return what it prints.

        Raises:
            NodeError: it fails.
        """
        return self._processes.run(*command)

    @property
    def gpus(self) -> Simulator:
        """The node's simulated GPUs, to look at and to break."""
        return Simulator(self._gpu_state)

    def path(self, on_the_node: str) -> Path:
        """Return a file or folder of the node as this machine sees it, while the node has power."""
        return Path(f"/proc/{self._processes.first_pid}/root{on_the_node}")

    @property
    def pod_resources(self) -> Path:
        """Folder of the socket of the kubelet's PodResources API, as this machine sees it."""
        return self.folder / "kubelet" / "pod-resources"

    @property
    def is_running(self) -> bool:
        """Whether the node has power."""
        return self._processes.are_running

    def log(self, name: str, lines: int = 40) -> str:
        """Return the end of a log.

        Args:
            name: `kubelet`, `containerd`, `kube-proxy`, `network-policies` or `device-plugin`.
        """
        return self._processes.log(name, lines)

    # Parts ---------------------------------------------------------------------

    @property
    def _cgroup(self) -> str:
        return self._around.instance.cgroup(self.name)

    @property
    def _gpu_state(self) -> Path:
        return self.folder / "gpus" / "state"

    @property
    def _product(self) -> str:
        """The model as GPU feature discovery writes it into the label."""
        return self.gpus.devices()[0].name.replace(" ", "-")

    def _write_files(self) -> None:
        around, folder = self._around, self.folder
        cni = folder / "cni"
        cni.mkdir(parents=True, exist_ok=True)
        if self._kubeconfig is None:
            # One certificate: the kubelet's own as a client of the API server, and as a server.
            self._kubeconfig = around.plane.kubeconfig_of(
                self.name,
                f"/O=system:nodes/CN=system:node:{self.name}",
                f"DNS:{self.name},IP:{self.address}",
            )
        if self._models and not self._gpu_state.exists():
            self._gpu_state.parent.mkdir()
            options = {"seed": self.number, **around.gpu_options}
            create_state(self._gpu_state, self._models, writable_by=WritableBy.ROOT, **options)
        pki = around.plane.directory / "pki"
        addresses, programs = around.instance.addresses, around.programs
        (folder / "resolv.conf").write_text(f"nameserver {addresses.dns}\n")
        (cni / "10-pods.conflist").write_text(cni_conflist(addresses.pods_of(self.number)))
        (folder / "containerd.toml").write_text(
            containerd_toml(folder / "containerd", cni, programs.cni_directory, programs.runc)
        )
        facts = KubeletFacts(
            cgroup_root=self._cgroup,
            client_authority=around.plane.authority.certificate,
            certificate=pki / f"{self.name}.crt",
            key=pki / f"{self.name}.key",
            dns=addresses.dns,
            resolv_conf=folder / "resolv.conf",
            volume_plugins=folder / "volume-plugins",
        )
        (folder / "kubelet.yaml").write_text(kubelet_yaml(facts, around.kubelet_options))

    def _start_containerd(self) -> None:
        programs = self._around.programs
        self._processes.start_part(
            "containerd", programs.containerd, "-c", self.folder / "containerd.toml"
        )
        socket = Path(f"/proc/{self._processes.first_pid}/root{CONTAINERD_SOCKET}")

        def there() -> bool:
            self._processes.need_running()
            return socket.exists()

        eventually(there, f"containerd of {self.name} listens")

    def _start_kube_proxy(self) -> None:
        self._processes.start_part(
            "kube-proxy",
            self._around.programs.kube_proxy,
            f"--kubeconfig={self._around.kube_proxy}",
            f"--hostname-override={self.name}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={self._around.instance.addresses.pods}",
            "--conntrack-max-per-core=0",  # the limit is the whole machine's
        )

    def _start_network_policies(self) -> None:
        self._processes.start_part(
            "network-policies",
            self._around.programs.network_policies,
            f"--kubeconfig={self._around.network_policies}",
            f"--node={self.name}",
            f"--services={self._around.instance.addresses.services}",
        )

    def _enforces_policies(self) -> bool:
        self._processes.need_running()
        rules = self.run("iptables", "--list-rules")
        return any(
            rule.startswith(f"-A {_POLICIES_CHAIN}") and rule.endswith(_POLICIES_LAST_RULE)
            for rule in rules.splitlines()
        )

    def _await(self, condition: Callable[[], bool], what: str, part: str) -> None:
        try:
            eventually(condition, what)
        except AssertionError as error:
            raise NodeError(f"{error}; the end of {part}'s log:\n{self.log(part)}") from None

    def _start_device_plugin(self) -> None:
        module = ("-m", "gpu_simulator.control", "--state", self._gpu_state, "device-plugin")
        self._processes.start_part("device-plugin", Path(sys.executable), *module)


def is_ready(node: Mapping[str, Any], since: datetime = _ALWAYS) -> bool:
    """Whether a Node object says that it is ready, and its kubelet has said so after `since`."""
    return any(
        each["type"] == "Ready"
        and each["status"] == "True"
        and datetime.fromisoformat(each["lastHeartbeatTime"]) >= since
        for each in node["status"].get("conditions") or []
    )


def _environment(programs: Programs) -> dict[str, str]:
    """Return what every program of a node gets; containerd looks shim and runc up on PATH."""
    folders = (programs.containerd_directory, programs.runc.parent)
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path}
