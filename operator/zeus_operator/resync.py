"""The cluster against the store and the cache, now and then: what a watch has missed is found here.

A watch may stall without an error, and a deletion that falls into the gap of an expired stream is
never reported.  So every few minutes the metadata of all objects is listed (small, and of the same
moment), and what disagrees is put right or reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from zeus_operator import names
from zeus_operator.kube import KubeClient, KubeError, path_of
from zeus_operator.records import JobRecord
from zeus_operator.store.store import Store
from zeus_operator.world import ALWAYS_WATCHED, CHILD_RESOURCES, Key, Resource, World

_KINDS = {
    Resource.ZEUSJOBS: (names.API_VERSION, names.PLURAL, None),
    Resource.PODS: ("v1", "pods", names.LABEL_JOB_UID),
    **{
        resource: (kind.api_version, kind.plural, names.LABEL_JOB_UID)
        for resource, kind in CHILD_RESOURCES.items()
    },
}

Watched = Callable[[], Sequence[Resource]]
"""Gives what is watched now; more may come."""


def _always() -> Sequence[Resource]:
    return ALWAYS_WATCHED


_log = logging.getLogger(__name__)


class WatchStalled(Exception):  # noqa: N818 - a state, as ConnectionRefused is
    """A watch has not shown a change that the API server had long before: start anew."""


@dataclass(frozen=True)
class Listed:
    """One object of a list, as far as a resync needs it."""

    key: Key
    uid: str
    resource_version: str


class Lister:
    """Lists the metadata of what is watched.

    Args:
        namespaces: what is served; empty: the whole cluster.
    """

    def __init__(self, client: KubeClient, namespaces: Sequence[str] = ()) -> None:
        self._client = client
        self._namespaces = namespaces

    def list(self, resource: Resource) -> list[Listed]:
        """Return all objects of `resource`, in all namespaces that are served.

        Raises:
            KubeError: one of the lists can't be had; then nothing may be concluded from absence.
        """
        api_version, plural, label = _KINDS[resource]
        query = {"labelSelector": label} if label else None
        return [
            _listed(item)
            for namespace in self._namespaces or (None,)
            for item in self._client.items(
                path_of(api_version, plural, namespace), query, metadata_only=True
            )
        ]


def _listed(item: dict[str, dict[str, str]]) -> Listed:
    metadata = item["metadata"]
    return Listed(
        Key(metadata["namespace"], metadata["name"]),
        metadata["uid"],
        str(metadata.get("resourceVersion") or ""),
    )


def missing(world: World, lister: Lister, watched: Watched = _always) -> dict[Resource, int]:
    """Return how many objects the cache has not seen yet, of each resource that lacks any.

    Raises:
        KubeError: a list can't be had.
    """
    counts = {}
    for resource in watched():
        listed = {item.uid for item in lister.list(resource)}
        lacking = len(listed - world.versions(resource).keys())
        if lacking:
            counts[resource] = lacking
        else:
            world.prove(resource)
    return counts


class Resync:
    """Compares; call `run` every few minutes.

    Args:
        enqueue: takes a key to be reconciled when there is time.
        delete: tells the store of a ZeusJob that is gone.
        absence_confirm: a stored ZeusJob is gone if two lists so far apart lack it.
        retention: what was learned of a deleted ZeusJob is kept so long.
        clock: gives the time, aware.
        watched: gives what is watched.
    """

    def __init__(
        self,
        store: Store,
        world: World,
        lister: Lister,
        enqueue: Callable[[Key], object],
        delete: Callable[[JobRecord], object],
        *,
        absence_confirm: timedelta,
        retention: timedelta,
        clock: Callable[[], datetime],
        watched: Watched = _always,
    ) -> None:
        self._store = store
        self._world = world
        self._lister = lister
        self._enqueue = enqueue
        self._delete = delete
        self._absence_confirm = absence_confirm
        self._retention = retention
        self._clock = clock
        self._watched = watched
        self._absent_since: dict[str, datetime] = {}
        self._behind: dict[tuple[Resource, str], str] = {}  # (resource, uid) -> version listed

    def run(self, served: Callable[[str], bool]) -> None:
        """Compare everything once.

        Args:
            served: whether a namespace is among those that are served.

        Raises:
            WatchStalled: a watch lags behind since the last call.
            KubeError: a list can't be had.
            StoreError: the store can't be asked.
        """
        # Before the lists: what appears while they are made is in the cache and not in them.
        watched = self._watched()
        known = {resource: self._world.versions(resource) for resource in watched}
        listed = {resource: self._lister.list(resource) for resource in watched}
        self._check_watches(listed)
        self._forget_absent(known, listed)
        present = {item.uid: item.key for item in listed[Resource.ZEUSJOBS]}
        self._compare_store(present, served)
        now = self._clock()
        self._store.purge_learned_states(now - self._retention, now)

    def _forget_absent(
        self, known: dict[Resource, dict[str, str]], listed: dict[Resource, list[Listed]]
    ) -> None:
        """Drop from the cache what the API server has no more: its deletion was never shown."""
        for resource, items in listed.items():
            for uid in known[resource].keys() - {item.uid for item in items}:
                key = self._world.forget(resource, uid)
                if key is not None:
                    self._enqueue(key)

    def _check_watches(self, listed: dict[Resource, list[Listed]]) -> None:
        behind: dict[tuple[Resource, str], str] = {}
        for resource, items in listed.items():
            known = self._world.versions(resource)
            late = {
                (resource, item.uid): item.resource_version
                for item in items
                if known.get(item.uid) != item.resource_version
            }
            for mark in late:
                # Behind what the list of minutes ago had already: no event will come any more.
                before = self._behind.get(mark)
                if before is not None and _is_older(known.get(mark[1]), before):
                    raise WatchStalled(
                        f"the watch of {resource} has not shown version {before} of {mark[1]}"
                    )
            if not late:
                self._world.prove(resource)
            behind |= late
        self._behind = behind

    def _compare_store(self, present: dict[str, Key], served: Callable[[str], bool]) -> None:
        now = self._clock()
        absent: dict[str, datetime] = {}
        stored = set()
        for job in self._store.overview():
            stored.add(job.uid)
            key = Key(job.namespace, job.name)
            if job.uid in present:
                if job.has_open or job.has_requests:
                    self._enqueue(key)
            elif served(job.namespace):
                since = self._absent_since.get(job.uid, now)
                if now - since >= self._absence_confirm:
                    self._delete_absent(job.uid)
                else:
                    absent[job.uid] = since
        self._absent_since = absent
        for uid in present.keys() - stored:  # never stored: invalid, or the store was away
            self._enqueue(present[uid])

    def _delete_absent(self, uid: str) -> None:
        job = self._store.job_by_uid(uid)
        if job is not None:
            _log.info("%s is gone; its deletion was not seen", job.key)
            self._delete(job)


def _is_older(known: str | None, listed: str) -> bool:
    """Whether version `known` is before `listed`; they are numbers of one counter."""
    if known is None:
        return True
    try:
        return int(known) < int(listed)
    except ValueError:
        return False


def first_list_is_in(world: World, lister: Lister, watched: Watched = _always) -> bool:
    """Whether the watches have shown everything that a list has now; False also if none answers."""
    try:
        lacking = missing(world, lister, watched)
    except KubeError as error:
        _log.warning("the first list can't be compared yet: %s", error.message)
        return False
    return not lacking
