"""A Prometheus that scrapes a release at work has what the dashboards ask for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.digits import JOB, Team
from tests.full_cluster.install.release import GPUS, Release
from tests.observability.support.programs import find_programs
from tests.observability.support.server import Prometheus
from tests.observability.support.server import Target as Scraped
from tests.observability.support.shipped import Rule, Target, rules, targets
from tests.support.eventually import eventually

NODE_DEFAULT_WATTS = 240.0
CHANGES = {
    # A default of the node's own, which a panel shows where there is one.
    "agent": {"policy": {"gpus": [{"model": "*V100*", "defaultWatts": NODE_DEFAULT_WATTS}]}}
}
RECURRENCES = 40
"""More than the tests wait for: something always runs."""
DATA_SECONDS = 180.0


@dataclass(frozen=True)
class Watched:
    """A release at work, and who watches it."""

    prometheus: Prometheus
    team: Team

    def as_grafana_sends_it(self, target: Target) -> str:
        """Return the expression of a panel with the reader's choices in the place of variables."""
        chosen = {
            "__rate_interval": "10s",
            "__range": "10m",
            "namespace": self.team.namespace if target.dashboard == "job" else ".*",
            "zeusjob": JOB,
            "node": ".*",
            "gpu": ".*",
        }
        return re.sub(r"\$(\w+)", lambda found: chosen[found.group(1)], target.expr)


@pytest.fixture(scope="module")
def watched(
    release: Release, make_team: MakeTeam, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """Prometheus scrapes every pod; a job has run often enough to know its savings, and runs on."""
    team = make_team()
    operators = [
        Scraped("zeus-operator", f"{pod['status']['podIP']}:8080", {})
        for pod in release.pods("zeus-operator")
    ]
    agents = [
        Scraped("zeus-agent", f"{pod['status']['podIP']}:8080", {"node": pod["spec"]["nodeName"]})
        for pod in release.pods("zeus-agent")
    ]
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(find_programs().prometheus, folder, [*operators, *agents]) as prometheus:
        team.apply()
        team.run(RECURRENCES)
        known = "its savings are known"
        eventually(lambda: "costPercent" in team.status.get("savings", {}), known, 600.0)
        yield Watched(prometheus, team)
    team.zeus.out("suspend", JOB)


def test_every_pod_is_scraped(watched: Watched, release: Release) -> None:
    pods = len(release.pods("zeus-operator")) + len(release.pods("zeus-agent"))
    assert watched.prometheus.value("sum(up)") == pods


def ask_without_a_token(release: Release) -> None:
    """Have a request refused by each agent, as a stranger's is."""
    stranger = urllib3.PoolManager(cert_reqs="CERT_NONE", timeout=10.0, retries=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
        for pod in release.pods("zeus-agent"):
            answer = stranger.request("GET", f"https://{pod['status']['podIP']}:8443/v1/node")
            assert answer.status == 401


@pytest.mark.parametrize("target", list(targets()), ids=str)
def test_every_query_of_a_panel_returns_data(
    watched: Watched, release: Release, target: Target
) -> None:
    expr = watched.as_grafana_sends_it(target)

    def data() -> list[dict[str, Any]]:
        if target.panel == "Refused requests":  # there are none where all is well
            ask_without_a_token(release)
        return watched.prometheus.query(expr)

    eventually(data, f"{target} has data: {expr}", DATA_SECONDS)


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if not rule.is_alert], ids=lambda rule: rule.name
)
def test_every_recording_rule_records(watched: Watched, rule: Rule) -> None:
    eventually(lambda: watched.prometheus.query(rule.name), f"{rule.name} has data", DATA_SECONDS)


def test_no_alert_fires_where_all_is_well(watched: Watched) -> None:
    firing = [each for each in watched.prometheus.alerts() if each["state"] == "firing"]

    assert firing == []


def test_limits_that_agents_have_set_are_seen(watched: Watched, release: Release) -> None:
    lowest = "min(min_over_time(zeus_agent_gpu_power_limit_watts[10m]))"
    eventually(lambda: watched.prometheus.value(lowest) < NODE_DEFAULT_WATTS, "a limit was scraped")
    gpus = len(GPUS) * len(release.cluster.nodes)
    assert watched.prometheus.value("count(zeus_agent_gpu_power_limit_watts)") == gpus


def test_savings_of_prometheus_are_those_of_the_status(watched: Watched) -> None:
    expr = f'zeus_job_saved_ratio{{of="cost", namespace="{watched.team.namespace}"}}'

    def agree() -> bool:
        shown = float(watched.team.status["savings"]["costPercent"])
        return abs(100 * watched.prometheus.value(f"max({expr})") - shown) < 0.1

    eventually(agree, "both say the same")
