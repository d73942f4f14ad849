"""Reading children and pods as the API server shows them, and what a watch keeps of them.  Pure.

Missing fields never raise: objects come from servers of any version, and from pods that never
started.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Object = Mapping[str, Any]

GONE_MARK = "gone"
"""Key that the watch puts into a pod that was deleted, kept as it was last seen."""

_POD_CONDITIONS = frozenset({"DisruptionTarget", "PodScheduled"})


def metadata_of(owner: Object) -> Object:
    """Return `metadata`."""
    return owner.get("metadata") or {}


def spec_of(owner: Object) -> Object:
    """Return `spec`."""
    return owner.get("spec") or {}


def status_of(owner: Object) -> Object:
    """Return `status`."""
    return owner.get("status") or {}


def uid_of(owner: Object) -> str:
    """Return the UID; "": there is none."""
    return str(metadata_of(owner).get("uid") or "")


def kind_name(child: Object | None) -> str:
    """Return the kind of a child; one that does not say it is a Job."""
    return str((child or {}).get("kind") or "Job")


def condition(owner: Object | None, kind: str, status: str = "True") -> Object:
    """Return the condition `kind` if it has `status`, else an empty one."""
    for each in status_of(owner or {}).get("conditions") or ():
        if each.get("type") == kind and each.get("status") == status:
            found: Object = each
            return found
    return {}


def container_state(pod: Object, name: str) -> Object:
    """Return the state of a container of the pod: `waiting`, `running` or `terminated`."""
    for each in status_of(pod).get("containerStatuses") or ():
        if each.get("name") == name:
            return each.get("state") or {}
    return {}


def memory_limit(pod: Object, name: str) -> str:
    """Return the memory limit of a container as it is written; "": it has none."""
    for each in spec_of(pod).get("containers") or ():
        if each.get("name") == name:
            limits = (each.get("resources") or {}).get("limits") or {}
            return str(limits.get("memory") or "")
    return ""


def controller_uid(owner: Object) -> str:
    """Return the UID of what controls an object; "": nothing does."""
    for each in metadata_of(owner).get("ownerReferences") or ():
        if each.get("controller"):
            return str(each.get("uid") or "")
    return ""


def time_of(text: Any) -> datetime | None:
    """Parse a time of the API; None: none is given, or 1970, as the runtime says for never."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment if moment.year > 1970 else None


def created_at(owner: Object, now: datetime) -> datetime:
    """Return when an object was created; `now` if it does not say."""
    return time_of(metadata_of(owner).get("creationTimestamp")) or now


def deletion_asked_at(owner: Object) -> datetime | None:
    """Return when the deletion of an object was asked for; None: it was not.

    `deletionTimestamp` is when its grace period is over.
    """
    metadata = metadata_of(owner)
    due = time_of(metadata.get("deletionTimestamp"))
    grace = metadata.get("deletionGracePeriodSeconds")
    if due is None or not isinstance(grace, int):
        return due
    return due - timedelta(seconds=grace)


def as_first_asked(pod: Object, before: Object | None) -> dict[str, Any]:
    """Return a pod whose deletion is dated as it was when it was seen before.

    The request that removes a pod which has ended allows no grace period.  Newer API servers date
    the deletion anew then, at the present, where its end would lie in the past (`BeforeDelete` in
    k8s.io/apiserver, registry/rest/delete.go): after the pod's own end.  Where nobody has seen the
    pod in between, as where an operator was just started, when it was asked stays unknown.

    Args:
        before: the same pod, as it was; None: it was not seen.
    """
    first, asked = deletion_asked_at(before or {}), deletion_asked_at(pod)
    if before is None or first is None or asked is None or asked <= first:
        return dict(pod)
    dates = _only(metadata_of(before), "deletionTimestamp", "deletionGracePeriodSeconds")
    return {**pod, "metadata": {**metadata_of(pod), **dates}}


def project_job(raw: Object) -> dict[str, Any]:
    """Return of a Job what is read here: a watch keeps nothing else."""
    status = status_of(raw)
    return {
        "metadata": _only(
            metadata_of(raw),
            "name",
            "namespace",
            "uid",
            "labels",
            "creationTimestamp",
            "deletionTimestamp",
            "ownerReferences",
        ),
        "spec": _only(spec_of(raw), "suspend"),
        "status": {
            **_only(status, "startTime"),
            "conditions": [
                _only(each, "type", "status", "reason", "message", "lastTransitionTime")
                for each in status.get("conditions") or ()
            ],
        },
    }


def project_other(
    raw: Object, kind: str, conditions: Mapping[str, str], *, suspend: object
) -> dict[str, Any]:
    """Return of a child of another kind what is read here, in the shape of a Job.

    Args:
        conditions: what a Job would call those of this kind that tell of an end.
        suspend: whether somebody holds it back.
    """
    status = status_of(raw)
    renamed = [
        {**each, "type": conditions[each["type"]]}
        for each in status.get("conditions") or ()
        if each.get("type") in conditions
    ]
    like_a_job = {
        "metadata": metadata_of(raw),
        "spec": {"suspend": suspend},
        "status": {"startTime": status.get("startTime"), "conditions": renamed},
    }
    return {"kind": kind, **project_job(like_a_job)}


def project_pod(raw: Object) -> dict[str, Any]:
    """Return of a pod what is read here."""
    metadata, spec, status = metadata_of(raw), spec_of(raw), status_of(raw)
    return {
        "metadata": {
            **_only(
                metadata,
                "name",
                "uid",
                "labels",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ),
            "ownerReferences": [
                _only(each, "uid", "controller") for each in metadata.get("ownerReferences") or ()
            ],
        },
        "spec": {
            **_only(spec, "nodeName"),
            "containers": [
                {"name": each.get("name"), "resources": {"limits": {"memory": limit}}}
                for each in spec.get("containers") or ()
                if (limit := memory_limit(raw, str(each.get("name"))))
            ],
        },
        "status": {
            **_only(status, "phase", "reason", "message", "startTime"),
            "conditions": [
                _only(each, "type", "status", "reason", "message", "lastTransitionTime")
                for each in status.get("conditions") or ()
                if each.get("type") in _POD_CONDITIONS
            ],
            **{
                key: [_only(each, "name", "state") for each in status.get(key) or ()]
                for key in ("containerStatuses", "initContainerStatuses")
            },
        },
        **({GONE_MARK: True} if raw.get(GONE_MARK) else {}),
    }


def _only(source: Object, *keys: str) -> dict[str, Any]:
    return {key: source[key] for key in keys if source.get(key) is not None}
