"""`jobset.x-k8s.io` JobSet: several Jobs that start and end together.  Pure.

Rank 0 is completion index 0 of the first Job of the first entry of `replicatedJobs`.
(https://jobset.sigs.k8s.io/docs/concepts, read at v0.10.1)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from zeus_operator import names
from zeus_operator.api.problems import Problem, TemplateError
from zeus_operator.executors.pod_fields import project_other, spec_of
from zeus_operator.workloads.base import (
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
from zeus_operator.workloads.batch import (
    NEVER_OWNED,
    REPLACE_DISTURBED_PODS_OF_A_SET,
    all_at_once_problems,
    is_one_pod,
    needed,
    own_retries,
    retry_problems,
    template_of,
    whole_number,
)
from zeus_operator.workloads.fields import entries, mapping_in
from zeus_operator.workloads.labels import (
    COMPLETION_INDEX,
    JOB_INDEX,
    number_of,
)

RESTARTS_FOR_EVER = "RestartJobSetAndIgnoreMaxRestarts"
RESTARTS_REFUSED = f"must not be {RESTARTS_FOR_EVER}: {RETRY}"
_NAME_CHARACTERS = 63
"""The most that JobSet lets the name of a pod have."""
_POD_SUFFIX = "-abcde"
_ENDS_EARLY = (
    "a JobSet that is complete deletes what still runs, and that would be the training, which "
    "would begin again and again"
)
NOT_ALL = f"must be All: {_ENDS_EARLY}"
NOT_THE_FIRST = "must have {name} in it, or be empty: " + _ENDS_EARLY
NO_ENTRIES = "must be a list with at least one entry"
_SUBDOMAIN = FieldRule(
    "network",
    "subdomain",
    (),
    "must be left out: the Service of that name finds the pods of the first child alone, as long "
    "as that is kept; without it each has one of its own",
)


class JobSetKind(WorkloadKind):
    """The adapter of JobSet."""

    api_version = "jobset.x-k8s.io/v1alpha2"
    kind = "JobSet"
    plural = "jobsets"
    marks_executions = True

    rules = (
        FieldRule("failurePolicy", "maxRestarts", (0,), f"must be 0 or left out: {RETRY}"),
        _SUBDOMAIN,
    )

    notes = (
        FieldNote(
            "`failurePolicy.maxRestarts`",
            "owned: 0. A value above 0 is refused: use `spec.retry.maxAttempts`",
        ),
        FieldNote(f"`failurePolicy.rules[]` with `{RESTARTS_FOR_EVER}`", "refused, as above"),
        FieldNote("`ttlSecondsAfterFinished`, also of a Job", PRUNED),
        FieldNote(
            "`replicatedJobs[]`",
            "passed on. The first entry has rank 0; each entry's `template.spec` is the spec of a "
            "Job, in which `backoffLimit`, `backoffLimitPerIndex`, `podReplacementPolicy` and "
            "`template.spec.restartPolicy` are as in a Job's own",
        ),
        FieldNote(
            "`replicatedJobs[].template.spec.parallelism`, `completions` above 1",
            "passed on where both are the same; without `completionMode: Indexed`, which is also "
            "what is set where it is left out, refused",
        ),
        FieldNote(
            "`replicatedJobs[].template.spec.podFailurePolicy`",
            "passed on. Left out, a pod that was evicted, preempted or lost with its node ends all "
            "pods of the run, which begins again under the same decision",
        ),
        FieldNote(
            "`replicatedJobs[].template.spec.activeDeadlineSeconds`",
            "refused: of the Job's end nobody could tell whether its time was up. Use "
            "`template.spec.activeDeadlineSeconds` in it, which is the pod's",
        ),
        FieldNote(
            "`replicatedJobs[].name`",
            "passed on. It is part of the names of the pods, as the ZeusJob's name is: what makes "
            f"one longer than {_NAME_CHARACTERS} characters is refused when the child is made",
        ),
        FieldNote("`suspend`", "passed on: a suspended child is Queued, as Kueue wants it"),
        FieldNote(
            "`successPolicy`",
            "passed on with the operator `All` where `targetReplicatedJobs` has the first entry or "
            "is empty. Else refused: the JobSet would end while rank 0 still trains",
        ),
        FieldNote(
            "`network.subdomain`",
            "refused: children that are kept would take its Service from those that follow. Pods "
            "find each other by `<child>-<entry>-<job>-<index>.<child>`, where the label "
            "`jobset.sigs.k8s.io/jobset-name` tells a pod the child's name",
        ),
        FieldNote(
            "`coordinator`",
            "passed on. Its address, which has the child's name twice, becomes a label: what makes "
            "it longer than 63 characters is refused when the child is made",
        ),
        FieldNote("`startupPolicy`, `network`, `replicas`, `dependsOn`", "passed on"),
    )

    def pod_templates(self, spec: Object) -> tuple[PodTemplate, ...]:
        """Return the template of each entry, in their order."""
        return tuple(
            template_of(job, path, group) for group, (path, job) in enumerate(jobs_of(spec))
        )

    def problems(self, spec: Object) -> Iterator[Problem]:
        """Yield retries and numbers of pods that are refused."""
        try:
            for path, job in jobs_of(spec):
                yield from retry_problems(job, path)
                yield from all_at_once_problems({"completionMode": "Indexed", **job}, path)
            yield from _failure_problems(spec, SPEC_PATH)
            yield from _success_problems(spec, SPEC_PATH, 0)
        except TemplateError as error:
            yield error.problem

    def prepare(self, spec: dict[str, Any], _source: Object | None, _name: str) -> Prepared:
        """Take over retries."""
        own_jobs(spec, SPEC_PATH, is_alone=_is_alone(spec))
        room = min(
            room_for_name(each, whole_number(each, "replicas"), _checked_pods(job))
            for each, (_, job) in zip(spec["replicatedJobs"], jobs_of(spec), strict=True)
        )
        room = min(room, room_for_coordinator(spec))
        return Prepared(self.pod_templates(spec), name_characters=room)

    def project(self, raw: Object) -> dict[str, Any]:
        """Return what is read of a JobSet."""
        conditions = {"Completed": "Complete", "Failed": "Failed"}
        return project_other(raw, self.kind, conditions, suspend=spec_of(raw).get("suspend"))

    def place_of(self, pod: Object) -> Place:
        """Return entry, Job and completion index."""
        return (
            number_of(pod, names.LABEL_POD_GROUP),
            number_of(pod, JOB_INDEX),
            number_of(pod, COMPLETION_INDEX),
        )


def jobs_of(spec: Object, path: str = SPEC_PATH) -> list[tuple[str, dict[str, Any]]]:
    """Return (path, spec) of each Job that a JobSet is made of, one for each entry.

    Args:
        path: of `spec`, the spec of a JobSet.

    Raises:
        TemplateError: there is none.
    """
    found = []
    for here, entry in entries(spec, "replicatedJobs", path):
        template = needed(entry, "template", here)
        job = needed(template, "spec", f"{here}.template")
        if not isinstance(job, dict):
            raise TemplateError(f"{here}.template.spec", f"must be a mapping, not {job!r}")
        found.append((f"{here}.template.spec", job))
    if not found:
        raise TemplateError(f"{path}.replicatedJobs", NO_ENTRIES)
    return found


def own_jobs(spec: dict[str, Any], path: str, *, is_alone: bool, first: int = 0) -> None:
    """Let a JobSet and its Jobs try once.

    Args:
        path: of `spec`, the spec of a JobSet, for errors.
        is_alone: the run is one pod.
        first: place of the entry that has rank 0.

    Raises:
        TemplateError: a policy would start a run again and again, or hides how it has ended.
    """
    for problem in (*_failure_problems(spec, path), *_success_problems(spec, path, first)):
        raise TemplateError(problem.path, problem.message)
    if _SUBDOMAIN.is_broken_by(spec):
        raise TemplateError(f"{path}.{_SUBDOMAIN.parent}.{_SUBDOMAIN.field}", _SUBDOMAIN.words)
    spec.pop("ttlSecondsAfterFinished", None)
    mapping_in(spec, "failurePolicy", path)["maxRestarts"] = 0
    for here, job in jobs_of(spec, path):
        for rule in NEVER_OWNED:
            if not rule.allows(job.get(rule.field)):
                raise TemplateError(f"{here}.{rule.field}", rule.words)
        if is_alone and job.get("podFailurePolicy") is None:
            job["podFailurePolicy"] = copy.deepcopy(REPLACE_DISTURBED_PODS_OF_A_SET)
        own_retries(job, here, is_alone=is_alone)
        if job.get("podReplacementPolicy") is not None:
            job["podReplacementPolicy"] = "Failed"
        job.setdefault("completionMode", "Indexed")


def room_for_name(entry: Object, jobs: int, pods: int | None) -> int:
    """Return how long a JobSet's name may be, characters, so that its pods get names.

    Args:
        entry: of `replicatedJobs`.
        jobs: how many it makes.
        pods: of each of them; None: their names are cut where they are too long.
    """
    tail = f"-{entry.get('name') or ''}-{max(jobs, 1) - 1}"
    if pods is not None:
        tail += f"-{max(pods, 1) - 1}{_POD_SUFFIX}"
    return _NAME_CHARACTERS - len(tail)


def room_for_coordinator(spec: Object) -> int:
    """Return how long a JobSet's name may be, characters, so that its coordinator gets a label.

    A label that is too long is an error of each Job, and none is made.
    """
    coordinator = spec.get("coordinator")
    if not isinstance(coordinator, Mapping):
        return _NAME_CHARACTERS
    places = (coordinator.get(name) or 0 for name in ("jobIndex", "podIndex"))
    tail = "-".join(("", str(coordinator.get("replicatedJob") or ""), *map(str, places)))
    return (_NAME_CHARACTERS - len(f"{tail}.")) // 2


def _checked_pods(job: Object) -> int | None:
    """Return how many pods a Job makes, if JobSet checks their names."""
    is_indexed = job.get("completionMode") == "Indexed" and job.get("completions") is not None
    return whole_number(job, "completions") if is_indexed else None


def _failure_problems(spec: Object, path: str) -> Iterator[Problem]:
    """Yield what would start a JobSet again whatever its number of restarts.

    Raises:
        TemplateError: the policy can't be read.
    """
    policy = spec.get("failurePolicy") or {}
    if not isinstance(policy, Mapping):
        raise TemplateError(f"{path}.failurePolicy", f"must be a mapping, not {policy!r}")
    for here, rule in entries(policy, "rules", f"{path}.failurePolicy"):
        if rule.get("action") == RESTARTS_FOR_EVER:
            yield Problem(f"{here}.action", RESTARTS_REFUSED)


def _success_problems(spec: Object, path: str, first: int) -> Iterator[Problem]:
    """Yield what would let a JobSet be complete before its rank 0 is.

    Raises:
        TemplateError: the policy can't be read.
    """
    policy = spec.get("successPolicy")
    if policy is None:
        return
    here = f"{path}.successPolicy"
    if not isinstance(policy, Mapping):
        raise TemplateError(here, f"must be a mapping, not {policy!r}")
    if policy.get("operator") not in (None, "All"):
        yield Problem(f"{here}.operator", NOT_ALL)
    targets = policy.get("targetReplicatedJobs")
    if not targets:
        return
    if not isinstance(targets, list):
        raise TemplateError(f"{here}.targetReplicatedJobs", f"must be a list, not {targets!r}")
    name = spec["replicatedJobs"][first].get("name")
    if name not in targets:
        yield Problem(f"{here}.targetReplicatedJobs", NOT_THE_FIRST.format(name=name))


def _is_alone(spec: Object) -> bool:
    jobs = jobs_of(spec)
    replicas = [whole_number(each, "replicas") for each in spec["replicatedJobs"]]
    return len(jobs) == 1 and max(replicas) <= 1 and is_one_pod(jobs[0][1])
