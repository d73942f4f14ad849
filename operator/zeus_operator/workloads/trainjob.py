"""Kubeflow `trainer.kubeflow.org` TrainJob: a runtime, and what is special about a run.  Pure.

The pods come from the runtime that is referred to, and a TrainJob can change little of them.  So
each child gets a runtime of its own: a copy of that one with what the operator puts into pods.
(`docs/decisions/workload-adapters.md`; read at trainer v2.0.0.)

Rank 0 is index 0 of the Job that is marked as the trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from zeus_operator import names
from zeus_operator.api.problems import Problem, TemplateError
from zeus_operator.executors.pod_fields import project_other, spec_of
from zeus_operator.workloads.base import (
    RANK_ZERO,
    SPEC_PATH,
    Companion,
    FieldNote,
    Object,
    Place,
    PodTemplate,
    Prepared,
    Right,
    Source,
    WorkloadKind,
)
from zeus_operator.workloads.batch import needed, template_of, whole_number
from zeus_operator.workloads.jobset import jobs_of, own_jobs, room_for_coordinator, room_for_name
from zeus_operator.workloads.labels import (
    COMPLETION_INDEX,
    JOB_INDEX,
    number_of,
)

GROUP = "trainer.kubeflow.org"
_API_VERSION = f"{GROUP}/v1alpha1"
RUNTIME, CLUSTER_RUNTIME = "TrainingRuntime", "ClusterTrainingRuntime"
_PLURALS = {RUNTIME: "trainingruntimes", CLUSTER_RUNTIME: "clustertrainingruntimes"}
_STEP_LABEL = f"{GROUP}/trainjob-ancestor-step"
_TRAINER = "trainer"
NODE = "node"
"""Name of the container that a TrainJob's `trainer` is about."""

_REF_PATH = f"{SPEC_PATH}.runtimeRef"
_TRAINER_PATH = f"{SPEC_PATH}.trainer"
TORCHTUNE = ["tune", "run"]
NO_TORCHTUNE = (
    "must not be torchtune's: its recipe is chosen by the name of the runtime, and each run has a "
    "copy of its own; start the recipe by torchrun instead"
)
OTHER_GROUP = f"must be {GROUP} or left out"
OTHER_KIND = f"must be {RUNTIME} or {CLUSTER_RUNTIME}"
_LIKE_A_CONTAINER = ("image", "command", "args", "env")


class TrainJobKind(WorkloadKind):
    """The adapter of TrainJob."""

    api_version = _API_VERSION
    kind = "TrainJob"
    plural = "trainjobs"
    marks_executions = True
    companion = RUNTIME
    rights = (
        Right(GROUP, _PLURALS[RUNTIME], ("get", "create", "patch", "delete")),
        Right(GROUP, _PLURALS[CLUSTER_RUNTIME], ("get",), is_cluster_wide=True),
    )

    notes = (
        FieldNote(
            "`runtimeRef`",
            "owned: names a `TrainingRuntime` that is made for this child and goes with it, a copy "
            "of yours. In the copy retries, `successPolicy`, `activeDeadlineSeconds` and the "
            "lengths of names are as in a JobSet (rank 0 is the trainer's), and the pods have what "
            "the operator puts into them",
        ),
        FieldNote(
            "`runtimeRef` to a runtime with `mpi` or with an `elasticPolicy`",
            "refused when the child is made: its processes do not get the pod's environment, or "
            "change in number",
        ),
        FieldNote(
            "what the pods of a runtime hold",
            "refused when the child is made, as in a template: `--max-restarts` above 0, `env` "
            "names that begin with `ZEUS_`, `$(ZEUS_…)` that nobody injects, labels that begin "
            f"with `{names.GROUP}/`; and of its Jobs `backoffLimitPerIndex` above 0",
        ),
        FieldNote(
            "in the JobSet of a runtime: `failurePolicy.rules[]` that restart without end, "
            "`network.subdomain`, a `coordinator` whose address gets longer than 63 characters",
            "refused when the child is made, as in a JobSet",
        ),
        FieldNote(
            "`trainer.command`",
            "passed on, in the copy. `[tune, run]` is refused: torchtune's recipe is chosen by the "
            "name of the runtime, which a copy does not have",
        ),
        FieldNote(
            "`trainer.env`, `trainer.args`, `trainer.image`, `trainer.resourcesPerNode`, "
            "`trainer.numNodes`",
            "passed on. Our variables stand first in the runtime's container, before yours",
        ),
        FieldNote("`suspend`", "passed on: a suspended child is Queued, as Kueue wants it"),
        FieldNote(
            "`initializer`, `podSpecOverrides`, `labels`, `annotations`, `managedBy`", "passed on"
        ),
    )

    def pod_templates(self, spec: Object) -> tuple[PodTemplate, ...]:
        """Return what the TrainJob itself says of the container that trains."""
        trainer = spec.get("trainer")
        if trainer is not None and not isinstance(trainer, Mapping):
            raise TemplateError(_TRAINER_PATH, f"must be a mapping, not {trainer!r}")
        said = trainer or {}
        container = {key: said[key] for key in _LIKE_A_CONTAINER if said.get(key) is not None}
        if said.get("resourcesPerNode") is not None:
            container["resources"] = said["resourcesPerNode"]
        pod = {"containers": [{"name": NODE, **container}]}
        return (PodTemplate({"spec": pod}, SPEC_PATH, own_path=_TRAINER_PATH, is_partial=True),)

    def problems(self, spec: Object) -> Iterator[Problem]:
        """Yield a runtime that can't be copied."""
        try:
            _reference(spec)
        except TemplateError as error:
            yield error.problem
        trainer = spec.get("trainer")
        if isinstance(trainer, Mapping) and trainer.get("command") == TORCHTUNE:
            yield Problem(f"{_TRAINER_PATH}.command", NO_TORCHTUNE)

    def source(self, spec: Object, namespace: str) -> Source | None:
        """Return the runtime."""
        kind, name = _reference(spec)
        where = namespace if kind == RUNTIME else None
        return Source(_API_VERSION, kind, _PLURALS[kind], where, name)

    def prepare(self, spec: dict[str, Any], source: Object | None, name: str) -> Prepared:
        """Make the runtime of this child, and let the child refer to it."""
        kind, runtime_name = _reference(spec)
        here = f"{kind} {runtime_name}: spec"
        runtime = copy.deepcopy(dict(needed(source or {}, "spec", f"{kind} {runtime_name}")))
        _refuse_policies(runtime)
        jobset = needed(needed(runtime, "template", here), "spec", f"{here}.template")
        if not isinstance(jobset, dict):
            raise TemplateError(f"{here}.template.spec", f"must be a mapping, not {jobset!r}")
        path = f"{here}.template.spec"
        nodes, first = _nodes(spec, runtime), _trainer_in(jobset, path)
        own_jobs(jobset, path, is_alone=nodes <= 1, first=first)
        pods = _pods(jobset, path, first)
        # The trainer says of every Job how many pods it has.
        room = min(
            room_for_name(
                entry,
                whole_number(entry, "replicas"),
                nodes if index == first else whole_number(job, "parallelism"),
            )
            for index, (entry, (_, job)) in enumerate(
                zip(jobset["replicatedJobs"], jobs_of(jobset, path), strict=True)
            )
        )
        room = min(room, room_for_coordinator(jobset))
        _take_command(spec, pods[0])
        spec["runtimeRef"] = {"apiGroup": GROUP, "kind": RUNTIME, "name": name}
        return Prepared(pods, Companion(_API_VERSION, RUNTIME, runtime), name_characters=room)

    def without_companion(self, spec: dict[str, Any], template: Object) -> dict[str, Any]:
        """Return it with the runtime that it is copied from."""
        return {**spec, "runtimeRef": template.get("runtimeRef")}

    def container(self) -> str | None:
        """Return the name that the trainer looks for."""
        return NODE

    def project(self, raw: Object) -> dict[str, Any]:
        """Return what is read of a TrainJob."""
        conditions = {"Complete": "Complete", "Failed": "Failed"}
        return project_other(raw, self.kind, conditions, suspend=spec_of(raw).get("suspend"))

    def place_of(self, pod: Object) -> Place:
        """Return Job and completion index; the trainer's Job is the first."""
        return (
            number_of(pod, names.LABEL_POD_GROUP),
            number_of(pod, JOB_INDEX),
            number_of(pod, COMPLETION_INDEX),
        )

    def trains(self, pod: Object) -> bool:
        """Return whether it is the trainer's: the others prepare the run."""
        return self.place_of(pod)[0] == RANK_ZERO[0]


def _reference(spec: Object) -> tuple[str, str]:
    """Return kind and name of the runtime.

    Raises:
        TemplateError: none is named, or one of another kind.
    """
    reference = needed(spec, "runtimeRef", SPEC_PATH)
    name = reference.get("name")
    if not isinstance(name, str) or not name:
        raise TemplateError(f"{_REF_PATH}.name", "is required")
    if reference.get("apiGroup") not in (None, GROUP):
        raise TemplateError(f"{_REF_PATH}.apiGroup", OTHER_GROUP)
    kind = reference.get("kind") or CLUSTER_RUNTIME
    if kind not in _PLURALS:
        raise TemplateError(f"{_REF_PATH}.kind", OTHER_KIND)
    return kind, name


def _refuse_policies(runtime: Object) -> None:
    policy = runtime.get("mlPolicy") or {}
    if policy.get("mpi") is not None:
        raise TemplateError(
            _REF_PATH,
            "names a runtime whose processes are started by mpirun: they do not get the "
            "environment of their pod; use one with torch, or a plain one",
        )
    if (policy.get("torch") or {}).get("elasticPolicy") is not None:
        raise TemplateError(
            _REF_PATH,
            "names a runtime with an elasticPolicy: a run whose number of nodes may change can't "
            "be compared with others; use one with a fixed number of nodes",
        )


def _nodes(spec: Object, runtime: Object) -> int:
    """Return how many pods train: what the TrainJob says, else what its runtime does."""
    trainer = spec.get("trainer") or {}
    if trainer.get("numNodes") is not None:
        return whole_number(trainer, "numNodes")
    return whole_number(runtime.get("mlPolicy") or {}, "numNodes")


def _trainer_in(jobset: Object, path: str) -> int:
    """Return the place of the trainer among the entries of a runtime.

    Raises:
        TemplateError: there is none.
    """
    jobs_of(jobset, path)  # then the entries can be read
    steps = [_step(entry) for entry in jobset["replicatedJobs"]]
    if _TRAINER not in steps:
        raise TemplateError(
            _REF_PATH, f"names a runtime none of whose Jobs is labelled {_STEP_LABEL}: {_TRAINER}"
        )
    return steps.index(_TRAINER)


def _pods(jobset: Object, path: str, first: int) -> tuple[PodTemplate, ...]:
    """Return the templates of a runtime, the trainer's first.

    Args:
        first: place of the trainer.
    """
    jobs = jobs_of(jobset, path)
    order = [first, *(index for index in range(len(jobs)) if index != first)]
    found = []
    for group, index in enumerate(order):
        where, job = jobs[index]
        at = template_of(job, where)
        found.append(PodTemplate(at.template, at.path, group, trains=index == first))
    return tuple(found)


def _step(entry: Object) -> str:
    metadata = (entry.get("template") or {}).get("metadata") or {}
    return str((metadata.get("labels") or {}).get(_STEP_LABEL) or "")


def _take_command(spec: Object, trainer: PodTemplate) -> None:
    """Let the copy have the command that runs: a launcher may have to go in front of it there."""
    said = spec.get("trainer") or {}
    for container in trainer.template["spec"].get("containers") or ():
        if isinstance(container, dict) and container.get("name") == NODE:
            if said.get("command") is not None:
                container["command"] = said.pop("command")
            if said.get("args"):
                container.pop("args", None)  # those of the TrainJob take their place
            return
