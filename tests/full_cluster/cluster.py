"""A whole Kubernetes cluster on this machine: real kubelets, real containers, simulated GPUs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cluster.support.api import Api
from tests.full_cluster.addresses import MAX_NODES, Addresses
from tests.full_cluster.control_plane import FullControlPlane
from tests.full_cluster.images import make_pause_image, make_test_image
from tests.full_cluster.instance import Instance
from tests.full_cluster.network import Network
from tests.full_cluster.node import Node, Surroundings
from tests.full_cluster.programs import Programs

DEFAULT_GPUS: tuple[tuple[str, ...], ...] = (("V100", "V100"), ("A40", "A40"))


class NotRoot(Exception):  # noqa: N818 - a state of the process
    """Namespaces, mounts and control groups need root."""


class FullCluster:
    """One cluster.  Use it as a context manager, or call `start` and `stop`.

    All of it dies with this process; what can stay behind then is removed when the next one starts.
    Several can run at the same time.

    Args:
        gpus: for each node the models of its GPUs; their number is that of the nodes.
        gpu_options: of all simulated boards, as `gpu_simulator.create_state` takes them.
        kubelet_options: of the kubelets' configuration, e.g. `{"maxPods": 20}`.
        controller_manager_flags: e.g. `("--node-monitor-grace-period=10s",)`.
        kept: somebody keeps it by `python -m tests.full_cluster up`.

    Attributes:
        plane: the control plane; it has `kubectl`, `kubeconfig_for`, and can be broken.
        nodes: from node-1.
    """

    plane: FullControlPlane
    nodes: tuple[Node, ...]

    def __init__(
        self,
        programs: Programs,
        *,
        gpus: Sequence[Sequence[str]] = DEFAULT_GPUS,
        gpu_options: Mapping[str, Any] | None = None,
        kubelet_options: Mapping[str, Any] | None = None,
        controller_manager_flags: tuple[str, ...] = (),
        kept: bool = False,
    ) -> None:
        if not 1 <= len(gpus) <= MAX_NODES:
            raise ValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {len(gpus)}")
        self.programs = programs
        self.nodes = ()
        self._gpus = tuple(tuple(models) for models in gpus)
        self._gpu_options = dict(gpu_options or {})
        self._kubelet_options = dict(kubelet_options or {})
        self._controller_manager_flags = controller_manager_flags
        self._kept = kept
        self._resources = contextlib.ExitStack()

    # Life ----------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until every node is ready.

        Raises:
            NotRoot: this process may not make namespaces.
            ControlPlaneError, NetworkError, NodeError: a part does not work.
            NoFreeAddresses, CgroupsUnusable: the machine can't take a cluster.
        """
        if os.geteuid() != 0:
            raise NotRoot("a whole cluster needs root, for namespaces, mounts and control groups")
        with contextlib.ExitStack() as resources:
            self._start(resources)
            self._resources = resources.pop_all()

    def stop(self) -> None:
        """End everything; nothing of it is left on the machine.  May be called again."""
        self._resources.close()

    def __enter__(self) -> FullCluster:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # Use -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Unique on this machine while it runs."""
        return self._instance.name

    @property
    def folder(self) -> Path:
        """Keys, logs and disks; removed by `stop`."""
        return self._instance.folder

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of an administrator; keys are in the file."""
        return self.plane.kubeconfig

    @property
    def addresses(self) -> Addresses:
        """What lies where in its network; `addresses.host` is this machine, as pods see it."""
        return self._instance.addresses

    def api(self) -> Api:
        """Return a client with an administrator's rights."""
        return self.plane.api()

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl as an administrator; as `ControlPlane.kubectl`."""
        return self.plane.kubectl(*arguments, input=input)

    def load_image(self, archive: Path) -> None:
        """Give every node that has power the images of an OCI archive."""
        nodes = [node for node in self.nodes if node.is_running]
        with ThreadPoolExecutor(len(self.nodes)) as pool:  # to unpack takes seconds
            list(pool.map(lambda node: node.load_image(archive), nodes))

    # Parts ---------------------------------------------------------------------

    def _start(self, resources: contextlib.ExitStack) -> None:
        self._instance = instance = Instance.claim(kept=self._kept)
        resources.callback(instance.remove)
        network = Network(
            instance.name, instance.addresses, len(self._gpus), instance.folder / "network.log"
        )
        resources.callback(network.stop)
        network.start()
        self.plane = plane = FullControlPlane(
            instance.folder / "plane",
            self.programs,
            instance.addresses,
            network.enter_control_plane,
            controller_manager_flags=self._controller_manager_flags,
        )
        resources.callback(plane.stop)
        plane.start()
        around = Surroundings(
            instance=instance,
            network=network,
            plane=plane,
            programs=self.programs,
            kube_proxy=plane.kubeconfig_of("kube-proxy", "/CN=system:kube-proxy"),
            network_policies=plane.kubeconfig_of("kube-router", "/CN=system:kube-router"),
            kubelet_options=self._kubelet_options,
            gpu_options=self._gpu_options,
        )
        self.nodes = tuple(
            Node(number, around, models) for number, models in enumerate(self._gpus, start=1)
        )
        for node in self.nodes:
            resources.callback(node.power_cut)
            node.start()
        self._load_own_images()
        for node in self.nodes:
            node.await_ready()

    def _load_own_images(self) -> None:
        folder = self.folder / "images"
        folder.mkdir()
        for archive in (make_pause_image(folder), make_test_image(folder)):
            self.load_image(archive)
        shutil.rmtree(folder)
