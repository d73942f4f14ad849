"""Set a limit and confirm it: ours and zeusd on the same GPUs, in turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.agent import machines
from benchmarks.agent.figures import Figure, median, percentile
from benchmarks.agent.machines import Node
from gpu_simulator import Scope
from tests.support.peers import find_zeus_python

CALLERS = Path(__file__).parent / "callers"
SLOW_SECONDS = 0.02
NOISE = 1.02
"""Not slower: by no more than two runs of the same thing differ here."""


@dataclass(frozen=True)
class Rival:
    """Who sets limits: a client with its server.

    Args:
        name: for tables.
        program: whose process it is, of `PROGRAMS`.
        way: in which that sets limits.
    """

    name: str
    program: str
    way: str


OURS = Rival("our client, agent", "own", "agent")
ZEUS = Rival("Zeus's client, zeusd", "zeus", "client")
ZEUS_GPU = Rival("Zeus's GPU object and client, zeusd", "zeus", "gpu")
RAW_AGENT = Rival("bare socket, agent", "raw", "agent")
RAW_ZEUSD = Rival("bare socket, zeusd", "raw", "zeusd")
RIVALS = (OURS, ZEUS, ZEUS_GPU, RAW_AGENT, RAW_ZEUSD)


@dataclass(frozen=True)
class Driver:
    """How fast the driver is.

    Args:
        name: for tables.
        slow_seconds: what calls of the scope take longer.
        scope: which.
        requests: of each caller in a round.
    """

    name: str
    slow_seconds: float
    scope: Scope
    requests: int


DRIVERS = (
    Driver("2 us a call", 0.0, Scope.ALL, 400),
    Driver("20 ms to set, 2 us to read", SLOW_SECONDS, Scope.WRITES, 10),
    Driver("20 ms a call", SLOW_SECONDS, Scope.ALL, 10),
)


@dataclass(frozen=True)
class Timing:
    """What one rival took, in medians of rounds.

    Args:
        p50_microseconds: the median of a round.
        p99_microseconds: likewise.
        per_second: requests of all callers together.
    """

    p50_microseconds: float
    p99_microseconds: float
    per_second: float


def programs() -> dict[str, tuple[str, ...]]:
    """Return the commands of the callers, by name."""
    zeus = (str(find_zeus_python()), str(CALLERS / "zeus_own.py"))
    return {
        "own": (sys.executable, "-m", "benchmarks.agent.callers.own"),
        "zeus": zeus,
        "raw": (sys.executable, "-m", "benchmarks.agent.callers.raw"),
    }


class Caller:
    """One process that makes requests when told."""

    def __init__(self, where: Node, name: str, command: Sequence[str], index: int) -> None:
        given = {
            "socket": str(where.zeusd_socket if name == "zeus" else where.agent_socket),
            "zeusd_socket": str(where.zeusd_socket),
            "session": f"bench-{index}",
            "index": index,
            "uuid": where.simulator.uuids()[index],
            "lowest": machines.LOWEST_WATTS,
            "highest": machines.HIGHEST_WATTS,
        }
        self._process = subprocess.Popen(
            [*command, json.dumps(given)],
            env=where.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, way: str, requests: int) -> None:
        """Let it make so many requests in this way."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"way": way, "requests": requests}) + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """Return what it says next.

        Raises:
            SystemExit: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a caller has ended with {self._process.wait()}")
        return line

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


Callers = dict[str, list[Caller]]


@contextmanager
def callers(where: Node, count: int) -> Iterator[Callers]:
    """Yield `count` callers of each program, each with a GPU of its own, ready."""
    with ExitStack() as stack:
        made: Callers = {}
        for name, command in programs().items():
            made[name] = [Caller(where, name, command, index) for index in range(count)]
            for caller in made[name]:
                stack.callback(caller.close)
        for caller in (each for group in made.values() for each in group):
            caller.line()
        yield made


def round_of(made: Sequence[Caller], way: str, requests: int) -> Timing:
    """Let callers make requests at once and return what that took."""
    for caller in made:
        caller.tell(way, requests)
    heard: list[dict[str, Any]] = [json.loads(caller.line()) for caller in made]
    took = [1e6 * seconds for each in heard for seconds in each["took"]]
    span = max(each["ended"] for each in heard) - min(each["began"] for each in heard)
    return Timing(percentile(took, 50), percentile(took, 99), len(took) / span)


def in_turns(made: Callers, count: int, rounds: int, requests: int) -> dict[Rival, Timing]:
    """Measure all rivals, one after another in each round, and return medians of the rounds."""
    measured: dict[Rival, list[Timing]] = {rival: [] for rival in RIVALS}
    for _ in range(rounds):
        for rival, timings in measured.items():
            timings.append(round_of(made[rival.program][:count], rival.way, requests))
    return {
        rival: Timing(
            median(timing.p50_microseconds for timing in timings),
            median(timing.p99_microseconds for timing in timings),
            median(timing.per_second for timing in timings),
        )
        for rival, timings in measured.items()
    }


@dataclass(frozen=True)
class Comparison:
    """All rivals with one driver and one number of callers."""

    driver: Driver
    count: int
    timings: dict[Rival, Timing]

    def rows(self) -> list[str]:
        """Return the rows of the page's table."""
        return [
            f"| {self.driver.name} | {self.count} | {rival.name} "
            f"| {_time(timing.p50_microseconds)} | {_time(timing.p99_microseconds)} "
            f"| {timing.per_second:,.0f} |"
            for rival, timing in self.timings.items()
        ]

    def figures(self) -> list[Figure]:
        """Return our client's times with those of Zeus's, which they must not exceed.

        The rival is Zeus's client alone, which asks for less; where every call is slow, it is the
        GPU object, which makes the same three calls as the agent.
        """
        ours = self.timings[OURS]
        every_call_is_slow = self.driver.slow_seconds > 0 and self.driver.scope is Scope.ALL
        peer = self.timings[ZEUS_GPU if every_call_is_slow else ZEUS]
        what = f"{self.driver.name}, {self.count} {'client' if self.count == 1 else 'clients'}"
        pairs = (
            ("p50", ours.p50_microseconds, peer.p50_microseconds),
            ("p99", ours.p99_microseconds, peer.p99_microseconds),
        )
        return [
            Figure(f"{what}, {name}", mine, "us", limit=NOISE * theirs, peer=theirs)
            for name, mine, theirs in pairs
        ]


def _time(microseconds: float) -> str:
    return f"{microseconds:,.0f} us" if microseconds < 10_000 else f"{microseconds / 1e3:,.1f} ms"


def compare(rounds: int, scale: float, counts: Sequence[int] = (1, 16)) -> list[Comparison]:
    """Measure set-and-confirm with every driver and number of callers.

    Args:
        rounds: of which the medians are taken.
        scale: multiplies the number of requests.
        counts: numbers of callers.
    """
    found = []
    most = max(counts)
    with (
        machines.node(most) as where,
        machines.agent(where),
        machines.zeusd(where),
        callers(where, most) as made,
    ):
        in_turns(made, most, 1, 50)  # connections and caches
        for driver in DRIVERS:
            where.slow_down(driver.slow_seconds, driver.scope)
            for count in counts:
                requests = max(5, round(scale * driver.requests))
                found.append(Comparison(driver, count, in_turns(made, count, rounds, requests)))
                print("\n".join(found[-1].rows()), flush=True)
        where.slow_down(0.0, Scope.ALL)
    return found
