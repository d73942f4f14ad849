"""What has to be there before a child: read, copied, and handed over to the child.

A companion has the child's name.  It is created first, and belongs to the ZeusJob until there is a
child to belong to; so it goes with either, also if the operator dies in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zeus_operator import names
from zeus_operator.executors.base import ChildCollision
from zeus_operator.executors.pod_fields import controller_uid, uid_of
from zeus_operator.kube import AlreadyExists, KubeClient, NotFound, path_of
from zeus_operator.records import JobRecord
from zeus_operator.workloads.base import Source, WorkloadKind
from zeus_operator.workloads.registry import COMPANIONS

Object = dict[str, Any]


class ChildNotGone(Exception):  # noqa: N818 - a state of the world, no fault of the caller
    """What an earlier execution has left is still being deleted: try again a little later."""


class Companions:
    """Makes companions in a cluster."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    def read(self, source: Source) -> Object:
        """Return what a child is made from.

        Raises:
            NotFound, Refused: with the server's words.
        """
        path = path_of(source.api_version, source.plural, source.namespace, source.name)
        return self._client.get(path)

    def dry_run(self, namespace: str, manifest: Object) -> None:
        """Let the API server check a companion.

        Raises:
            Refused: with the server's words.
        """
        self._client.create(_path(manifest, namespace), manifest, dry_run=True)

    def ensure(self, job: JobRecord, manifest: Object, *, is_in_use: bool) -> Object:
        """Create a companion, or return the one that is there for the same execution.

        Args:
            is_in_use: the child is there already: its companion stays as it is.

        Raises:
            ChildCollision: the name is a stranger's.
            ChildNotGone: it is of an execution before, was made of something else, or is being
                deleted.
            Refused: the API server does not take it.
        """
        name = manifest["metadata"]["name"]
        path = _path(manifest, job.namespace)
        try:
            return self._client.create(path, manifest)
        except AlreadyExists:
            pass
        try:
            found = self._client.get(f"{path}/{name}")
        except NotFound:
            raise ChildNotGone(f"{name} was there and is gone: try again") from None
        if not _is_ours(found, job):
            raise ChildCollision(
                f"{manifest['kind']} {job.namespace}/{name} exists and is not ours: delete or "
                "rename it"
            )
        if is_in_use:
            # Also while it is being deleted: its controller keeps it until the child is gone.
            return found
        if found["metadata"].get("deletionTimestamp"):
            raise ChildNotGone(f"{manifest['kind']} {name} is being deleted")
        if controller_uid(found) != job.uid or not _is_same(found, manifest):
            self._client.delete(f"{path}/{name}", uid=uid_of(found))
            raise ChildNotGone(f"{manifest['kind']} {name} of before is being deleted")
        return found

    def hand_over(self, companion: Object, child: Object, kind: WorkloadKind) -> None:
        """Let a companion belong to the child, so that it goes with it."""
        if controller_uid(companion) == uid_of(child):
            return
        owner = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "name": child["metadata"]["name"],
            "uid": uid_of(child),
            "controller": True,
            # A child that is deleted in the foreground does not wait for it.
            "blockOwnerDeletion": False,
        }
        namespace, name = companion["metadata"]["namespace"], companion["metadata"]["name"]
        # With the UID, so that a later one of that name is refused instead of taken.
        metadata = {"uid": uid_of(companion), "ownerReferences": [owner]}
        self._client.merge(f"{_path(companion, namespace)}/{name}", {"metadata": metadata})

    def hand_over_left(self, job: JobRecord, child: Object, kind: WorkloadKind) -> None:
        """Hand over the companion that was made for a child, if it is there."""
        if not kind.companion:
            return
        namespace, name = job.namespace, child["metadata"]["name"]
        path = path_of(kind.api_version, COMPANIONS[kind.companion], namespace, name)
        try:
            found = self._client.get(path)
        except NotFound:
            return
        if _is_ours(found, job):
            self.hand_over(found, child, kind)

    def drop(self, companion: Object, job: JobRecord) -> None:
        """Delete a companion that no child was made for: it would stay as long as the ZeusJob."""
        if controller_uid(companion) != job.uid:
            return  # it has been handed over
        namespace, name = companion["metadata"]["namespace"], companion["metadata"]["name"]
        self._client.delete(f"{_path(companion, namespace)}/{name}", uid=uid_of(companion))


def _path(manifest: Mapping[str, Any], namespace: str) -> str:
    return path_of(manifest["apiVersion"], COMPANIONS[manifest["kind"]], namespace)


def _is_ours(found: Object, job: JobRecord) -> bool:
    """Whether a companion was made for this ZeusJob: its child may control it by now."""
    labels = found["metadata"].get("labels") or {}
    return bool(controller_uid(found)) and labels.get(names.LABEL_JOB_UID) == job.uid


def _is_same(found: Object, manifest: Object) -> bool:
    """Whether what is there was made of the same contents, for the same execution."""

    def made_of(companion: Object) -> tuple[Any, Any]:
        metadata = companion["metadata"]
        return (
            (metadata.get("annotations") or {}).get(names.ANNOTATION_COPY),
            (metadata.get("labels") or {}).get(names.LABEL_EXECUTION),
        )

    return made_of(found) == made_of(manifest)
