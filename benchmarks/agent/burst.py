"""How long one caller's burst on a slow driver delays another caller.

All of the burst is under way before the other caller asks.  For another GPU that is another
process; for the same GPU another thread of the same one: a GPU's limit belongs to one process at a
time, others are refused at once.  The device's limit is watched meanwhile: how often it changes
tells how many calls the other one waited for.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agent import machines
from benchmarks.agent.callers.burst import Request, ask
from benchmarks.agent.figures import Figure, median
from benchmarks.agent.machines import Node
from benchmarks.agent.set_limit import SLOW_SECONDS
from gpu_simulator import Scope

REQUESTS = 300
ALLOWED_CALLS = 2
PEERS_GPU = 2
OTHER_WATTS = machines.HIGHEST_WATTS + 10
WATCH_SECONDS = 0.001


@dataclass(frozen=True)
class Server:
    """Whom to ask, and how.

    Args:
        socket: where it listens.
        gpu: the first of two GPUs of its own: the agent would yield to what zeusd sets.
        before: requests that a process makes first, given the GPU whose limit it will set.
        queue_limit: the request that sets a GPU's limit, in watts, not waiting for the driver where
            there is such a thing.
        set_limit: likewise, waiting.
    """

    socket: Path
    gpu: int
    before: Callable[[int], list[Request]]
    queue_limit: Callable[[int, int], Request]
    set_limit: Callable[[int, int], Request]


def agent_server(where: Node, session: str) -> Server:
    """Return how our agent is asked for limits of this session."""
    uuids = where.simulator.uuids()

    def limit(gpu: int, watts: int) -> Request:
        url = f"/v1/sessions/{session}-{gpu}/gpus/{uuids[gpu]}/power-limit"
        return "PUT", url, json.dumps({"power_limit_watts": watts})

    def before(gpu: int) -> list[Request]:
        body = json.dumps({"job": "bench/burst", "ttl_seconds": 600})
        opened = "PUT", f"/v1/sessions/{session}-{gpu}", body
        return [opened, limit(gpu, machines.LOWEST_WATTS - 1)]

    return Server(where.agent_socket, 0, before, limit, limit)


def zeusd_server(where: Node) -> Server:
    """Return how zeusd is asked."""

    def limit(gpu: int, watts: int, block: str) -> Request:
        url = f"/gpu/set_power_limit?gpu_ids={gpu}&power_limit_mw={1000 * watts}&block={block}"
        return "POST", url, ""

    return Server(
        where.zeusd_socket,
        PEERS_GPU,
        lambda _: [],
        lambda gpu, watts: limit(gpu, watts, "false"),
        lambda gpu, watts: limit(gpu, watts, "true"),
    )


@dataclass
class Watch:
    """When a GPU's limit has changed, seconds of the monotonic clock."""

    changes: list[float] = field(default_factory=list)

    def between(self, begin: float, end: float) -> int:
        """Return how often it did."""
        return sum(begin < moment <= end for moment in self.changes)


@contextmanager
def watching(where: Node, gpu: int) -> Iterator[Watch]:
    """Watch a GPU's limit from a thread."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        last = where.simulator.power_limit_watts(gpu)
        while not over.wait(WATCH_SECONDS):
            now = where.simulator.power_limit_watts(gpu)
            if now != last:
                watch.changes.append(time.monotonic())
            last = now

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


@dataclass(frozen=True)
class Delay:
    """What the other caller waited for.

    Args:
        seconds: until its limit was confirmed.
        calls: how often the device's limit changed meanwhile, its own change included.
    """

    seconds: float
    calls: int


@contextmanager
def process(given: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Yield a process of a caller."""
    command = [sys.executable, "-m", "benchmarks.agent.callers.burst", json.dumps(given)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as caller:
        yield caller


def tell(caller: subprocess.Popen[str]) -> None:
    """Let a caller that waits go on."""
    assert caller.stdin is not None
    caller.stdin.write("\n")
    caller.stdin.flush()


def heard(caller: subprocess.Popen[str], word: str) -> None:
    """Wait until a caller has said a word.

    Raises:
        SystemExit: it says something else, or nothing any more.
    """
    line = _line(caller)
    if line.strip() != word:
        raise SystemExit(f"a caller said {line!r} in place of {word!r}")


def last_line(caller: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a caller says in the end.

    Raises:
        SystemExit: it has ended before.
    """
    line = _line(caller)
    if not line:
        raise SystemExit(f"a caller has ended with {caller.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _line(caller: subprocess.Popen[str]) -> str:
    assert caller.stdout is not None
    return caller.stdout.readline()


def delay_by_burst(where: Node, server: Server, other: int) -> Delay:
    """Return what another caller waits for amid a burst.

    Args:
        where: the machine.
        server: whom to ask.
        other: 0: the other caller sets the limit of the same GPU; 1: of the next one.
    """
    span = machines.HIGHEST_WATTS - machines.LOWEST_WATTS
    gpu = server.gpu + other
    of_burst = {
        "socket": str(server.socket),
        "before": server.before(server.gpu),
        "waits": False,
        "requests": [
            server.queue_limit(server.gpu, machines.LOWEST_WATTS + number % span)
            for number in range(REQUESTS)
        ],
        "other": server.set_limit(gpu, OTHER_WATTS),
    }
    with watching(where, gpu) as watch:
        if gpu == server.gpu:
            with process(of_burst) as caller:
                answer = last_line(caller)
        else:
            of_other = {**of_burst, "before": server.before(gpu), "waits": True, "requests": []}
            with process(of_other) as stranger, process({**of_burst, "other": None}) as caller:
                heard(stranger, "ready")
                heard(caller, "sent")
                tell(stranger)
                answer = {**last_line(stranger), **last_line(caller)}
    if set(answer["statuses"]) != {200}:
        raise SystemExit(f"{server.socket.name} answered the burst {set(answer['statuses'])}")
    return Delay(
        answer["ended"] - answer["began"],
        # The watch sees a change a little later than it is.
        watch.between(answer["began"], answer["ended"] + 2 * WATCH_SECONDS),
    )


def burst(rounds: int) -> list[Figure]:
    """Measure the delay that a burst causes, ours and zeusd's."""
    figures = []
    with (
        machines.node(2 * PEERS_GPU) as where,
        machines.agent(where),
        machines.zeusd(where),
    ):
        where.slow_down(SLOW_SECONDS, Scope.WRITES)
        for what, other in (("the same GPU", 0), ("another GPU", 1)):
            ours, peers = [], []
            for number in range(rounds):
                server = agent_server(where, f"burst-{other}-{number}")
                ours.append(delay_by_burst(where, server, other))
                peer = zeusd_server(where)
                peers.append(delay_by_burst(where, peer, other))
                # What zeusd still has queued is done before the next round begins.
                asyncio.run(ask(str(peer.socket), peer.set_limit(peer.gpu, OTHER_WATTS)))
            figures += [
                Figure(
                    f"{what}: calls of the driver until its limit is set, its own included",
                    median(delay.calls for delay in ours),
                    "calls",
                    ALLOWED_CALLS + 1 if other == 0 else 1,
                    median(delay.calls for delay in peers),
                ),
                Figure(
                    f"{what}: until its limit is confirmed",
                    1e3 * median(delay.seconds for delay in ours),
                    "ms",
                    None,
                    1e3 * median(delay.seconds for delay in peers),
                ),
            ]
    return figures
