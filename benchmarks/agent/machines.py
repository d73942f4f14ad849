"""Simulated GPUs, and our agent and zeusd serving them at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpu_simulator import Scope, Simulator, create_state, environment
from tests.support.peers import find_zeusd

MODEL = "A100"
LOWEST_WATTS, HIGHEST_WATTS = 150, 350
FOUND_WATTS = 380.0
"""The limit found: no device's default, so that restoring the default would be seen."""

START_SECONDS = 60.0


@dataclass
class Node:
    """A simulated machine.

    Args:
        folder: of sockets, logs and state.
        simulator: its GPUs.
    """

    folder: Path
    simulator: Simulator

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to see the GPUs."""
        return {**os.environ, **environment(self.simulator.path)}

    @property
    def agent_socket(self) -> Path:
        """Where our agent listens."""
        return self.folder / "agent.sock"

    @property
    def zeusd_socket(self) -> Path:
        """Where zeusd listens."""
        return self.folder / "zeusd.sock"

    def slow_down(self, seconds: float, scope: Scope) -> None:
        """Make calls to every GPU's driver take so much longer; 0: as fast as it is."""
        for gpu in range(self.simulator.device_count):
            if seconds:
                self.simulator.set_fault(gpu, "slow_seconds", seconds, scope=scope)
            else:
                self.simulator.clear_fault(gpu)


@contextmanager
def node(gpus: int) -> Iterator[Node]:
    """Yield a machine whose GPUs have the limit found."""
    # Not in a deep folder: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="zeus-bench-") as name:
        folder = Path(name)
        simulator = create_state(folder / "gpus", [MODEL] * gpus)
        for gpu in range(gpus):
            simulator.foreign_limit(gpu, FOUND_WATTS)
        yield Node(folder, simulator)


@contextmanager
def running(command: Sequence[str], log: Path, where: Node) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a server, just started; it is killed if it still runs at the end."""
    with log.open("ab") as stream:
        server = subprocess.Popen(command, env=where.environment, stdout=stream, stderr=stream)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        server.wait()


def wait_until_up(server: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    """Wait until a server accepts connections at `path`.

    Raises:
        SystemExit: it does not come up; its log says why.
    """
    deadline = time.monotonic() + START_SECONDS
    while not answers(path):
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no server at {path}:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def agent_command(where: Node) -> list[str]:
    """Return the command line of our agent with its defaults."""
    return [
        *(sys.executable, "-m", "zeus_agent.main", "serve"),
        *("--socket", str(where.agent_socket), "--state-dir", str(where.folder / "state")),
    ]


@contextmanager
def agent(where: Node) -> Iterator[subprocess.Popen[bytes]]:
    """Yield our agent, answering."""
    with starting_agent(where) as server:
        wait_until_up(server, where.agent_socket, where.folder / "agent.log")
        yield server


@contextmanager
def starting_agent(where: Node) -> Iterator[subprocess.Popen[bytes]]:
    """Yield our agent, just started."""
    with running(agent_command(where), where.folder / "agent.log", where) as server:
        yield server


@contextmanager
def zeusd(where: Node) -> Iterator[subprocess.Popen[bytes]]:
    """Yield zeusd with the GPU part alone, answering; it refuses to start where a socket is."""
    where.zeusd_socket.unlink(missing_ok=True)
    command = [
        *(str(find_zeusd()), "serve", "--socket-path", str(where.zeusd_socket)),
        *("--enable", "gpu-control,gpu-read"),
    ]
    log = where.folder / "zeusd.log"
    with running(command, log, where) as server:
        wait_until_up(server, where.zeusd_socket, log)
        yield server


def answers(path: Path) -> bool:
    """Whether a server accepts connections at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the threads of a process have used, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9


def resident_megabytes(pid: int) -> float:
    """Return the memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000.0
    raise SystemExit(f"process {pid} has no memory")


def stop(server: subprocess.Popen[bytes], signal_number: int = signal.SIGTERM) -> None:
    """Signal a server and wait until it has ended."""
    server.send_signal(signal_number)
    server.wait(START_SECONDS)
