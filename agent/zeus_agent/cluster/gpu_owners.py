"""Who owns which board right now: the kubelet's list joined with the live pods.

The caller's words, its environment (NVIDIA_VISIBLE_DEVICES) and what it can see never count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from zeus_agent.callers import PodCaller
from zeus_agent.cluster.device_ids import Ignored, may_move
from zeus_agent.cluster.live_pods import LivePod, LivePods
from zeus_agent.cluster.ownership import Ownership, PodDevices, Share, join
from zeus_agent.cluster.pod_resources import KubeletUnavailable
from zeus_agent.logs import note

logger = logging.getLogger("zeus_agent.cluster.gpu_owners")

FRESH_SECONDS = 1.0
MISS_SECONDS = 0.2
"""A list this young holds all pods that can call: devices are given before containers start.

The kubelet answers 100 requests a second in all; a caller that names foreign GPUs in a loop must
not use them up."""
AWAY_SECONDS = 60.0
NAME_SECONDS = 5.0
"""So often the driver is asked again for the board of a name that it did not know, and of one that
another board may come to have."""
LOOK_SECONDS = 5.0
SETTLE_SECONDS = 0.5
"""After pods have come or gone: more of them come and go together."""
REUSED_SECONDS = 2.0
"""So long after a pod's end the kubelet may still list its devices, under a name that a later pod
may have by now."""

NamedBoards = Callable[[], Awaitable[Mapping[str, str]]]


class OwnershipUnavailable(Exception):  # noqa: N818 -- a fact about who is asked
    """Nobody can say now whose a GPU is; the same request may work later."""


class ListsDevices(Protocol):
    """What is needed of `PodResources`."""

    async def list(self) -> tuple[PodDevices, ...]:
        """Return the devices of all pods; raises `KubeletUnavailable`."""


class GpuOwners:
    """Answers whose a board is.

    Args:
        resources: the kubelet.
        pods: the live pods.
        named_boards: reads from the driver the board's UUID for each name that may stand for a
            board or for a part of it; asked only where the kubelet uses such names.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        resources: ListsDevices,
        pods: LivePods,
        *,
        named_boards: NamedBoards,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources = resources
        self._pods = pods
        self._read_named_boards = named_boards
        self._clock = clock
        self._named_boards: Mapping[str, str] = {}
        self._unknown_names: frozenset[str] = frozenset()
        self._next_names_at_seconds = 0.0
        self._checking: asyncio.Task[None] | None = None
        self._listed: tuple[PodDevices, ...] = ()
        self._pods_then: tuple[LivePod, ...] = ()
        self._listed_at_seconds: float | None = None
        self._tried_at_seconds: float | None = None
        self._joined: Ownership | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._told: frozenset[Ignored] = frozenset()
        self._ended_at_seconds: dict[tuple[str, str], float] = {}  # by namespace and name
        self._lists = 0
        self._is_away = False
        self._pods_changed = asyncio.Event()
        pods.when_gone(self._note_end)
        pods.when_changed(self._forget_join)

    # ---- answers --------------------------------------------------------------

    async def share(self, caller: PodCaller, gpu_uuid: str) -> Share | None:
        """Return what the caller has of a board, None for nothing.

        Raises:
            OwnershipUnavailable: the kubelet has not answered for `AWAY_SECONDS`.
        """
        if self._is_away and self.is_known:
            self._start_refresh(FRESH_SECONDS)
            share = self._ownership().share(caller.pod_uid, gpu_uuid)
            if share is not None:
                return share  # a kubelet that hangs must not hold up what is known
        await self._be_younger_than(FRESH_SECONDS)
        share = self._ownership().share(caller.pod_uid, gpu_uuid)
        if share is None:
            await self._be_younger_than(MISS_SECONDS)
            # A list that was begun before the caller was known here says nothing of it, however
            # young it is.
            was_known = any(pod.uid == caller.pod_uid for pod in self._pods_then)
            if not was_known and not self._is_away:
                await self._be_younger_than(0.0)
            share = self._ownership().share(caller.pod_uid, gpu_uuid)
            if share is None and self._pods.get(caller.pod_uid) is not None:
                self._require_a_list_of(caller)
                if caller.pod_uid in self._ownership().unsure:
                    raise OwnershipUnavailable(
                        "the driver does not say now of which board a device of the pod is"
                    )
        if not self.is_known:
            raise OwnershipUnavailable(
                "the kubelet does not say which pod has which GPU; the agent's log says why"
            )
        return share

    def owner_of(self, gpu_uuid: str) -> tuple[LivePod, ...]:
        """Return the live pods that had the board when the kubelet last answered."""
        found = (self._pods.get(uid) for uid in self._ownership().owners(gpu_uuid))
        return tuple(pod for pod in found if pod is not None)

    def is_shared(self, gpu_uuid: str) -> bool:
        """Whether the board had owners of whom none has it alone."""
        ownership = self._ownership()
        shares = (ownership.share(uid, gpu_uuid) for uid in ownership.owners(gpu_uuid))
        return any(share is not None and not share.exclusive for share in shares)

    def has_lost(self, caller: PodCaller, gpu_uuid: str) -> bool:
        """Whether the kubelet's last list does not give a live pod a board that it had.

        A kubelet that has just started does not list every pod yet, and a driver may not say for a
        while which board a device is of: neither takes anything from a pod, unless the board is
        another's by now.
        """
        ownership = self._ownership()
        if ownership.share(caller.pod_uid, gpu_uuid) is not None:
            return False
        if ownership.owners(gpu_uuid):
            return True
        return self._is_listed(caller) and caller.pod_uid not in ownership.unsure

    @property
    def lists(self) -> int:
        """How many lists the kubelet has given."""
        return self._lists

    async def look_again(self) -> None:
        """Ask the kubelet anew, unless it was asked a moment ago."""
        await self._be_younger_than(FRESH_SECONDS)

    def forget_names_of(self, gpu_uuid: str) -> None:
        """Have the driver say anew which names a board has, before any of them counts again.

        To be called when it was identified anew: it may have been away, and the number of its
        device file may be another board's by now.
        """
        self._keep_names(lambda _, uuid: uuid != gpu_uuid)
        self._next_names_at_seconds = 0.0
        self._tried_at_seconds = None
        self._forget_join()

    @property
    def is_known(self) -> bool:
        """Whether the kubelet has answered recently enough for the answers to count."""
        at = self._listed_at_seconds
        return at is not None and self._clock() - at <= AWAY_SECONDS

    # ---- keeping up -----------------------------------------------------------

    async def run(self) -> None:
        """Keep `owner_of` up to date until cancelled: after pods come or go, and now and then."""
        while True:
            self._pods_changed.clear()
            await self._be_younger_than(SETTLE_SECONDS)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._pods_changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(SETTLE_SECONDS)

    async def _be_younger_than(self, seconds: float) -> None:
        """Have the kubelet's list read again unless it was tried so short a time ago."""
        refreshing = self._start_refresh(seconds)
        if refreshing is not None:
            # Many wait for the same one; one of them hanging up must not end it for the others.
            await asyncio.shield(refreshing)

    def _start_refresh(self, seconds: float) -> asyncio.Task[None] | None:
        if self._refreshing is None:
            tried = self._tried_at_seconds
            if tried is not None and self._clock() - tried < seconds:
                return None
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # whoever waits gets it; maybe nobody does

    async def _refresh(self) -> None:
        # Of before the call: what happens while it is made may not be in the answer.
        self._tried_at_seconds = now = self._clock()
        pods = self._pods.all()
        try:
            listed = await self._resources.list()
        except KubeletUnavailable as error:
            if not self._is_away:
                note(logger, logging.WARNING, "no list of devices", reason=str(error))
            self._is_away = True
            await self._learn_names(now)  # what is known of before counts, and so do its names
            return
        if self._is_away:
            note(logger, logging.INFO, "the kubelet lists devices again")
        self._is_away, self._listed_at_seconds = False, now
        self._listed, self._pods_then, self._joined = listed, pods, None
        self._lists += 1
        self._forget_old_ends(now)
        await self._learn_names(now)
        self._tell_ignored(self._ownership().ignored)

    async def _learn_names(self, now_seconds: float) -> None:
        """Ask the driver for the boards of names where that is needed.

        The number of a device file is another board's once the driver has let go of the board and
        another one has come.  So a number is read when a pod comes to have it, again now and then,
        and again before it counts if its board was identified anew (`forget_names_of`).
        """
        ownership, is_due = self._ownership(), now_seconds >= self._next_names_at_seconds
        unknown = ownership.unknown_names
        if unknown - self._unknown_names or (unknown and is_due):
            self._next_names_at_seconds = now_seconds + NAME_SECONDS
            await self._read_names()
            self._unknown_names = self._ownership().unknown_names
        elif is_due and self._checking is None and any(map(may_move, ownership.names)):
            self._next_names_at_seconds = now_seconds + NAME_SECONDS
            # A driver that is slow or hangs must not hold up what is known.
            self._checking = asyncio.create_task(self._read_names())
            self._checking.add_done_callback(self._checked)
        self._keep_names_in_use()

    async def _read_names(self) -> None:
        try:
            self._named_boards = dict(await self._read_named_boards())
        except Exception:
            # A fault of the driver, or of ours, with names must not end what holds the limits.
            logger.exception("the driver does not say which boards the devices are of")
            self._keep_names(lambda name, _: not may_move(name))
        self._joined = None
        self._keep_names_in_use()

    def _keep_names_in_use(self) -> None:
        names = self._ownership().names
        self._keep_names(lambda name, _: name in names or not may_move(name))

    def _keep_names(self, is_kept: Callable[[str, str], bool]) -> None:
        boards = self._named_boards.items()
        self._named_boards = {name: uuid for name, uuid in boards if is_kept(name, uuid)}

    def _checked(self, _: asyncio.Task[None]) -> None:
        self._checking = None

    def _is_listed(self, caller: PodCaller) -> bool:
        name = (caller.namespace, caller.pod)
        return any((entry.namespace, entry.name) == name for entry in self._listed)

    def _require_a_list_of(self, caller: PodCaller) -> None:
        """Check that the list says something of a live pod, if only that it has nothing.

        Raises:
            OwnershipUnavailable: it does not.
        """
        if (caller.namespace, caller.pod) in self._reused():
            raise OwnershipUnavailable(
                "a former pod of that name has ended a moment ago, and the kubelet may still list "
                "its GPUs"
            )
        if not self._is_listed(caller):
            raise OwnershipUnavailable(
                "the kubelet does not list the pod; it may just have started"
            )

    # ---- the join -------------------------------------------------------------

    def _ownership(self) -> Ownership:
        if self._joined is None:
            self._joined = join(self._listed, self._live_then(), self._named_boards, self._reused())
        return self._joined

    def _live_then(self) -> list[LivePod]:
        """Return the pods of the time of the last list, as far as they still live.

        A later pod of the same name is another one: the list says nothing of it.
        """
        return [pod for pod in self._pods_then if self._pods.get(pod.uid) is not None]

    def _reused(self) -> frozenset[tuple[str, str]]:
        """Return the names that may be a former pod's in the last list.

        Its end was told just before that list was begun, or was not told yet.
        """
        listed_at = self._listed_at_seconds
        if listed_at is None:
            return frozenset()
        ended = self._ended_at_seconds.items()
        names = Counter((pod.namespace, pod.name) for pod in self._live_then())
        return frozenset(
            [name for name, at in ended if listed_at - at < REUSED_SECONDS]
            + [name for name, pods in names.items() if pods > 1]
        )

    def _note_end(self, pod: LivePod) -> None:
        self._ended_at_seconds[pod.namespace, pod.name] = self._clock()

    def _forget_old_ends(self, now_seconds: float) -> None:
        """Forget the ends that are too long ago for a list that is begun now or later."""
        self._ended_at_seconds = {
            name: at
            for name, at in self._ended_at_seconds.items()
            if now_seconds - at < REUSED_SECONDS
        }

    def _forget_join(self) -> None:
        self._joined = None
        self._pods_changed.set()

    def _tell_ignored(self, ignored: tuple[Ignored, ...]) -> None:
        """Log what is left out, once as long as it stays."""
        relevant = frozenset(each for each in ignored if each.is_nvidias)
        for each in relevant - self._told:
            note(
                logger,
                logging.WARNING,
                "device ignored",
                resource=each.resource,
                device=each.device_id,
                reason=each.reason,
            )
        # What a driver of claims gives comes and goes with each pod.
        self._told = relevant | {each for each in self._told if not each.device_id}
