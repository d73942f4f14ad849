"""How soon a limit is back, whatever ends."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.agent import machines
from benchmarks.agent.callers.burst import ask
from benchmarks.agent.figures import Figure, median
from benchmarks.agent.machines import FOUND_WATTS, Node

LIMIT_SECONDS = 1.0
SET_WATTS = 200
GIVE_UP_SECONDS = 30.0
PEER_GIVE_UP_SECONDS = 3.0
TTL_SECONDS = 2.0

_HOLDER = """
import json, sys
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import SessionRequest
given = json.loads(sys.argv[1])
client = AgentClient("unix://" + given["socket"], timeout_seconds=30.0)
client.open_session("restore", SessionRequest(job="bench/restore", ttl_seconds=given["ttl"]))
client.set_power_limit("restore", given["uuid"], given["watts"])
print("holding", flush=True)
for line in sys.stdin:
    client.close_session("restore")
"""


@contextmanager
def holder(where: Node, ttl_seconds: float = 600.0) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds GPU 0's limit; a line to it makes it close its session."""
    given = {
        "socket": str(where.agent_socket),
        "uuid": where.simulator.uuids()[0],
        "watts": SET_WATTS,
        "ttl": ttl_seconds,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "holding\n" or limit(where) != SET_WATTS:
            raise SystemExit("the limit was not set")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def limit(where: Node) -> float:
    """Return GPU 0's limit as the device has it, watts."""
    return where.simulator.power_limit_watts(0)


def seconds_until_back(
    where: Node, end: Callable[[], None], give_up_seconds: float = GIVE_UP_SECONDS
) -> float:
    """Return the seconds from `end` until the limit is the one found; infinite: not in time."""
    began = time.monotonic()
    end()
    while limit(where) != FOUND_WATTS:
        if time.monotonic() - began > give_up_seconds:
            return math.inf
        time.sleep(0.0005)
    return time.monotonic() - began


def say(process: subprocess.Popen[str]) -> None:
    """Make a holder close its session."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def client_ends(rounds: int) -> list[Figure]:
    """Measure the ends of a client: killed, terminated, closed, hung."""
    figures = []
    with machines.node(1) as where, machines.agent(where):
        ends: dict[str, Callable[[subprocess.Popen[str]], None]] = {
            "client: SIGKILL": lambda process: process.kill(),
            "client: SIGTERM": lambda process: process.terminate(),
            "client: closes its session": say,
        }
        for what, end in ends.items():
            took = []
            for _ in range(rounds):
                with holder(where) as process:
                    took.append(seconds_until_back(where, partial(end, process)))
            figures.append(_figure(what, took))
        took = []
        for _ in range(max(1, rounds // 5)):
            with holder(where, TTL_SECONDS) as process:
                process.send_signal(signal.SIGSTOP)
                took.append(seconds_until_back(where, _nothing) - TTL_SECONDS)
        figures.append(_figure("client: hangs, after its time to live is over", took))
    return figures


def agent_ends(rounds: int) -> list[Figure]:
    """Measure the ends of the agent: terminated, and killed and started again."""
    stopped, restarted = [], []
    for _ in range(rounds):
        with machines.node(1) as where, machines.agent(where) as server, holder(where):
            stopped.append(seconds_until_back(where, server.terminate))
            server.wait(60)
        with machines.node(1) as where:
            with machines.agent(where) as server, holder(where):
                machines.stop(server, signal.SIGKILL)
            if limit(where) != SET_WATTS:
                raise SystemExit("a killed agent can't have restored anything")
            with machines.starting_agent(where):
                restarted.append(seconds_until_back(where, _nothing))
    return [
        _figure("agent: SIGTERM", stopped),
        _figure("agent: SIGKILL, from its next start on", restarted),
    ]


def peer_ends() -> dict[str, float]:
    """Return how soon limits set through zeusd are back: by how our figures' names begin."""
    with machines.node(1) as where:
        with machines.zeusd(where) as server:
            set_by_zeusd(where)
            # Its client's connection has ended with that; there are no sessions to close.
            gone = seconds_until_back(where, _nothing, PEER_GIVE_UP_SECONDS)
            stopped = seconds_until_back(where, server.terminate, PEER_GIVE_UP_SECONDS)
            server.wait(60)
        with machines.zeusd(where) as server:
            set_by_zeusd(where)
            machines.stop(server, signal.SIGKILL)
        with machines.zeusd(where):
            restarted = seconds_until_back(where, _nothing, PEER_GIVE_UP_SECONDS)
    return {"client": gone, "agent: SIGTERM": stopped, "agent: SIGKILL": restarted}


def set_by_zeusd(where: Node) -> None:
    """Set GPU 0's limit through zeusd."""
    url = f"/gpu/set_power_limit?gpu_ids=0&power_limit_mw={1000 * SET_WATTS}&block=true"
    asyncio.run(ask(str(where.zeusd_socket), ("POST", url, "")))
    if limit(where) != SET_WATTS:
        raise SystemExit("zeusd did not set the limit")


def _nothing() -> None:
    """End nothing: what ends has ended already."""


def restore(rounds: int) -> list[Figure]:
    """Measure how soon a limit is back after each end; the slowest of all rounds counts."""
    figures = client_ends(rounds) + agent_ends(max(2, rounds // 4))
    peers = peer_ends()

    def peer_of(figure: Figure) -> float:
        return next(value for name, value in peers.items() if figure.what.startswith(name))

    return [
        Figure(figure.what, figure.value, figure.unit, figure.limit, peer_of(figure))
        for figure in figures
    ]


def _figure(what: str, took: list[float]) -> Figure:
    return Figure(f"{what} (median {1e3 * median(took):,.0f} ms)", max(took), "s", LIMIT_SECONDS)
