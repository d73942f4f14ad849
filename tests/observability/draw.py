"""Draws the pictures of the dashboards in the docs: their own queries, asked of a real Prometheus.

    python -m tests.observability.draw docs/images

The job is that of a real operator on a real API server, with synthetic training; the node is a real
agent with simulated GPUs, and a real runtime that trains on one of them.  No Grafana is involved.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.cluster.support.binaries import find_binaries
from tests.cluster.support.control_plane import ControlPlane
from tests.cluster.support.installed import (
    OPERATOR_NAMESPACE,
    SERVICE_ACCOUNT,
    allow_lease,
    install,
)
from tests.cluster.support.kubelet import SimulatedNode, SyntheticJob
from tests.cluster.support.namespaces import create_namespace
from tests.cluster.support.operator_process import OperatorProcess
from tests.cluster.support.zeusjobs import ZeusJobs
from tests.observability.support.nodes import HEALTHY, node_of_the_tests, trains
from tests.observability.support.programs import find_programs
from tests.observability.support.server import Prometheus, Target
from tests.support.eventually import eventually
from tests.support.postgres import test_server
from tools.dashboards import DASHBOARDS
from tools.dashboards.panels import Panel, Query, Unit
from zeus_operator.store.store import Store
from zeus_runtime.protocol import SessionRequest

NAMESPACE, JOB = "vision", "cifar100"
RUNS = 40
CONTROL_FRACTION = "0.2"
NODE_SECONDS = 60.0
STEP_SECONDS = 1.0
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "zeus-operator",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_UNITS = {Unit.WATTS: "W", Unit.JOULES: "J", Unit.SECONDS: "s", Unit.RATIO: "fraction"}


@dataclass(frozen=True)
class Line:
    """One series of a query: seconds since the picture begins, and values."""

    label: str
    seconds: tuple[float, ...]
    values: tuple[float, ...]


def panel_of(dashboard: str, title: str) -> Panel:
    """Return the panel of a dashboard that draws lines and has this title."""
    (board,) = [each for each in DASHBOARDS if each.uid == dashboard]
    return next(each for each in board.panels if each.title == title and each.kind == "timeseries")


def asked(prometheus: Prometheus, panel: Panel, seconds: float, **chosen: str) -> list[Line]:
    """Ask what the panel asks, for the last so many seconds."""
    end = prometheus.value("time()")
    return [
        line
        for query in panel.queries
        for line in _lines(prometheus, query, seconds, end - seconds, chosen)
    ]


def _lines(
    prometheus: Prometheus, query: Query, seconds: float, begin: float, chosen: dict[str, str]
) -> Iterator[Line]:
    expr = query.expr.replace("$__rate_interval", "10s")
    for name, value in chosen.items():
        expr = expr.replace(f"${name}", value)
    for series in prometheus.over_time(expr, seconds, STEP_SECONDS):
        label = query.legend
        for name in ("node", "gpu", "namespace"):
            label = label.replace(f"{{{{{name}}}}}", series["metric"].get(name, "")[:8])
        points = [(at - begin, float(value)) for at, value in series["values"]]
        yield Line(label.strip() or "(machine)", *map(tuple, zip(*points, strict=True)))


def drawn(panels: Sequence[tuple[Panel, list[Line]]], source: str) -> Figure:
    """Draw panels side by side."""
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    every = figure.subplots(1, len(panels))
    for axes, (panel, lines) in zip(every, panels, strict=True):
        _draw(axes, panel, lines)
    figure.supxlabel(f"seconds   ({source})", fontsize=8.5)
    return figure


def _draw(axes: Axes, panel: Panel, lines: list[Line]) -> None:
    below: dict[float, float] = {}  # of a stacked panel: how high it is at each time so far
    for line in lines:
        floor = [below.get(at, 0.0) if panel.stacked else 0.0 for at in line.seconds]
        values = [low + value for low, value in zip(floor, line.values, strict=True)]
        style: Literal["steps-post", "default"] = "steps-post" if panel.steps else "default"
        axes.plot(line.seconds, values, label=line.label, drawstyle=style, linewidth=1.4)
        if panel.stacked:
            step: Literal["post"] | None = "post" if panel.steps else None
            axes.fill_between(line.seconds, floor, values, step=step, alpha=0.25)
            below.update(zip(line.seconds, values, strict=True))
    unit = _UNITS.get(panel.unit, "")
    axes.set_title(panel.title + (f", {unit}" if unit else ""), fontsize=10, loc="left")
    if panel.least is not None:
        axes.set_ylim(bottom=panel.least)
    axes.legend(fontsize=7, loc="best", frameon=False)


@contextmanager
def _recurring_job(folder: Path) -> Iterator[OperatorProcess]:
    """Yield an operator that leads, and let the job run under it."""
    with ExitStack() as stack:
        server = stack.enter_context(test_server(folder / "postgres"))
        plane = stack.enter_context(ControlPlane(folder / "plane", find_binaries()))
        url = stack.enter_context(server.database())
        install(plane)
        create_namespace(plane, NAMESPACE)
        allow_lease(plane, NAMESPACE)
        api = plane.api()
        node = SimulatedNode(api, SyntheticJob(), namespace=NAMESPACE).start()
        stack.callback(node.stop)
        kubeconfig = plane.kubeconfig_for(SERVICE_ACCOUNT, OPERATOR_NAMESPACE)
        operator = OperatorProcess(folder, kubeconfig, url, NAMESPACE, watch_namespaces=NAMESPACE)
        stack.callback(operator.kill)
        operator.start().wait_until_leading()
        store = Store.connect(url)
        stack.callback(store.close)
        jobs = ZeusJobs(api, NAMESPACE, store)
        jobs.apply(JOB, runs=RUNS, savings={"controlFraction": CONTROL_FRACTION}, exploration={})
        yield operator


def job_figure(folder: Path) -> Figure:
    """Let a job recur, and draw its dashboard."""
    titles = ("Cost of a run", "Batch size", "Cost saved, with its interval")
    with ExitStack() as stack:
        operator = stack.enter_context(_recurring_job(folder))
        (port, *_) = re.findall(r"health and metrics on port (\d+)", operator.log)
        target = Target("zeus-operator", f"127.0.0.1:{port}", {})
        prometheus = stack.enter_context(
            Prometheus(find_programs().prometheus, folder, [target], "1s")
        )
        runs = f'sum(zeus_operator_recurrences_total{{zeusjob="{JOB}"}}) >= {RUNS}'
        eventually(lambda: prometheus.query(runs), f"{RUNS} runs have ended", 600.0)
        first = prometheus.value("min_over_time(timestamp(zeus_operator_leader)[1h:1s])")
        seconds = prometheus.value("time()") - first
        chosen = {"namespace": NAMESPACE, "zeusjob": JOB}
        panels = [panel_of("zeus-job", title) for title in titles]
        return drawn(
            [(panel, asked(prometheus, panel, seconds, **chosen)) for panel in panels],
            f"{RUNS} runs of a synthetic job under a real operator",
        )


def node_figure(folder: Path) -> Figure:
    """Let a run train and a notebook hold limits on a node, and draw its dashboard."""
    titles = ("Power and limits", "Limits: wanted, set, enforced", "Limits held")
    with node_of_the_tests(("V100", "V100")) as node:
        node.start_agent()
        training, other = node.uuids
        target = Target("zeus-agent", node.probes, {"node": HEALTHY})
        with Prometheus(find_programs().prometheus, folder, [target], "1s") as prometheus:
            run = node.pod(
                "cifar100-1", training, namespace=NAMESPACE, labels={"zeus.energy/job": JOB}
            )
            client = node.pod("notebook", other, namespace="research").client()
            begin = prometheus.value("time()")

            def wait_until(seconds: float) -> None:
                eventually(
                    lambda: prometheus.value("time()") >= begin + seconds, f"{seconds} s", 120.0
                )

            wait_until(5.0)
            with trains(run, training):
                client.open_session("notebook", SessionRequest(ttl_seconds=600.0))
                for seconds, watts in ((15.0, 150.0), (30.0, 120.0)):
                    wait_until(seconds)
                    client.set_power_limit("notebook", other, watts)
                wait_until(45.0)
                client.close_session("notebook")
                wait_until(NODE_SECONDS - 5.0)
            wait_until(NODE_SECONDS)
            panels = [panel_of("zeus-node", title) for title in titles]
            chosen = {"node": ".*", "gpu": ".*"}
            return drawn(
                [(panel, asked(prometheus, panel, NODE_SECONDS, **chosen)) for panel in panels],
                "a real agent with two simulated GPUs: a run trains, a notebook holds limits",
            )


def main(argv: Sequence[str]) -> int:
    """Write both pictures into a folder."""
    if len(argv) != 1:
        print("usage: python -m tests.observability.draw FOLDER", file=sys.stderr)
        return 2
    for name, make in (("job", job_figure), ("node", node_figure)):
        with tempfile.TemporaryDirectory(prefix="zeus-draw-") as work, mpl.rc_context(_STYLE):
            path = Path(argv[0]) / f"dashboard-{name}.svg"
            make(Path(work)).savefig(path, metadata={"Date": None})
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
