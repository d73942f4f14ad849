"""What agents have told of running pods, and what of it is shown.

A report comes with each epoch, and an epoch may be short.  What is shown of a run changes at most
every half a minute, however often somebody looks, so that a status is written no more often.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from zeus_operator.agents.reports import AgentReport

SHOWN_FOR = timedelta(seconds=30)
KEPT_FOR = timedelta(minutes=10)
"""So long what was heard of a pod that has ended may still be asked for."""
_REMEMBERED = 20_000


class ProgressBook:
    """The last report of each pod.  Threads may share it.

    Args:
        most: pods that are remembered; those heard of longest ago are forgotten first.
    """

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, AgentReport] = OrderedDict()
        self._shown: dict[str, tuple[AgentReport, datetime]] = {}
        self._unwanted: dict[str, datetime] = {}  # pod uid -> since when nobody needs it

    def take(self, reports: Iterable[AgentReport], now: datetime) -> set[str]:
        """Take in reports; older ones than those known change nothing.

        Returns:
            The UIDs of the pods of which something else is shown from now on.
        """
        news = set()
        with self._lock:
            for report in reports:
                if self._is_newer(report):
                    self._latest[report.pod_uid] = report
                    self._latest.move_to_end(report.pod_uid)
                if self._turn(report.pod_uid, now):
                    news.add(report.pod_uid)
            while len(self._latest) > self._most:
                self._forget(next(iter(self._latest)))
        return news

    def keep(self, wanted: Collection[str], now: datetime) -> None:
        """Forget the pods that are not `wanted`, and have not been for a while."""
        with self._lock:
            since = {
                uid: min(self._unwanted.get(uid, now), now)  # a clock may be set back
                for uid in self._latest
                if uid not in wanted
            }
            self._unwanted = since
            for uid in [uid for uid, moment in since.items() if now - moment >= KEPT_FOR]:
                self._forget(uid)

    def shown(self, pod_uid: str) -> AgentReport | None:
        """Return what is shown of a pod; None: nothing is known of it."""
        with self._lock:
            found = self._shown.get(pod_uid)
            return None if found is None else found[0]

    def latest(self, pod_uid: str) -> AgentReport | None:
        """Return the last that was heard of a pod."""
        with self._lock:
            return self._latest.get(pod_uid)

    def _forget(self, uid: str) -> None:
        self._latest.pop(uid, None)
        self._shown.pop(uid, None)
        self._unwanted.pop(uid, None)

    def _is_newer(self, report: AgentReport) -> bool:
        known = self._latest.get(report.pod_uid)
        return known is None or report.result.sequence > known.result.sequence

    def _turn(self, pod_uid: str, now: datetime) -> bool:
        """Show the last report if it is news and its turn."""
        latest, shown = self._latest[pod_uid], self._shown.get(pod_uid)
        if shown is not None:
            report, since = shown
            # A clock that was set back must not hold it for ever.
            if report is latest or since <= now < since + SHOWN_FOR:
                return False
        self._shown[pod_uid] = (latest, now)
        return True
