"""Prometheus metrics.

Labels are GPUs, their models, NVML's calls, error codes, reasons and routes, which are bounded
on any machine, and the namespaces that hold leases now.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from zeus_agent.gpu import Gpu
from zeus_agent.limits import LeaseView, Rules
from zeus_agent.nvml import NvmlFailure
from zeus_agent.throttling import REASONS
from zeus_agent.worker import WorkerTimeout
from zeus_runtime.protocol import ErrorCode

_Metric = TypeVar("_Metric", Counter, Histogram)

TIMED_OUT = "timeout"
"""What stands for NVML's code where a call did not return in time."""

_CALL_BUCKETS_SECONDS = (0.00001, 0.0001, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0)
_BUCKETS_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 2.5)


def agent_version() -> str:
    """Return the version of the installed package."""
    try:
        return importlib.metadata.version("zeus-operator")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class Metrics:
    """Everything `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        gpu = ("gpu",)
        self._energy = Counter(
            "zeus_agent_gpu_energy_joules",
            "Energy of the GPU since the agent was first here; never falls, over its restarts too",
            gpu,
            registry=r,
        )
        self._energy_shown: dict[str, float] = {}
        self._power = Gauge("zeus_agent_gpu_power_watts", "Power drawn", gpu, registry=r)
        self._limit = Gauge(
            "zeus_agent_gpu_power_limit_watts", "Power limit read back", gpu, registry=r
        )
        self._enforced = Gauge(
            "zeus_agent_gpu_enforced_power_limit_watts",
            "Power limit that the driver enforces",
            gpu,
            registry=r,
        )
        self._wanted = Gauge(
            "zeus_agent_gpu_wanted_power_limit_watts",
            "Power limit that the lease's owner asked for",
            gpu,
            registry=r,
        )
        self._applied = Gauge(
            "zeus_agent_gpu_applied_power_limit_watts",
            "Power limit that the agent set for the lease",
            gpu,
            registry=r,
        )
        self._default = Gauge(
            "zeus_agent_gpu_node_default_power_limit_watts",
            "Power limit that the policy wants while there is no lease",
            gpu,
            registry=r,
        )
        self._throttled = Gauge(
            "zeus_agent_gpu_clocks_limited",
            "1: the GPU's clocks are held down for this reason",
            ("gpu", "reason"),
            registry=r,
        )
        self._healthy = Gauge("zeus_agent_gpu_healthy", "1: the GPU answers", gpu, registry=r)
        self._info = Gauge("zeus_agent_gpu_info", "Model of the GPU", ("gpu", "model"), registry=r)
        self._leases = Gauge(
            "zeus_agent_leases",
            "Power limits held; of processes on this machine the namespace is empty",
            ("namespace",),
            registry=r,
        )
        self._namespaces: set[str] = set()
        self._sessions = Gauge("zeus_agent_sessions", "Open sessions", registry=r)
        self._pending = Gauge(
            "zeus_agent_restores_pending", "Limits of ended leases not put back yet", registry=r
        )
        self._sets = Counter("zeus_agent_limits_set", "Limits set", gpu, registry=r)
        self._tries = Counter(
            "zeus_agent_limits_tried", "Limits that a dry run did not set", gpu, registry=r
        )
        self._defaults = Counter(
            "zeus_agent_node_defaults_set", "Node defaults set", gpu, registry=r
        )
        self._revoked = Counter(
            "zeus_agent_leases_revoked", "Leases ended by the policy", ("code",), registry=r
        )
        self._restores = Counter("zeus_agent_limits_restored", "Limits put back", gpu, registry=r)
        self._restore_failures = Counter(
            "zeus_agent_restore_failures", "Tries to put a limit back that failed", gpu, registry=r
        )
        self._foreign = Counter(
            "zeus_agent_foreign_changes", "Limits changed by someone else", gpu, registry=r
        )
        self._nvml_errors = Counter(
            "zeus_agent_nvml_errors", "Failed NVML calls", ("gpu", "code"), registry=r
        )
        self._nvml_seconds = Histogram(
            "zeus_agent_nvml_call_seconds",
            "Time of a call to NVML",
            ("call",),
            buckets=_CALL_BUCKETS_SECONDS,
            registry=r,
        )
        self._policy_valid = Gauge(
            "zeus_agent_policy_valid",
            "1: the policy's file is the policy in force; 0: it is refused, an earlier one holds",
            registry=r,
        )
        self._policy_valid.set(1)
        self._dry_run = Gauge("zeus_agent_dry_run", "1: nothing is written", registry=r)
        self._policy_loads = Counter(
            "zeus_agent_policy_changes", "Policies that came into force after the start", registry=r
        )
        self._refusals = Counter("zeus_agent_refusals", "Refused requests", ("code",), registry=r)
        for code in ErrorCode:
            self._refusals.labels(code.value)
        self._latency = Histogram(
            "zeus_agent_request_seconds",
            "Time to answer a request",
            ("route",),
            buckets=_BUCKETS_SECONDS,
            registry=r,
        )
        self._children: dict[tuple[int, str], Any] = {}
        build = Gauge("zeus_agent_build_info", "Version of the agent", ("version",), registry=r)
        build.labels(agent_version()).set(1)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)

    # ---- what happens ---------------------------------------------------------

    def limit_set(self, gpu_uuid: str) -> None:
        """Count a limit that was set for a lease."""
        self._child(self._sets, gpu_uuid).inc()

    def limit_tried(self, gpu_uuid: str) -> None:
        """Count a limit that a dry run would have set."""
        self._tries.labels(gpu_uuid).inc()

    def default_set(self, gpu_uuid: str) -> None:
        """Count a node default that was set."""
        self._defaults.labels(gpu_uuid).inc()

    def lease_revoked(self, code: str) -> None:
        """Count a lease that the policy ended."""
        self._revoked.labels(code).inc()

    def limit_restored(self, gpu_uuid: str) -> None:
        """Count a limit that was put back."""
        self._restores.labels(gpu_uuid).inc()

    def restore_failed(self, gpu_uuid: str) -> None:
        """Count a try to put a limit back that failed."""
        self._restore_failures.labels(gpu_uuid).inc()

    def foreign_change(self, gpu_uuid: str) -> None:
        """Count a limit found changed by somebody else."""
        self._foreign.labels(gpu_uuid).inc()

    def refused(self, code: str) -> None:
        """Count a refused request."""
        self._refusals.labels(code).inc()

    def answered(self, route: str, seconds: float) -> None:
        """Count a request and the time that it took."""
        self._child(self._latency, route).observe(seconds)

    def nvml_failed(self, gpu_uuid: str, error: NvmlFailure | WorkerTimeout) -> None:
        """Count a failed call to the driver."""
        code = str(error.code) if isinstance(error, NvmlFailure) else TIMED_OUT
        self._nvml_errors.labels(gpu_uuid, code).inc()

    def nvml_called(self, name: str, seconds: float) -> None:
        """Count a call to NVML and the time that it took; from any thread."""
        self._child(self._nvml_seconds, name).observe(seconds)

    def policy_changed(self) -> None:
        """Count a policy that has come into force."""
        self._policy_loads.inc()

    def _child(self, metric: _Metric, label: str) -> _Metric:
        """Return the series of one label; finding it takes Prometheus longer than counting.

        For metrics that lose no series; from any thread.
        """
        child: _Metric | None = self._children.get((id(metric), label))
        if child is None:
            child = self._children[id(metric), label] = metric.labels(label)
        return child

    # ---- what is --------------------------------------------------------------

    def gpu_found(self, gpu_uuid: str, model: str) -> None:
        """Show a GPU and all its counters from zero, so that rates start right."""
        self._info.labels(gpu_uuid, model).set(1)
        for counter in (
            *(self._sets, self._tries, self._defaults),
            *(self._restores, self._restore_failures, self._foreign),
        ):
            counter.labels(gpu_uuid)
        self._nvml_errors.labels(gpu_uuid, TIMED_OUT)  # the others are too many to show at zero

    def show_policy(self, *, is_valid: bool, dry_run: bool) -> None:
        """Show the state of the policy."""
        self._policy_valid.set(1 if is_valid else 0)
        self._dry_run.set(1 if dry_run else 0)

    def show_gpu(self, gpu: Gpu, view: LeaseView | None, rules: Rules) -> None:
        """Show a GPU as it was last read, and what is wanted and set while there is a lease."""
        self._healthy.labels(gpu.uuid).set(1 if gpu.healthy else 0)
        if gpu.energy.last_millijoules is not None:
            # Before the first reading the total is what an earlier agent stored, which may be
            # less than what it showed.
            shown = self._energy_shown.get(gpu.uuid, 0.0)
            self._energy.labels(gpu.uuid).inc(gpu.energy.total_joules - shown)
            self._energy_shown[gpu.uuid] = gpu.energy.total_joules
        reading = gpu.reading if gpu.healthy else None  # what was read before is not what is
        _show(self._power, gpu.uuid, None if reading is None else reading.power_milliwatts)
        _show(self._limit, gpu.uuid, None if reading is None else reading.limit_milliwatts)
        _show(self._enforced, gpu.uuid, None if reading is None else reading.enforced_milliwatts)
        _show(self._default, gpu.uuid, rules.default_milliwatts)
        throttling = None if reading is None else reading.throttling
        for reason in REASONS:
            if throttling is not None:
                self._throttled.labels(gpu.uuid, reason).set(1 if reason in throttling else 0)
            else:
                with contextlib.suppress(KeyError):
                    self._throttled.remove(gpu.uuid, reason)
        _show(self._wanted, gpu.uuid, None if view is None else view.requested_milliwatts)
        _show(self._applied, gpu.uuid, None if view is None else view.applied_milliwatts)

    def totals(self, *, sessions: int, leases: Mapping[str, int], restores_pending: int) -> None:
        """Show how many there are; leases by namespace."""
        self._sessions.set(sessions)
        shown = {"": 0, **leases}
        for gone in self._namespaces - shown.keys():
            self._leases.remove(gone)
        self._namespaces = set(shown)
        for namespace, count in shown.items():
            self._leases.labels(namespace).set(count)
        self._pending.set(restores_pending)


def _show(gauge: Gauge, gpu_uuid: str, milliwatts: int | None) -> None:
    """Show a value in watts, or no series at all where there is none."""
    if milliwatts is not None:
        gauge.labels(gpu_uuid).set(milliwatts / 1000.0)
    else:
        with contextlib.suppress(KeyError):
            gauge.remove(gpu_uuid)
