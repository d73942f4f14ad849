"""Kubernetes Events: what an administrator, or a pod's owner, should see without reading logs.

Repetitions become a count, patched in once a minute; in all there are few calls, whatever
happens.  While the API server is away what is to be told waits, and is bounded.  What concerns the
node goes first, and pods whose wishes are refused, as often as they like, have a part of the calls
and of the places: nothing that they do keeps from anybody that a limit was not put back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from zeus_agent.callers import PodCaller
from zeus_agent.cluster.kube_api import ApiRefused, ApiUnavailable
from zeus_agent.leases import Refused
from zeus_agent.logs import note
from zeus_agent.rate import TokenBucket
from zeus_runtime.protocol import ErrorCode

logger = logging.getLogger("zeus_agent.events")

COMPONENT = "zeus-agent"
NODE_NAMESPACE = "default"  # where Events of objects without a namespace belong
REPEAT_SECONDS = 60.0
FORGET_SECONDS = 600.0
RETRY_SECONDS = 10.0
LOOK_SECONDS = 1.0
MAX_REMEMBERED = 256
CALLS_PER_MINUTE = 12.0
BURST = 20
REFUSALS_PER_MINUTE = 6.0
REFUSALS_BURST = 10
"""Of the calls; for what pods bring about by asking."""
MAX_MESSAGE_LENGTH = 1024
MAX_NAME_LENGTH = 200

REFUSED = "PowerLimitRefused"

TOLD_REFUSALS = frozenset({ErrorCode.POLICY_DENIED, ErrorCode.GPU_SHARED, ErrorCode.NOT_OWNER})


class EventsApi(Protocol):
    """What is needed of `KubeApi`."""

    async def create_event(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an Event; raises `ApiUnavailable`, `ApiRefused`."""

    async def patch_event(self, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change an Event; raises `ApiUnavailable`, `ApiRefused`."""


@dataclass(frozen=True)
class Subject:
    """The object that an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass
class _Told:
    """One kind of thing that has happened to one subject."""

    subject: Subject
    reason: str
    message: str
    first_wall_seconds: float
    last_wall_seconds: float
    last_seconds: float
    count: int = 1
    sent_count: int = 0
    sent_at_seconds: float = 0.0
    name: str = ""  # of the Event, from the first try to create it on
    is_created: bool = False


class Events:
    """Tells what happens.

    Args:
        api: takes Events.
        node: name of this node.
        clock: monotonic seconds.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        api: EventsApi,
        node: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._node = Subject("Node", "", node, node)
        self._clock = clock
        self._wall_clock = wall_clock
        self._told: dict[tuple[Subject, str, str], _Told] = {}
        self._bucket = TokenBucket(CALLS_PER_MINUTE, BURST, clock())
        self._refusals = TokenBucket(REFUSALS_PER_MINUTE, REFUSALS_BURST, clock())
        self._not_before_seconds = 0.0
        self._numbers = itertools.count(1)
        self._is_refused = False

    # ---- what happens ---------------------------------------------------------

    def restore_failed(self, gpu_uuid: str, reason: str) -> None:
        """Tell that a limit could not be put back."""
        self._tell(
            self._node,
            "PowerLimitNotRestored",
            f"the former power limit of {gpu_uuid} could not be put back: {reason}; it is saved "
            "and tried again",
            gpu_uuid,
        )

    def foreign_change(self, gpu_uuid: str, found_watts: float, pod: PodCaller | None) -> None:
        """Tell that somebody else has set a limit; the pod that held one is told too."""
        message = (
            f"someone else has set the power limit of {gpu_uuid} to {found_watts:g} W; the agent "
            "leaves it alone"
        )
        self._tell(self._node, "PowerLimitChangedElsewhere", message, gpu_uuid)
        if pod is not None:
            self._tell(_subject(pod), "PowerLimitChangedElsewhere", message, gpu_uuid)

    def lease_revoked(self, gpu_uuid: str, pod: PodCaller, refused: Refused) -> None:
        """Tell a pod that its limit was taken back."""
        message = f"the power limit of {gpu_uuid} was taken back: {refused.message}"
        self._tell(_subject(pod), "PowerLimitRevoked", message, gpu_uuid)

    def pod_refused(self, pod: PodCaller, refused: Refused) -> None:
        """Tell a pod that its wish was refused, where somebody has to change something for it."""
        if refused.code in TOLD_REFUSALS:
            message = f"a power limit was refused ({refused.code.value}): {refused.message}"
            self._tell(_subject(pod), REFUSED, message, refused.code.value)

    # ---- telling --------------------------------------------------------------

    async def run(self) -> None:
        """Send what is due until cancelled."""
        while True:
            await self.send_due()
            await asyncio.sleep(LOOK_SECONDS)

    async def send_due(self) -> None:
        """Send what is due now."""
        now = self._clock()
        for key in [k for k, told in self._told.items() if _is_over(told, now)]:
            del self._told[key]
        due = [(key, told) for key, told in self._told.items() if _is_due(told, now)]
        for key, told in sorted(due, key=lambda each: (_rank(each[1]), each[1].is_created)):
            if now < self._not_before_seconds:
                return
            if told.reason == REFUSED and self._refusals.take(now) > 0.0:
                continue
            if self._bucket.take(now) > 0.0:
                return
            await self._send(key, told, now)

    async def _send(self, key: tuple[Subject, str, str], told: _Told, now: float) -> None:
        namespace = told.subject.namespace or NODE_NAMESPACE
        count = told.count
        try:
            if told.is_created:
                await self._api.patch_event(namespace, told.name, self._repetition(told))
            else:
                # Kept for the next try: the answer to this one may be lost, and the Event there.
                told.name = told.name or self._name(told)
                await self._api.create_event(namespace, self._body(told, told.name))
                told.is_created = True
        except ApiUnavailable:
            self._not_before_seconds = now + RETRY_SECONDS
            return
        except ApiRefused as error:
            if told.is_created and error.status == 404:
                told.name, told.is_created = "", False  # it has expired; another one is created
                return
            if not told.is_created and error.status == 409:
                told.is_created = True  # by an earlier try, whose answer was lost
                return
            self._told.pop(key, None)  # its namespace is gone, or we may not
            if not self._is_refused:
                note(logger, logging.WARNING, "Event refused", reason=str(error))
            self._is_refused = True
            return
        self._is_refused = False
        told.sent_count, told.sent_at_seconds = count, now

    def _tell(self, subject: Subject, reason: str, message: str, what: str) -> None:
        now, wall = self._clock(), self._wall_clock()
        key = (subject, reason, what)
        told = self._told.get(key)
        if told is None or _is_over(told, now):
            self._told.pop(key, None)
            self._told[key] = _Told(subject, reason, message[:MAX_MESSAGE_LENGTH], wall, wall, now)
            if len(self._told) > MAX_REMEMBERED:
                # The least urgent kind, and of it the oldest.
                del self._told[max(self._told, key=lambda each: _rank(self._told[each]))]
            return
        told.count += 1
        told.message = message[:MAX_MESSAGE_LENGTH]
        told.last_seconds, told.last_wall_seconds = now, wall

    def _name(self, told: _Told) -> str:
        subject = told.subject.name[:MAX_NAME_LENGTH].rstrip("-.")  # else it might be no valid name
        return f"{subject}.{int(told.first_wall_seconds * 1000):x}{next(self._numbers):x}"

    def _body(self, told: _Told, name: str) -> dict[str, Any]:
        subject = told.subject
        involved = {"apiVersion": "v1", "kind": subject.kind, "name": subject.name}
        if subject.namespace:
            involved["namespace"] = subject.namespace
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": subject.namespace or NODE_NAMESPACE},
            "involvedObject": {**involved, "uid": subject.uid},
            "type": "Warning",
            "reason": told.reason,
            "firstTimestamp": _time(told.first_wall_seconds),
            "source": {"component": COMPONENT, "host": self._node.name},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node.name,
            **self._repetition(told),
        }

    @staticmethod
    def _repetition(told: _Told) -> dict[str, Any]:
        return {
            "message": told.message,
            "count": told.count,
            "lastTimestamp": _time(told.last_wall_seconds),
        }


def _rank(told: _Told) -> int:
    """Return how urgent it is; 0 is the most."""
    if told.subject.kind == "Node":
        return 0
    return 2 if told.reason == REFUSED else 1


def _is_due(told: _Told, now: float) -> bool:
    if not told.is_created:
        return True
    return told.count > told.sent_count and now - told.sent_at_seconds >= REPEAT_SECONDS


def _is_over(told: _Told, now: float) -> bool:
    """Whether it was told, and has not happened for so long that it would be another matter."""
    return now - told.last_seconds > FORGET_SECONDS and told.count == told.sent_count


def _subject(pod: PodCaller) -> Subject:
    return Subject("Pod", pod.namespace, pod.pod, pod.pod_uid)


def _time(wall_seconds: float) -> str:
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
