"""What becomes of a run while the release around it changes, or goes."""

from __future__ import annotations

from tests.full_cluster.install.conftest import MakeTeam
from tests.full_cluster.install.database import DatabaseForPods
from tests.full_cluster.install.digits import JOB
from tests.full_cluster.install.release import NAME, NAMESPACE, Release
from tests.support.eventually import eventually

CHANGES = {"gpuSimulator": {"timeScale": 1}}
NEW_PODS = {"operator": {"podAnnotations": {"v": "2"}}, "agent": {"podAnnotations": {"v": "2"}}}
KINDS = "pods,deployments,daemonsets,services,serviceaccounts,networkpolicies,poddisruptionbudgets"
FOR_ALL = (
    "validatingadmissionpolicies,validatingadmissionpolicybindings,validatingwebhookconfigurations,"
    "mutatingwebhookconfigurations,clusterroles,clusterrolebindings"
)


def test_an_upgrade_during_a_run_loses_nothing(release: Release, make_team: MakeTeam) -> None:
    team = make_team()
    team.apply()
    team.run(2)
    pod = team.await_training()
    node = release.node_of(pod)
    release.await_a_limit(node)
    before = {each["metadata"]["uid"] for each in release.pods()}

    release.upgrade(NEW_PODS)

    kept = {
        each["metadata"]["labels"]["app.kubernetes.io/name"]
        for each in release.pods()
        if each["metadata"]["uid"] in before and "deletionTimestamp" not in each["metadata"]
    }
    assert kept <= {"zeus-gpu-simulator", "zeus-operator-test"}
    runs = team.await_runs(2)
    assert [run["outcome"] for run in runs] == ["Reached", "Reached"]
    assert runs[1]["childName"] == pod["metadata"]["labels"]["job-name"]
    (first, _) = team.zeus.json("history", JOB)["recurrences"]
    assert [each["executions"] for each in first["attempts"]] == [1]
    release.await_limits_put_back(*release.cluster.nodes)


def test_an_uninstall_during_a_run_puts_limits_back_and_leaves_runs_and_data(
    release: Release, make_team: MakeTeam, database_server: DatabaseForPods
) -> None:
    team = make_team()
    team.apply()
    team.run(2)
    pod = team.await_training()
    node = release.node_of(pod)
    release.await_a_limit(node)
    stored = database_server.count(release.database, "attempts")

    release.uninstall()

    # No agent is left to do it later.
    release.await_limits_put_back(node)
    of_release = f"app.kubernetes.io/instance={NAME}"
    assert release.cluster.kubectl("get", KINDS, "-n", NAMESPACE, "-l", of_release) == ""
    assert release.cluster.kubectl("get", FOR_ALL, "-l", of_release) == ""
    eventually(lambda: release.lease() is None, "the Lease goes with its ServiceAccount")
    assert team.job["metadata"]["name"] == JOB
    child = pod["metadata"]["labels"]["job-name"]

    def succeeded() -> bool:
        job = team.api.get(f"/apis/batch/v1/namespaces/{team.namespace}/jobs/{child}")
        return bool(job["status"].get("succeeded"))

    eventually(succeeded, "the run that was under way has ended well", 180.0)
    assert database_server.count(release.database, "attempts") == stored

    release.install()

    runs = team.await_runs(2)
    assert [run["outcome"] for run in runs] == ["Reached", "Reached"]
    assert runs[1]["childName"] == child
