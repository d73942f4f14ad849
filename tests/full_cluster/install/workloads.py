"""The example as a ZeusJob of two ranks, for each kind of child that has a controller of its own.

Rank and address of rank 0 come as the kind's users get them: a JobSet's pods are called after it, a
PyTorchJob sets torch's variables, a TrainJob those of torchrun.  Those are handed on to the script:
the torchrun of Debian's torch can't talk to others, since it wants libuv, which Debian leaves out.
Addresses are names of headless Services.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.support.api import Object
from tests.full_cluster.install.digits import EXAMPLE, EXAMPLE_IMAGE, Team
from zeus_operator.workloads.base import RANK_ZERO
from zeus_operator.workloads.registry import KINDS

RANKS = 2
_SCRIPT = Path(__file__).with_name("digits_of_ranks.py")
_COMMAND = ["python", f"/script/{_SCRIPT.name}"]
_RUNTIME = "two-ranks"
_ALONE = {"example": "digits-of-ranks"}
"""Labels of pods of which a node gets one."""

INIT_CONTAINER = f"""\
- name: init-pytorch
  image: {EXAMPLE_IMAGE}
  command: [sh, -c, "until getent hosts {{{{.MasterAddr}}}}; do sleep 0.2; done"]
  securityContext:
    allowPrivilegeEscalation: false
    capabilities: {{drop: [ALL]}}
"""
"""In which Workers wait for their Master.

The training-operator's own is refused by a namespace that enforces `restricted`, and its image is
in a registry.
"""


def apply(team: Team, kind: str) -> None:
    """Apply the ZeusJob, and what its pods need."""
    document = copy.deepcopy(EXAMPLE)
    document["spec"] |= {"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}
    document["spec"]["workload"] = {
        "apiVersion": KINDS[kind].api_version,
        "kind": kind,
        "template": {"spec": _TEMPLATES[kind]()},
    }
    script = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "script"},
        "data": {_SCRIPT.name: _SCRIPT.read_text()},
    }
    objects = [script, *([_runtime()] if kind == "TrainJob" else []), document]
    team.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))


def children(team: Team, kind: str) -> list[Object]:
    """Return the children of a kind that are there."""
    adapter = KINDS[kind]
    path = f"/apis/{adapter.api_version}/namespaces/{team.namespace}/{adapter.plural}"
    return team.api.items(path)


def runtimes(team: Team) -> list[str]:
    """Return the names of the runtimes that the operator has made for TrainJobs."""
    path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{team.namespace}/trainingruntimes"
    names = [str(each["metadata"]["name"]) for each in team.api.items(path)]
    return [name for name in names if name != _RUNTIME]


def pod_of_rank_0(team: Team, kind: str, child: Object) -> Object:
    """Return the pod of a child that has the run's result."""
    begin = f"{child['metadata']['name']}-"
    (pod,) = [
        each
        for each in team.pods()
        if each["metadata"]["name"].startswith(begin) and KINDS[kind].place_of(each) == RANK_ZERO
    ]
    return pod


def _pod(container: str, *env: Mapping[str, Any]) -> Object:
    """Return the template of the example's pods, with the script of several ranks."""
    example = EXAMPLE["spec"]["workload"]["template"]["spec"]["template"]["spec"]
    spec: Object = copy.deepcopy(example)
    (first,) = spec["containers"]
    path = "/opt/zeus:/opt/example"  # the runtime, and what the script has from the example
    first |= {"name": container, "command": _COMMAND}
    first["env"] += [
        {"name": "PYTHONPATH", "value": path},
        {"name": "USE_LIBUV", "value": "0"},
        *env,
    ]
    first["volumeMounts"] = [{"name": "script", "mountPath": "/script"}]
    spec["volumes"] = [{"name": "script", "configMap": {"name": "script"}}]
    term = {"labelSelector": {"matchLabels": _ALONE}, "topologyKey": "kubernetes.io/hostname"}
    once = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    spec["affinity"] = {"podAntiAffinity": once}
    return {"metadata": {"labels": _ALONE}, "spec": spec}


def _jobset() -> Object:
    env = (
        _of_label("RANK", "batch.kubernetes.io/job-completion-index"),
        {"name": "WORLD_SIZE", "value": str(RANKS)},
        _of_label("JOBSET", "jobset.sigs.k8s.io/jobset-name"),
        {"name": "MASTER_ADDR", "value": "$(JOBSET)-rank-0-0.$(JOBSET)"},
        {"name": "MASTER_PORT", "value": "29500"},
    )
    job = {"parallelism": RANKS, "completions": RANKS, "template": _pod("train", *env)}
    return {"replicatedJobs": [{"name": "rank", "template": {"spec": job}}]}


def _of_label(name: str, label: str) -> Object:
    path = f"metadata.labels['{label}']"
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _pytorchjob() -> Object:
    return {
        "pytorchReplicaSpecs": {
            "Master": {"template": _pod("pytorch")},
            "Worker": {"replicas": RANKS - 1, "template": _pod("pytorch")},
        }
    }


def _trainjob() -> Object:
    (container,) = _pod("node")["spec"]["containers"]
    given = {
        "RANK": "PET_NODE_RANK",
        "WORLD_SIZE": "PET_NNODES",
        "MASTER_ADDR": "PET_MASTER_ADDR",
        "MASTER_PORT": "PET_MASTER_PORT",
    }
    return {
        "runtimeRef": {"kind": "TrainingRuntime", "name": _RUNTIME},
        "trainer": {
            "numNodes": RANKS,
            "numProcPerNode": 1,
            "command": ["env", *(f"{name}=$({of})" for name, of in given.items()), *_COMMAND],
            "args": container["args"],
            "resourcesPerNode": container["resources"],
        },
    }


def _runtime() -> Object:
    """Return the runtime that a cluster's administrators would have made for such runs."""
    pod = _pod("node")
    del pod["spec"]["containers"][0]["args"]
    mark = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    job = {
        "name": "node",
        "template": {"metadata": {"labels": mark}, "spec": {"template": pod}},
    }
    return {
        "apiVersion": KINDS["TrainJob"].api_version,
        "kind": "TrainingRuntime",
        "metadata": {"name": _RUNTIME},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {"spec": {"replicatedJobs": [job]}},
        },
    }


_TEMPLATES: dict[str, Callable[[], Object]] = {
    "JobSet": _jobset,
    "PyTorchJob": _pytorchjob,
    "TrainJob": _trainjob,
}
KINDS_OF_RANKS = tuple(_TEMPLATES)
