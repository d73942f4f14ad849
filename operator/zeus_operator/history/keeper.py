"""Keeps the ConfigMap of a history up to date: written where it differs, never read back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from zeus_operator.history import config_map
from zeus_operator.history.config_map import Whose
from zeus_operator.kube import MERGE_PATCH, KubeClient, NotFound, Object, path_of
from zeus_operator.recent import Recent
from zeus_operator.world import Key

_REMEMBERED = 20_000
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""Contents are never asked for: there may be 256 KiB of them."""


class NotOurs(Exception):  # noqa: N818 - a state of the cluster
    """The name is taken by somebody else."""


class FormerThere(Exception):  # noqa: N818 - a state of the cluster
    """The ConfigMap of a former ZeusJob of the name is not collected yet."""


class _Kept(NamedTuple):
    """A ConfigMap of ours as it was last seen or written.

    Args:
        version: its resourceVersion; "": it is not there.
    """

    made_of: str
    version: str


class HistoryKeeper:
    """Writes histories, each once for what it is made of.  Thread-safe.

    Args:
        guard: raises if this process may write no more.
    """

    def __init__(self, client: KubeClient, guard: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._guard = guard
        # By uid of the ZeusJob; a few words each, whatever is in the ConfigMaps.
        self._kept: Recent[_Kept] = Recent(_REMEMBERED)

    def is_kept(self, uid: str, made_of: str) -> bool:
        """Whether what is made of this was written, or seen, by this process."""
        kept = self._kept.get(uid)
        return kept is not None and kept.made_of == made_of

    def keep(self, key: Key, uid: str, made_of: str, contents: Callable[[], bytes]) -> None:
        """See to the ConfigMap of a ZeusJob.

        Args:
            made_of: digest of what the contents are made of: the same, the same contents.
            contents: makes them; called only if they are to be written.

        Raises:
            NotOurs, FormerThere, KubeError: it can't be done now.
            Exception: what `guard` and `contents` raise.
        """
        if self.is_kept(uid, made_of):
            return
        kept = self._kept.get(uid) or self._look(key, uid)
        self._kept.drop(uid)  # what fails is looked at anew the next time
        if kept.made_of != made_of:  # else it was written by the process before
            made = contents()
            self._guard()  # it may have taken long
            kept = self._write(key, uid, made_of, made, kept.version)
        self._kept.put(uid, kept)

    def empty(self, key: Key, uid: str) -> None:
        """Take the history out of the ConfigMap of a ZeusJob, if it has one.

        It is not deleted: the operator has no right to delete ConfigMaps of whatever name.

        Raises:
            KubeError: it can't be done now.
            Exception: what `guard` raises.
        """
        if self.is_kept(uid, config_map.EMPTIED):
            return
        try:
            found = self._look(key, uid)
        except (NotOurs, FormerThere):
            found = _Kept("", "")  # none of ours holds anything
        if found.version and found.made_of != config_map.EMPTIED:
            self._guard()
            body = config_map.emptying_patch(found.version)
            with contextlib.suppress(NotFound):  # somebody has deleted it since
                self._patch(key, body)
        self._kept.put(uid, _Kept(config_map.EMPTIED, ""))

    def forget(self, uid: str) -> None:
        """Drop what is known of a ZeusJob that is gone."""
        self._kept.drop(uid)

    def _look(self, key: Key, uid: str) -> _Kept:
        """Return how the ConfigMap is in the cluster."""
        try:
            found = self._client.request("GET", _path(key), accept=_METADATA)
        except NotFound:
            return _Kept("", "")
        match config_map.whose(found["metadata"], key.name, uid):
            case Whose.STRANGER:
                raise NotOurs("a ConfigMap of that name is somebody else's")
            case Whose.FORMER:
                raise FormerThere("that of a deleted ZeusJob of the name is still there")
            case Whose.OURS:
                return _kept(found)

    def _write(self, key: Key, uid: str, made_of: str, made: bytes, version: str) -> _Kept:
        """Create the ConfigMap, or change it if it is still as it was seen.

        Whoever has changed it meanwhile may have been the next leader: it is not written over at
        once.
        """
        if version:
            body = config_map.patch(key.name, uid, version, made, made_of)
            try:
                return _kept(self._patch(key, body))
            except NotFound:
                # Somebody has deleted it since it was seen.  What has taken its name meanwhile,
                # if anything has, is safe: nothing is created over it.
                self._guard()
        body = config_map.manifest(key.namespace, key.name, uid, made, made_of)
        collection = path_of("v1", "configmaps", key.namespace)
        return _kept(self._client.request("POST", collection, body=body, accept=_METADATA))

    def _patch(self, key: Key, body: Object) -> Object:
        return self._client.request(
            "PATCH", _path(key), body=body, content_type=MERGE_PATCH, accept=_METADATA
        )


def _path(key: Key) -> str:
    return path_of("v1", "configmaps", key.namespace, config_map.name_of(key.name))


def _kept(found: Object) -> _Kept:
    metadata = found["metadata"]
    return _Kept(config_map.made_of(metadata), str(metadata.get("resourceVersion") or "?"))
