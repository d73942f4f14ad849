"""What the watches have shown of the cluster: the only thing that a watch handler touches.

It is a cache that may lag and may have missed a deletion.  So it is used for what is there; that
something is *not* there is asked of the API server before anything follows from it.
"""

from __future__ import annotations

import enum
import json
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zeus_operator import names
from zeus_operator.executors.pod_fields import (
    GONE_MARK,
    as_first_asked,
    kind_name,
    project_job,
    project_pod,
)
from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.registry import KINDS

Object = dict[str, Any]

_DELETED = "DELETED"
_ANNOTATIONS = (names.ANNOTATION_RUN, names.ANNOTATION_RESUME, names.ANNOTATION_RESET)
_DELETIONS_KEPT = 100_000


class Key(NamedTuple):
    """A ZeusJob by name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"


class Resource(enum.StrEnum):
    """What is watched."""

    ZEUSJOBS = "zeusjobs"
    JOBS = "jobs"
    JOBSETS = "jobsets"
    PYTORCHJOBS = "pytorchjobs"
    TRAINJOBS = "trainjobs"
    PODS = "pods"


ALWAYS_WATCHED = (Resource.ZEUSJOBS, Resource.JOBS, Resource.PODS)
"""Where nothing else is asked for."""
CHILD_RESOURCES = {Resource(kind.plural): kind for kind in KINDS.values()}
"""The adapter of each kind of child."""


def resources_of(kinds: Iterable[WorkloadKind]) -> tuple[Resource, ...]:
    """Return what is watched where children are of these kinds."""
    return (Resource.ZEUSJOBS, *(Resource(kind.plural) for kind in kinds), Resource.PODS)


@dataclass(frozen=True)
class ZeusJobObject:
    """A ZeusJob as the API server has it, packed: there may be ten thousand of them.

    Args:
        deleting: it has a deletionTimestamp; nothing new starts.
        annotations: only those by which people ask for something.
    """

    key: Key
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    annotations: Mapping[str, str]
    _packed: bytes = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> ZeusJobObject:
        """Pack an object of the API."""
        metadata = body["metadata"]
        annotations = metadata.get("annotations") or {}
        kept = {"spec": body.get("spec") or {}, "status": body.get("status") or {}}
        return cls(
            key=Key(metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            generation=int(metadata.get("generation") or 1),
            resource_version=str(metadata.get("resourceVersion") or ""),
            deleting=bool(metadata.get("deletionTimestamp")),
            annotations={name: annotations[name] for name in _ANNOTATIONS if name in annotations},
            _packed=zlib.compress(json.dumps(kept, separators=(",", ":")).encode(), 1),
        )

    def is_asked_the_same(self, other: ZeusJobObject) -> bool:
        """Whether people ask the same by another state of the same ZeusJob."""
        return (self.uid, self.generation, self.deleting, self.annotations) == (
            other.uid,
            other.generation,
            other.deleting,
            other.annotations,
        )

    def contents(self) -> tuple[Object, Object]:
        """Return spec and status."""
        found = json.loads(zlib.decompress(self._packed))
        return found["spec"], found["status"]


@dataclass(frozen=True)
class RunningPod:
    """A pod of a run, as far as it matters where it is."""

    key: Key
    uid: str
    node: str


@dataclass
class _Watched:
    """Bookkeeping of one resource: what was seen, and when something last proved it alive."""

    versions: dict[str, str] = field(default_factory=dict)  # uid -> resourceVersion
    keys: dict[str, Key] = field(default_factory=dict)  # uid -> whose it is
    last_event: float | None = None
    last_proof: float | None = None


class World:
    """Thread-safe cache of ZeusJobs, their children and the children's pods.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._zeusjobs: dict[Key, ZeusJobObject] = {}
        self._deleted: dict[str, Key] = {}
        self._children: defaultdict[Key, dict[str, Object]] = defaultdict(dict)
        self._pods: defaultdict[Key, dict[str, Object]] = defaultdict(dict)
        self._watched = {resource: _Watched() for resource in Resource}

    # Fed by the watches --------------------------------------------------------

    def apply(self, resource: Resource, kind: str | None, body: Mapping[str, Any]) -> Key | None:
        """Take in a watch event and return whose it is; None: nobody's, or it brings no news.

        Args:
            kind: ADDED, MODIFIED, DELETED, or None for an object of a list, which is always
                news.
        """
        metadata = body.get("metadata") or {}
        if not metadata.get("uid") or not metadata.get("namespace"):
            return None
        with self._lock:
            watched = self._watched[resource]
            watched.last_event = watched.last_proof = self._clock()
            key = _key_of(resource, metadata)
            if kind == _DELETED:
                watched.versions.pop(metadata["uid"], None)
                watched.keys.pop(metadata["uid"], None)
            else:
                watched.versions[metadata["uid"]] = str(metadata.get("resourceVersion") or "")
                if key is not None:
                    watched.keys[metadata["uid"]] = key
            if key is None:
                return None
            if resource is Resource.ZEUSJOBS:
                is_news = self._zeusjob(key, kind, body)
            elif resource in CHILD_RESOURCES:
                is_news = self._child(key, kind, body, CHILD_RESOURCES[resource])
            else:
                is_news = self._pod(key, kind, body)
            return key if is_news or kind is None else None

    def _zeusjob(self, key: Key, kind: str | None, body: Mapping[str, Any]) -> bool:
        known = self._zeusjobs.get(key)
        if kind not in (_DELETED, None) and known is not None and _is_at(known, body["metadata"]):
            return False  # a status of ours, noted when it was written
        found = ZeusJobObject.of(body)
        if kind == _DELETED:
            if known is not None and known.uid == found.uid:
                del self._zeusjobs[found.key]
            self._deleted[found.uid] = found.key
            if len(self._deleted) > _DELETIONS_KEPT:  # the resync finds what is forgotten here
                self._deleted.pop(next(iter(self._deleted)))
        else:
            self._zeusjobs[found.key] = found
        return True

    def _child(
        self, key: Key, kind: str | None, body: Mapping[str, Any], adapter: WorkloadKind
    ) -> bool:
        name = body["metadata"]["name"]
        known = self._children[key].get(name)
        if kind != _DELETED:
            found = adapter.project(body)
            self._children[key][name] = found
            return found != known
        if known is not None and known["metadata"]["uid"] == body["metadata"]["uid"]:
            del self._children[key][name]
        if not self._children[key]:
            del self._children[key]
        return True

    def _pod(self, key: Key, kind: str | None, body: Mapping[str, Any]) -> bool:
        """Keep a pod that is gone as it was last seen, until somebody has taken its end."""
        uid = body["metadata"]["uid"]
        known = self._pods[key].get(uid)
        pod = as_first_asked(project_pod(body), known)
        if kind != _DELETED:
            self._pods[key][uid] = pod
            return pod != known
        if known is not None:
            self._pods[key][uid] = {**pod, GONE_MARK: True}
        return True

    def note_zeusjob(self, body: Mapping[str, Any]) -> None:
        """Take in a ZeusJob as it is after a write of its status, ahead of its watch event.

        What somebody else has changed at the same time is left to the event: it is news.
        """
        found = ZeusJobObject.of(body)
        with self._lock:
            known = self._zeusjobs.get(found.key)
            if (
                known is not None
                and known.is_asked_the_same(found)
                and is_older(known.resource_version, found.resource_version)
            ):
                self._zeusjobs[found.key] = found

    def note_child(self, key: Key, body: Mapping[str, Any]) -> None:
        """Take in a child that the API server has just returned, ahead of its watch event.

        Args:
            body: a Job, or another child as its adapter projects it.
        """
        child = project_job(body) if kind_name(body) == "Job" else dict(body)
        with self._lock:
            known = self._children[key].get(body["metadata"]["name"])
            if known is None or known["metadata"]["uid"] != body["metadata"]["uid"]:
                self._children[key][body["metadata"]["name"]] = child

    def forget_child(self, key: Key, uid: str) -> None:
        """Drop a child that the API server does not have."""
        with self._lock:
            self._forget_child(key, uid)

    def forget(self, resource: Resource, uid: str) -> Key | None:
        """Take in that the API server has no such object: its deletion was missed.

        Returns:
            Whose it was; None: nobody's.
        """
        with self._lock:
            watched = self._watched[resource]
            watched.versions.pop(uid, None)
            key = watched.keys.pop(uid, None)
            if key is None:
                return None
            if resource is Resource.ZEUSJOBS:
                known = self._zeusjobs.get(key)
                if known is not None and known.uid == uid:
                    del self._zeusjobs[key]
            elif resource in CHILD_RESOURCES:
                self._forget_child(key, uid)
            elif uid in self._pods.get(key, {}):
                self._pods[key][uid] = {**self._pods[key][uid], GONE_MARK: True}
            return key

    def _forget_child(self, key: Key, uid: str) -> None:
        children = self._children.get(key, {})
        for name in [n for n, child in children.items() if child["metadata"]["uid"] == uid]:
            del children[name]
        if not children:
            self._children.pop(key, None)

    def forget_gone_pods(self, key: Key, keep: Collection[tuple[int, int]]) -> None:
        """Drop the pods that are gone, but for those of the attempts in `keep`.

        Args:
            keep: recurrence id and attempt number of what is not at its end.
        """
        wanted = {(str(recurrence_id), str(attempt)) for recurrence_id, attempt in keep}
        with self._lock:
            pods = self._pods.get(key)
            if pods is None:
                return
            for uid, pod in list(pods.items()):
                if pod.get(GONE_MARK) and _run_of(pod) not in wanted:
                    del pods[uid]
            if not pods:
                del self._pods[key]

    def was_deleted(self, uid: str) -> bool:
        """Return whether a deletion of the ZeusJob with `uid` was seen."""
        with self._lock:
            return uid in self._deleted

    def forget_deletion(self, uid: str) -> None:
        """Drop what was seen of a deletion, once the store knows it."""
        with self._lock:
            self._deleted.pop(uid, None)

    # Read by the reconciler ----------------------------------------------------

    def zeusjob(self, key: Key) -> ZeusJobObject | None:
        """Return the ZeusJob."""
        with self._lock:
            return self._zeusjobs.get(key)

    def zeusjobs(self) -> tuple[Key, ...]:
        """Return all ZeusJobs."""
        with self._lock:
            return tuple(self._zeusjobs)

    def child(self, key: Key, name: str) -> Object | None:
        """Return the child of that name."""
        with self._lock:
            return self._children.get(key, {}).get(name)

    def children(self, key: Key) -> tuple[Object, ...]:
        """Return all children of a ZeusJob's name."""
        with self._lock:
            return tuple(self._children.get(key, {}).values())

    def pods(self, key: Key, recurrence_id: int, attempt: int) -> tuple[Object, ...]:
        """Return the pods of an attempt, those that are gone included."""
        wanted = (str(recurrence_id), str(attempt))
        with self._lock:
            return tuple(pod for pod in self._pods.get(key, {}).values() if _run_of(pod) == wanted)

    def running_pods(self) -> tuple[RunningPod, ...]:
        """Return all pods that run on a node."""
        with self._lock:
            return tuple(
                RunningPod(key, uid, node)
                for key, pods in self._pods.items()
                for uid, pod in pods.items()
                if (node := pod["spec"].get("nodeName"))
                and pod["status"].get("phase") == "Running"
                and not pod.get(GONE_MARK)
            )

    # Is it whole and alive? ----------------------------------------------------

    def versions(self, resource: Resource) -> dict[str, str]:
        """Return the resourceVersion last seen of each object, by uid."""
        with self._lock:
            return dict(self._watched[resource].versions)

    def prove(self, resource: Resource) -> None:
        """Note that the cache was just compared with a list of the API server, and agreed."""
        with self._lock:
            self._watched[resource].last_proof = self._clock()

    def proof_age_seconds(self, resource: Resource) -> float | None:
        """Return how long ago the watch was last known to live; None: never yet."""
        return self._age(self._watched[resource].last_proof)

    def event_age_seconds(self, resource: Resource) -> float | None:
        """Return how long ago the last event came; None: none yet."""
        return self._age(self._watched[resource].last_event)

    def _age(self, moment: float | None) -> float | None:
        return None if moment is None else max(0.0, self._clock() - moment)


def is_older(version: str, than: str) -> bool:
    """Whether one resourceVersion is before another; they are numbers of one counter."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def _is_at(known: ZeusJobObject, metadata: Mapping[str, Any]) -> bool:
    """Whether `known` is that very version of the object."""
    version = str(metadata.get("resourceVersion") or "")
    return bool(version) and (known.uid, known.resource_version) == (metadata["uid"], version)


def _run_of(pod: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return recurrence and attempt of a pod."""
    labels = pod["metadata"].get("labels") or {}
    return labels.get(names.LABEL_RECURRENCE), labels.get(names.LABEL_ATTEMPT)


def _key_of(resource: Resource, metadata: Mapping[str, Any]) -> Key | None:
    """Return whose an object is; None: nobody's."""
    if resource is Resource.ZEUSJOBS:
        return Key(metadata["namespace"], metadata["name"])
    owner = (metadata.get("labels") or {}).get(names.LABEL_JOB)
    return Key(metadata["namespace"], owner) if owner else None
