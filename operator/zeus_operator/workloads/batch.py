"""What is owned and refused of the spec of a `batch/v1` Job, wherever one is.  Pure.

A JobSet is made of them, and a TrainJob of a JobSet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from zeus_operator.api.problems import Problem, TemplateError
from zeus_operator.workloads.base import (
    JOB,
    NO_RESTART,
    RETRY,
    FieldRule,
    Object,
    PodTemplate,
)
from zeus_operator.workloads.fields import entries, mapping_in

REPLACE_DISTURBED_PODS = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
}
"""A pod that was evicted, preempted or lost with its node is no failure: the Job replaces it."""

_DISTURBED = [{"type": "DisruptionTarget", "status": "True"}]
"""With the status, which the definition of a TrainingRuntime wants and Kubernetes fills in."""

REPLACE_DISTURBED_PODS_OF_A_SET = {"rules": [{"action": "Ignore", "onPodConditions": _DISTURBED}]}

END_WITH_A_DISTURBED_POD = {"rules": [{"action": "FailJob", "onPodConditions": _DISTURBED}]}
"""The others can't go on without it: all end, and the run begins again under the same decision."""

DEADLINE = (
    "must be left out: past it the JobSet says that a Job has failed, and no longer why; set "
    "template.spec.activeDeadlineSeconds of this Job instead, of which its pods tell"
)

_LAUNCHED = "a rank that came back alone would wait for ever for ranks that are gone"
ALL_AT_ONCE = (
    "must be 1 or left out, or as many as {other} with completionMode: Indexed: a run of kind Job "
    "is one pod, or all its ranks at the same time"
)

NEVER_OWNED = (
    FieldRule(JOB, "backoffLimitPerIndex", (0,), f"must be left out: {RETRY}"),
    FieldRule(JOB, "activeDeadlineSeconds", (), DEADLINE),
)
"""What stands in a runtime as well is refused there too: a copy without it would be another run."""

RETRY_RULES = (
    FieldRule(JOB, "backoffLimit", (0,), f"must be 0 or left out: {RETRY}"),
    FieldRule(
        JOB,
        "podReplacementPolicy",
        ("Failed",),
        "must be Failed or left out: two pods of one rank must never train at the same time",
    ),
    *NEVER_OWNED,
)
"""What is refused of a Job that is part of something larger; the paths are those of a Job alone."""


def own_retries(job: dict[str, Any], path: str, *, is_alone: bool) -> None:
    """One attempt is one execution, but for pods that were ended from outside.

    Args:
        path: of `job`, the spec of a Job, for errors.
        is_alone: the run is this one pod.

    Raises:
        TemplateError: a policy would start a run again and again.
    """
    job["backoffLimit"] = 0
    job.pop("ttlSecondsAfterFinished", None)
    if job.get("podFailurePolicy") is None:
        wanted = REPLACE_DISTURBED_PODS if is_alone else END_WITH_A_DISTURBED_POD
        job["podFailurePolicy"] = copy.deepcopy(wanted)
    policy = mapping_in(job, "podFailurePolicy", path)
    for here, rule in entries(policy, "rules", f"{path}.podFailurePolicy"):
        if rule.get("action") != "Ignore":
            continue
        if rule.get("onExitCodes") is not None:
            raise TemplateError(
                f"{here}.action",
                "must not be Ignore for exit codes: the Job would start the run again and again; "
                "set spec.retry.maxAttempts instead",
            )
        if not is_alone:
            raise TemplateError(
                f"{here}.action", f"must not be Ignore in a run of several pods: {_LAUNCHED}"
            )


def retry_problems(job: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Yield what is refused of a Job that is part of something larger.

    Args:
        path: of `job`, the spec of a Job.
    """
    for rule in RETRY_RULES:
        if not rule.allows(job.get(rule.field)):
            yield Problem(f"{path}.{rule.field}", rule.words)
    yield from restart_problems(job.get("template"), f"{path}.template")


def restart_problems(template: object, path: str) -> Iterator[Problem]:
    """Yield a restart policy that is refused of the pod template at `path`."""
    pod = template.get("spec") if isinstance(template, Mapping) else None
    if isinstance(pod, Mapping) and pod.get("restartPolicy") not in (None, "Never"):
        yield Problem(f"{path}.spec.restartPolicy", NO_RESTART)


def whole_number(job: Object, field: str) -> int:
    """Return a number of pods; 1: it is left out, or is none (the API server says so)."""
    value = job.get(field)
    return value if isinstance(value, int) and not isinstance(value, bool) else 1


def is_one_pod(job: Object) -> bool:
    """Return whether a Job makes one pod."""
    return max(whole_number(job, "parallelism"), whole_number(job, "completions")) <= 1


def all_at_once_problems(job: Object, path: str) -> Iterator[Problem]:
    """Yield what would let the pods of a run come one after another, or without an index."""
    parallelism, completions = job.get("parallelism"), job.get("completions")
    is_whole = job.get("completionMode") == "Indexed" and parallelism == completions
    for field, value, other in (
        ("parallelism", parallelism, "completions"),
        ("completions", completions, "parallelism"),
    ):
        is_one = value is None or (value == 1 and not isinstance(value, bool))
        if not is_one and not (is_whole and isinstance(value, int) and value > 1):
            yield Problem(f"{path}.{field}", ALL_AT_ONCE.format(other=other))


def template_of(job: Object, path: str, group: int = 0) -> PodTemplate:
    """Return the pod template in the spec of a Job.

    Raises:
        TemplateError: there is none.
    """
    template = needed(job, "template", path)
    needed(template, "spec", f"{path}.template")
    return PodTemplate(template, f"{path}.template", group)


def needed(parent: Object, key: str, path: str) -> Object:
    """Return the mapping `parent[key]`.

    Raises:
        TemplateError: it is not there, or something else is.
    """
    found = parent.get(key)
    if found is None:
        raise TemplateError(f"{path}.{key}", "is required")
    if not isinstance(found, Mapping):
        raise TemplateError(f"{path}.{key}", f"must be a mapping, not {found!r}")
    return found
