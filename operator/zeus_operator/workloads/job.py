"""`batch/v1` Job: one pod, or an Indexed Job whose pods are the ranks of a run.  Pure.

Its pod of completion index 0 has rank 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zeus_operator.api.problems import Problem
from zeus_operator.executors.pod_fields import project_job
from zeus_operator.workloads.base import (
    JOB,
    NO_RESTART,
    POD,
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
    all_at_once_problems,
    is_one_pod,
    own_retries,
    template_of,
)
from zeus_operator.workloads.labels import COMPLETION_INDEX, number_of

_CHOSEN = "must be left out: Kubernetes chooses it for each run"


class JobKind(WorkloadKind):
    """The adapter of `batch/v1` Job."""

    api_version = "batch/v1"
    kind = "Job"
    plural = "jobs"

    rules = (
        FieldRule(JOB, "backoffLimit", (0,), f"must be 0 or left out: {RETRY}"),
        FieldRule(JOB, "backoffLimitPerIndex", (0,), f"must be left out: {RETRY}"),
        FieldRule(JOB, "selector", (), _CHOSEN),
        FieldRule(JOB, "manualSelector", (False,), _CHOSEN),
        FieldRule(
            JOB,
            "podReplacementPolicy",
            ("Failed",),
            "must be Failed or left out: two pods of one run must never train at the same time",
        ),
        FieldRule(
            POD,
            "restartPolicy",
            ("Never",),
            NO_RESTART,
        ),
    )

    notes = (
        FieldNote(
            "`backoffLimit`", "owned: 0. A value above 0 is refused: use `spec.retry.maxAttempts`"
        ),
        FieldNote("`backoffLimitPerIndex` above 0", "refused, for the same reason"),
        FieldNote(
            "`ttlSecondsAfterFinished`",
            "owned: taken off; the child is removed once its result is stored",
        ),
        FieldNote(
            "`parallelism`, `completions` above 1",
            "passed on where both are the same and `completionMode` is `Indexed`: the pods are the "
            "ranks of one run, and index 0 has rank 0. Else refused",
        ),
        FieldNote(
            "`podFailurePolicy`",
            "passed on. Left out, a pod that was evicted, preempted or lost with its node is "
            "replaced; one of several ends all of them, and the run begins again. "
            "`Ignore` is refused for exit codes, and in a run of several pods",
        ),
        FieldNote("`selector`, `manualSelector`", "refused: Kubernetes chooses them"),
        FieldNote(
            "`podReplacementPolicy: TerminatingOrFailed`",
            "refused: two pods of a run must not overlap",
        ),
        FieldNote("`suspend`", "passed on: a suspended child is Queued, as Kueue wants it"),
        FieldNote(
            "`template.spec.restartPolicy`",
            "owned: `Never`. `OnFailure` and `Always` are refused",
        ),
    )

    def pod_templates(self, spec: Object) -> tuple[PodTemplate, ...]:
        """Return its one template."""
        return (template_of(spec, SPEC_PATH),)

    def problems(self, spec: Object) -> Iterator[Problem]:
        """Yield numbers of pods that are not the ranks of one run."""
        yield from all_at_once_problems(spec, SPEC_PATH)

    def prepare(self, spec: dict[str, Any], _source: Object | None, _name: str) -> Prepared:
        """Take over retries."""
        own_retries(spec, SPEC_PATH, is_alone=is_one_pod(spec))
        return Prepared(self.pod_templates(spec))

    def project(self, raw: Object) -> dict[str, Any]:
        """Return what is read of a Job."""
        return project_job(raw)

    def place_of(self, pod: Object) -> Place:
        """Return its completion index; a Job without indices has one pod at a time."""
        return (0, 0, number_of(pod, COMPLETION_INDEX))
