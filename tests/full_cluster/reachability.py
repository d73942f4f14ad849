"""Who reaches whom: pods that listen, and the question put from within a pod."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.support.api import Api, Object
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.images import TEST_IMAGE
from tests.full_cluster.pods import await_phase, pod_spec, shell
from tests.support.eventually import eventually

# Busybox's nc takes no `-z`: it connects, and hands the connection to a program that ends at once.
_LISTEN = """
for port in "$@"; do nc -ll -p $port -e true & done
wait
"""
# All at once: a node says "refused" some times a second only, and others have to wait to hear it.
_CONNECT = """
for each in "$@"; do
  { nc -w 3 "${each%:*}" "${each##*:}" -e true && echo "$each"; } &
done
wait
"""
_CONNECT_IN_PYTHON = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def connect(each):
    host, port = each.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return ""
    return each

with ThreadPoolExecutor(64) as pool:
    print(*pool.map(connect, sys.argv[1:]))
"""


def run_listener(
    api: Api,
    namespace: str,
    name: str,
    ports: Collection[int],
    *,
    node: str,
    labels: Mapping[str, str] | None = None,
    named: Collection[Mapping[str, Any]] = (),
) -> None:
    """Run a pod that takes connections.

    Args:
        node: which it is on; it still goes through the scheduler.
        labels: of the pod.
        named: of its container's ports, as a pod's spec has them.
    """
    spec = pod_spec([*shell(_LISTEN), "listen", *map(str, ports)], node=node)
    spec["containers"][0]["ports"] = list(named)
    metadata = {"name": name, "labels": dict(labels or {})}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    api.post(f"/api/v1/namespaces/{namespace}/pods", pod)


def await_listener(cluster: FullCluster, api: Api, namespace: str, name: str) -> Object:
    """Return a pod of `run_listener` once it takes connections from itself."""
    pod = await_phase(api, namespace, name, "Running")
    command: list[str] = pod["spec"]["containers"][0]["command"]
    own = {*addresses_of([pod], *map(int, command[command.index("listen") + 1 :]))}
    eventually(lambda: reached(cluster, pod, own) == own, f"{name} listens at {own}")
    return pod


def reached(cluster: FullCluster, pod: Object, addresses: Iterable[str]) -> set[str]:
    """Return those of `addresses`, each HOST:PORT, to which the pod can connect."""
    metadata, container = pod["metadata"], pod["spec"]["containers"][0]
    ask = ["python3", "-c", _CONNECT_IN_PYTHON]
    if container["image"] == TEST_IMAGE:
        ask = ["sh", "-c", _CONNECT, "connect"]
    place = ("--namespace", metadata["namespace"], metadata["name"], "-c", container["name"])
    return set(cluster.kubectl("exec", *place, "--", *ask, *addresses).split())


def addresses_of(pods: Iterable[Object], *ports: int) -> list[str]:
    """Return HOST:PORT of each pod and port."""
    return [f"{pod['status']['podIP']}:{port}" for pod in pods for port in ports]


@dataclass(frozen=True)
class Pods:
    """Pods that ask, and what they may ask for.

    Attributes:
        askers: of each kind one or more.
        targets: one or more HOST:PORT by a name that says what they are.
    """

    cluster: FullCluster
    askers: Mapping[str, Collection[Object]]
    targets: Mapping[str, Collection[str]]

    def await_reached(self, asker: str, expected: Collection[str]) -> None:
        """Wait until each pod of a kind reaches `expected`, all of each, and nothing else.

        What has just started is let in, and kept out, a moment later.
        """
        seen: list[set[str]] = []

        def as_expected() -> bool:
            seen[:] = [self._reached(pod) for pod in self.askers[asker]]
            return seen == [{*expected}] * len(seen)

        try:
            eventually(as_expected, f"{asker} reaches {sorted(expected)} and nothing else")
        except AssertionError as error:
            raise AssertionError(f"{error}; it reaches {seen}") from None

    def _reached(self, pod: Object) -> set[str]:
        # Itself a pod always reaches: its node's network sees nothing of that.
        itself = f"{pod['status']['podIP']}:"
        targets = {
            name: {each for each in addresses if not each.startswith(itself)}
            for name, addresses in self.targets.items()
        }
        found = reached(self.cluster, pod, sorted(set().union(*targets.values())))
        return {
            name if found.issuperset(addresses) else f"some of {name}"
            for name, addresses in targets.items()
            if found & addresses
        }
