"""What a namespace holds when a test has failed: often all that is left to tell why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.cluster.support.api import Api, ApiFailure
from zeus_operator.store.store import Store
from zeus_operator.workloads.registry import KINDS

Object = dict[str, Any]

_ZEUSJOBS = ("zeus.energy/v1alpha1", "zeusjobs")
_METADATA = ("name", "uid", "creationTimestamp", "deletionTimestamp", "finalizers", "annotations")
_LATEST_EVENTS = 40


def diagnosis(api: Api, namespace: str, store: Store) -> str:
    """Return the ZeusJobs, children, pods and Events of a namespace, and what is stored of them."""
    return "\n".join([*_objects(api, namespace), *_stored(namespace, store)])


def _objects(api: Api, namespace: str) -> Iterator[str]:
    watched = [_ZEUSJOBS, *((kind.api_version, kind.plural) for kind in KINDS.values())]
    for version, plural in (*watched, ("v1", "pods")):
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            items = api.items(f"{root}/namespaces/{namespace}/{plural}")
        except ApiFailure as failure:
            if failure.status != 404:  # this cluster has no such kind
                yield f"{plural}: {failure}"
            continue
        for each in items:
            metadata = {key: each["metadata"][key] for key in _METADATA if key in each["metadata"]}
            yield f"{plural}: {_line(metadata)} status {_line(each.get('status') or {})}"
    try:
        events = api.items(f"/api/v1/namespaces/{namespace}/events")
    except ApiFailure as failure:
        yield f"events: {failure}"
        return
    for each in sorted(events, key=_happened_at)[-_LATEST_EVENTS:]:
        about = each.get("involvedObject") or {}
        words = ": ".join(str(each.get(key) or "") for key in ("reason", "message"))
        yield f"event {_happened_at(each)} {about.get('kind')} {about.get('name')}: {words}"


def _stored(namespace: str, store: Store) -> Iterator[str]:
    for job in store.overview():
        record = store.job_by_uid(job.uid) if job.namespace == namespace else None
        for recurrence in store.history(record.id) if record is not None else ():
            yield f"stored: {recurrence}"


def _happened_at(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _line(value: Object) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)
