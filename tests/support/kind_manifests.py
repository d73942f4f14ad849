"""ZeusJobs of every kind besides Job: what is refused of them and what is taken.

By zeusctl, the operator and the API server alike.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from tests.support.manifests import TEMPLATE, VALID
from zeus_operator.workloads.registry import KINDS

Object = dict[str, Any]
Mistake = tuple[str, Object, str]
"""Kind, what the child's spec is instead, and path of what is wrong with it."""


def pod(name: str = "train", *more: Object, **fields: Any) -> Object:
    """Return a pod template; `fields` are of its first container."""
    container = {
        "name": name,
        "image": "example.org/train:1",
        "command": ["torchrun", "train.py"],
        "args": ["--batch-size=$(ZEUS_BATCH_SIZE)"],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        **fields,
    }
    return {"spec": {"containers": [container, *more]}}


def jobset(*jobs: Object, **fields: Any) -> Object:
    """Return the spec of a JobSet with entries for `jobs`, specs of Jobs, after the first."""
    every = ({"parallelism": 2, "completions": 2, "template": pod()}, *jobs)
    named = [{"name": f"of-{n}", "template": {"spec": job}} for n, job in enumerate(every)]
    return {"replicatedJobs": named, **fields}


def pytorchjob(worker: Object | None = None, **fields: Any) -> Object:
    """Return the spec of a PyTorchJob; `worker` adds to the fields of its Workers."""
    workers = {"replicas": 3, "template": pod("pytorch"), **(worker or {})}
    replicas = {"Master": {"template": pod("pytorch")}, "Worker": workers}
    return {"pytorchReplicaSpecs": replicas, **fields}


def trainjob(**trainer: Any) -> Object:
    """Return the spec of a TrainJob; `trainer` adds to what it says of the trainer."""
    said = {"command": ["torchrun", "train.py"], "args": ["$(ZEUS_BATCH_SIZE)"], **trainer}
    return {"runtimeRef": {"name": "torch"}, "trainer": said}


def zeusjob(kind: str, spec: Object, **workload: Any) -> str:
    """Return the file of a ZeusJob whose children are of `kind`."""
    made = yaml.safe_load(VALID)
    made["spec"]["batchSize"].pop("learningRate")
    made["spec"]["workload"] = {
        "apiVersion": KINDS[kind].api_version,
        "kind": kind,
        "template": {"spec": copy.deepcopy(spec)},
        **workload,
    }
    return yaml.safe_dump(made)


def _with_labels(template: Object, **labels: str) -> Object:
    return {**template, "metadata": {"labels": labels}}


def _of_reference(**fields: Any) -> Object:
    return {**trainjob(), "runtimeRef": {"name": "torch", **fields}}


_SECOND = f"{TEMPLATE}.replicatedJobs[1].template.spec"
_SECOND_POD = f"{_SECOND}.template.spec"
_WORKER = f"{TEMPLATE}.pytorchReplicaSpecs.Worker"
_OF_WORKER = f"{_WORKER}.template.spec.containers[0]"
_TAKEN = {"env": [{"name": "ZEUS_X", "value": "1"}]}
_OURS = {"zeus.energy/job": "x"}

REFUSED: Mapping[str, Mistake] = {
    "a JobSet without entries": ("JobSet", {"replicatedJobs": []}, f"{TEMPLATE}.replicatedJobs"),
    "a JobSet of nothing": ("JobSet", {}, f"{TEMPLATE}.replicatedJobs"),
    "an entry without pods": ("JobSet", jobset({"backoffLimit": 0}), f"{_SECOND}.template"),
    "restarts of a JobSet": (
        "JobSet",
        jobset(failurePolicy={"maxRestarts": 1}),
        f"{TEMPLATE}.failurePolicy.maxRestarts",
    ),
    "restarts without end": (
        "JobSet",
        jobset(failurePolicy={"rules": [{"action": "RestartJobSetAndIgnoreMaxRestarts"}]}),
        f"{TEMPLATE}.failurePolicy.rules[0].action",
    ),
    "a Service that all children would share": (
        "JobSet",
        jobset(network={"subdomain": "ranks"}),
        f"{TEMPLATE}.network.subdomain",
    ),
    "an end with any of its Jobs": (
        "JobSet",
        jobset(successPolicy={"operator": "Any"}),
        f"{TEMPLATE}.successPolicy.operator",
    ),
    "an end before that of rank 0": (
        "JobSet",
        jobset({"template": pod()}, successPolicy={"targetReplicatedJobs": ["of-1"]}),
        f"{TEMPLATE}.successPolicy.targetReplicatedJobs",
    ),
    "retries of a Job of a JobSet": (
        "JobSet",
        jobset({"backoffLimit": 3, "template": pod()}),
        f"{_SECOND}.backoffLimit",
    ),
    "retries of each rank": (
        "JobSet",
        jobset({"backoffLimitPerIndex": 1, "template": pod()}),
        f"{_SECOND}.backoffLimitPerIndex",
    ),
    "two pods of a rank": (
        "JobSet",
        jobset({"podReplacementPolicy": "TerminatingOrFailed", "template": pod()}),
        f"{_SECOND}.podReplacementPolicy",
    ),
    "a deadline of a Job of a JobSet": (
        "JobSet",
        jobset({"activeDeadlineSeconds": 60, "template": pod()}),
        f"{_SECOND}.activeDeadlineSeconds",
    ),
    "ranks one after another": (
        "JobSet",
        jobset({"parallelism": 1, "completions": 2, "template": pod()}),
        f"{_SECOND}.completions",
    ),
    "no ranks at all": (
        "JobSet",
        jobset(
            {
                "parallelism": 0,
                "completions": 0,
                "completionMode": "Indexed",
                "template": pod(),
            }
        ),
        f"{_SECOND}.parallelism",
    ),
    "ranks without numbers": (
        "JobSet",
        jobset(
            {
                "parallelism": 2,
                "completions": 2,
                "completionMode": "NonIndexed",
                "template": pod(),
            }
        ),
        f"{_SECOND}.parallelism",
    ),
    "restarts of containers": (
        "JobSet",
        jobset({"template": {"spec": {**pod()["spec"], "restartPolicy": "OnFailure"}}}),
        f"{_SECOND_POD}.restartPolicy",
    ),
    "a name of ours beside rank 0": (
        "JobSet",
        jobset({"template": pod("train", {"name": "side", **_TAKEN})}),
        f"{_SECOND_POD}.containers[1].env[0].name",
    ),
    "a label of ours beside rank 0": (
        "JobSet",
        jobset({"template": _with_labels(pod(), **_OURS)}),
        f"{_SECOND}.template.metadata.labels",
    ),
    "a name that nobody injects beside rank 0": (
        "JobSet",
        jobset({"template": pod("other", args=["$(ZEUS_BATCHSIZE)"])}),
        f"{_SECOND_POD}.containers[0].args[0]",
    ),
    "a number in the command beside rank 0": (
        "JobSet",
        jobset({"template": pod(command=["python", 3])}),
        f"{_SECOND_POD}.containers[0].command[1]",
    ),
    "a PyTorchJob without replicas": (
        "PyTorchJob",
        {"pytorchReplicaSpecs": {}},
        f"{TEMPLATE}.pytorchReplicaSpecs",
    ),
    "restarts of Workers": (
        "PyTorchJob",
        pytorchjob({"restartPolicy": "OnFailure"}),
        f"{_WORKER}.restartPolicy",
    ),
    "restarts in the pods of Workers": (
        "PyTorchJob",
        pytorchjob({"template": {"spec": {**pod("pytorch")["spec"], "restartPolicy": "Always"}}}),
        f"{_WORKER}.template.spec.restartPolicy",
    ),
    "retries of a PyTorchJob": (
        "PyTorchJob",
        pytorchjob(runPolicy={"backoffLimit": 3}),
        f"{TEMPLATE}.runPolicy.backoffLimit",
    ),
    "results deleted": (
        "PyTorchJob",
        pytorchjob(runPolicy={"cleanPodPolicy": "All"}),
        f"{TEMPLATE}.runPolicy.cleanPodPolicy",
    ),
    "a number of Workers that changes": (
        "PyTorchJob",
        pytorchjob(elasticPolicy={"minReplicas": 1}),
        f"{TEMPLATE}.elasticPolicy",
    ),
    "restarts by the launcher of Workers": (
        "PyTorchJob",
        pytorchjob({"template": pod("pytorch", command=["torchrun", "--max-restarts", "2"])}),
        f"{_OF_WORKER}.command[1]",
    ),
    "a name of ours in Workers": (
        "PyTorchJob",
        pytorchjob({"template": pod("pytorch", **_TAKEN)}),
        f"{_OF_WORKER}.env[0].name",
    ),
    "a learning rate that is not decided": (
        "PyTorchJob",
        pytorchjob({"template": pod("pytorch", args=["$(ZEUS_LEARNING_RATE)"])}),
        f"{_OF_WORKER}.args[0]",
    ),
    "a TrainJob without a runtime": (
        "TrainJob",
        {"trainer": {}},
        f"{TEMPLATE}.runtimeRef",
    ),
    "a runtime without a name": (
        "TrainJob",
        {"runtimeRef": {"kind": "TrainingRuntime"}},
        f"{TEMPLATE}.runtimeRef.name",
    ),
    "a runtime of another group": (
        "TrainJob",
        _of_reference(apiGroup="kubeflow.org"),
        f"{TEMPLATE}.runtimeRef.apiGroup",
    ),
    "a runtime of another kind": (
        "TrainJob",
        _of_reference(kind="TrainRuntime"),
        f"{TEMPLATE}.runtimeRef.kind",
    ),
    "a trainer of another shape": (
        "TrainJob",
        {**trainjob(), "trainer": "torchrun"},
        f"{TEMPLATE}.trainer",
    ),
    "torchtune": ("TrainJob", trainjob(command=["tune", "run"]), f"{TEMPLATE}.trainer.command"),
    "restarts by the launcher of a TrainJob": (
        "TrainJob",
        trainjob(command=["torchrun", "--max_restarts=3"]),
        f"{TEMPLATE}.trainer.command[1]",
    ),
    "a name of ours in a TrainJob": (
        "TrainJob",
        trainjob(**_TAKEN),
        f"{TEMPLATE}.trainer.env[0].name",
    ),
    "a name that nobody injects in a TrainJob": (
        "TrainJob",
        trainjob(env=[{"name": "A", "value": "$(ZEUS_BATCH)"}]),
        f"{TEMPLATE}.trainer.env[0].value",
    ),
    "arguments in one text": (
        "TrainJob",
        trainjob(args="--batch-size=$(ZEUS_BATCH_SIZE)"),
        f"{TEMPLATE}.trainer.args",
    ),
}


def _large(containers: int, entries: int) -> list[Object]:
    """Return containers that say much."""
    env = [{"name": f"NAME_{n}", "value": "$(ZEUS_JOB)/" + "x" * 40} for n in range(entries)]
    return [{"name": f"side-{n}", "args": ["a" * 40] * 20, "env": env} for n in range(containers)]


TAKEN: Mapping[str, tuple[str, Object]] = {
    "a JobSet": ("JobSet", jobset({"template": pod("other")}, {"template": pod()})),
    "a JobSet that says what is owned": (
        "JobSet",
        jobset(
            {
                "backoffLimit": 0,
                "completionMode": "Indexed",
                "parallelism": 3,
                "completions": 3,
                "podReplacementPolicy": "Failed",
                "template": {"spec": {**pod()["spec"], "restartPolicy": "Never"}},
            },
            failurePolicy={"maxRestarts": 0, "rules": [{"action": "FailJobSet"}]},
            successPolicy={"operator": "All", "targetReplicatedJobs": ["of-1", "of-0"]},
        ),
    ),
    "fields that are empty": (
        "JobSet",
        jobset(
            {"backoffLimit": None, "parallelism": None, "template": pod()},
            failurePolicy=None,
            successPolicy=None,
        ),
    ),
    "a JobSet of which one entry has two containers of other names": (
        "JobSet",
        jobset({"template": pod("a", {"name": "b", "args": ["$(ZEUS_UNKNOWN)"]})}),
    ),
    "a JobSet of many entries": (
        "JobSet",
        jobset(*({"template": pod("train", *_large(3, 30))} for _ in range(30))),
    ),
    "a PyTorchJob": ("PyTorchJob", pytorchjob()),
    "a PyTorchJob of Workers alone": (
        "PyTorchJob",
        {"pytorchReplicaSpecs": {"Worker": {"replicas": 2, "template": pod("pytorch")}}},
    ),
    "a PyTorchJob that says what is owned": (
        "PyTorchJob",
        pytorchjob(
            {"restartPolicy": "Never"},
            runPolicy={"backoffLimit": 0, "cleanPodPolicy": "Running"},
        ),
    ),
    "a PyTorchJob that says much": (
        "PyTorchJob",
        pytorchjob({"template": pod("pytorch", *_large(10, 100))}),
    ),
    "a TrainJob": ("TrainJob", trainjob()),
    "a TrainJob of its runtime alone": (
        "TrainJob",
        {"runtimeRef": {"name": "a", "apiGroup": "trainer.kubeflow.org", "kind": ""}},
    ),
    "a TrainJob of a runtime in its namespace": ("TrainJob", _of_reference(kind="TrainingRuntime")),
}

SHAPES: tuple[tuple[str, object], ...] = tuple(
    (kind, yaml.safe_load(text))
    for kind, text in (
        ("JobSet", "{replicatedJobs: 3, successPolicy: x, failurePolicy: x}"),
        ("JobSet", "{replicatedJobs: [3, null, {}, {template: 3}, {template: {spec: x}}]}"),
        ("JobSet", "{replicatedJobs: [{template: {spec: {template: {spec: 3, metadata: x}}}}]}"),
        ("JobSet", "{replicatedJobs: [{}], successPolicy: {targetReplicatedJobs: [x]}}"),
        ("JobSet", "{replicatedJobs: [], successPolicy: {targetReplicatedJobs: {a: b}}}"),
        ("JobSet", "{replicatedJobs: [{template: {spec: {parallelism: x, completions: {}}}}]}"),
        ("JobSet", "{failurePolicy: {rules: [3, {action: 3}], maxRestarts: x}}"),
        ("PyTorchJob", "{pytorchReplicaSpecs: 3, runPolicy: x, elasticPolicy: 3}"),
        ("PyTorchJob", "{pytorchReplicaSpecs: {Master: 3, Worker: null, Other: {}}}"),
        ("PyTorchJob", "{pytorchReplicaSpecs: {Master: {template: {spec: {containers: [3]}}}}}"),
        ("PyTorchJob", "{pytorchReplicaSpecs: {Worker: {restartPolicy: 3, template: 3}}}"),
        ("TrainJob", "{runtimeRef: 3, trainer: 3}"),
        ("TrainJob", "{runtimeRef: {name: 3, kind: 3, apiGroup: 3}, trainer: []}"),
        ("TrainJob", "{runtimeRef: {name: a}, trainer: {command: 3, env: {A: b}, args: [3, {}]}}"),
        ("TrainJob", "{runtimeRef: {name: a}, trainer: {env: [A, {name: 3}, {value: a}]}}"),
    )
)
"""Specs of children in shapes that none has."""
