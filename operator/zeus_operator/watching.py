"""What is watched: ZeusJobs, pods, and children of each kind that is served.

A kind that is allowed and not installed is looked for now and then; once it is there it gets a
watch of its own.  One whose definition is taken away ends the process, as every watch that fails
does: started again, it says that the kind is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from kubernetes.client import Configuration

from zeus_operator.kube import KubeClient, KubeError
from zeus_operator.resync import Lister, first_list_is_in
from zeus_operator.watch import Watches
from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.served import ServedKinds
from zeus_operator.world import Key, Resource, World, resources_of

_RETRY_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Watching:
    """All watches of a replica that leads.

    Args:
        enqueue: takes the key of each ZeusJob of which something has changed, and whether that
            was only the first list.
        configuration: makes how to reach the API server, anew for each login.
        namespaces: what to watch; empty: the whole cluster.
    """

    def __init__(
        self,
        world: World,
        client: KubeClient,
        lister: Lister,
        kinds: ServedKinds,
        enqueue: Callable[[Key, bool], object],
        configuration: Callable[[], Configuration],
        namespaces: Sequence[str],
    ) -> None:
        self._world = world
        self._client = client
        self._lister = lister
        self._kinds = kinds
        self._enqueue = enqueue
        self._configuration = configuration
        self._namespaces = namespaces
        self._watches: list[Watches] = []
        self._proved: set[Resource] = set()
        self._unproved: set[Resource] = set()

    async def wait_for_definition(self) -> None:
        """Wait until ZeusJobs can be listed: a cluster without the CRD is no reason to crash."""
        told = ""
        while True:
            try:
                await asyncio.to_thread(self._lister.list, Resource.ZEUSJOBS)
                return
            except KubeError as error:
                hint = "; is the CRD installed (crds/zeusjobs.yaml)?" if error.status == 404 else ""
                if error.message != told:
                    told = error.message
                    _log.warning("ZeusJobs can't be listed: %s%s", error.message, hint)
            await asyncio.sleep(_RETRY_SECONDS)

    def is_first_list_in(self) -> bool:
        """Return whether the cache holds what is there."""
        return first_list_is_in(self._world, self._lister, self.watched)

    def watched(self) -> tuple[Resource, ...]:
        """Return what is watched now."""
        return resources_of(self._kinds.served)

    def relied_on(self) -> tuple[Resource, ...]:
        """Return what is watched without which this replica does not do its work.

        Of a kind that was installed while it leads, the first list may take a while: until that is
        in, what it did before goes on as well as ever.
        """
        return tuple(each for each in self.watched() if each in self._proved)

    def start(self) -> None:
        """Find out which kinds are there, and begin to watch."""
        self._look()
        self._proved = set(self.watched())
        self._watch(self.watched())

    def take_up(self) -> None:
        """Watch the kinds that were installed since, and wake whoever may have waited for them."""
        found = self._look() if self._kinds.missing else ()
        if found:
            new = [Resource(kind.plural) for kind in found]
            self._watch(new)
            self._unproved |= set(new)
            for key in self._world.zeusjobs():
                self._enqueue(key, True)
        # No event comes of a kind of which there is nothing yet: ask, to know that it is so.
        proved = {each for each in self._unproved if self._shows(each)}
        self._unproved -= proved
        self._proved |= proved

    def stop(self) -> None:
        """End all watches."""
        for each in self._watches:
            each.stop()

    @property
    def failure(self) -> str:
        """Why a watch has ended that should not have; "": none has."""
        return next(
            (str(each.failure or "kopf gave up") for each in self._watches if not each.alive), ""
        )

    def _watch(self, resources: Sequence[Resource]) -> None:
        watches = Watches(
            self._world, self._enqueue, self._configuration, self._namespaces, resources
        )
        self._watches.append(watches)
        watches.start()

    def _shows(self, resource: Resource) -> bool:
        """Return whether the first list of one resource is in, whatever becomes of the others'."""
        return first_list_is_in(self._world, self._lister, lambda: (resource,))

    def _look(self) -> tuple[WorkloadKind, ...]:
        found = look_for_kinds(self._kinds, self._client)
        for kind in found:
            _log.info("%s of %s is served from now on", kind.kind, kind.api_version)
        return found


def look_for_kinds(kinds: ServedKinds, client: KubeClient) -> tuple[WorkloadKind, ...]:
    """Return the missing kinds that are there now, as far as the API server says."""

    def is_known(kind: WorkloadKind) -> bool:
        try:
            return client.knows(kind)
        except KubeError as error:
            _log.warning("whether %s is there can't be found out: %s", kind.kind, error.message)
            return False

    return kinds.look(is_known)
