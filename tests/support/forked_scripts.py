"""Runs scripts whose imports take seconds, in processes forked after the imports.

    python -m tests.support.forked_scripts torch torchvision

imports the modules once and then, as it is told, forks processes that become scripts: with their
arguments, environment, streams and end.  A script that is started by another program, such as
torchrun, has to import for itself.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.runtime_lab import ROOT

PATIENCE_SECONDS = 180  # a hang, not a speed, is what it finds


@dataclass(frozen=True)
class Ran:
    """How a script ended."""

    exit_code: int
    output: str
    errors: str


class Script:
    """A script that runs."""

    def __init__(self, scripts: Scripts, pid: int, output: Path, errors: Path) -> None:
        self._scripts = scripts
        self._pid = pid
        self._output = output
        self._errors = errors

    def says(self, beginning: str) -> None:
        """Wait until a line of its output begins so."""
        eventually(
            lambda: f"\n{beginning}" in "\n" + self._output.read_text(),
            f"the script says {beginning!r}",
        )

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        os.kill(self._pid, signal.SIGKILL)
        self.end()

    def end(self) -> Ran:
        """Wait for its end."""
        code = self._scripts.ask({"wait": self._pid})
        return Ran(code, self._output.read_text(), self._errors.read_text())


class Scripts:
    """A process that has imported `modules`, and what it is told to run.

    Args:
        folder: takes the output of the scripts.
        environ: of the process; what the loader of libraries reads holds for the scripts too.
    """

    def __init__(self, modules: list[str], folder: Path, environ: dict[str, str]) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_scripts", *modules],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, words: list[str], environ: dict[str, str]) -> Script:
        """Start a script by its path and arguments."""
        self._count += 1
        output, errors = (self._folder / f"{name}-{self._count}" for name in ("output", "errors"))
        streams = [str(output), str(errors)]
        pid = self.ask({"words": words, "environ": environ, "streams": streams})
        return Script(self, pid, output, errors)

    def ask(self, request: dict[str, Any]) -> int:
        """Ask the process; for those that it runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main(modules: list[str]) -> None:
    """Serve requests; in a forked process, return when its script has ended."""
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        for path in request["streams"]:
            Path(path).touch()
        child = os.fork()
        if child == 0:
            _become(request)
            runpy.run_path(request["words"][0], run_name="__main__")
            return
        print(child, flush=True)


def _become(request: dict[str, Any]) -> None:
    """Be a process of its own."""
    signal.alarm(PATIENCE_SECONDS)
    os.environ.clear()
    os.environ.update(request["environ"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, path in enumerate(request["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    sys.argv = request["words"]
    sys.path[0] = str(Path(sys.argv[0]).parent)


if __name__ == "__main__":
    main(sys.argv[1:])
