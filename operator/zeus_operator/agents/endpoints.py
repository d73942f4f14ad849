"""Where the agents are, by node, from the EndpointSlices of their Service.  Pure.

(https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SERVICE_LABEL = "kubernetes.io/service-name"
PORT_NAME = "https"
"""Of the Service's port where agents serve; with one port alone its name does not matter."""


@dataclass(frozen=True)
class AgentEndpoint:
    """The agent of one node.

    Args:
        host: its pod's address.
        is_ready: it says that it serves.
    """

    node: str
    host: str
    port: int
    is_ready: bool = True


def endpoints_of(slices: Iterable[Mapping[str, Any]]) -> dict[str, AgentEndpoint]:
    """Return the agent of each node; of two on one node the one that is ready."""
    found: dict[str, AgentEndpoint] = {}
    for each in slices:
        port = _port(each)
        if port is None:
            continue
        for endpoint in each.get("endpoints") or ():
            node, addresses = endpoint.get("nodeName"), endpoint.get("addresses") or ()
            if not node or not addresses:
                continue
            # Not known counts as ready (API page of EndpointSlice).
            is_ready = (endpoint.get("conditions") or {}).get("ready") is not False
            known = found.get(node)
            if known is None or (is_ready and not known.is_ready):
                found[node] = AgentEndpoint(str(node), str(addresses[0]), port, is_ready)
    return found


def _port(one: Mapping[str, Any]) -> int | None:
    ports = [each for each in one.get("ports") or () if each.get("port")]
    named = [each for each in ports if each.get("name") == PORT_NAME]
    chosen = named or (ports if len(ports) == 1 else [])
    return int(chosen[0]["port"]) if chosen else None
