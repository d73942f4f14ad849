"""Whose energy it was: joules of each board, added to the pod that has it alone.

The counter is the whole board's.  Where several have a board nobody can tell their parts, and
where nobody has it, it is idle power: both are counted apart, so that all of it is somewhere.

Bills rest on these totals.  One that falls is taken for one that began again, and counted twice; so
where they are stored (`energy_file`), what is shown is never more than what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from zeus_agent.cluster.live_pods import LivePod

EXPIRY_SECONDS = 900.0
"""Series of a pod that is gone stay this long: Prometheus has scraped the last value by then."""
MAX_NAMESPACES = 4096
"""Where more were seen on one node, the one unused for longest is forgotten."""

SHARED = "shared"
UNOWNED = "unowned"
UNKNOWN = "unknown"


class Owners(Protocol):
    """What is needed of `GpuOwners`."""

    def owner_of(self, gpu_uuid: str) -> tuple[LivePod, ...]:
        """Return the pods that have the board."""

    def is_shared(self, gpu_uuid: str) -> bool:
        """Whether nobody has it alone."""

    @property
    def is_known(self) -> bool:
        """Whether the answers count."""


class PodLabels(NamedTuple):
    """Of the series of a pod."""

    namespace: str
    pod: str
    zeusjob: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Joules at one moment."""

    pods: Mapping[PodLabels, float] = field(default_factory=dict)
    namespaces: Mapping[str, float] = field(default_factory=dict)
    unattributed: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Series:
    joules: float = 0.0
    used_at_seconds: float = 0.0


class EnergyByPod(Collector):
    """Adds up, and shows it to Prometheus: register it as a collector.

    Args:
        owners: whose a board is.
        stored: totals of an earlier process, to go on from; what is shown then grows with `show`
            alone.  None: nothing is stored, and what is shown is what is known.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        owners: Owners,
        *,
        stored: Totals | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owners = owners
        self._clock = clock
        before, now = stored or Totals(), clock()
        self._shown = stored
        self._pods = {labels: _Series(joules, now) for labels, joules in before.pods.items()}
        self._namespaces = dict(before.namespaces)
        self._unattributed = {
            reason: before.unattributed.get(reason, 0.0) for reason in (SHARED, UNOWNED, UNKNOWN)
        }

    def add(self, gpu_uuid: str, joules: float) -> None:
        """Add what a board has used since the last call for it.

        Raises:
            ValueError: it is less than nothing, or not a number.
        """
        if not 0.0 <= joules < float("inf"):
            raise ValueError(f"energy of {gpu_uuid} went on by {joules} J")
        owners = self._owners.owner_of(gpu_uuid)
        if not self._owners.is_known:
            self._unattributed[UNKNOWN] += joules
        elif self._owners.is_shared(gpu_uuid) or len(owners) > 1:
            self._unattributed[SHARED] += joules
        elif not owners:
            self._unattributed[UNOWNED] += joules
        else:
            self._add_to(owners[0], joules)

    def totals(self) -> Totals:
        """Return what is known now, without the pods that are gone for long."""
        self._expire()
        pods = {labels: series.joules for labels, series in self._pods.items()}
        return Totals(pods, dict(self._namespaces), dict(self._unattributed))

    def show(self, totals: Totals) -> None:
        """Show these totals: they are stored now."""
        self._shown = totals

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; called by Prometheus' registry."""
        totals = self.totals() if self._shown is None else self._shown
        by_pod = CounterMetricFamily(
            "zeus_agent_pod_energy_joules",
            "Energy of the GPUs that the pod has alone",
            labels=PodLabels._fields,
        )
        for labels, joules in totals.pods.items():
            by_pod.add_metric(labels, joules)
        by_namespace = CounterMetricFamily(
            "zeus_agent_namespace_energy_joules",
            "Energy of the GPUs that pods of the namespace had alone; never falls",
            labels=("namespace",),
        )
        for namespace, joules in totals.namespaces.items():
            by_namespace.add_metric((namespace,), joules)
        nobodys = CounterMetricFamily(
            "zeus_agent_unattributed_energy_joules",
            "Energy that is no single pod's",
            labels=("reason",),
        )
        for reason, joules in totals.unattributed.items():
            nobodys.add_metric((reason,), joules)
        return (by_pod, by_namespace, nobodys)

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: names are known without asking whose GPUs there are."""
        return ()

    def _add_to(self, pod: LivePod, joules: float) -> None:
        labels = PodLabels(pod.namespace, pod.name, pod.zeusjob)
        # A later pod of the same name has the same labels, and two series of the same labels
        # would be an error: it goes on where the other ended.
        series = self._pods.setdefault(labels, _Series())
        series.joules += joules
        series.used_at_seconds = self._clock()
        total = self._namespaces.pop(pod.namespace, 0.0) + joules
        self._namespaces[pod.namespace] = total  # the last one used is the last one to go
        if len(self._namespaces) > MAX_NAMESPACES:
            del self._namespaces[next(iter(self._namespaces))]

    def _expire(self) -> None:
        oldest = self._clock() - EXPIRY_SECONDS
        gone = [labels for labels, each in self._pods.items() if each.used_at_seconds < oldest]
        for labels in gone:
            del self._pods[labels]
