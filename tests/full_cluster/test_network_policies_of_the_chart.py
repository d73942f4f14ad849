"""The chart's NetworkPolicies, enforced on stand-ins: who reaches whom, in full.

Stand-ins have the labels and ports of the chart's pods.  So the evaluation database, of which there
is no image here, is one of them; tests/full_cluster/install looks at a release at work.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chart.support.helm import LEAST, Helm, build_helm, merged
from tests.cluster.support.namespaces import create_namespace, remove_namespace
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.reachability import Pods, addresses_of, await_listener, run_listener

NAMESPACES = MONITORING, ELSEWHERE, STAND_INS = "monitoring", "elsewhere", "stand-ins"
AGENT_PORT, METRICS_PORT, DATABASE_PORT, OTHER_PORT = 8443, 8080, 5432, 9999
OTHERS = "pods that no policy selects"


def closed(cluster: FullCluster) -> Mapping[str, Any]:
    """Return values of the chart that close what can be closed."""
    api_server = urlsplit(cluster.plane.url)
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": MONITORING}}
    return {
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": monitoring}],
            "egress": {
                "enabled": True,
                "apiServerPorts": [api_server.port],
                "apiServerTo": [{"ipBlock": {"cidr": f"{api_server.hostname}/32"}}],
                "databaseTo": [{"ipBlock": {"cidr": f"{cluster.addresses.host}/32"}}],
            },
        }
    }


STAND_IN_VALUES = {
    "image": LEAST["image"],
    "postgresql": {"enabled": True, "persistence": {"enabled": False}, "password": "abc"},
}
MADE_OF = {
    "operator": "Deployment/zeus-operator",
    "agent": "DaemonSet/zeus-agent",
    "postgresql": "StatefulSet/zeus-postgresql",
    "helm-test": "Pod/zeus-operator-test",
}


@pytest.fixture(scope="module")
def stand_ins(
    full_cluster: FullCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """Pods of every kind of the chart's by their labels, and three that are none of them."""
    for namespace in NAMESPACES:
        create_namespace(full_cluster.plane, namespace)
    values = merged(STAND_IN_VALUES, closed(full_cluster))
    helm = Helm(build_helm(), tmp_path_factory.mktemp("helm"))
    rendered = helm.render(values, namespace=STAND_INS)
    policies = {"apiVersion": "v1", "kind": "List", "items": rendered.of_kind("NetworkPolicy")}
    full_cluster.kubectl("apply", "-f", "-", input=json.dumps(policies))
    kinds = {name: rendered.pods()[made] for name, made in MADE_OF.items()}
    places = dict.fromkeys(kinds, STAND_INS)
    places |= {"beside": STAND_INS, "elsewhere": ELSEWHERE, "monitoring": MONITORING}
    ports = (AGENT_PORT, METRICS_PORT, DATABASE_PORT, OTHER_PORT)
    with contextlib.closing(full_cluster.api()) as api:
        for number, (name, namespace) in enumerate(places.items()):
            template = kinds.get(name, {"metadata": {}, "spec": {"containers": [{}]}})
            run_listener(
                api,
                namespace,
                f"as-{name}",
                ports,
                node=full_cluster.nodes[number % 2].name,
                labels=template["metadata"].get("labels"),
                named=template["spec"]["containers"][0].get("ports", ()),
            )
        run = {
            name: await_listener(full_cluster, api, namespace, f"as-{name}")
            for name, namespace in places.items()
        }
    guarded = ("operator", "agent", "postgresql")
    yield Pods(
        full_cluster,
        {name: [pod] for name, pod in run.items()},
        {
            "API server": [urlsplit(full_cluster.plane.url).netloc],
            **{
                f"{name}:{port}": addresses_of([run[name]], port)
                for name in guarded
                for port in ports
            },
            OTHERS: addresses_of([pod for name, pod in run.items() if name not in guarded], *ports),
        },
    )
    for namespace in NAMESPACES:
        remove_namespace(full_cluster.plane, namespace)


METRICS = {f"operator:{METRICS_PORT}", f"agent:{METRICS_PORT}"}
TO_AGENT, TO_DATABASE = f"agent:{AGENT_PORT}", f"postgresql:{DATABASE_PORT}"
REACHED_BY_STAND_INS: Mapping[str, Collection[str]] = {
    "operator": {"API server", TO_AGENT, TO_DATABASE},
    "agent": {"API server"},
    "postgresql": {},
    "helm-test": {"API server", TO_AGENT, OTHERS, f"operator:{METRICS_PORT}"},
    "beside": {"API server", TO_AGENT, OTHERS},
    "elsewhere": {"API server", TO_AGENT, OTHERS},
    "monitoring": {"API server", TO_AGENT, OTHERS, *METRICS},
}


@pytest.mark.parametrize("asker", list(REACHED_BY_STAND_INS))
def test_a_stand_in_reaches_what_its_like_should_and_no_more(stand_ins: Pods, asker: str) -> None:
    stand_ins.await_reached(asker, REACHED_BY_STAND_INS[asker])
