"""A run of two ranks, as each kind of child says it, and a trainer that plays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.support.endings import Ending, Held
from tests.cluster.support.pod_run import PodRun
from zeus_operator.workloads.base import RANK_ZERO
from zeus_operator.workloads.registry import KINDS

Object = dict[str, Any]

RUNTIME: Object = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "two-nodes"},
    "spec": {
        "mlPolicy": {"numNodes": 2, "torch": {"numProcPerNode": "auto"}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {
                                "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
                            },
                            "spec": {
                                "template": {
                                    "spec": {
                                        "containers": [
                                            {"name": "node", "image": "example.org/train:1"}
                                        ]
                                    }
                                }
                            },
                        },
                    }
                ]
            }
        },
    },
}


def pod(container: str = "train") -> Object:
    return {
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": "example.org/train:1",
                    "command": ["torchrun", "train.py"],
                    "args": ["--batch-size=$(ZEUS_BATCH_SIZE)"],
                    "resources": {"limits": {"nvidia.com/gpu": 1}},
                }
            ]
        }
    }


RANKS = {"parallelism": 2, "completions": 2, "completionMode": "Indexed", "template": pod()}
TRAINER = {
    "command": ["torchrun", "train.py"],
    "args": ["--batch-size=$(ZEUS_BATCH_SIZE)"],
    "resourcesPerNode": {"limits": {"nvidia.com/gpu": 1}},
}
TEMPLATES: dict[str, Object] = {
    "Job": RANKS,
    "JobSet": {"replicatedJobs": [{"name": "node", "template": {"spec": RANKS}}]},
    "PyTorchJob": {
        "pytorchReplicaSpecs": {
            "Master": {"template": pod("pytorch")},
            "Worker": {"replicas": 1, "template": pod("pytorch")},
        }
    },
    "TrainJob": {"runtimeRef": {"name": "two-nodes"}, "trainer": TRAINER},
}
"""A run of two ranks, as each kind says it."""


def is_rank_zero(kind: str, run: PodRun) -> bool:
    return KINDS[kind].place_of(run.manifest) == RANK_ZERO


@dataclass
class Ranks:
    """A trainer of two ranks: what rank 0 does and what the others do.

    Attributes:
        seen: all pods.
    """

    kind: str
    first: Callable[[PodRun], Ending | Held]
    others: Callable[[PodRun], Ending | Held] = lambda _run: Ending(0)
    seen: list[PodRun] = field(default_factory=list)

    def __call__(self, run: PodRun) -> Ending | Held:
        self.seen.append(run)
        return self.first(run) if is_rank_zero(self.kind, run) else self.others(run)
