"""The processes of a node: a first one that holds its namespaces, and those that enter them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.support.processes import end, spawn
from tests.full_cluster import node_init
from tests.full_cluster.network import program
from tests.support.eventually import eventually

_SPACES = ("--mount", "--pid", "--net", "--uts", "--ipc")
_STOP_SECONDS = 10.0
_LOG_LINES = 40


class NodeError(Exception):
    """A part of a node does not work; the text holds the end of its log."""


class NodeProcesses:
    """Processes in namespaces of their own; all of them die with this process.

    Args:
        name: of the node, its host name.
        folder: what `node_init` mounts, and the logs.
        environment: of every part.
    """

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._name = name
        self._folder = folder
        self._environment = dict(environment)
        self._holder: subprocess.Popen[bytes] | None = None
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self.first_pid = 0

    @property
    def are_running(self) -> bool:
        """Whether there are namespaces."""
        return self._holder is not None

    @property
    def parts(self) -> tuple[str, ...]:
        """What was started and not ended, in this order."""
        return tuple(self._parts)

    def start(self) -> None:
        """Make the namespaces; the network has no link yet.

        Raises:
            NodeError: the first process fails.
        """
        assert self._holder is None, f"{self._name} runs already"
        ready = self._folder / "mounted"
        ready.unlink(missing_ok=True)
        self._holder = holder = spawn(
            [
                *(program("unshare"), *_SPACES, "--fork", "--mount-proc", "--kill-child"),
                # What the machine unmounts goes here, too; what the node mounts stays here.
                *("--propagation", "slave"),
                *(sys.executable, "-I", "-S", node_init.__file__),
                *(self._folder, self._name, ready),
            ],
            self._folder / "node.log",
        )

        def mounted() -> bool:
            if holder.poll() is not None:
                raise NodeError(f"{self._name} does not start:\n{self.log('node')}")
            return ready.exists()

        eventually(mounted, f"{self._name} has its mounts")
        self.first_pid = _children(holder.pid)[0]

    def kill(self) -> None:
        """End all of them at once."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        if self.first_pid:
            # The kernel kills the whole PID namespace with its first process, and `unshare`, which
            # waits for that one, ends only when all are gone.
            os.kill(self.first_pid, signal.SIGKILL)
            holder.wait(_STOP_SECONDS)
        end(holder, kill=True)
        self.first_pid = 0
        for process in self._parts.values():
            end(process, kill=True)
        self._parts.clear()

    def start_part(self, name: str, *command: str | Path) -> None:
        """Start a program that goes on, its output appended to a log of that name."""
        assert name not in self._parts, f"{name} runs already"
        log = self._folder / f"{name}.log"
        self._parts[name] = spawn([*self._enter, *command], log, env=self._environment)

    def end_part(self, name: str, *, kill: bool = False) -> None:
        """End it by SIGTERM, by SIGKILL if `kill` or if that does not help."""
        process = self._parts.pop(name)
        for number in [signal.SIGKILL] if kill else [signal.SIGTERM, signal.SIGKILL]:
            # `nsenter` forks, being asked for a PID namespace, and ends after its child.
            for child in _children(process.pid):
                os.kill(child, number)
            try:
                process.wait(_STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue
        raise NodeError(f"{name} of {self._name} does not end, not even by SIGKILL")

    def need_running(self) -> None:
        """Make sure that all parts run.

        Raises:
            NodeError: one has ended by itself.
        """
        for name, process in self._parts.items():
            if process.poll() is not None:
                raise NodeError(
                    f"{name} of {self._name} has ended with {process.returncode}:\n{self.log(name)}"
                )

    def run(self, *command: str | Path) -> str:
        """Run a program to its end; return what it prints.

        Raises:
            NodeError: it fails.
        """
        done = subprocess.run(
            [*self._enter, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise NodeError(f"{self._name}: {' '.join(map(str, command))}: {said}")
        return done.stdout

    def log(self, name: str, lines: int = _LOG_LINES) -> str:
        """Return the end of a part's log."""
        try:
            text = (self._folder / f"{name}.log").read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    @property
    def _enter(self) -> list[str]:
        """Command that starts another one in the namespaces."""
        assert self.first_pid, f"{self._name} has no power"
        return [program("nsenter"), f"--target={self.first_pid}", *_SPACES, "--"]


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has just ended
        return []
