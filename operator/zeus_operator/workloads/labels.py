"""Labels by which controllers say which pod is which.  Pure."""

from __future__ import annotations

from zeus_operator import names
from zeus_operator.executors.pod_fields import Object, controller_uid, metadata_of, uid_of

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
JOB_INDEX = "jobset.sigs.k8s.io/job-index"
REPLICA_INDEX = "training.kubeflow.org/replica-index"


def number_of(pod: Object, label: str) -> int:
    """Return the number in a label; 0: it is not there, or is none."""
    text = str((metadata_of(pod).get("labels") or {}).get(label) or "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def is_controlled(child: Object, pod: Object) -> bool:
    """Return whether `child` controls the pod; True also where the pod does not say who does."""
    return controller_uid(pod) in ("", uid_of(child))


def has_its_mark(child: Object, pod: Object) -> bool:
    """Return whether the pod has the mark that `child` and its pods were made with."""
    return mark_of(child) == mark_of(pod)


def mark_of(owner: Object) -> str:
    """Return the mark of a child or a pod: the number of its execution; "": it has none."""
    return str((metadata_of(owner).get("labels") or {}).get(names.LABEL_EXECUTION) or "")
