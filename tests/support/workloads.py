"""ZeusJobs of each kind of child, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.histories import SPEC
from tests.support.local_children import attempt as decided_attempt
from tests.support.plan_facts import JOB
from zeus_operator.api.checks import problems
from zeus_operator.api.types import ZeusJob
from zeus_operator.executors.child import ChildSettings, Manifests, build_manifests
from zeus_operator.records import AttemptRecord, ExecutionRecord, JobRecord
from zeus_operator.workloads.registry import KINDS
from zeus_runtime.protocol import Decision

Object = dict[str, Any]

CHILD_NAME = "digits-0a1b2c3d-mm9a2o00-a1"
EVERYTHING = ChildSettings(agent_address="https://agent:7443", runtime_image="example.org/zeus:1")
DECISION = Decision(batch_size=64, target=0.97, metric_mode="Max", max_epochs=30)


def pod_template(container: str = "train", **pod: Any) -> Object:
    """Return a template of one container that asks for a GPU; `pod` adds to its spec."""
    training = {
        "name": container,
        "image": "example.org/train:1",
        "command": ["torchrun", "train.py"],
        "args": ["--batch-size=$(ZEUS_BATCH_SIZE)"],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    return {"spec": {"containers": [training], **pod}}


def job_of(kind: str, child_spec: Object, **workload: Any) -> JobRecord:
    """Return a ZeusJob whose children are of `kind`; `workload` adds to its workload."""
    made = {
        "apiVersion": KINDS[kind].api_version,
        "kind": kind,
        "template": {"spec": child_spec},
        **workload,
    }
    return replace(JOB, spec={**SPEC, "workload": made})


def attempt(*executions: ExecutionRecord) -> AttemptRecord:
    """Return an attempt that was executed so far so often."""
    return replace(decided_attempt(identifier=3, child_name=CHILD_NAME), executions=executions)


def made_of(
    job: JobRecord,
    source: Object | None = None,
    settings: ChildSettings = EVERYTHING,
    executions: tuple[ExecutionRecord, ...] = (),
) -> Manifests:
    """Return what is created for a run of `job`."""
    return build_manifests(job, attempt(*executions), DECISION, settings, source)


def said_of(job: JobRecord) -> dict[str, str]:
    """Return what is wrong with `job`, by path."""
    document = {
        "apiVersion": "zeus.energy/v1alpha1",
        "kind": "ZeusJob",
        "metadata": {"name": "digits"},
        "spec": job.spec,
    }
    found = problems(ZeusJob.model_validate(document))
    return {each.path: each.message for each in found}


def variables(pod: Object, container: str = "train") -> Object:
    """Return `env` of a container of a pod's spec, by name."""
    (found,) = (each for each in pod["containers"] if each["name"] == container)
    return {each["name"]: each.get("value") for each in found.get("env", ())}
