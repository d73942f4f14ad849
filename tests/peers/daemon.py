"""zeusd as a running process, and its HTTP interface without Zeus's own client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.peers.peers import driver_environment
from tests.support.eventually import eventually


class Zeusd:
    """One daemon; `ask` makes one request over its Unix socket."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.socket = path
        self.process = process

    def ask(
        self, method: str, path: str, parameters: Mapping[str, object] | None = None
    ) -> tuple[int, Any]:
        """Return status and body, parsed where it is JSON."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.socket))
        try:
            query = f"?{urlencode(parameters)}" if parameters else ""
            connection.request(method, path + query)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except json.JSONDecodeError:
            return response.status, text

    def set_power_limit(self, gpu: int, watts: float, *, block: bool = True) -> int:
        """Ask for a limit and return the status."""
        return self.ask(
            "POST",
            "/gpu/set_power_limit",
            {"gpu_ids": gpu, "power_limit_mw": round(1000 * watts), "block": str(block).lower()},
        )[0]


@contextlib.contextmanager
def running_zeusd(program: Path, state: Path, folder: Path) -> Iterator[Zeusd]:
    """Run the daemon on the GPUs of `state`, its socket and log in `folder`."""
    path = folder / "zeusd.sock"
    # It insists on being root; a user is root in a namespace of their own.
    as_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user")
    with (folder / "zeusd.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(*as_root, str(program), "serve", "--socket-path", str(path)),
                *("--enable", "gpu-control,gpu-read"),
            ],
            env=driver_environment(state, folder),
            stdout=log,
            stderr=log,
        )
    daemon = Zeusd(path, process)

    def answers() -> bool:
        assert process.poll() is None, (folder / "zeusd.log").read_text()
        try:
            return daemon.ask("GET", "/discover")[0] == 200
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    try:
        eventually(answers, "zeusd answers")
        yield daemon
    finally:
        process.kill()
        process.wait()
