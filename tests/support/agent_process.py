"""A real agent process on simulated GPUs, and real processes that call it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpu_simulator import Simulator, create_state, environment
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient, AgentUnavailable

ADMIN_CAP_WATTS = 200.0
"""The limit found: no device's default, so that restoring the default would be seen."""

_CALLER = """
import json, os, sys
from zeus_runtime.agent_client import AgentClient, AgentError
from zeus_runtime.protocol import SessionRequest
address, session, ttl, uid, *wishes = sys.argv[1:]
if int(uid) >= 0:  # here, not at the start: this interpreter may be in a private folder
    os.setgroups([])
    os.setuid(int(uid))
client = AgentClient(address, timeout_seconds=30)
try:
    client.open_session(session, SessionRequest(job="team/job", ttl_seconds=float(ttl)))
    for wish in wishes:
        uuid, watts = wish.split("=")
        client.set_power_limit(session, uuid, float(watts))
    print(json.dumps("holding"), flush=True)
except AgentError as error:
    print(json.dumps([error.code, error.message]), flush=True)
sys.stdin.read()
"""


class Machine:
    """Simulated GPUs, an agent's folders, and the agent while it runs."""

    def __init__(
        self, folder: Path, models: Sequence[str] = ("V100", "A40"), *, seed: int = 0
    ) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.socket = folder / "agent.sock"
        self.address = f"unix://{self.socket}"
        self.log_path = folder / "agent.log"
        self.simulator: Simulator = create_state(folder / "gpus", models, seed=seed)
        self.uuids = self.simulator.uuids()
        self.program = ["-m", "zeus_agent.main"]  # what Python runs as the agent
        self.environment = {**os.environ, **environment(folder / "gpus")}
        for uuid in self.uuids:
            self.simulator.foreign_limit(uuid, ADMIN_CAP_WATTS)
        self._agent: subprocess.Popen[bytes] | None = None

    def command(self, *options: str) -> list[str]:
        """Return the agent's command line."""
        return [
            *(sys.executable, *self.program, "serve"),
            *("--socket", str(self.socket), "--state-dir", str(self.state_dir)),
            *("--poll-seconds", "0.1", "--nvml-timeout-seconds", "0.4"),
            *options,
        ]

    def start_agent(self, *options: str, without_driver: bool = False) -> subprocess.Popen[bytes]:
        """Start the agent and wait until it answers."""
        environ = dict(self.environment)
        if without_driver:
            environ["LD_LIBRARY_PATH"] = os.environ.get("LD_LIBRARY_PATH", "")
        with self.log_path.open("ab") as log:
            agent = subprocess.Popen(self.command(*options), env=environ, stderr=log)
        self._agent = agent
        client = AgentClient(self.address)

        def answers() -> bool:
            assert agent.poll() is None, f"the agent has ended:\n{self.log()}"
            try:
                client.node()
            except AgentUnavailable:
                return False
            return True

        eventually(answers, "the agent answers")
        client.close()
        return agent

    @property
    def agent_pid(self) -> int:
        """The agent's process."""
        assert self._agent is not None
        return self._agent.pid

    def stop_agent(self, signal_number: int = signal.SIGTERM) -> int:
        """Signal the agent and return its exit code."""
        assert self._agent is not None
        self._agent.send_signal(signal_number)
        code = self._agent.wait(60)
        self._agent = None
        return code

    def client(self) -> AgentClient:
        """Return a client of this process."""
        return AgentClient(self.address, timeout_seconds=30.0)

    def limit(self, uuid: str) -> float:
        """Return the limit that the device has, watts."""
        return self.simulator.power_limit_watts(uuid)

    def saved(self) -> list[str]:
        """Return the UUIDs of which a previous limit is on disk."""
        return sorted(path.stem for path in (self.state_dir / "saved").glob("*.json"))

    def wait_until_restored(self, watts: float = ADMIN_CAP_WATTS) -> None:
        """Wait until every device is at `watts` and nothing is saved any more."""
        eventually(
            lambda: {self.limit(uuid) for uuid in self.uuids} == {watts} and not self.saved(),
            f"every limit is back at {watts:g} W",
        )

    def memory_mib(self) -> float:
        """Return the memory that the agent uses."""
        assert self._agent is not None
        pages = int(Path(f"/proc/{self._agent.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def log(self) -> str:
        """Return what the agent has logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels, as /metrics shows it."""
        status, body = raw_request(self.socket, "GET", "/metrics")
        assert status == 200
        values = [
            float(line.rpartition(" ")[2])
            for line in body.decode().splitlines()
            if line.partition("{")[0].partition(" ")[0] == name
        ]
        assert values, f"no metric {name}"
        return sum(values)

    def metric_or_zero(self, name: str, label: str) -> float:
        """Return the sum of the series of a metric that have `label`; 0 if there is none."""
        _, body = raw_request(self.socket, "GET", "/metrics")
        return sum(
            float(line.rpartition(" ")[2])
            for line in body.decode().splitlines()
            if line.startswith(name + "{") and label in line
        )

    @contextlib.contextmanager
    def caller(
        self, session: str, *wishes: tuple[str, float], ttl_seconds: float = 60.0, uid: int = -1
    ) -> Iterator[tuple[subprocess.Popen[str], object]]:
        """Run a process that opens a session, sets limits, and then waits; yield what it says."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _CALLER, self.address, session, str(ttl_seconds), str(uid)),
                *(f"{uuid}={watts}" for uuid, watts in wishes),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            line = process.stdout.readline()
            assert line, "the caller has ended"
            yield process, json.loads(line)
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()

    def close(self) -> None:
        """End the agent, whatever state it is in."""
        for uuid in self.uuids:
            self.simulator.clear_fault(uuid)
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait(60)


def raw_request(path: Path, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Make one request as any program would."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(str(path))
    try:
        connection.request(method, url, body=body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
