"""What runs now, for Prometheus: the last report of each pod that has an open session.

Series end with the session, and labels come from the API server, not from the report: their number
is that of the pods on the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from zeus_agent.callers import PodCaller
from zeus_agent.cluster.live_pods import LivePod
from zeus_agent.sessions import Session, Sessions
from zeus_runtime.protocol import Result

_LABELS = ("namespace", "pod", "zeusjob")
_GAUGES: tuple[tuple[str, str, Callable[[Result], float | None]], ...] = (
    ("zeus_agent_run_epochs", "Complete epochs of the run", lambda r: float(r.epochs)),
    ("zeus_agent_run_seconds", "Time of the run so far", lambda r: r.time_seconds),
    ("zeus_agent_run_energy_joules", "Energy of the run so far", lambda r: r.energy_joules),
    ("zeus_agent_run_batch_size", "Global batch size, samples", lambda r: float(r.batch_size)),
    ("zeus_agent_run_last_metric", "The validation metric, last", lambda r: r.last_metric),
    ("zeus_agent_run_best_metric", "The validation metric, best", lambda r: r.best_metric),
)


class RunsCollector(Collector):
    """Shows the reports of open sessions.

    Args:
        sessions: the open ones.
        pod: finds a live pod by its UID.
    """

    def __init__(self, sessions: Sessions, pod: Callable[[str], LivePod | None]) -> None:
        self._sessions = sessions
        self._pod = pod

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges; called by Prometheus' registry."""
        newest: dict[PodCaller, Session] = {}
        for session in self._sessions.all():  # of two sessions of a pod, the one used last counts
            if isinstance(session.owner, PodCaller) and session.report is not None:
                other = newest.get(session.owner)
                if other is None or other.expires_at_seconds <= session.expires_at_seconds:
                    newest[session.owner] = session
        for name, meaning, read in _GAUGES:
            family = GaugeMetricFamily(name, meaning, labels=_LABELS)
            for owner, session in newest.items():
                value = None if session.report is None else read(session.report)
                if value is not None:
                    pod = self._pod(owner.pod_uid)
                    job = "" if pod is None else pod.zeusjob
                    family.add_metric((owner.namespace, owner.pod, job), value)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: names are known without asking who runs."""
        return ()
