"""What the agent costs while nothing happens, beside zeusd."""

from __future__ import annotations

import subprocess
import time

from benchmarks.agent import machines
from benchmarks.agent.figures import Figure

GPUS = 8
CORE_PERCENT = 0.5
MEGABYTES = 80.0
SETTLE_SECONDS = 3.0


def used(servers: list[subprocess.Popen[bytes]], seconds: float) -> list[tuple[float, float]]:
    """Return percent of a core and MB of each server, over the same quiet time."""
    time.sleep(SETTLE_SECONDS)
    before = [machines.cpu_seconds(server.pid) for server in servers]
    began = time.monotonic()
    time.sleep(seconds)
    span = time.monotonic() - began
    return [
        (
            100.0 * (machines.cpu_seconds(server.pid) - earlier) / span,
            machines.resident_megabytes(server.pid),
        )
        for server, earlier in zip(servers, before, strict=True)
    ]


def idle(seconds: float) -> list[Figure]:
    """Measure processor time and memory with 8 GPUs, nobody calling."""
    with (
        machines.node(GPUS) as where,
        machines.agent(where) as ours,
        machines.zeusd(where) as peer,
    ):
        (percent, memory), (peer_percent, peer_memory) = used([ours, peer], seconds)
    return [
        Figure(f"{GPUS} GPUs, idle: of one core", percent, "%", CORE_PERCENT, peer_percent),
        Figure(f"{GPUS} GPUs, idle: memory (RSS)", memory, "MB", MEGABYTES, peer_memory),
    ]
