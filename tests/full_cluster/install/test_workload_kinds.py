"""JobSets, PyTorchJobs and TrainJobs of real pods: two ranks, one on each node, learn as one job.

The kinds' controllers are the projects' own, as processes beside the control plane; the ranks find
each other through the cluster's DNS and network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.support.api import Object
from tests.cluster.support.workload_controllers import WorkloadControllers
from tests.full_cluster.cluster import FullCluster
from tests.full_cluster.install import workloads
from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.digits import JOB, Team, result_of
from tests.full_cluster.install.release import DEFAULT_LIMIT_WATTS, Release
from tests.full_cluster.install.workloads import KINDS_OF_RANKS, RANKS
from tests.full_cluster.node import Node
from tests.support.eventually import eventually
from zeus_runtime.protocol import Outcome, Result

CHANGES = {
    "operator": {"workloads": ["Job", *KINDS_OF_RANKS]},
    # Slower than elsewhere: steps of GPUs, not messages, are to take most of a run's time.
    "gpuSimulator": {"timeScale": 0.6},
}
RECURRENCES = 4
IDLE_WATTS = 25.0
"""What a simulated V100 draws while nobody uses it."""


@dataclass(frozen=True)
class Story:
    """What happened to one kind's ZeusJob, once for all tests of it.

    Attributes:
        nodes: of the pods that trained when both limits were first seen.
        runs: of the status, the newest first.
        attempts: of all runs as `kubectl zeus history` tells them, the newest last.
        child: of the newest run, which alone is kept.
        drawn_joules: by all GPUs meanwhile, less what they draw anyway.
    """

    kind: str
    team: Team
    nodes: set[str]
    runs: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    child: Object
    drawn_joules: float

    def result(self) -> Result:
        """Return what rank 0 of the newest run has left."""
        result = result_of(workloads.pod_of_rank_0(self.team, self.kind, self.child))
        assert result is not None
        return result


@pytest.fixture(scope="module")
def controllers(
    full_cluster: FullCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkloadControllers]:
    """The controllers of all kinds, for an operator that finds them there."""
    with WorkloadControllers(
        full_cluster.plane,
        tmp_path_factory.mktemp("controllers"),
        address=str(full_cluster.addresses.host),
        init_container=workloads.INIT_CONTAINER,
    ) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS_OF_RANKS)
def story(
    request: pytest.FixtureRequest,
    controllers: WorkloadControllers,
    release: Release,
    make_team: MakeTeam,
) -> Story:
    """Apply, run, and look until it is over."""
    kind: str = request.param
    team = make_team()
    before = _drawn_joules(release)
    workloads.apply(team, kind)
    team.run(RECURRENCES)
    nodes: set[str] = set()

    def both_are_held() -> bool:
        nodes.clear()
        nodes.update(pod["spec"]["nodeName"] for pod in team.pods() if _runs(pod))
        return all(_is_held(release, team, node) for node in release.cluster.nodes)

    eventually(both_are_held, "both ranks hold a limit", 120.0)
    runs = team.await_runs(RECURRENCES)
    drawn = _drawn_joules(release) - before
    eventually(lambda: len(workloads.children(team, kind)) == 1, "one child is left")
    (child,) = workloads.children(team, kind)
    recurrences = team.zeus.json("history", JOB)["recurrences"]
    attempts = [attempt for each in recurrences for attempt in each["attempts"]]
    return Story(kind, team, nodes, runs, attempts, child, drawn)


def _runs(pod: Object) -> bool:
    return bool(pod["status"].get("phase") == "Running")


def _drawn_joules(release: Release) -> float:
    """Return what all GPUs have drawn since they are there, above what they draw anyway."""
    counters = [
        gpus.true_energy_joules(uuid)
        for gpus in map(release.gpus, release.cluster.nodes)
        for uuid in gpus.uuids()
    ]
    return sum(counters) - len(counters) * IDLE_WATTS * time.monotonic()


def _is_held(release: Release, team: Team, node: Node) -> bool:
    """Whether a GPU of the node has a limit below the default, by the one lease of the team."""
    metrics = release.metrics(release.agent(node))
    leases = metrics.get(f'zeus_agent_leases{{namespace="{team.namespace}"}}')
    return leases == 1 and min(release.limits_watts(node)) < DEFAULT_LIMIT_WATTS


def test_every_recurrence_reaches_its_target(story: Story) -> None:
    assert [run["outcome"] for run in story.runs] == ["Reached"] * RECURRENCES
    assert story.team.condition("Degraded")["status"] == "False"


def test_the_ranks_trained_on_two_nodes_each_under_a_limit(story: Story, release: Release) -> None:
    assert story.nodes == {node.name for node in release.cluster.nodes}


def test_rank_0_tells_of_both_gpus(story: Story) -> None:
    newest, result = story.attempts[-1], story.result()

    assert (result.outcome, result.gpu_count) == (Outcome.REACHED, RANKS)
    assert result.max_power_watts == RANKS * DEFAULT_LIMIT_WATTS
    assert (newest["batch_size"], newest["epochs"]) == (result.batch_size, result.epochs)
    assert newest["energy_joules"] == pytest.approx(result.energy_joules)


def test_energy_is_that_of_both_gpus(story: Story) -> None:
    counted = sum(
        attempt["energy_joules"] - RANKS * IDLE_WATTS * attempt["time_seconds"]
        for attempt in story.attempts
    )

    # Both draw alike: that of one alone would be half.
    assert 0.75 < counted / story.drawn_joules < 1.05


def test_limits_are_put_back(story: Story, release: Release) -> None:
    release.await_limits_put_back(*release.cluster.nodes)


def test_it_learns_from_run_to_run(story: Story) -> None:
    tried = {attempt["batch_size"] for attempt in story.attempts}
    said = story.team.zeus.out("explain", JOB)

    assert len(tried) > 1
    assert story.team.status["best"]["batchSize"] in tried
    assert "Made again on the stored history, the decision is the same." in said


def test_children_beyond_the_history_limits_are_gone_with_all_of_them(story: Story) -> None:
    team, kind = story.team, story.kind

    name = story.child["metadata"]["name"]
    assert name == story.runs[0]["childName"]
    eventually(lambda: len(team.pods()) <= RANKS, "no pods are left but its own")
    made = [name] if kind == "TrainJob" else []
    eventually(lambda: workloads.runtimes(team) == made, "no runtimes are left but its own")
