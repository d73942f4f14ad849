"""NetworkPolicies are enforced, on the pod's own node and from others, and kubelets go on."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.cluster.support.api import Api
from tests.cluster.support.namespaces import create_namespace, remove_namespace
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.pods import Object, await_phase, log_of, pod_spec, run_pod, shell
from tests.full_cluster.test_pods import PAGE, answers
from tests.support.eventually import eventually

PORT, OTHER_PORT = 8080, 8081
CLIENT_NODES = pytest.mark.parametrize("client_node", ["node-1", "node-2"])
FROM_FRIENDS = [{"podSelector": {"matchLabels": {"app": "friend"}}}]
NAMES = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


@pytest.fixture
def other_namespace(full_cluster: FullCluster) -> Iterator[str]:
    """Name of a second namespace."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    create_namespace(full_cluster.plane, name)
    yield name
    remove_namespace(full_cluster.plane, name)


def serve(api: Api, namespace: str, name: str = "server", node: str = "node-2") -> str:
    """Run a server on two ports, behind a Service of its name; return its pod's address.

    The kubelet looks each second whether it lives and is ready, which the server writes to its log.
    """
    script = (
        f"mkdir /www; echo -n '{PAGE}' > /www/index.html; httpd -p {OTHER_PORT} -h /www; "
        f"exec httpd -f -v -p {PORT} -h /www"
    )
    spec = pod_spec(shell(script), node=node)
    probe = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1}
    spec["containers"][0] |= {
        "ports": [{"name": "web", "containerPort": PORT}],
        "livenessProbe": {**probe, "initialDelaySeconds": 5},
        "readinessProbe": probe,
    }
    _post(api, f"/api/v1/namespaces/{namespace}/pods", "Pod", name, spec)
    service = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "web"}]}
    _post(api, f"/api/v1/namespaces/{namespace}/services", "Service", name, service)
    pod = await_phase(api, namespace, name, "Running")
    return str(pod["status"]["podIP"])


def run_clients(api: Api, namespace: str, *names: str, node: str) -> None:
    """Run pods that wait until they are asked to call somebody."""
    for name in names:
        run_pod(api, namespace, name, shell("exec sleep infinity"), node=node)
    for name in names:
        await_phase(api, namespace, name, "Running")


def restrict(api: Api, namespace: str, name: str, **spec: Any) -> None:
    """Make a policy for the pods whose label `app` is `name`."""
    chosen = {"podSelector": {"matchLabels": {"app": name}}, **spec}
    _post(api, _policies(namespace), "NetworkPolicy", name, chosen)


def _policies(namespace: str) -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"


def _post(api: Api, path: str, kind: str, name: str, spec: Object) -> None:
    metadata = {"name": name, "labels": {"app": name}}
    version = "v1" if path.startswith("/api/") else "networking.k8s.io/v1"
    api.post(path, {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})


def reaches(cluster: FullCluster, namespace: str, pod: str, url: str) -> bool:
    """Whether a pod gets the page at `url`."""
    ask = f"if timeout 2 wget -q -O - {url}; then echo; echo yes; else echo; echo no; fi"
    said = cluster.kubectl("exec", "--namespace", namespace, pod, "--", "sh", "-c", ask)
    assert said.split()[-1] in ("yes", "no"), said
    return said.split() == [*PAGE.split(), "yes"]


def await_reached(cluster: FullCluster, namespace: str, pods: Sequence[str], url: str) -> None:
    """Wait until each of the pods gets the page at `url`."""
    for pod in pods:
        reached = functools.partial(reaches, cluster, namespace, pod, url)
        eventually(reached, f"{pod} reaches {url}")


def await_kept_out(cluster: FullCluster, namespace: str, pod: str, url: str) -> None:
    """Wait until a pod does not get the page at `url`."""
    eventually(lambda: not reaches(cluster, namespace, pod, url), f"{pod} does not reach {url}")


@CLIENT_NODES
def test_a_pod_is_reached_by_whom_a_policy_names_at_the_port_that_it_names(
    api: Api, full_cluster: FullCluster, namespace: str, client_node: str
) -> None:
    address = serve(api, namespace)
    run_clients(api, namespace, "friend", "stranger", node=client_node)
    url, other_url = f"http://{address}:{PORT}/", f"http://{address}:{OTHER_PORT}/"
    service = api.get(f"/api/v1/namespaces/{namespace}/services/server")["spec"]["clusterIP"]
    for each in (url, other_url, f"http://{service}/"):
        await_reached(full_cluster, namespace, ["friend", "stranger"], each)

    ingress = [{"from": FROM_FRIENDS, "ports": [{"port": "web"}]}]
    restrict(api, namespace, "server", policyTypes=["Ingress"], ingress=ingress)

    await_kept_out(full_cluster, namespace, "stranger", url)
    assert not reaches(full_cluster, namespace, "stranger", f"http://{service}/")
    assert not reaches(full_cluster, namespace, "friend", other_url)
    assert reaches(full_cluster, namespace, "friend", url)
    assert reaches(full_cluster, namespace, "friend", f"http://{service}/")
    assert not answers(url), "this machine is a stranger, too"

    api.delete(f"{_policies(namespace)}/server")

    await_reached(full_cluster, namespace, ["stranger"], url)


@CLIENT_NODES
def test_a_policy_can_name_a_namespace(
    api: Api,
    full_cluster: FullCluster,
    namespace: str,
    other_namespace: str,
    client_node: str,
) -> None:
    url = f"http://{serve(api, namespace)}:{PORT}/"
    run_clients(api, namespace, "friend", node=client_node)
    run_clients(api, other_namespace, "friend", node=client_node)
    await_reached(full_cluster, namespace, ["friend"], url)

    label = {"kubernetes.io/metadata.name": other_namespace}
    ingress = [{"from": [{"namespaceSelector": {"matchLabels": label}}]}]
    restrict(api, namespace, "server", policyTypes=["Ingress"], ingress=ingress)

    await_kept_out(full_cluster, namespace, "friend", url)
    assert reaches(full_cluster, other_namespace, "friend", url)


@CLIENT_NODES
def test_a_pod_calls_whom_a_policy_names_and_nobody_else(
    api: Api, full_cluster: FullCluster, namespace: str, client_node: str
) -> None:
    address, other = serve(api, namespace), serve(api, namespace, "other")
    run_clients(api, namespace, "client", node=client_node)
    await_reached(full_cluster, namespace, ["client"], f"http://{other}:{PORT}/")

    to = [{"podSelector": {"matchLabels": {"app": "server"}}}]
    egress = [NAMES, {"to": to, "ports": [{"port": PORT}]}]
    restrict(api, namespace, "client", policyTypes=["Egress"], egress=egress)

    await_kept_out(full_cluster, namespace, "client", f"http://{other}:{PORT}/")
    assert not reaches(full_cluster, namespace, "client", f"http://{address}:{OTHER_PORT}/")
    assert reaches(full_cluster, namespace, "client", f"http://{address}:{PORT}/")
    # By its name: the DNS server is no pod, and its Service stands for another address.
    await_reached(full_cluster, namespace, ["client"], "http://server/")


def test_a_kubelet_looks_after_a_pod_that_nobody_may_call(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    url = f"http://{serve(api, namespace)}:{PORT}/"
    run_clients(api, namespace, "stranger", node="node-1")
    await_reached(full_cluster, namespace, ["stranger"], url)
    path = f"/api/v1/namespaces/{namespace}/pods/server"

    def conditions() -> Object:
        found = api.get(path)["status"]["conditions"]
        return {each["type"]: (each["status"], each["lastTransitionTime"]) for each in found}

    eventually(lambda: conditions()["Ready"][0] == "True", "the server is ready")
    before = conditions()

    restrict(api, namespace, "server", policyTypes=["Ingress"], ingress=[])

    await_kept_out(full_cluster, namespace, "stranger", url)
    probes = len(log_of(api, namespace, "server").splitlines())
    eventually(
        lambda: len(log_of(api, namespace, "server").splitlines()) >= probes + 4,
        "each probe has come twice",
    )
    assert conditions() == before
    assert api.get(path)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_node_that_is_on_again_enforces_what_was_said_before(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    node = full_cluster.nodes[1]
    restrict(api, namespace, "server", policyTypes=["Ingress"], ingress=[{"from": FROM_FRIENDS}])

    node.stop()
    node.start()
    node.await_ready()

    url = f"http://{serve(api, namespace, node=node.name)}:{PORT}/"
    run_clients(api, namespace, "friend", "stranger", node="node-1")
    await_reached(full_cluster, namespace, ["friend"], url)
    assert not reaches(full_cluster, namespace, "stranger", url)
