"""All adapters, by kind.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.job import JobKind
from zeus_operator.workloads.jobset import JobSetKind
from zeus_operator.workloads.pytorchjob import PyTorchJobKind
from zeus_operator.workloads.trainjob import RUNTIME, TrainJobKind

JOB: WorkloadKind = JobKind()
_ALL: tuple[WorkloadKind, ...] = (JOB, JobSetKind(), PyTorchJobKind(), TrainJobKind())
KINDS: Mapping[str, WorkloadKind] = {each.kind: each for each in _ALL}
"""In the order in which they are told of."""
COMPANIONS: Mapping[str, str] = {RUNTIME: "trainingruntimes"}
"""Plural of each kind of companion."""


def kind_of_spec(spec: Mapping[str, Any]) -> WorkloadKind:
    """Return the adapter of a ZeusJob's spec as JSON."""
    return KINDS[str((spec.get("workload") or {}).get("kind") or JOB.kind)]


def kind_of_child(child: Mapping[str, Any] | None) -> WorkloadKind:
    """Return the adapter of a child; one that does not say its kind is a Job."""
    return KINDS.get(str((child or {}).get("kind") or JOB.kind), JOB)
