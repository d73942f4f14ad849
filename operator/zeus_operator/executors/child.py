"""The child of one attempt, from the ZeusJob's template.  Pure.

The template goes through as it is, key for key, but for what `docs/reference/zeusjob.md` lists:
metadata, what the adapter of its kind owns (`workloads`), the environment of the containers that
train, the node affinity for `spec.gpu.product`, and what `child_additions` adds.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zeus_operator.api.checks import pod_problems
from zeus_operator.api.template import (
    TemplateError,
    TrainingContainer,
    child_spec,
    container_beside,
    container_in,
)
from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.deciding import child_name
from zeus_operator.executors.child_additions import add_agent_token, add_runtime
from zeus_operator.executors.command import injected_environment, literal
from zeus_operator.names import (
    ANNOTATION_COPY,
    API_VERSION,
    KIND,
    LABEL_ATTEMPT,
    LABEL_EXECUTION,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_POD_GROUP,
    LABEL_RECURRENCE,
)
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    DecisionRecord,
    JobRecord,
    RecurrenceKind,
)
from zeus_operator.workloads.base import Companion, PodTemplate
from zeus_operator.workloads.batch import REPLACE_DISTURBED_PODS
from zeus_operator.workloads.fields import entries, list_in, mapping_in
from zeus_operator.workloads.registry import KINDS
from zeus_runtime import protocol

__all__ = ["REPLACE_DISTURBED_PODS"]

GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
"""Label of a node, set by NVIDIA's GPU feature discovery."""

_LATE = datetime(2050, 1, 1, tzinfo=UTC)
"""A time that takes as many characters of a name as that of any run from 1972 to 2059."""

POD_MESSAGE_BYTES = 12 * 1024
"""What the kubelet keeps of all termination messages of a pod, in equal parts (its
`MaxPodTerminationMessageLogLength`)."""


@dataclass(frozen=True)
class ChildSettings:
    """What the cluster offers a run.

    Args:
        agent_address: of the agent that sets power limits; None: there is none.
        runtime_image: image that holds the runtime, for `spec.workload.injectRuntime`.
        agent_ca: certificates that sign the agent's, as PEM text; "": those that every program
            of the run trusts anyhow.
    """

    agent_address: str | None = None
    runtime_image: str | None = None
    agent_ca: str = ""


@dataclass(frozen=True)
class Manifests:
    """What is created for an attempt.

    Args:
        companion: created before the child and owned by it afterwards; None: it needs none.
    """

    child: dict[str, Any]
    companion: dict[str, Any] | None = None


def build_manifests(
    job: JobRecord,
    attempt: AttemptRecord,
    decision: protocol.Decision,
    settings: ChildSettings,
    source: Mapping[str, Any] | None = None,
) -> Manifests:
    """Return the manifests of what executes `attempt`.

    Args:
        source: what the adapter has named to be read beforehand.

    Raises:
        TemplateError: the template lacks what is needed or holds what is refused.
        protocol.ProtocolError: the decision is longer than fits into an environment.
    """
    spec = ZeusJobSpec.model_validate(job.spec)
    kind = KINDS[spec.workload.kind]
    child = copy.deepcopy(dict(child_spec(spec)))
    prepared = kind.prepare(child, source, attempt.child_name)
    _check_name(attempt.child_name, prepared.name_characters)
    labels = child_labels(job, attempt)
    if kind.marks_executions:
        labels[LABEL_EXECUTION] = str(len(attempt.executions))
    first, *others = prepared.pods
    # Of a runtime that somebody else has made, the container's name is the one thing known.
    container = container_in(first, kind.container() or spec.workload.container)
    containers = [
        container,
        *(container_beside(each, container.name) if each.trains else None for each in others),
    ]
    if source is not None:
        _check_source(spec, prepared.pods, containers)
    builder = _Pods(spec, settings, job, attempt, decision, labels, is_group=bool(others))
    for pod, trains in zip(prepared.pods, containers, strict=True):
        builder.fill(pod, trains)
    meta = spec.workload.template.metadata
    metadata: dict[str, Any] = {
        "name": attempt.child_name,
        "namespace": job.namespace,
        "labels": {**meta.labels, **labels},
        **({"annotations": dict(meta.annotations)} if meta.annotations else {}),
        "ownerReferences": [_owner(job)],
    }
    manifest = {
        "apiVersion": spec.workload.api_version,
        "kind": spec.workload.kind,
        "metadata": metadata,
        "spec": child,
    }
    if prepared.companion is None:
        return Manifests(manifest)
    return Manifests(manifest, _companion(prepared.companion, job, attempt, labels))


def _check_source(
    spec: ZeusJobSpec,
    pods: Sequence[PodTemplate],
    containers: Sequence[TrainingContainer | None],
) -> None:
    """Refuse in what the child is made from what is refused in the ZeusJob itself."""
    for problem in pod_problems(spec, pods, [each for each in containers if each]):
        raise TemplateError(problem.path, problem.message)


def _check_name(name: str, most: int | None) -> None:
    """Refuse a name that leaves no room for what is made of it.

    Args:
        most: characters that it may have; None: any.
    """
    if most is None or len(name) <= most:
        return
    job_part = name.rsplit("-", 3)[0]  # before incarnation, time and attempt
    left = max(len(job_part) - (len(name) - most), 0)
    raise TemplateError(
        "metadata.name",
        f"is too long for the names of the run's pods, which are made of it and of the names in "
        f"replicatedJobs: {left} characters are left for it; shorten it, or those names",
    )


def _companion(
    made: Companion, job: JobRecord, attempt: AttemptRecord, labels: Mapping[str, str]
) -> dict[str, Any]:
    text = json.dumps(made.spec, sort_keys=True, separators=(",", ":"))
    return {
        "apiVersion": made.api_version,
        "kind": made.kind,
        "metadata": {
            "name": attempt.child_name,
            "namespace": job.namespace,
            "labels": dict(labels),
            "annotations": {ANNOTATION_COPY: hashlib.sha256(text.encode()).hexdigest()},
            "ownerReferences": [_owner(job)],
        },
        "spec": made.spec,
    }


@dataclass(frozen=True)
class _Pods:
    """Fills the pod templates of one child.

    Args:
        is_group: the child has several templates.
    """

    spec: ZeusJobSpec
    settings: ChildSettings
    job: JobRecord
    attempt: AttemptRecord
    decision: protocol.Decision
    labels: Mapping[str, str]
    is_group: bool

    def fill(self, at: PodTemplate, container: TrainingContainer | None) -> None:
        """Put into a template what its pods need.

        Args:
            container: that trains; None: none can be told, and the pods are only labelled.
        """
        template = at.own()
        metadata = mapping_in(template, "metadata", at.path)
        marks = {**self.labels, **({LABEL_POD_GROUP: str(at.group)} if self.is_group else {})}
        mapping_in(metadata, "labels", f"{at.path}.metadata").update(marks)
        pod = mapping_in(template, "spec", at.path)
        _own_restarts(pod, at, None if container is None else container.path)
        if container is None:
            return
        if self.spec.gpu.product is not None:
            _require_gpu(pod, self.spec.gpu.product, at.pod_path)
        training = list_in(pod, "containers", at.pod_path)[container.index]
        if self.spec.workload.inject_runtime:
            if self.settings.runtime_image is None:
                raise TemplateError(
                    "spec.workload.injectRuntime",
                    "needs an image that holds the runtime, and this operator was given none",
                )
            add_runtime(pod, training, container, self.settings.runtime_image, at.pod_path)
        if self.settings.agent_address is not None:
            add_agent_token(pod, training, container.path, at.pod_path)
        variables = injected_environment(
            self.job,
            self.attempt,
            self.decision,
            result_path=training.get("terminationMessagePath") or protocol.DEFAULT_RESULT_PATH,
            result_bytes=_result_bytes(pod, at),
            agent_address=self.settings.agent_address,
        )
        if self.settings.agent_address is not None and self.settings.agent_ca:
            variables[protocol.ENV_AGENT_CA] = self.settings.agent_ca
        ours = [{"name": name, "value": literal(value)} for name, value in variables.items()]
        # `$(NAME)` sees the entries before it only.
        list_in(training, "env", container.path)[:0] = ours


def child_labels(job: JobRecord, attempt: AttemptRecord) -> dict[str, str]:
    """Return the labels by which the child of `attempt` and its pods are found."""
    return {
        LABEL_JOB: job.name,
        LABEL_JOB_UID: job.uid,
        LABEL_RECURRENCE: str(attempt.recurrence_id),
        LABEL_ATTEMPT: str(attempt.number),
    }


def dry_run_manifests(
    job: JobRecord, settings: ChildSettings, source: Mapping[str, Any] | None = None
) -> Manifests:
    """Return the manifests of a fictitious first attempt at the default batch size.

    Its name is as long as one of that ZeusJob gets.

    For the server-side dry run that tells whether the template is accepted.

    Raises:
        TemplateError: as `build_manifests`.
    """
    spec = ZeusJobSpec.model_validate(job.spec)
    rate = spec.batch_size.learning_rate
    learning_rate = None if rate is None else float(rate.default)
    batch_size = spec.batch_size.default
    attempt = AttemptRecord(
        id=0,
        recurrence_id=0,
        number=1,
        state=AttemptState.DECIDED,
        child_name=child_name(job, RecurrenceKind.LEARNED, _LATE, spec.retry.max_attempts),
        decision=DecisionRecord(batch_size, None, learning_rate, job.seed, "", ""),
        decided_at=job.created_at,
    )
    decision = protocol.Decision(
        batch_size=batch_size,
        target=float(spec.objective.metric.target),
        metric_mode=spec.objective.metric.mode.value,
        max_epochs=spec.objective.max_epochs,
        learning_rate=learning_rate,
    )
    return build_manifests(job, attempt, decision, settings, source)


def owned_by(found: Mapping[str, Any], job_uid: str, attempt: AttemptRecord) -> bool:
    """Whether `found`, as the API gives it, is the child of `attempt` of that ZeusJob."""
    metadata = found.get("metadata") or {}
    labels = metadata.get("labels") or {}
    controlled = any(
        owner.get("controller") and owner.get("uid") == job_uid
        for owner in metadata.get("ownerReferences") or ()
    )
    return (
        controlled
        and labels.get(LABEL_RECURRENCE) == str(attempt.recurrence_id)
        and labels.get(LABEL_ATTEMPT) == str(attempt.number)
    )


def _owner(job: JobRecord) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        # Deleting a ZeusJob in the foreground does not wait for its runs.
        "blockOwnerDeletion": False,
    }


def _own_restarts(pod: dict[str, Any], at: PodTemplate, training_path: str | None) -> None:
    if at.restarts_elsewhere:
        pod.pop("restartPolicy", None)
    else:
        pod["restartPolicy"] = "Never"
    for here, each in entries(pod, "containers", at.pod_path):
        trains = here == training_path
        if trains and each.get("restartPolicy") not in (None, "Never"):
            raise TemplateError(f"{here}.restartPolicy", _no_restarts("must be Never or left out"))
        rules = list(entries(each, "restartPolicyRules", here))
        if rules and (trains or any(_restarts_all(rule) for _, rule in rules)):
            raise TemplateError(f"{here}.restartPolicyRules", _no_restarts("must be left out"))


def _restarts_all(rule: Mapping[str, Any]) -> bool:
    return rule.get("action") == "RestartAllContainers"


def _no_restarts(what: str) -> str:
    return f"{what}: one attempt is one execution; set spec.retry.maxAttempts instead"


def _require_gpu(pod: dict[str, Any], product: str, pod_path: str) -> None:
    """Let the pod run on nodes with that GPU only, besides what its affinity asks for."""
    selector = pod.get("nodeSelector")
    asked = selector.get(GPU_PRODUCT_LABEL, product) if isinstance(selector, dict) else product
    if asked != product:
        raise TemplateError(
            f'{pod_path}.nodeSelector["{GPU_PRODUCT_LABEL}"]',
            f"{asked} is not spec.gpu.product, which is {product}; keep one",
        )
    path = f"{pod_path}.affinity"
    affinity = mapping_in(pod, "affinity", pod_path)
    node = mapping_in(affinity, "nodeAffinity", path)
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    wanted = {"key": GPU_PRODUCT_LABEL, "operator": "In", "values": [product]}
    path += ".nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    if required is None:
        node["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [{"matchExpressions": [wanted]}]
        }
        return
    if not isinstance(required, dict):
        raise TemplateError(path, f"must be a mapping, not {required!r}")
    for here, term in entries(required, "nodeSelectorTerms", path):
        if term:  # an empty term matches no node, and has to go on doing so
            list_in(term, "matchExpressions", here).append(copy.deepcopy(wanted))


def _result_bytes(pod: Mapping[str, Any], at: PodTemplate) -> int:
    """Return how long the result may be, bytes: what the kubelet leaves of it.

    Raises:
        TemplateError: that is too little.
    """
    containers = at.more_containers + sum(
        len(list(entries(pod, key, at.pod_path))) for key in ("containers", "initContainers")
    )
    room = min(protocol.RESULT_DEFAULT_BYTES, POD_MESSAGE_BYTES // max(containers, 1))
    if room < protocol.RESULT_MIN_BYTES:
        most = POD_MESSAGE_BYTES // protocol.RESULT_MIN_BYTES
        raise TemplateError(
            f"{at.pod_path}.containers",
            f"the pod has {containers} containers (init containers and ours included), {most} are "
            f"the most: the kubelet keeps {POD_MESSAGE_BYTES} bytes of what all of them report, "
            f"and a result needs {protocol.RESULT_MIN_BYTES}",
        )
    return room
