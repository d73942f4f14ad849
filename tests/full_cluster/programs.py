"""The programs of a whole cluster: those of the control plane, and what nodes run.

`python -m tests.full_cluster.programs` builds them and prints where they are (about seven minutes
on two cores, once).

Without KUBEBUILDER_ASSETS all are built from the Go modules in `tests/cluster/binaries`.  With it,
the control plane's come from that folder, the others are built.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.support.binaries import (
    MODULES,
    Binaries,
    BinariesUnavailable,
    build_programs,
    find_binaries,
    kubernetes_version,
)

NODE_MODULE = MODULES / "node-1.37"
NODE_PROGRAMS = {
    name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubelet", "kube-proxy", "kube-scheduler")
}
CONTAINERD_PROGRAMS = {
    name: f"github.com/containerd/containerd/v2/cmd/{name}"
    for name in ("containerd", "containerd-shim-runc-v2", "ctr")
}
RUNC_PROGRAMS = {"runc": "github.com/opencontainers/runc"}
COREDNS_MODULE = MODULES / "coredns"
COREDNS_PROGRAMS = {"coredns": "zeus-operator.test/coredns"}  # its source lies in that folder
KUBE_ROUTER_MODULE = MODULES / "kube-router"
KUBE_ROUTER_PROGRAMS = {"network-policies": "zeus-operator.test/network-policies"}  # this one, too

# Where distributions put the CNI plug-ins: Debian, then Fedora and the plug-ins' own releases.
CNI_DIRECTORIES = (Path("/usr/lib/cni"), Path("/usr/libexec/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_BRIDGES_IN_IPTABLES = Path("/proc/sys/net/bridge")
SYSTEM_PROGRAMS = (
    "busybox",
    "conntrack",
    "ip",
    "ipset",
    "iptables",
    "mount",
    "nsenter",
    "openssl",
    "unshare",
)


@dataclass(frozen=True)
class Programs:
    """Paths of the programs of one cluster.

    Attributes:
        containerd_directory: of containerd, its shim and ctr; containerd looks its shim up on PATH.
        cni_directory: of the CNI plug-ins, which come with the machine.
    """

    control_plane: Binaries
    kube_scheduler: Path
    kubelet: Path
    kube_proxy: Path
    containerd_directory: Path
    runc: Path
    coredns: Path
    network_policies: Path
    cni_directory: Path

    @property
    def containerd(self) -> Path:
        """The container runtime's daemon."""
        return self.containerd_directory / "containerd"

    @property
    def ctr(self) -> Path:
        """Its client."""
        return self.containerd_directory / "ctr"


def find_programs(environ: Mapping[str, str] = os.environ) -> Programs:
    """Return the programs, built if that was not done before (minutes, once).

    Raises:
        BinariesUnavailable: there is no Go toolchain, a build fails, or a package is missing.
    """
    cni_directory = _need_system_packages()
    control_plane = find_binaries(environ)
    node = build_programs(
        NODE_MODULE, NODE_PROGRAMS, kubernetes_version(NODE_MODULE), environ=environ
    )
    containerd = build_programs(MODULES / "containerd", CONTAINERD_PROGRAMS, environ=environ)
    # Without seccomp every sandbox fails: the kubelet asks for the runtime's default profile.
    runc = build_programs(MODULES / "runc", RUNC_PROGRAMS, tags="seccomp", environ=environ)
    coredns = _build_own(COREDNS_MODULE, COREDNS_PROGRAMS, environ)
    kube_router = _build_own(KUBE_ROUTER_MODULE, KUBE_ROUTER_PROGRAMS, environ)
    return Programs(
        control_plane=control_plane,
        kube_scheduler=node / "kube-scheduler",
        kubelet=node / "kubelet",
        kube_proxy=node / "kube-proxy",
        containerd_directory=containerd,
        runc=runc / "runc",
        coredns=coredns / "coredns",
        network_policies=kube_router / "network-policies",
        cni_directory=cni_directory,
    )


def _build_own(module: Path, programs: Mapping[str, str], environ: Mapping[str, str]) -> Path:
    # What is built is known by the module's lock and the flags; of the source, this tag tells.
    source = hashlib.sha256((module / "main.go").read_bytes()).hexdigest()[:12]
    return build_programs(module, programs, tags=f"main_{source}", environ=environ)


def _need_system_packages() -> Path:
    """Return the folder of the CNI plug-ins; raise if the machine lacks what a node needs."""
    if not _BRIDGES_IN_IPTABLES.is_dir():
        raise BinariesUnavailable(
            "a whole cluster needs the kernel's br_netfilter, so that NetworkPolicies also count "
            "between pods of one node: `modprobe br_netfilter`"
        )
    missing = [name for name in SYSTEM_PROGRAMS if shutil.which(name) is None]
    cni = [
        folder
        for folder in CNI_DIRECTORIES
        if all(os.access(folder / plugin, os.X_OK) for plugin in CNI_PLUGINS)
    ]
    if not cni:
        missing.append("the CNI plug-ins " + ", ".join(CNI_PLUGINS))
    if missing:
        raise BinariesUnavailable(
            f"a whole cluster needs {'; '.join(missing)} on this machine: run "
            "tools/system_packages.sh (Debian, Ubuntu), or install them by hand"
        )
    return cni[0]


if __name__ == "__main__":
    found = find_programs()
    for program in (
        *vars(found.control_plane).values(),
        *(value for name, value in vars(found).items() if name != "control_plane"),
    ):
        print(program)
