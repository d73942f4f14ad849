"""A PyTorchJob: its Master has rank 0, nothing restarts, results stay until they are read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import api_objects as api
from tests.support.workloads import job_of, made_of, pod_template, said_of, variables
from zeus_operator.executors.child import POD_MESSAGE_BYTES
from zeus_operator.workloads.base import RANK_ZERO
from zeus_operator.workloads.registry import KINDS

KIND = KINDS["PyTorchJob"]
SPEC = "spec.workload.template.spec"
REPLICAS = f"{SPEC}.pytorchReplicaSpecs"


def pytorchjob(*names: str, run_policy: dict[str, Any] | None = None, **fields: Any) -> Any:
    replicas = {name: {"template": pod_template("pytorch")} for name in names}
    policy = {} if run_policy is None else {"runPolicy": run_policy}
    return {"pytorchReplicaSpecs": replicas, **policy, **fields}


def both(**fields: Any) -> Any:
    return pytorchjob("Master", "Worker", **fields)


def replicas_of(child: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = child["spec"]["pytorchReplicaSpecs"]
    return found


def test_master_and_workers_know_the_decision_and_their_place() -> None:
    child = made_of(job_of("PyTorchJob", both(), injectRuntime=True)).child

    assert (child["apiVersion"], child["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    for name, group in (("Master", "0"), ("Worker", "1")):
        template = replicas_of(child)[name]["template"]
        assert template["metadata"]["labels"]["zeus.energy/pod-group"] == group
        assert variables(template["spec"], "pytorch")["ZEUS_BATCH_SIZE"] == "64"
        assert template["spec"]["containers"][0]["command"][0] == "/zeus/launch"
    assert "zeus.energy/execution" not in child["metadata"]["labels"]


def test_a_workers_result_leaves_room_for_the_container_that_waits_for_its_master() -> None:
    sides = [{"name": f"side-{index}"} for index in range(4)]
    spec = both()
    for replica in spec["pytorchReplicaSpecs"].values():
        replica["template"]["spec"]["containers"] += sides
    child = made_of(job_of("PyTorchJob", spec, container="pytorch")).child

    room = {
        name: variables(replica["template"]["spec"], "pytorch")["ZEUS_RESULT_BYTES"]
        for name, replica in replicas_of(child).items()
    }
    assert room == {
        "Master": str(POD_MESSAGE_BYTES // 5),
        "Worker": str(POD_MESSAGE_BYTES // 6),
    }


def test_it_tries_once_and_keeps_the_pods_that_have_ended() -> None:
    policy = {"backoffLimit": 0, "ttlSecondsAfterFinished": 5, "activeDeadlineSeconds": 60}
    child = made_of(job_of("PyTorchJob", both(run_policy=policy))).child

    # With a backoffLimit, even of 0, pods that have failed are deleted with their results.
    assert child["spec"]["runPolicy"] == {"activeDeadlineSeconds": 60, "cleanPodPolicy": "Running"}
    for replica in replicas_of(child).values():
        assert replica["restartPolicy"] == "Never"
        # In the template as well it would be a warning of the training-operator's.
        assert "restartPolicy" not in replica["template"]["spec"]
    assert replicas_of(child)["Master"]["replicas"] == 1


REFUSED: dict[str, tuple[Any, str]] = {
    "retries": (both(run_policy={"backoffLimit": 3}), f"{SPEC}.runPolicy.backoffLimit"),
    "results deleted": (
        both(run_policy={"cleanPodPolicy": "All"}),
        f"{SPEC}.runPolicy.cleanPodPolicy",
    ),
    "workers that outlive the run": (
        both(run_policy={"cleanPodPolicy": "None"}),
        f"{SPEC}.runPolicy.cleanPodPolicy",
    ),
    "a number of pods that changes": (
        both(elasticPolicy={"minReplicas": 1}),
        f"{SPEC}.elasticPolicy",
    ),
    "replicas that restart": (
        {
            "pytorchReplicaSpecs": {
                "Worker": {"template": pod_template(), "restartPolicy": "ExitCode"}
            }
        },
        f"{REPLICAS}.Worker.restartPolicy",
    ),
    "pods that restart": (
        {"pytorchReplicaSpecs": {"Master": {"template": pod_template(restartPolicy="Always")}}},
        f"{REPLICAS}.Master.template.spec.restartPolicy",
    ),
    "no replica": ({"pytorchReplicaSpecs": {}}, REPLICAS),
    "no replicas at all": ({}, REPLICAS),
    "no pod": ({"pytorchReplicaSpecs": {"Worker": {}}}, f"{REPLICAS}.Worker.template"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_with_its_path(case: str) -> None:
    spec, path = REFUSED[case]

    assert set(said_of(job_of("PyTorchJob", spec))) == {path}


@pytest.mark.parametrize(
    ("labels", "is_first"),
    [
        ({"zeus.energy/pod-group": "0", "training.kubeflow.org/replica-index": "0"}, True),
        ({"zeus.energy/pod-group": "1", "training.kubeflow.org/replica-index": "0"}, False),
        ({"training.kubeflow.org/replica-index": "0"}, True),
        ({"training.kubeflow.org/replica-index": "1"}, False),
    ],
    ids=["the Master", "Worker 0 beside it", "Worker 0 alone", "Worker 1"],
)
def test_rank_0_is_the_master_or_else_worker_0(labels: dict[str, str], is_first: bool) -> None:
    pod = api.pod()
    pod["metadata"]["labels"] |= labels

    assert (KIND.place_of(pod) == RANK_ZERO) is is_first


def test_workers_alone_are_in_one_group() -> None:
    child = made_of(job_of("PyTorchJob", pytorchjob("Worker"))).child

    labels = replicas_of(child)["Worker"]["template"]["metadata"]["labels"]
    assert "zeus.energy/pod-group" not in labels


def raw(*conditions: dict[str, Any], **run_policy: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", "uid": "u"},
        "spec": {"runPolicy": run_policy},
        "status": {"startTime": api.stamp(3), "conditions": list(conditions)},
    }


def test_its_end_is_that_of_a_job() -> None:
    found = KIND.project(
        raw(api.condition("Created"), api.condition("Succeeded", "PyTorchJobSucceeded"))
    )

    assert found["kind"] == "PyTorchJob"
    assert found["status"]["startTime"] == api.stamp(3)
    assert [each["type"] for each in found["status"]["conditions"]] == ["Complete"]


def test_it_is_suspended_by_its_run_policy() -> None:
    assert KIND.project(raw(suspend=True))["spec"] == {"suspend": True}
    assert KIND.project(raw(suspend=False))["spec"] == {"suspend": False}


def test_a_deadline_is_told_from_other_failures_by_its_words() -> None:
    words = "Job n has failed because it was active longer than specified deadline"
    other = "PyTorchJob n is failed because 1 Worker replica(s) failed."

    def reason(message: str) -> str:
        failed = api.condition("Failed", "PyTorchJobFailed", message)
        return str(KIND.project(raw(failed))["status"]["conditions"][0]["reason"])

    assert reason(words) == "DeadlineExceeded"
    assert reason(other) == "PyTorchJobFailed"


def test_a_pod_is_its_own_if_it_controls_it() -> None:
    assert KIND.owns({"metadata": {"uid": api.JOB_UID}}, api.pod())
    assert not KIND.owns({"metadata": {"uid": "another"}}, api.pod())
