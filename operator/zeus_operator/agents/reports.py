"""Reports as an agent hands them out.  Pure.

The agent vouches for the pod that a report is of, and for nothing in it: that was written by code
of the user.  So what is malformed is left out here, and what is implausible is judged where it
counts (`classify`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from zeus_operator.classify import RunIdentity, malformed
from zeus_runtime.protocol import PodReport, ProtocolError, Result

MOST_REPORTS = 10_000


@dataclass(frozen=True)
class AgentReport:
    """The last that an agent has heard of a pod.

    Args:
        received_at: by the agent's clock, aware.
    """

    pod_uid: str
    received_at: datetime
    result: Result

    @property
    def identity(self) -> RunIdentity:
        """Return which attempt it says that it is of."""
        return RunIdentity(self.result.job, self.result.recurrence, self.result.attempt)


def report_of(body: object) -> AgentReport | None:
    """Return one report (`PodReport`); None: it is malformed."""
    if not isinstance(body, Mapping):
        return None
    try:
        report = PodReport.from_body(body)
        received = datetime.fromtimestamp(report.received_at, UTC)
    except (ProtocolError, TypeError, ValueError, OverflowError, OSError):
        return None
    uid: object = report.pod_uid
    if not isinstance(uid, str) or not uid or malformed(report.result):
        return None
    return AgentReport(uid, received, report.result)


def reports_of(body: object) -> tuple[AgentReport, ...]:
    """Return the reports of an answer that lists them, those left out that are malformed."""
    if not isinstance(body, list):
        return ()
    found = map(report_of, body[:MOST_REPORTS])
    return tuple(each for each in found if each is not None)
