"""What the operator does beside its workers, with and without agents."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from kubernetes.client import Configuration

from tests.support.eventually import eventually
from tests.support.trust_cluster import TrustCluster
from zeus_operator.agents.side import Complaints, NoAgents, agents_of
from zeus_operator.executors.child import ChildSettings
from zeus_operator.kube import KubeClient
from zeus_operator.leader import LeadershipLost
from zeus_operator.metrics import Metrics
from zeus_operator.settings import OperatorSettings, ServiceName
from zeus_operator.world import World

SETTINGS = OperatorSettings(database_url="postgresql://db/zeus", identity="a")
WITH_AGENTS = replace(SETTINGS, agent_service=ServiceName("zeus-agent", "zeus-system"))


@pytest.fixture
def nobody() -> Iterator[KubeClient]:
    """A client of an API server that is away."""
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:1"
    client = KubeClient(configuration)
    yield client
    client.close()


def leads() -> None:
    """Raise nothing."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def problems(metrics: Metrics, of: str) -> float | None:
    return metrics.registry.get_sample_value("zeus_operator_agent_problems", {"of": of})


def test_without_a_service_nothing_runs_and_runs_are_told_what_is_configured(
    nobody: KubeClient,
) -> None:
    def side(settings: OperatorSettings) -> object:
        return agents_of(settings, nobody, Metrics(), World(), print, leads, utc_now)

    found = side(SETTINGS)
    assert isinstance(found, NoAgents)
    assert found.child_settings() == ChildSettings()
    found.start()
    assert found.result_of("uid", "node") is None
    assert found.shown("uid") is None
    found.stop()
    found = side(replace(SETTINGS, agent_address="gpu:443", runtime_image="i"))
    assert isinstance(found, NoAgents)
    assert found.child_settings() == ChildSettings("https://gpu:443", "i")


def test_while_nobody_knows_whom_to_trust_runs_are_told_of_no_agent(
    nobody: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    found = agents_of(WITH_AGENTS, nobody, metrics, World(), print, leads, utc_now)
    found.start()
    try:
        assert found.child_settings() == ChildSettings()
        assert "trust in agents: the API server does not answer" in caplog.text
        assert problems(metrics, "trust") == 1
        assert problems(metrics, "reports") == 0
    finally:
        found.stop()


def test_who_begins_to_lead_does_not_wait_for_what_is_published() -> None:
    """A thousand namespaces, or a webhook that hangs, hold up no run."""
    cluster = TrustCluster("team-a")
    cluster.may_read_namespaces.clear()
    found = agents_of(WITH_AGENTS, cluster, Metrics(), World(), print, leads, utc_now)
    found.start()
    try:
        told = found.child_settings()
        assert told.agent_address == "https://zeus-agent.zeus-system.svc:8443"
        assert "BEGIN CERTIFICATE" in told.agent_ca
        assert threading.current_thread() not in cluster.readers
        assert cluster.published == set()
        cluster.may_read_namespaces.set()
        eventually(lambda: cluster.published == {"zeus-system", "team-a"}, "it is published soon")
    finally:
        cluster.may_read_namespaces.set()
        found.stop()


def test_who_leads_no_more_does_nothing(
    nobody: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def guard() -> None:
        raise LeadershipLost("another replica leads")

    found = agents_of(WITH_AGENTS, nobody, Metrics(), World(), print, guard, utc_now)
    found.start()
    found.stop()
    assert caplog.text == "", "no request was made that could fail"


def test_a_complaint_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counted: list[int] = []
    complaints = Complaints("trust", counted.append)
    for wrong in (("a",), ("a",), ("a", "b"), ("b",), (), (), ("a",)):
        complaints.hear(*wrong)
    assert counted == [1, 1, 2, 1, 0, 0, 1]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["trust: a", "trust: b", "trust: all is well again", "trust: a"]
