"""A release whose NetworkPolicies are closed as far as they go works, and lets in nobody else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from tests.cluster.support.api import Api
from tests.cluster.support.namespaces import create_namespace
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.digits import JOB
from tests.full_cluster.install.release import NAMESPACE, Release
from tests.full_cluster.reachability import Pods, addresses_of, await_listener, run_listener
from tests.full_cluster.test_network_policies_of_the_chart import (
    AGENT_PORT,
    DATABASE_PORT,
    METRICS_PORT,
    MONITORING,
    OTHER_PORT,
    OTHERS,
    closed,
)

ELSEWHERE = "elsewhere"

changes_on = closed
"""Values of the release."""


@pytest.fixture(scope="module")
def others(full_cluster: FullCluster) -> Iterator[None]:
    """Namespaces besides the release's."""
    names = (MONITORING, ELSEWHERE)
    for name in names:
        create_namespace(full_cluster.plane, name)
    yield
    for name in names:
        full_cluster.kubectl("delete", "namespace", name, "--timeout=120s")


@pytest.fixture(scope="module")
def at_work(release: Release, api: Api, others: None) -> Pods:
    """The release's pods, and three that are none of it."""
    cluster = release.cluster
    release.await_agents()
    operators, agents = release.pods("zeus-operator"), release.pods("zeus-agent")
    api_server = urlsplit(cluster.plane.url)
    # What the policies name, but at others, and what they do not name.
    ports = (AGENT_PORT, DATABASE_PORT, OTHER_PORT, api_server.port or 0)
    places = {"beside": NAMESPACE, "elsewhere": ELSEWHERE, "monitoring": MONITORING}
    for name, namespace in places.items():
        run_listener(api, namespace, name, ports, node=agents[0]["spec"]["nodeName"])
    others_run = {
        name: [await_listener(cluster, api, namespace, name)] for name, namespace in places.items()
    }
    return Pods(
        cluster,
        {"operator": operators, "agent": agents, **others_run},
        {
            "API server": [api_server.netloc],
            "database": [f"{cluster.addresses.host}:{DATABASE_PORT}"],
            "operator's metrics": addresses_of(operators, METRICS_PORT),
            "agent": addresses_of(agents, AGENT_PORT),
            "agent's metrics": addresses_of(agents, METRICS_PORT),
            OTHERS: addresses_of([pod for (pod,) in others_run.values()], *ports),
        },
    )


UNGUARDED = {"API server", "database", "agent", OTHERS}
"""What a pod reaches that no policy selects."""
REACHED_AT_WORK: Mapping[str, Collection[str]] = {
    "operator": {"API server", "database", "agent"},
    # "agent" is the other node's, which egress does not allow: kube-router takes what a policy lets
    # in for let out as well, where one policy has both types and selects both pods.
    "agent": {"API server", "agent"},
    "beside": UNGUARDED,
    "elsewhere": UNGUARDED,
    "monitoring": {*UNGUARDED, "operator's metrics", "agent's metrics"},
}


@pytest.mark.parametrize("asker", list(REACHED_AT_WORK))
def test_a_pod_reaches_of_the_release_what_it_should_and_no_more(at_work: Pods, asker: str) -> None:
    at_work.await_reached(asker, REACHED_AT_WORK[asker])


@pytest.mark.parametrize("asker", ["operator", "agent"])
def test_a_pod_of_the_release_resolves_names(at_work: Pods, asker: str) -> None:
    script = f"import socket; socket.getaddrinfo('zeus-operator.{NAMESPACE}.svc', {METRICS_PORT})"
    for pod in at_work.askers[asker]:
        enter = ("exec", "--namespace", NAMESPACE, pod["metadata"]["name"], "--")
        at_work.cluster.kubectl(*enter, "python3", "-c", script)


def test_helm_test_finds_the_release_well(release: Release) -> None:
    checked = release.check()

    assert "Phase:          Succeeded" in checked
    assert "Failed" not in checked


def test_a_run_trains_under_a_limit_and_its_energy_is_known(
    release: Release, make_team: MakeTeam
) -> None:
    team = make_team()
    team.apply()
    team.run(1)

    release.await_a_limit(release.node_of(team.await_training()))
    (run,) = team.await_runs(1)

    assert run["outcome"] == "Reached"
    assert run["energyJoules"] > 0
    (recurrence,) = team.zeus.json("history", JOB)["recurrences"]
    assert len(recurrence["attempts"]) == 1
    release.await_limits_put_back(*release.cluster.nodes)


def test_operators_have_the_agents_reports(at_work: Pods) -> None:
    (monitoring,) = at_work.askers["monitoring"]
    enter = ("exec", "--namespace", MONITORING, monitoring["metadata"]["name"], "--")
    said = "".join(
        at_work.cluster.kubectl(*enter, "wget", "-q", "-O", "-", f"http://{each}/metrics")
        for each in at_work.targets["operator's metrics"]
    )

    problems = [line for line in said.splitlines() if line.startswith("zeus_operator_agent_pr")]
    assert len(problems) == 2 * len(at_work.askers["operator"]), said
    assert {float(line.split()[-1]) for line in problems} == {0}


def test_kubelets_are_let_in(at_work: Pods, release: Release) -> None:
    for pod in (*release.pods("zeus-operator"), *release.pods("zeus-agent")):
        conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]
