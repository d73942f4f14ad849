"""Pods really run: what they write, where they reach, how they end."""

from __future__ import annotations

import pytest
import urllib3

from tests.cluster.support.api import Api
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.pods import Object, await_phase, ended, log_of, pod_spec, run_pod, shell
from tests.support.eventually import eventually

PAGE = "from the server"


def serve(api: Api, namespace: str, node: str) -> Object:
    """Run a server on the node behind the Service `web`; return its pod."""
    script = f"mkdir /www; echo -n '{PAGE}' > /www/index.html; exec httpd -f -p 8080 -h /www"
    run_pod(api, namespace, "server", shell(script), node=node)
    ports = [{"port": 80, "targetPort": 8080}]
    api.post(
        f"/api/v1/namespaces/{namespace}/services",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "server"}, "ports": ports},
        },
    )
    return await_phase(api, namespace, "server", "Running")


def answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, timeout=2.0, retries=False).data.decode() == PAGE
    except urllib3.exceptions.HTTPError:  # the rules for the Service are not there yet
        return False


def test_a_job_runs_through_and_leaves_its_log_and_its_message(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    script = "echo trained; echo -n converged > /dev/termination-log"
    template = {"spec": pod_spec(shell(script))}
    api.post(
        f"/apis/batch/v1/namespaces/{namespace}/jobs",
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "train"},
            "spec": {"backoffLimit": 0, "template": template},
        },
    )

    def succeeded() -> bool:
        job = api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/train")
        return bool(job["status"].get("succeeded"))

    eventually(succeeded, "the Job has succeeded")
    pods = api.items(f"/api/v1/namespaces/{namespace}/pods", "job-name=train")
    assert ended(pods[0])["message"] == "converged"
    assert log_of(api, namespace, pods[0]["metadata"]["name"]) == "trained\n"


@pytest.mark.parametrize("client_node", ["node-1", "node-2"])
def test_a_pod_reaches_a_service_by_name_from_any_node(
    api: Api, full_cluster: FullCluster, namespace: str, client_node: str
) -> None:
    serve(api, namespace, node="node-2")

    # By the short name, as programs in a pod use it: the resolver's search path is part of it.
    ask = "until timeout 2 wget -q -O - http://web/; do sleep 0.2; done"
    run_pod(api, namespace, "client", shell(ask), node=client_node)
    await_phase(api, namespace, "client", "Succeeded")

    assert log_of(api, namespace, "client").endswith(PAGE)


def test_this_machine_reaches_pods_and_services_by_their_addresses(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    pod = serve(api, namespace, node="node-2")
    service = api.get(f"/api/v1/namespaces/{namespace}/services/web")

    eventually(lambda: answers(f"http://{pod['status']['podIP']}:8080/"), "the pod answers")
    eventually(lambda: answers(f"http://{service['spec']['clusterIP']}/"), "the Service answers")


def test_a_container_above_its_memory_limit_is_killed_and_keeps_its_message(
    api: Api, full_cluster: FullCluster, namespace: str
) -> None:
    # `tail` keeps the last line, all of 256 MiB here.
    script = "echo -n 'epoch 3' > /dev/termination-log; head -c 268435456 /dev/zero | tail"
    run_pod(api, namespace, "greedy", shell(script), limits={"memory": "32Mi"})

    pod = await_phase(api, namespace, "greedy", "Failed", "Succeeded")

    assert ended(pod)["reason"] == "OOMKilled"
    assert ended(pod)["exitCode"] == 137
    assert ended(pod)["message"] == "epoch 3"


def test_a_command_runs_in_a_container(api: Api, full_cluster: FullCluster, namespace: str) -> None:
    run_pod(api, namespace, "waits", shell("exec sleep infinity"))
    await_phase(api, namespace, "waits", "Running")

    said = full_cluster.kubectl("exec", "-n", namespace, "waits", "--", "hostname")

    assert said == "waits\n"
