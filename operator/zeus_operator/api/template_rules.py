"""What a ZeusJob's template may not hold: one source for the operator and the API server.  Pure.

The template's schema is the child kind's own, so the CustomResourceDefinition leaves it open.  The
operator and `zeusctl` check it in Python (`checks`); in a cluster a ValidatingAdmissionPolicy
(`admission`) refuses it at apply.  Both say what stands here, so that a user reads the same words
wherever a mistake is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zeus_operator import names
from zeus_operator.api.template import POD_PATH, SPEC_PATH
from zeus_runtime import protocol

JOB = "job"
POD = "pod"
_PATHS = {JOB: SPEC_PATH, POD: POD_PATH}

_RETRY = "retries are the operator's: set spec.retry.maxAttempts instead"
_ONE_POD = "a run of kind Job is one pod"


@dataclass(frozen=True)
class FieldRule:
    """A field of the template that has to be absent, or to have one of a few values.

    Args:
        parent: `JOB` or `POD`: the child's spec, or its pod's.
        allowed: values it may have; null and an absent field always pass.
        words: what the user is told.
    """

    parent: str
    field: str
    allowed: tuple[int | str | bool, ...]
    words: str

    @property
    def path(self) -> str:
        """Return the path of the field in the ZeusJob."""
        return f"{_PATHS[self.parent]}.{self.field}"

    def allows(self, value: Any) -> bool:
        """Return whether the field may have `value`."""
        return value is None or any(
            value == each and isinstance(value, bool) == isinstance(each, bool)
            for each in self.allowed
        )


FIELD_RULES = (
    FieldRule(JOB, "backoffLimit", (0,), f"must be 0 or left out: {_RETRY}"),
    FieldRule(JOB, "parallelism", (1,), f"must be 1 or left out: {_ONE_POD}"),
    FieldRule(JOB, "completions", (1,), f"must be 1 or left out: {_ONE_POD}"),
    FieldRule(JOB, "backoffLimitPerIndex", (0,), f"must be left out: {_RETRY}"),
    FieldRule(JOB, "selector", (), "must be left out: Kubernetes chooses it for each run"),
    FieldRule(
        JOB, "manualSelector", (False,), "must be left out: Kubernetes chooses it for each run"
    ),
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
        f"must be Never or left out: one attempt is one execution, {_RETRY}",
    ),
)

# Sentences with values in them: `str.format` fills them here, CEL in the API server.
MAX_RESTARTS = "{word}: must be 0 or left out: " + _RETRY
NAME_TAKEN = (
    "{name}: names that begin with " + protocol.ENV_PREFIX + " are the operator's; choose another"
)
NAME_TAKEN_HINT = '; to have it under another name, give that name the value "$({name})"'
UNKNOWN_REFERENCE = "{reference} is not a name we inject{guess}; allowed: " + ", ".join(
    protocol.INJECTED_ENVIRONMENT
)
NO_LEARNING_RATE = "{reference} is set only where spec.batchSize.learningRate is given; give it"
LABELS_TAKEN = f"labels that begin with {names.GROUP}/ are the operator's; choose others"
COMMAND_REQUIRED = (
    "is required with spec.workload.injectRuntime: the launcher stands in front of it, and what "
    'the image would start is not known here; for instance ["python", "train.py"]'
)

MAX_RESTARTS_PATTERN = r"^--max[-_]restarts(=.*)?$"
