"""What a ZeusJob's template may not hold: one source for the operator and the API server.  Pure.

The template's schema is the child kind's own, so the CustomResourceDefinition leaves it open.  The
operator and `zeusctl` check it in Python (`checks`); in a cluster a ValidatingAdmissionPolicy
(`admission`) refuses it at apply.  Both say what stands here, so that a user reads the same words
wherever a mistake is found.
"""

from __future__ import annotations

from zeus_operator import names
from zeus_operator.workloads.base import JOB, POD, RETRY, FieldRule
from zeus_operator.workloads.registry import JOB as JOB_KIND
from zeus_runtime import protocol

__all__ = ["FIELD_RULES", "JOB", "POD", "FieldRule"]

FIELD_RULES = JOB_KIND.rules
"""Those of a Job; the other kinds' are with their adapters."""

# Sentences with values in them: `str.format` fills them here, CEL in the API server.
MAX_RESTARTS = "{word}: must be 0 or left out: " + RETRY
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
