"""All together: agents and an operator, scraped by a real Prometheus with the chart's rules."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.observability.support.nodes import (
    BLIND,
    HEALTHY,
    PATIENCE_SECONDS,
    SICK,
    blind_node,
    healthy_node,
    make_sick,
    second_node,
)
from tests.observability.support.programs import Programs
from tests.observability.support.recorded_operator import RecordedOperator, recorded_operator
from tests.observability.support.server import Prometheus, Target
from tests.support.eventually import eventually
from tests.support.postgres import TestServer

NOBODY = "127.0.0.1:1"
"""Nothing listens there: a replica and an agent that do not answer."""
GONE = "gpu-node-4"


@dataclass(frozen=True)
class Scene:
    """What tests look at.

    Attributes:
        addresses: where metrics are served.
    """

    prometheus: Prometheus
    operator: RecordedOperator
    addresses: tuple[str, ...]


@contextlib.contextmanager
def scene(programs: Programs, folder: Path, server: TestServer) -> Iterator[Scene]:
    """Start everything; the operator goes on working meanwhile."""
    with (
        recorded_operator(server) as operator,
        healthy_node() as healthy,
        second_node() as sick,
        blind_node() as blind,
        _working(operator),
    ):
        targets = [
            Target("zeus-operator", operator.address, {}),
            Target("zeus-agent", healthy.probes, {"node": HEALTHY}),
            Target("zeus-agent", sick.probes, {"node": SICK}),
            Target("zeus-agent", blind.probes, {"node": BLIND}),
            Target("zeus-operator", NOBODY, {}),
            Target("zeus-agent", NOBODY, {"node": GONE}),
        ]
        with Prometheus(programs.prometheus, folder, targets) as prometheus:
            # What a counter counts before its first scrape is no increase.
            eventually(
                lambda: prometheus.query(f'sum_over_time(up{{node="{SICK}"}}[1m]) > 2'),
                "the second node was scraped while it was well",
                PATIENCE_SECONDS,
            )
            with make_sick(sick):
                served = (operator.address, healthy.probes, sick.probes, blind.probes)
                yield Scene(prometheus, operator, served)


@contextlib.contextmanager
def _working(operator: RecordedOperator) -> Iterator[None]:
    ends = threading.Event()

    def work() -> None:
        while not ends.wait(0.2):
            operator.work()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
