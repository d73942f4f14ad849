"""The reference page of all metrics, from the exporters themselves.

`python -m tools.metrics_reference --write` renews docs/reference/metrics.md, `--check` fails if it
is not current.  Each exporter is filled through its own methods, so that a metric whose labels are
not known here stops the tool and never goes missing from the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry, Metric

from tools.generated import write_or_check
from zeus_agent.callers import PodCaller
from zeus_agent.cluster.energy_by_pod import (
    SHARED,
    UNKNOWN,
    UNOWNED,
    EnergyByPod,
    PodLabels,
    Totals,
)
from zeus_agent.gpu import Gpu
from zeus_agent.limits import LeaseView, Rules
from zeus_agent.metrics import Metrics as AgentMetrics
from zeus_agent.nvml import Reading
from zeus_agent.runs import RunsCollector
from zeus_agent.sessions import Sessions
from zeus_agent.throttling import REASONS as THROTTLING_REASONS
from zeus_agent.tls import Certificates, show_expiry
from zeus_agent.worker import WorkerTimeout
from zeus_operator.api.status import ConditionType
from zeus_operator.job_series import JobSeries, LastRun, Saved
from zeus_operator.metrics import REASONS as RECONCILE_REASONS
from zeus_operator.metrics import Metrics as OperatorMetrics
from zeus_operator.records import RecurrenceState
from zeus_operator.world import Resource
from zeus_runtime.protocol import ErrorCode, Outcome, Result, SessionRequest

PAGE = Path("docs/reference/metrics.md")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in sorted(values))


_HEAD = """\
<!-- Generated from what the exporters show, by `python -m tools.metrics_reference --write`. -->
# Metrics

Everything that `/metrics` of the [operator](operator.md) and of the [agent](agent-api.md) shows,
in Prometheus' text format. How to scrape, query and be alerted:
[watch in Prometheus](../how-to/watch-in-prometheus.md).

Base units: joules, seconds, watts. A name that ends in `_total` is a counter and falls only where
what it counts was reset. What is not known has no series, which is not the same as 0. No label is
of one run; where a label is of a pod, its series ends with the pod.

"""

_OPERATOR = """\
## Operator

Besides these there are the usual ones of the process (`process_...`). Series of a job are sums of
the database: they survive restarts, are shown by the leader alone, and disappear with the job. They
begin once its ZeusJob has been valid.

"""

_AGENT = """\
## Agent

Labels of pods come from the API server, as they were when the agent first saw the pod.

"""

_LABELS: dict[str, str] = {
    "call": "name of an NVML function",
    "code": "an [error code](agent-api.md#errors); of `zeus_agent_nvml_errors_total` NVML's "
    "number, or `timeout`",
    "condition": f"one of {_listed(each.value for each in ConditionType)}",
    "gpu": "UUID of the GPU",
    "model": "model of the GPU, as the driver calls it",
    "namespace": "of the ZeusJob or of the pod; empty for processes of the machine itself. Scrape "
    "with `honor_labels: true`, or Prometheus calls it `exported_namespace`",
    "of": "`cost`, `energy`, `time`; of `zeus_operator_agent_problems` `trust` or `reports`",
    "outcome": f"how an attempt ended: {_listed(each.value for each in Outcome)}",
    "pod": "name of the pod",
    "policy": f"who decides batch sizes: {_listed(('structured', 'zeus'))}, or `default` where "
    "nothing is decided",
    "reason": f"of a failed reconcile {_listed(RECONCILE_REASONS)}; of limited clocks "
    f"{_listed(THROTTLING_REASONS)}; of energy that is no single pod's "
    f"{_listed((SHARED, UNOWNED, UNKNOWN))}; of a condition [its reason](operator.md#conditions)",
    "resource": f"what is watched: {_listed(each.value for each in Resource)}",
    "route": "route of the agent's API",
    "state": "how a recurrence ended: "
    f"{_listed(each.value for each in RecurrenceState if each is not RecurrenceState.OPEN)}",
    "version": "of the agent",
    "zeusjob": "name of the ZeusJob; empty for a pod of none",
}


def page() -> str:
    """Return the whole page."""
    operator, agent = _families(_operator()), _families(_agent())
    used = sorted({label for family in (*operator, *agent) for label in _labels(family)})
    return "".join(
        (
            *(_HEAD, _OPERATOR, *_table(operator), "\n", _AGENT, *_table(agent)),
            "\n## Labels\n\n| label | meaning |\n| --- | --- |\n",
            *(f"| `{label}` | {_LABELS[label]} |\n" for label in used),
        )
    )


def exported_names() -> frozenset[str]:
    """Return every name that a query may use, those of histograms' parts included."""
    names: set[str] = set()
    for family in (*_families(_operator()), *_families(_agent())):
        names.add(shown_name(family))
        if family.type == "histogram":
            names.update(f"{family.name}{part}" for part in ("_bucket", "_count", "_sum"))
    return frozenset(names)


def shown_name(family: Metric) -> str:
    """Return the name as queries have it."""
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def _table(families: list[Metric]) -> Iterator[str]:
    yield "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
    for family in families:
        labels = ", ".join(f"`{label}`" for label in _labels(family))
        yield f"| `{shown_name(family)}` | {family.type} | {labels} | {family.documentation} |\n"


def _labels(family: Metric) -> list[str]:
    every = (name for sample in family.samples for name in sample.labels if name != "le")
    return list(dict.fromkeys(every))


def _families(registry: CollectorRegistry) -> list[Metric]:
    found = [each for each in registry.collect() if not each.name.startswith("process_")]
    empty = [each.name for each in found if not each.samples]
    if empty:
        raise SystemExit(
            f"{', '.join(empty)}: not filled in tools/metrics_reference.py, so that its labels are "
            "not known; call there what sets it"
        )
    return sorted(found, key=shown_name)


def _operator() -> CollectorRegistry:
    """Return what an operator with one job shows."""
    metrics = OperatorMetrics()
    metrics.read_watch("zeusjobs", lambda: None)
    saved = Saved(1.0, 1.0, 0.0, 0.0)
    series = JobSeries(
        *({"x": 1}, {"x": 1}, {"x": 1}),
        cost_joules=1.0,
        saved_ratios={"cost": 0.0},
        saved={"cost": saved, "energy": saved},
        failures_in_row=0,
        last_run=LastRun(0.0, 1.0, 1.0, 1.0),
        batch_size=1,
        converged=True,
        conditions={"Ready": (True, "Valid")},
    )
    metrics.jobs.show(("x", "x"), series)
    return metrics.registry


def _agent() -> CollectorRegistry:
    """Return what an agent with one GPU, one lease and one reporting pod shows."""
    metrics = AgentMetrics()
    gpu = SimpleNamespace(
        uuid="x",
        healthy=True,
        energy=SimpleNamespace(last_millijoules=1, total_joules=1.0),
        reading=Reading(1, 1, 1, 1, frozenset()),
    )
    view = LeaseView("s", "x", 1, 1, 1, 1, clamped=False, foreign=False)
    metrics.gpu_found("x", "x")
    metrics.show_gpu(cast(Gpu, gpu), view, Rules(default_milliwatts=1))
    metrics.show_policy(is_valid=True, dry_run=False)
    metrics.totals(sessions=0, leases={"x": 1}, restores_pending=0)
    metrics.lease_revoked(ErrorCode.POLICY_DENIED.value)
    metrics.nvml_failed("x", WorkerTimeout("x", started=True))
    metrics.nvml_called("x", 0.0)
    metrics.answered("x", 0.0)
    sessions = Sessions()
    session, _ = sessions.open("s", PodCaller("x", "x", "u", "x"), SessionRequest(), 0.0)
    session.report = Result(energy_joules=1.0, last_metric=1.0, best_metric=1.0)
    metrics.registry.register(RunsCollector(sessions, lambda _uid: None))
    totals = Totals({PodLabels("x", "x", "x"): 1.0}, {"x": 1.0}, {UNKNOWN: 1.0})
    metrics.registry.register(EnergyByPod(cast(Any, None), stored=totals))
    show_expiry(Certificates(Path("tls.crt"), Path("tls.key")), metrics.registry)
    return metrics.registry


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; return the exit code."""
    return write_or_check({PAGE: page}, "python -m tools.metrics_reference", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
