"""However a run ends, its limit is put back, its outcome is right, and the next attempt is placed.

The simulated GPUs take their real time here, so that a run is long enough to be broken.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.support.api import Object
from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.digits import JOB, Team
from tests.full_cluster.install.release import DEFAULT_LIMIT_WATTS, Release
from tests.full_cluster.node import Node
from tests.support.eventually import eventually

CHANGES = {"gpuSimulator": {"timeScale": 1}}

# The training script, which in its first attempt takes all memory there is after three epochs.
GREEDY = """
import builtins, os, runpy

show = builtins.print

def print_and_eat(*words, **more):
    show(*words, **more)
    if os.environ["ZEUS_ATTEMPT"] == "1" and str(words[0]).startswith("epoch 3:"):
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 24))

builtins.print = print_and_eat
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.fixture
def digits(make_team: MakeTeam) -> Team:
    """A team of the test's own."""
    return make_team()


def attempts(team: Team) -> list[Object]:
    """Return the attempts of the only recurrence, as `kubectl zeus history` shows them."""
    (recurrence,) = team.zeus.json("history", JOB)["recurrences"]
    found: list[Object] = recurrence["attempts"]
    return found


def leaves_at_once(pod: Object) -> None:
    """Have no time to finish the training: the script does not heed SIGTERM."""
    pod["terminationGracePeriodSeconds"] = 1


def capped_run(release: Release, team: Team) -> tuple[Object, Node]:
    """Start a run; return its pod and node once a limit is set for it."""
    team.apply(leaves_at_once)
    team.run(1)
    pod = team.await_training()
    node = release.node_of(pod)
    release.await_a_limit(node)
    return pod, node


def outcomes(team: Team) -> list[str]:
    """Wait until the recurrence has ended; return the outcome of each attempt."""
    team.await_runs(1)
    eventually(lambda: attempts(team)[-1]["state"] == "ended", "the history says so")
    return [each["outcome"] for each in attempts(team)]


def test_a_trainer_that_is_killed_for_its_memory_is_tried_again(
    release: Release, digits: Team
) -> None:
    def greedy(pod: Object) -> None:
        (container,) = pod["containers"]
        container["command"] = ["python", "-c", GREEDY]
        container["resources"]["limits"]["memory"] = "1Gi"

    digits.apply(greedy)
    digits.run(1)

    assert outcomes(digits) == ["crashed", "reached"]
    assert "OOMKilled" in attempts(digits)[0]["detail"]
    release.await_limits_put_back(*release.cluster.nodes)


def test_an_evicted_run_goes_on_under_the_same_decision(release: Release, digits: Team) -> None:
    pod, node = capped_run(release, digits)

    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    digits.api.post(f"/api/v1/namespaces/{digits.namespace}/pods/{name}/eviction", eviction)
    release.await_limits_put_back(node)
    digits.await_training(not_the_pod=pod["metadata"]["uid"])

    assert outcomes(digits) == ["reached"]
    assert attempts(digits)[0]["executions"] == 2
    assert attempts(digits)[0]["energy_joules"] > digits.status["runs"][0]["epochs"]


@pytest.fixture
def uncordoned(release: Release) -> Iterator[None]:
    """Every node takes pods again afterwards."""
    yield
    for node in release.cluster.nodes:
        release.cluster.kubectl("uncordon", node.name)


@pytest.mark.usefixtures("uncordoned")
def test_a_run_of_a_drained_node_goes_on_on_another(release: Release, digits: Team) -> None:
    pod, node = capped_run(release, digits)

    away = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
    release.cluster.kubectl("drain", node.name, *away)
    release.await_limits_put_back(node)
    again = digits.await_training(not_the_pod=pod["metadata"]["uid"])

    assert again["spec"]["nodeName"] != node.name
    assert outcomes(digits) == ["reached"]
    assert attempts(digits)[0]["executions"] == 2


@pytest.fixture
def repaired(release: Release) -> Iterator[None]:
    """Every node has power and is served again afterwards."""
    yield
    for node in release.cluster.nodes:
        if not node.is_running:
            node.start()
    release.await_agents()


@pytest.mark.usefixtures("repaired")
def test_a_run_goes_on_after_a_power_cut_and_the_limit_is_put_back(
    release: Release, digits: Team
) -> None:
    _, node = capped_run(release, digits)

    node.power_cut()
    node.start()
    assert min(release.limits_watts(node)) < DEFAULT_LIMIT_WATTS  # GPUs are as they were
    release.await_agents()
    release.await_limits_put_back(node)

    assert outcomes(digits) == ["reached"]
    assert attempts(digits)[0]["executions"] == 2
