"""How often a pod may open a session.  Pure; time comes as an argument."""

from __future__ import annotations

from zeus_agent.callers import PodCaller
from zeus_agent.leases import Refused
from zeus_agent.rate import TokenBucket
from zeus_runtime.protocol import ErrorCode

OPENINGS_PER_MINUTE = 60.0
OPENINGS_BURST = 32
"""Each opening is two lines of the log."""

MAX_PODS = 1024


class Openings:
    """Counts the sessions that pods have opened of late."""

    def __init__(self) -> None:
        self._by_pod: dict[str, TokenBucket] = {}

    def take(self, pod: PodCaller, now_seconds: float) -> None:
        """Count a new session.

        Raises:
            Refused: the pod opens them too fast.
        """
        bucket = self._by_pod.get(pod.pod_uid)
        if bucket is None:
            bucket = TokenBucket(OPENINGS_PER_MINUTE, OPENINGS_BURST, now_seconds)
            self._by_pod[pod.pod_uid] = bucket
            if len(self._by_pod) > MAX_PODS:
                del self._by_pod[next(iter(self._by_pod))]
        wait_seconds = bucket.take(now_seconds)
        if wait_seconds > 0.0:
            raise Refused(
                ErrorCode.RATE_LIMITED,
                f"pod {pod.namespace}/{pod.pod} opens sessions too fast; keep one open and renew "
                "it",
                retry_after_seconds=wait_seconds,
            )

    def forget(self, pod_uid: str) -> None:
        """Forget a pod that is gone."""
        self._by_pod.pop(pod_uid, None)
