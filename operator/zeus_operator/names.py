"""Names of the API group, labels and annotations: what people and programs see in the cluster."""

from __future__ import annotations

GROUP = "zeus.energy"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ZeusJob"
PLURAL = "zeusjobs"
FIELD_MANAGER = "zeus-operator"

LABEL_JOB = f"{GROUP}/job"
"""Name of the ZeusJob, on its children and their pods."""
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_RECURRENCE = f"{GROUP}/recurrence"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_EXECUTION = f"{GROUP}/execution"
"""Number of the execution, on children that do not control their pods themselves, and on those."""
LABEL_POD_GROUP = f"{GROUP}/pod-group"
"""Place of a pod's template among those of its child, where there are several: 0 has rank 0."""

ANNOTATION_RUN = f"{GROUP}/run"
ANNOTATION_RESUME = f"{GROUP}/resume"
ANNOTATION_RESET = f"{GROUP}/reset"

ANNOTATION_COPY = f"{GROUP}/copy"
"""On an object that was made for a child: a digest of its contents."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

ANNOTATION_HISTORY = f"{GROUP}/history-of"
"""On the ConfigMap of a job's history: a digest of what it was made of."""

LABEL_AGENT_ACCESS = f"{GROUP}/agent-access"
"""On a namespace, by its owner: its pods may know the agents' authority."""
AGENT_ACCESS_ENABLED = "enabled"
