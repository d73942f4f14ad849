"""From the images to savings: real pods train real torch, and cost less from run to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.support.api import ApiFailure
from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.digits import JOB, Team, result_of
from tests.full_cluster.install.release import DEFAULT_LIMIT_WATTS, Release
from tests.full_cluster.pods import pod_spec
from tests.support.eventually import eventually
from zeus_runtime.protocol import Outcome

MOST_RECURRENCES = 60
"""It converges long before, or something is wrong."""
CAPPED = "a limit below the default, while a run trains"


@dataclass(frozen=True)
class Story:
    """What happened, once for all tests of the module.

    Attributes:
        checked: what `helm test` said.
        runs: of the status, the newest first.
        metrics_while_capped: of the agent on the node where a limit was seen.
    """

    team: Team
    checked: str
    runs: list[dict[str, Any]]
    metrics_while_capped: dict[str, float]


@pytest.fixture(scope="module")
def story(release: Release, make_team: MakeTeam) -> Story:
    """Install, check, apply, run, and look until it is over."""
    checked = release.check()
    team = make_team()
    team.apply()
    team.run(MOST_RECURRENCES)
    seen: dict[str, float] = {}

    def capped() -> bool:
        for node in release.cluster.nodes:
            if min(release.limits_watts(node)) < DEFAULT_LIMIT_WATTS:
                seen.update(release.metrics(release.agent(node)))
                return seen['zeus_agent_leases{namespace="' + team.namespace + '"}'] == 1
        return False

    eventually(capped, CAPPED, 120.0)
    team.await_convergence(MOST_RECURRENCES)
    return Story(team, checked, team.status["runs"], seen)


def test_helm_test_finds_the_release_well(story: Story) -> None:
    assert "Phase:          Succeeded" in story.checked
    assert "Failed" not in story.checked


def test_the_namespace_takes_nothing_but_restricted_pods(story: Story) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": pod_spec(["x"])}

    with pytest.raises(ApiFailure, match=r"violates PodSecurity .restricted"):
        story.team.api.post(f"/api/v1/namespaces/{story.team.namespace}/pods", pod)


def test_every_recurrence_has_delivered_a_model(story: Story) -> None:
    assert {run["outcome"] for run in story.runs} == {"Reached"}
    assert story.team.condition("Degraded")["status"] == "False"


def test_it_has_converged(story: Story) -> None:
    converged = story.team.condition("Converged")
    assert (converged["status"], converged["reason"]) == ("True", "Converged"), converged["message"]


def test_the_batch_size_that_it_has_found_is_another_one_than_the_default(story: Story) -> None:
    assert story.team.status["best"]["batchSize"] < story.team.job["spec"]["batchSize"]["default"]


def test_what_was_saved_is_shown(story: Story) -> None:
    savings = story.team.status["savings"]
    assert float(savings["costPercent"]) > 0
    assert "of the default's cost saved" in story.team.zeus.out("status", JOB)


def test_each_run_was_a_pod_with_a_gpu_that_left_its_result_in_its_message(story: Story) -> None:
    runs = {run["childName"]: run for run in story.runs}
    # Those of attempts that were stopped before the target have failed.
    pods = [pod for pod in story.team.pods() if pod["status"]["phase"] == "Succeeded"]
    assert pods
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        result = result_of(pod)
        assert result is not None
        assert result.outcome == Outcome.REACHED
        run = runs[pod["metadata"]["labels"]["job-name"]]
        assert (run["batchSize"], run["epochs"]) == (result.batch_size, result.epochs)
        assert run["energyJoules"] == pytest.approx(result.energy_joules, abs=1)


def test_limits_were_leases_of_the_runs_and_are_put_back(release: Release, story: Story) -> None:
    assert story.metrics_while_capped["zeus_agent_sessions"] == 1
    release.await_limits_put_back(*release.cluster.nodes)


def test_a_log_shows_the_training(story: Story) -> None:
    said = story.team.kubectl("logs", f"job/{story.runs[0]['childName']}")

    assert f"epoch {story.runs[0]['epochs']}: validation accuracy 0.9" in said


def test_history_has_every_run(story: Story) -> None:
    shown = story.team.zeus.json("history", JOB)

    assert shown["left_out"] is None
    assert {each["state"] for each in shown["recurrences"]} == {"reached"}
    assert len(shown["recurrences"]) == story.team.status["totals"]["recurrences"]


def test_explain_says_why_and_decides_the_same_again(story: Story) -> None:
    said = story.team.zeus.out("explain", JOB)

    assert "Made again on the stored history, the decision is the same." in said
