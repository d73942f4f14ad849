"""The agent of this machine: found, or started and kept alive while the program runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from zeus_operator.local.home import socket_path
from zeus_runtime.agent_client import SYSTEM_SOCKET, AgentClient, AgentError, AgentUnavailable
from zeus_runtime.protocol import AGENT_UNIX_SCHEME, NodeInfo, SessionRequest

IDLE_EXIT_SECONDS = 120.0
START_SECONDS = 20.0
RENEW_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_OTHER_START_SECONDS = 5.0


class AgentNotStarted(Exception):  # noqa: N818 -- training goes on without it
    """The agent does not come up; the text says why."""


class LocalAgent:
    """Keeps an agent for `uuids` answering at `address` while this program lives.

    The agent is a process of its own: it has to outlive this one to put limits back after
    a SIGKILL.  It ends by itself when nobody has needed it for `IDLE_EXIT_SECONDS`.

    Args:
        folder: of its socket, state and log.
        uuids: the GPUs it must know.
        environment: added to this program's, to make the GPUs visible.
        notify: takes one sentence for people.
    """

    def __init__(
        self,
        folder: Path,
        uuids: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        notify: Callable[[str], None],
        idle_exit_seconds: float = IDLE_EXIT_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
        system_socket: Path | None = Path(SYSTEM_SOCKET),
    ) -> None:
        self._folder = folder
        self._uuids = uuids
        self._environment = environment
        self._notify = notify
        self._idle_exit_seconds = idle_exit_seconds
        self._renew_seconds = renew_seconds
        self._own_socket = socket_path(folder, "agent.sock")
        self._system_socket = system_socket
        self._started: subprocess.Popen[bytes] | None = None
        self._session = f"zeusctl-{os.getpid()}"
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._client: AgentClient | None = None

    @property
    def address(self) -> str | None:
        """Where the agent answers; None before `start` found or started one."""
        return self._client.address if self._client else None

    def start(self) -> NodeInfo:
        """Find or start the agent, and keep it from now on.

        Raises:
            AgentNotStarted: neither is there one nor does one come up.
        """
        for path in (self._system_socket, self._own_socket):
            node = self._node(path) if path is not None and path.is_socket() else None
            if path is not None and node is not None:
                break
        else:
            path, node = self._own_socket, self._launch()
        own_version = version("zeus-operator")
        if node.agent_version != own_version:
            self._notify(
                f"the agent at {path} is of version {node.agent_version}, this program of "
                f"{own_version}: restart the agent if power limits are not set"
            )
        self._client = AgentClient(f"{AGENT_UNIX_SCHEME}{path}")
        self._hold(self._client)
        self._keeper = threading.Thread(target=self._keep, name="agent-keeper", daemon=True)
        self._keeper.start()
        return node

    def close(self) -> None:
        """Stop keeping it.  It stays as long as runs need it, and a while longer."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()
        if self._client is not None:
            with contextlib.suppress(AgentUnavailable, AgentError):
                self._client.close_session(self._session)
            self._client.close()

    def _node(self, path: Path) -> NodeInfo | None:
        """Return what the agent at `path` says, if it answers and knows our GPUs."""
        client = AgentClient(f"{AGENT_UNIX_SCHEME}{path}")
        try:
            node = client.node()
        except (AgentUnavailable, AgentError):
            return None
        finally:
            client.close()
        return node if set(self._uuids) <= {gpu.uuid for gpu in node.gpus} else None

    def _launch(self) -> NodeInfo:
        """Start an agent and wait until it answers.

        If another program starts one at the same moment, one of the two is refused and both
        find the other.
        """
        log_path = self._folder / "agent.log"
        deadline = time.monotonic() + START_SECONDS
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "zeus_agent.main",
                    "serve",
                    "--socket",
                    str(self._own_socket),
                    "--state-dir",
                    str(self._folder / "agent-state"),
                    "--idle-exit-seconds",
                    f"{self._idle_exit_seconds:g}",
                ],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started = process
        while time.monotonic() < deadline and not self._closing.wait(_PAUSE_SECONDS):
            node = self._node(self._own_socket)
            if node is not None:
                return node
            if process.poll() is not None:  # it failed, or another one was faster
                deadline = min(deadline, time.monotonic() + _OTHER_START_SECONDS)
        raise AgentNotStarted(f"no agent answers at {self._own_socket}; see {log_path}")

    def _hold(self, client: AgentClient) -> None:
        """Keep a session open: an agent with a session does not end by itself."""
        with contextlib.suppress(AgentUnavailable, AgentError):
            client.open_session(self._session, self._request)

    @property
    def _request(self) -> SessionRequest:
        return SessionRequest(job="zeusctl", ttl_seconds=6 * self._renew_seconds)

    def _keep(self) -> None:
        """Renew the session, and start the agent again if it was killed.

        A new agent puts back the limits that the killed one had left, so it must not have to
        wait for the next run.
        """
        client = self._client
        while client is not None and not self._closing.wait(self._renew_seconds):
            try:
                client.open_session(self._session, self._request)
            except AgentError:
                continue
            except AgentUnavailable:
                self._revive(client)

    def _revive(self, client: AgentClient) -> None:
        if client.address != f"{AGENT_UNIX_SCHEME}{self._own_socket}":
            return  # the system's agent is its service manager's to start
        if self._started is not None:
            self._started.poll()  # collect the one that was killed
        try:
            self._launch()
        except (AgentNotStarted, OSError) as error:
            self._notify(f"the agent has ended and does not start again: {error}")
            return
        self._hold(client)
