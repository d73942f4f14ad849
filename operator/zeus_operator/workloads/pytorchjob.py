"""Kubeflow `kubeflow.org/v1` PyTorchJob: a Master and Workers, or Workers alone.  Pure.

Rank 0 is the Master, or Worker 0 where there is none.  (Read at training-operator v1.8.1.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zeus_operator import names
from zeus_operator.api.problems import Problem, TemplateError
from zeus_operator.executors.pod_fields import project_other, spec_of
from zeus_operator.workloads.base import (
    JOB,
    NO_RESTART,
    PRUNED,
    RETRY,
    SPEC_PATH,
    FieldNote,
    FieldRule,
    Object,
    Place,
    PodTemplate,
    Prepared,
    WorkloadKind,
)
from zeus_operator.workloads.batch import needed, restart_problems
from zeus_operator.workloads.fields import mapping_in
from zeus_operator.workloads.labels import REPLICA_INDEX, number_of

_REPLICAS_PATH = f"{SPEC_PATH}.pytorchReplicaSpecs"
_MASTER, _WORKER = "Master", "Worker"
NO_REPLICAS = f"must have a {_MASTER}, or {_WORKER}s, or both"
_DEADLINE = "longer than specified deadline"
"""So the training-operator says it; the condition's reason is that of any failure."""


class PyTorchJobKind(WorkloadKind):
    """The adapter of PyTorchJob."""

    api_version = "kubeflow.org/v1"
    kind = "PyTorchJob"
    plural = "pytorchjobs"
    fails_by_pods_alone = True

    rules = (
        FieldRule("runPolicy", "backoffLimit", (0,), f"must be 0 or left out: {RETRY}"),
        FieldRule(
            "runPolicy",
            "cleanPodPolicy",
            ("Running",),
            "must be Running or left out: pods that have ended hold the result, and pods that "
            "outlive the run hold their GPUs",
        ),
        FieldRule(
            JOB,
            "elasticPolicy",
            (),
            "must be left out: a run whose number of pods may change can't be compared with "
            f"others, and {RETRY}",
        ),
    )

    notes = (
        FieldNote(
            "`runPolicy.backoffLimit`",
            "owned: taken off, since with one the training-operator deletes the pods that have "
            "failed. A value above 0 is refused: use `spec.retry.maxAttempts`",
        ),
        FieldNote(
            "`pytorchReplicaSpecs.*.restartPolicy`, and in the pod's template",
            "owned: `Never`. Others are refused",
        ),
        FieldNote("`runPolicy.ttlSecondsAfterFinished`", PRUNED),
        FieldNote(
            "`runPolicy.cleanPodPolicy`",
            "owned: `Running`. `All` would delete results, `None` lets Workers outlive the run",
        ),
        FieldNote("`elasticPolicy`", "refused: a run has a fixed number of pods"),
        FieldNote(
            "`runPolicy.suspend`", "passed on: a suspended child is Queued, as Kueue wants it"
        ),
        FieldNote(
            "`pytorchReplicaSpecs.Master.replicas`", "1 where it is left out; else passed on"
        ),
        FieldNote(
            "`runPolicy.activeDeadlineSeconds`, `schedulingPolicy`, `nprocPerNode`, "
            "`Worker.replicas`",
            "passed on",
        ),
        FieldNote(
            "the init container that the training-operator puts into Workers",
            "its own, and not ours: a namespace that enforces `restricted` refuses it, until "
            "`--pytorch-init-container-template-file` of the training-operator names one with a "
            "`securityContext`",
        ),
    )

    def pod_templates(self, spec: Object) -> tuple[PodTemplate, ...]:
        """Return the templates of the Master and of the Workers."""
        replicas = _replicas(spec)
        return tuple(
            PodTemplate(
                _template(replica, path),
                f"{path}.template",
                group,
                # Workers wait for their Master in an init container of the training-operator.
                more_containers=1 if group else 0,
                restarts_elsewhere=True,
            )
            for group, (path, replica) in enumerate(replicas)
        )

    def problems(self, spec: Object) -> Iterator[Problem]:
        """Yield restarts that the history would not see."""
        try:
            for path, replica in _replicas(spec):
                if replica.get("restartPolicy") not in (None, "Never"):
                    yield Problem(f"{path}.restartPolicy", NO_RESTART)
                yield from restart_problems(replica.get("template"), f"{path}.template")
        except TemplateError as error:
            yield error.problem

    def prepare(self, spec: dict[str, Any], _source: Object | None, _name: str) -> Prepared:
        """Take over retries, and what becomes of pods."""
        policy = mapping_in(spec, "runPolicy", SPEC_PATH)
        policy.pop("backoffLimit", None)
        policy.pop("ttlSecondsAfterFinished", None)
        policy["cleanPodPolicy"] = "Running"
        for path, replica in _replicas(spec):
            replica["restartPolicy"] = "Never"
            if path.endswith(_MASTER):
                replica.setdefault("replicas", 1)
        return Prepared(self.pod_templates(spec))

    def project(self, raw: Object) -> dict[str, Any]:
        """Return what is read of a PyTorchJob."""
        run_policy = spec_of(raw).get("runPolicy") or {}
        conditions = {"Succeeded": "Complete", "Failed": "Failed"}
        found = project_other(raw, self.kind, conditions, suspend=run_policy.get("suspend"))
        for each in found["status"]["conditions"]:
            if _DEADLINE in str(each.get("message") or ""):
                each["reason"] = "DeadlineExceeded"
        return found

    def place_of(self, pod: Object) -> Place:
        """Return whether it is a Worker beside a Master, and its index."""
        return (number_of(pod, names.LABEL_POD_GROUP), number_of(pod, REPLICA_INDEX), 0)


def _replicas(spec: Object) -> list[tuple[str, dict[str, Any]]]:
    """Return (path, replica) of the Master and the Workers, those that there are.

    Raises:
        TemplateError: there is neither.
    """
    specs = needed(spec, "pytorchReplicaSpecs", SPEC_PATH)
    found = []
    for name in (_MASTER, _WORKER):
        replica = specs.get(name)
        if replica is None:
            continue
        if not isinstance(replica, dict):
            raise TemplateError(f"{_REPLICAS_PATH}.{name}", f"must be a mapping, not {replica!r}")
        found.append((f"{_REPLICAS_PATH}.{name}", replica))
    if not found:
        raise TemplateError(_REPLICAS_PATH, NO_REPLICAS)
    return found


def _template(replica: Mapping[str, Any], path: str) -> Object:
    template = needed(replica, "template", path)
    needed(template, "spec", f"{path}.template")
    return template
