"""The `batch/v1 Job` of one attempt, from the ZeusJob's template.  Pure.

The template goes through as it is, key for key, but for what `docs/reference/zeusjob.md` lists:
metadata, retries, pruning, the environment of the container that trains, the node affinity for
`spec.gpu.product`, and what `child_additions` adds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zeus_operator.api.template import (
    POD_PATH,
    SPEC_PATH,
    TemplateError,
    TrainingContainer,
    job_spec,
    training_container,
)
from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.deciding import child_name
from zeus_operator.executors.child_additions import add_agent_token, add_runtime
from zeus_operator.executors.child_fields import entries, list_in, mapping_in
from zeus_operator.executors.command import injected_environment, literal
from zeus_operator.names import (
    API_VERSION,
    KIND,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_RECURRENCE,
)
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    DecisionRecord,
    JobRecord,
    RecurrenceKind,
)
from zeus_runtime import protocol

GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
"""Label of a node, set by NVIDIA's GPU feature discovery."""

POD_MESSAGE_BYTES = 12 * 1024
"""What the kubelet keeps of all termination messages of a pod, in equal parts (its
`MaxPodTerminationMessageLogLength`)."""

REPLACE_DISTURBED_PODS = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
}
"""A pod that was evicted, preempted or lost with its node is no failure: the Job replaces it."""


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


def build_child(
    job: JobRecord,
    attempt: AttemptRecord,
    decision: protocol.Decision,
    settings: ChildSettings,
) -> dict[str, Any]:
    """Return the manifest of the Job that executes `attempt`.

    Raises:
        TemplateError: the template lacks what is needed or holds what is refused.
        protocol.ProtocolError: the decision is longer than fits into an environment.
    """
    spec = ZeusJobSpec.model_validate(job.spec)
    container = training_container(spec)
    labels = child_labels(job, attempt)
    child = copy.deepcopy(dict(job_spec(spec)))
    _own_retries(child)
    template = mapping_in(child, "template", SPEC_PATH)
    metadata = mapping_in(template, "metadata", f"{SPEC_PATH}.template")
    mapping_in(metadata, "labels", f"{SPEC_PATH}.template.metadata").update(labels)
    pod = mapping_in(template, "spec", f"{SPEC_PATH}.template")
    _own_restarts(pod, container)
    if spec.gpu.product is not None:
        _require_gpu(pod, spec.gpu.product)
    training = list_in(pod, "containers", POD_PATH)[container.index]
    if spec.workload.inject_runtime:
        if settings.runtime_image is None:
            raise TemplateError(
                "spec.workload.injectRuntime",
                "needs an image that holds the runtime, and this operator was given none",
            )
        add_runtime(pod, training, container, settings.runtime_image)
    if settings.agent_address is not None:
        add_agent_token(pod, training, container.path)
    variables = injected_environment(
        job,
        attempt,
        decision,
        result_path=training.get("terminationMessagePath") or protocol.DEFAULT_RESULT_PATH,
        result_bytes=_result_bytes(pod),
        agent_address=settings.agent_address,
    )
    if settings.agent_address is not None and settings.agent_ca:
        variables[protocol.ENV_AGENT_CA] = settings.agent_ca
    ours = [{"name": name, "value": literal(value)} for name, value in variables.items()]
    # `$(NAME)` sees the entries before it only.
    list_in(training, "env", container.path)[:0] = ours
    meta = spec.workload.template.metadata
    return {
        "apiVersion": spec.workload.api_version,
        "kind": spec.workload.kind,
        "metadata": {
            "name": attempt.child_name,
            "namespace": job.namespace,
            "labels": {**meta.labels, **labels},
            **({"annotations": dict(meta.annotations)} if meta.annotations else {}),
            "ownerReferences": [_owner(job)],
        },
        "spec": child,
    }


def child_labels(job: JobRecord, attempt: AttemptRecord) -> dict[str, str]:
    """Return the labels by which the child of `attempt` and its pods are found."""
    return {
        LABEL_JOB: job.name,
        LABEL_JOB_UID: job.uid,
        LABEL_RECURRENCE: str(attempt.recurrence_id),
        LABEL_ATTEMPT: str(attempt.number),
    }


def dry_run_child(job: JobRecord, settings: ChildSettings) -> dict[str, Any]:
    """Return the manifest of a fictitious first attempt: the default batch size, a name of 1970.

    For the server-side dry run that tells whether the template is accepted.

    Raises:
        TemplateError: as `build_child`.
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
        child_name=child_name(job, RecurrenceKind.LEARNED, datetime.fromtimestamp(0, UTC), 1),
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
    return build_child(job, attempt, decision, settings)


def owned_by(found: Mapping[str, Any], job_uid: str, attempt: AttemptRecord) -> bool:
    """Whether `found`, a Job as the API gives it, is the child of `attempt` of that ZeusJob."""
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


def _own_retries(child: dict[str, Any]) -> None:
    """One attempt is one execution, but for pods that were ended from outside."""
    child["backoffLimit"] = 0
    child.pop("ttlSecondsAfterFinished", None)
    if child.get("podFailurePolicy") is None:
        child["podFailurePolicy"] = copy.deepcopy(REPLACE_DISTURBED_PODS)
    policy = mapping_in(child, "podFailurePolicy", SPEC_PATH)
    for here, rule in entries(policy, "rules", f"{SPEC_PATH}.podFailurePolicy"):
        if rule.get("action") == "Ignore" and rule.get("onExitCodes") is not None:
            raise TemplateError(
                f"{here}.action",
                "must not be Ignore for exit codes: the Job would start the run again and again; "
                "set spec.retry.maxAttempts instead",
            )


def _own_restarts(pod: dict[str, Any], container: TrainingContainer) -> None:
    pod["restartPolicy"] = "Never"
    for here, each in entries(pod, "containers", POD_PATH):
        trains = here == container.path
        if trains and each.get("restartPolicy") not in (None, "Never"):
            raise TemplateError(f"{here}.restartPolicy", _no_restarts("must be Never or left out"))
        rules = list(entries(each, "restartPolicyRules", here))
        if rules and (trains or any(_restarts_all(rule) for _, rule in rules)):
            raise TemplateError(f"{here}.restartPolicyRules", _no_restarts("must be left out"))


def _restarts_all(rule: Mapping[str, Any]) -> bool:
    return rule.get("action") == "RestartAllContainers"


def _no_restarts(what: str) -> str:
    return f"{what}: one attempt is one execution; set spec.retry.maxAttempts instead"


def _require_gpu(pod: dict[str, Any], product: str) -> None:
    """Let the pod run on nodes with that GPU only, besides what its affinity asks for."""
    selector = pod.get("nodeSelector")
    asked = selector.get(GPU_PRODUCT_LABEL, product) if isinstance(selector, dict) else product
    if asked != product:
        raise TemplateError(
            f'{POD_PATH}.nodeSelector["{GPU_PRODUCT_LABEL}"]',
            f"{asked} is not spec.gpu.product, which is {product}; keep one",
        )
    path = f"{POD_PATH}.affinity"
    affinity = mapping_in(pod, "affinity", POD_PATH)
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


def _result_bytes(pod: Mapping[str, Any]) -> int:
    """Return how long the result may be, bytes: what the kubelet leaves of it.

    Raises:
        TemplateError: that is too little.
    """
    containers = sum(
        len(list(entries(pod, key, POD_PATH))) for key in ("containers", "initContainers")
    )
    room = min(protocol.RESULT_DEFAULT_BYTES, POD_MESSAGE_BYTES // max(containers, 1))
    if room < protocol.RESULT_MIN_BYTES:
        most = POD_MESSAGE_BYTES // protocol.RESULT_MIN_BYTES
        raise TemplateError(
            f"{POD_PATH}.containers",
            f"the pod has {containers} containers (init containers and ours included), {most} are "
            f"the most: the kubelet keeps {POD_MESSAGE_BYTES} bytes of what all of them report, "
            f"and a result needs {protocol.RESULT_MIN_BYTES}",
        )
    return room
