"""Where the time of setting a limit goes: each part by itself, called in a loop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.agent import machines
from benchmarks.agent.callers.raw import Connection
from benchmarks.agent.figures import median
from zeus_agent import bodies, nvml, peers
from zeus_agent.journal import Journal
from zeus_agent.leases import SavedLimit
from zeus_agent.worker import Worker
from zeus_runtime.protocol import Lease

CALLS = 300
BATCHES = 7


def microseconds_of(function: Callable[[], object], calls: int = CALLS) -> float:
    """Return what one call takes: the median over batches of their means."""
    function()
    means = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        for _ in range(calls):
            function()
        means.append(1e6 * (time.perf_counter() - began) / calls)
    return median(means)


def of_http(path: Path) -> dict[str, float]:
    """Return the costs that need a live agent: connecting, and a request that does nothing."""

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))

    connecting = microseconds_of(connect)
    kept = Connection(str(path))
    asking = microseconds_of(lambda: kept.ask("GET", "/healthz"))
    kept.close()
    return {
        "connect (once for each connection)": connecting,
        "HTTP there and back, /healthz on a kept connection": asking,
    }


def of_identity() -> dict[str, float]:
    """Return what it costs to know who calls."""
    with tempfile.TemporaryDirectory(prefix="zeus-bench-") as folder:
        path = Path(folder) / "peer.sock"
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
            listener.bind(str(path))
            listener.listen()
            caller.connect(str(path))
            accepted, _ = listener.accept()
            with accepted:

                def identify() -> None:
                    _, pidfd = peers.identify(accepted)
                    os.close(pidfd)

                return {
                    "identity: pid, start time and pidfd (once for each connection)": (
                        microseconds_of(identify)
                    ),
                    "identity: user id (each request)": microseconds_of(
                        lambda: peers.credentials(accepted)
                    ),
                }


def of_json() -> dict[str, float]:
    """Return what reading a wish and writing a lease cost."""
    lease = Lease("bench-0", "GPU-1", 1, 200.0, 200.0, 300.0, False, False, 30.0)
    body = json.dumps({"power_limit_watts": 200, "sequence": 1}).encode()

    def both() -> None:
        bodies.power_limit_request(bodies.json_object(body))
        json.dumps(asdict(lease), allow_nan=False).encode()

    return {"JSON: read the wish, write the lease": microseconds_of(both)}


async def of_loop() -> dict[str, float]:
    """Return what a visit to a worker thread costs, with its time-out."""
    worker = Worker("bench")
    means = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        for _ in range(CALLS):
            await worker.call(_nothing, 1.5)
        means.append(1e6 * (time.perf_counter() - began) / CALLS)
    worker.stop()
    return {"loop: from event loop to worker thread and back, one visit": median(means)}


def _nothing() -> None:
    """Take no time."""


def of_journal() -> dict[str, float]:
    """Return what saving costs: before the first write of a lease, and before each other."""
    with tempfile.TemporaryDirectory(prefix="zeus-bench-", dir=Path.cwd()) as folder:
        journal = Journal(Path(folder), "boot")
        saved = SavedLimit("GPU-1", 300_000, (200_000,))
        costs = {
            "journal: before the first write of a lease (fsync)": microseconds_of(
                lambda: journal.save(saved, 1, durable=True), 10
            ),
            "journal: before each later write": microseconds_of(
                lambda: journal.save(saved, 1, durable=False)
            ),
        }
        journal.close()
    return costs


def of_driver(uuid: str) -> dict[str, float]:
    """Return what the calls of the driver cost, in this process."""
    nvml.initialize()
    device = nvml.Device(uuid)
    wishes = iter(range(200_000, 10**9))
    try:
        return {
            "NVML: read the limit found": microseconds_of(device.limit),
            "NVML: set and read back": microseconds_of(
                lambda: device.set_limit(200_000 + next(wishes) % 2 * 1000)
            ),
        }
    finally:
        nvml.shut_down()


def costs() -> dict[str, float]:
    """Return what each part costs, microseconds, by its name."""
    with machines.node(1) as where, machines.agent(where):
        found = of_http(where.agent_socket)
        found |= of_identity() | of_json() | asyncio.run(of_loop()) | of_journal()
        # The driver's library is found by the environment of a process's start.
        found |= json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.agent.costs", where.simulator.uuids()[0]],
                env=where.environment,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        )
    return found


if __name__ == "__main__":
    print(json.dumps(of_driver(sys.argv[1])))
