"""One Lease in memory that behaves as the API server's, and can be cut off, slow or forgetful."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass

from zeus_operator.kube import AlreadyExists, Conflict, KubeUnavailable, NotFound, Object


@dataclass
class Clock:
    """Seconds that pass only when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """Keeps the Lease; optimistic locking by resourceVersion, as the real one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self.lease: Object | None = None

    def read(self) -> Object | None:
        with self._lock:
            return copy.deepcopy(self.lease)

    @property
    def writes(self) -> int:
        """How often the Lease was written."""
        return self._version

    def write(self, spec: Object, version: str | None, labels: Object | None = None) -> Object:
        with self._lock:
            if version is None and self.lease is not None:
                raise AlreadyExists(409, "AlreadyExists", "it is there")
            if version is not None and self.lease is None:
                raise NotFound(404, "NotFound", "it is gone")
            if self.lease is not None and self.lease["metadata"]["resourceVersion"] != version:
                raise Conflict(409, "Conflict", "it has changed")
            self._version += 1
            metadata: Object = {"name": "zeus", "resourceVersion": str(self._version)}
            if labels:
                metadata["labels"] = labels
            self.lease = {"metadata": metadata, "spec": copy.deepcopy(spec)}
            return copy.deepcopy(self.lease)

    def touch(self) -> None:
        """Change something of the Lease that says nothing about its holder."""
        with self._lock:
            assert self.lease is not None
            self._version += 1
            self.lease["metadata"] = {
                "name": "zeus",
                "resourceVersion": str(self._version),
                "labels": {"team": "ml"},
            }

    @property
    def spec(self) -> Object:
        lease = self.read()
        assert lease is not None
        spec: Object = lease["spec"]
        return spec


class Link:
    """One candidate's way to the server."""

    def __init__(self, server: Server, clock: Clock | None = None) -> None:
        self._server = server
        self._clock = clock
        self.cut = False
        self.answer_lost = False
        self.answer_takes_seconds = 0.0
        self.hang: threading.Event | None = None
        self.gave_up_hanging = False
        self.reads = 0

    def read(self) -> Object | None:
        self.reads += 1
        self._send()
        return self._answer(self._server.read())

    def create(self, spec: Object) -> Object:
        self._send()
        return self._answered(self._server.write(spec, None))

    def replace(self, lease: Object) -> Object:
        self._send()
        metadata = lease["metadata"]
        return self._answered(
            self._server.write(lease["spec"], metadata["resourceVersion"], metadata.get("labels"))
        )

    def _send(self) -> None:
        if self.hang is not None:
            self.gave_up_hanging = not self.hang.wait(60)
        if self.cut:
            raise KubeUnavailable(0, "", "the API server does not answer")

    def _answer(self, found: Object | None) -> Object | None:
        if self._clock is not None:
            self._clock.advance(self.answer_takes_seconds)
        if self.answer_lost:
            raise KubeUnavailable(0, "", "the answer was lost")
        return found

    def _answered(self, found: Object) -> Object:
        self._answer(found)
        return found
