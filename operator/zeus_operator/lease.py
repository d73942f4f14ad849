"""The Lease by which the replicas agree on a leader: who may take it, and who holds it how long.

The rules are client-go's (https://pkg.go.dev/k8s.io/client-go/tools/leaderelection):

- a leader leads for the renew deadline from the *start* of its last write that succeeded, and
  others take over the lease duration after they *saw* that write at the earliest; the clocks of
  two machines are never compared;
- every write carries the resourceVersion of what was read;
- a Lease that is gone is as one that is held, for those who saw its holder (client-go's is free);
- a leader that stops cleanly empties the Lease, so that nobody has to wait.

Leading is a question of time, not a flag: `is_leader` is false as soon as the deadline has passed,
whatever a request that hangs, a busy loop or a stopped process has not noticed yet.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from zeus_operator.kube import (
    AlreadyExists,
    Conflict,
    KubeClient,
    NotFound,
    Object,
    path_of,
)
from zeus_operator.lease_owner import owner_by_token

_API_VERSION = "coordination.k8s.io/v1"
_RETRY_FACTOR = 1.2


@dataclass(frozen=True)
class LeaseTimes:
    """The three durations of client-go, with its defaults.

    Attributes:
        lease_duration_seconds: others wait so long after the last renewal they saw. The Lease
            itself holds whole seconds, so it says the next greater one.
        renew_deadline_seconds: a leader that could not renew for so long gives up.
        retry_period_seconds: pause between two tries.
    """

    lease_duration_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_period_seconds: float = 2.0

    def __post_init__(self) -> None:
        """Check that a leader gives up before others take over, and has tries before that.

        Raises:
            ValueError: it does not, or has not.
        """
        if self.retry_period_seconds <= 0:
            raise ValueError("the retry period must be positive")
        if self.renew_deadline_seconds <= _RETRY_FACTOR * self.retry_period_seconds:
            raise ValueError(
                f"the renew deadline must be longer than {_RETRY_FACTOR:g} retry periods"
            )
        if self.lease_duration_seconds <= self.renew_deadline_seconds:
            raise ValueError("the lease duration must be longer than the renew deadline")

    @property
    def request_timeout_seconds(self) -> float:
        """Time-out of one request: two that hang fit before the renew deadline."""
        return self.renew_deadline_seconds / 2


class LeaseApi(Protocol):
    """The one Lease, as the API server keeps it. All methods may raise `KubeError`."""

    def read(self) -> Object | None:
        """Return the Lease; None if there is none."""

    def create(self, spec: Object) -> Object:
        """Make the Lease; raises `AlreadyExists` if somebody was quicker."""

    def replace(self, lease: Object) -> Object:
        """Write `lease` if its resourceVersion is the current one, else raise `Conflict`."""


class KubeLease:
    """The Lease `name` in `namespace` of a real API server.

    Args:
        client: one of its own, with `request_timeout_seconds`: it must not wait for a connection
            behind other requests.
    """

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._collection = path_of(_API_VERSION, "leases", namespace)
        self._path = path_of(_API_VERSION, "leases", namespace, name)

    def read(self) -> Object | None:
        """Return the Lease; None if there is none."""
        try:
            return self._client.get(self._path)
        except NotFound:
            return None

    def create(self, spec: Object) -> Object:
        """Make the Lease; with the ServiceAccount that we act by it goes, too."""
        metadata: Object = {"name": self._name}
        owner = owner_by_token(self._client.authorization(), self._namespace)
        if owner is not None:
            metadata["ownerReferences"] = [owner]
        body = {"apiVersion": _API_VERSION, "kind": "Lease", "metadata": metadata, "spec": spec}
        return self._client.create(self._collection, body)

    def replace(self, lease: Object) -> Object:
        """Write `lease` over the version it was read in."""
        return self._client.replace(self._path, lease)


def lease_clock() -> float:
    """Return monotonic seconds that also count while the machine sleeps, where there are such."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Candidate:
    """One who wants the Lease: a single try, and what follows from it.

    `try_once` and `release` belong to one thread; everything else may be read from any.

    Args:
        api: the Lease.
        identity: unique among all that ever live, such as the pod's name with a random part.
        clock: monotonic seconds.
        wall_clock: only for the times that people read in the Lease; never judged by.
    """

    def __init__(
        self,
        api: LeaseApi,
        identity: str,
        times: LeaseTimes,
        *,
        clock: Callable[[], float] = lease_clock,
        wall_clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        if not identity:
            raise ValueError("a candidate needs an identity")
        self.identity = identity
        self._api = api
        self._times = times
        self._clock = clock
        self._wall_clock = wall_clock
        self._lease: Object | None = None
        self._seen_spec: Object | None = None
        self._seen_at = 0.0
        self._contact_at: float | None = None
        self._leads_until: float | None = None
        self._over = ""

    @property
    def is_leader(self) -> bool:
        """Whether this candidate may act as the leader at this moment."""
        return self.seconds_left > 0

    @property
    def seconds_left(self) -> float:
        """How long it leads without another renewal; 0 if it does not lead."""
        until = self._leads_until
        if until is None or self._over:
            return 0.0
        return max(0.0, until - self._clock())

    @property
    def lost(self) -> str:
        """Why it leads no more; "" if it still leads, or never did."""
        if not self._over and self._leads_until is not None and self.seconds_left <= 0:
            # For ever: a renewal that arrives late must not revive who was taken for dead.
            self._over = (
                "the Lease could not be renewed for "
                f"{self._times.renew_deadline_seconds:g} s, or this process stood still"
            )
        return self._over

    @property
    def observed_holder(self) -> str | None:
        """Who held the Lease when it was last seen; None if nobody, or it was not seen yet."""
        holder: str | None = (self._seen_spec or {}).get("holderIdentity") or None
        return holder

    @property
    def contact_age_seconds(self) -> float | None:
        """Seconds since the Lease was last read or written; None if it never was."""
        return None if self._contact_at is None else self._clock() - self._contact_at

    def try_once(self) -> None:
        """Take or renew the Lease, if that is allowed.

        Raises:
            KubeError: the API server did not do it; to be tried again.
        """
        if self.lost:
            return
        leading = self._leads_until is not None
        if leading and self._lease is not None and self._write(self._lease):
            return
        lease = self._api.read()
        self._contact_at = self._clock()
        if lease is None:
            # Whoever deleted it did not ask the leader, who makes it again or gives up in time.
            if leading or not self._another_may_lead():
                with contextlib.suppress(AlreadyExists):
                    start = self._clock()
                    self._won(start, self._api.create(self._claim({})))
            return
        self._observe(lease)
        if leading and self._another_holds():
            self._over = f"{self.observed_holder} has taken the Lease"
        elif not self._another_may_lead():
            self._write(lease)

    def release(self) -> None:
        """Stop leading, then empty the Lease, so that another can take it at once.

        Raises:
            KubeError: that did not work; the Lease runs out by itself.
        """
        led = self.is_leader
        self._over = self._over or "released"
        if not led or self._lease is None:
            return
        now = _micro_time(self._wall_clock())
        spec = {
            **self._lease["spec"],
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": now,
            "renewTime": now,
        }
        with contextlib.suppress(NotFound):
            self._observe(self._api.replace({**self._lease, "spec": spec}))

    def _write(self, lease: Object) -> bool:
        """Write our claim over `lease`; False if it is not the current version."""
        start = self._clock()
        body = {**lease, "spec": self._claim(lease.get("spec") or {})}
        try:
            written = self._api.replace(body)
        except (Conflict, NotFound):
            return False
        self._won(start, written)
        return True

    def _claim(self, spec: Object) -> Object:
        now = _micro_time(self._wall_clock())
        ours = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._times.lease_duration_seconds),
            "renewTime": now,
        }
        if spec.get("holderIdentity") != self.identity:
            ours["acquireTime"] = now
            ours["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + 1 if spec else 0
        return {**spec, **ours}

    def _won(self, start: float, lease: Object) -> None:
        self._observe(lease)
        self._contact_at = self._clock()
        until = start + self._times.renew_deadline_seconds
        # An answer that came too late proves nothing about now.
        if not self.lost and self._clock() < until:
            self._leads_until = until

    def _observe(self, lease: Object) -> None:
        self._lease = lease
        spec = lease.get("spec") or {}
        if spec != self._seen_spec:
            self._seen_spec, self._seen_at = spec, self._clock()

    def _another_holds(self) -> bool:
        return self.observed_holder not in (None, self.identity)

    def _another_may_lead(self) -> bool:
        """Whether the holder that was seen last may still lead, for all that is known here."""
        if not self._another_holds():
            return False
        return self._clock() < self._seen_at + self._observed_duration_seconds()

    def _observed_duration_seconds(self) -> float:
        seconds = (self._seen_spec or {}).get("leaseDurationSeconds")
        return float(seconds) if seconds else self._times.lease_duration_seconds


def _micro_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
