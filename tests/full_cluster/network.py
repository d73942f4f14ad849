"""The cluster's network: a bridge in a namespace of its own, and one link to this machine.

The bridge is not on the host, where the host's firewall and whatever else filters bridged traffic
would have a say.  The namespace is held by a process, not by a name: with the process go the
bridge and every link.  The control plane runs in it; each node has a namespace of its own.

The host gets one interface and routes: it reaches the API server, nodes, pods, and Services (by
way of the first node's kube-proxy).  There is no way from the cluster to the world.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.cluster.support.processes import end, spawn
from tests.full_cluster.addresses import Addresses
from tests.support.eventually import eventually

_BRIDGE = "nodes"
_BRIDGE_MAC = "02:00:00:00:00:02"  # locally administered; nothing else is in its namespace


class NetworkError(Exception):
    """`ip` refuses something; the text holds what it says."""


def program(name: str) -> str:
    """Return the path of a program of the machine.

    Raises:
        FileNotFoundError: it isn't there.
    """
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"no program `{name}` on PATH: tools/system_packages.sh installs it"
        )
    return path


def net_namespace(pid: int) -> str:
    """Identify the network namespace of a process."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


class Network:
    """The links of one cluster.

    Args:
        name: of the host's interface, 15 characters at most.
        node_count: how many nodes there can be.
        log: file that the namespace's holder may write to.
    """

    def __init__(self, name: str, addresses: Addresses, node_count: int, log: Path) -> None:
        self._name = name
        self._addresses = addresses
        self._nodes = range(1, node_count + 1)
        self._log = log
        self._holder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the bridge and connect this machine to it."""
        sleep = [program("unshare"), "--net", program("sleep"), "infinity"]
        self._holder = holder = spawn(sleep, self._log)
        eventually(
            lambda: _alive(holder) and net_namespace(holder.pid) != net_namespace(os.getpid()),
            "a network namespace for the control plane",
        )
        addresses = self._addresses
        _ip([f"link add {self._name} type veth peer name host netns {holder.pid}"])
        inside = self.enter_control_plane
        _ip(
            [
                "link set lo up",
                # An address of its own: else it has the lowest of its links', another one once
                # that node is gone, and whoever remembers it talks to nobody for half a minute.
                f"link add {_BRIDGE} address {_BRIDGE_MAC} type bridge",
                f"link set host master {_BRIDGE} up",
                f"address add {addresses.control_plane}/24 dev {_BRIDGE}",
                f"link set {_BRIDGE} up",
                *self._routes(_BRIDGE, self._nodes),
                # The API server calls webhooks by their Service's address.
                f"route add {addresses.services} via {addresses.node(1)} dev {_BRIDGE}",
            ],
            inside,
        )
        _ip(
            [
                f"address add {addresses.host}/24 dev {self._name}",
                f"link set {self._name} up",
                *self._routes(self._name, self._nodes),
                f"route add {addresses.services} via {addresses.node(1)} dev {self._name}",
            ]
        )

    @property
    def enter_control_plane(self) -> list[str]:
        """Command that starts another one in the control plane's namespace."""
        assert self._holder is not None, "not started"
        return [program("nsenter"), f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def attach(self, number: int, pid: int) -> None:
        """Connect the namespace of the process `pid` as a node; a link of before is replaced."""
        self.detach(number)
        link, addresses = f"node-{number}", self._addresses
        _ip(
            [
                f"link add {link} type veth peer name eth0 netns {pid}",
                f"link set {link} master {_BRIDGE} up",
            ],
            self.enter_control_plane,
        )
        others = [other for other in self._nodes if other != number]
        inside = [program("nsenter"), f"--net=/proc/{pid}/ns/net", "--"]
        _ip(
            [
                "link set lo up",
                f"address add {addresses.node(number)}/24 dev eth0",
                "link set eth0 up",
                *self._routes("eth0", others),
                # Looked up before kube-proxy's rules turn it into a pod's address.
                f"route add {addresses.services} dev eth0",
            ],
            inside,
        )

    def detach(self, number: int) -> None:
        """Remove the node's link, if there is one."""
        _run([*self.enter_control_plane, program("ip"), "link", "del", f"node-{number}"], True)

    def stop(self) -> None:
        """Remove bridge and links; the processes in the namespace must have ended."""
        if self._holder is None:
            return
        remove_link(self._name)
        end(self._holder, kill=True)
        self._holder = None

    def _routes(self, device: str, nodes: Iterable[int]) -> list[str]:
        addresses = self._addresses
        return [
            f"route add {addresses.pods_of(number)} via {addresses.node(number)} dev {device}"
            for number in nodes
        ]


def remove_link(name: str) -> None:
    """Remove this machine's link to a cluster, if there is one.

    At once; the kernel would do it some time after the cluster's last process has ended.
    """
    _run([program("ip"), "link", "del", name], may_fail=True)


def _alive(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise NetworkError(
            f"the process that holds the network namespace ended with {process.returncode}: "
            "making namespaces needs root"
        )
    return True


def _ip(commands: Sequence[str], enter: Sequence[str] = ()) -> None:
    _run([*enter, program("ip"), "-batch", "-"], input="\n".join(commands) + "\n")


def _run(command: Sequence[str], may_fail: bool = False, *, input: str = "") -> None:
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not may_fail:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip()}\n{input}")
