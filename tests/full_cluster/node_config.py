"""The configuration files of a node's programs, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import yaml

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CLUSTER_DOMAIN = "cluster.local"
PAUSE_IMAGE = "localhost/pause:1"

# `/run` of a node is a file system of its own, empty after each start, as that of a machine.
_CONTAINERD = """\
version = 3
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  # Lowering a score needs a right that a container on some test machines does not have.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{cni_directory}"]
  conf_dir = "{cni_configuration}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  Root = "/run/runc"
"""


@dataclass(frozen=True)
class KubeletFacts:
    """What a kubelet has to know about its node and its cluster."""

    cgroup_root: str
    client_authority: Path
    certificate: Path
    key: Path
    dns: IPv4Address
    resolv_conf: Path
    volume_plugins: Path


def containerd_toml(root: Path, cni_configuration: Path, cni_directory: Path, runc: Path) -> str:
    """Return containerd's configuration; images and containers are kept under `root`."""
    return _CONTAINERD.format(
        root=root,
        socket=CONTAINERD_SOCKET,
        pause=PAUSE_IMAGE,
        cni_directory=cni_directory,
        cni_configuration=cni_configuration,
        runc=runc,
    )


def cni_conflist(pods: IPv4Network) -> str:
    """Return the network of a node's pods: a bridge, and addresses out of `pods`."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        # Only kube-proxy masquerades: pods see each other's addresses, as Kubernetes wants it.
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni/addresses",  # forgotten with the pods when the node starts anew
            "ranges": [[{"subnet": str(pods)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]})


def kubelet_yaml(facts: KubeletFacts, more: Mapping[str, Any]) -> str:
    """Return a kubelet's configuration; `more` overrides."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{facts.cgroup_root}",
            "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(facts.client_authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(facts.certificate),
            "tlsPrivateKeyFile": str(facts.key),
            "clusterDNS": [str(facts.dns)],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": str(facts.resolv_conf),
            "volumePluginDir": str(facts.volume_plugins),
            # The disk is the whole machine's: how full it is says nothing about this node.
            "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            **more,
        }
    )
