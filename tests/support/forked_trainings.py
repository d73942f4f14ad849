"""Runs trainings of a framework that takes seconds to import, in processes forked after that.

    python -m tests.support.forked_trainings MODULE

imports the module once and then, for each request, forks a process that becomes a script of its
own: with its environment, its streams, and its end, for which hooks of the runtime wait.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.runtime_lab import ROOT
from zeus_runtime.callback_run import CallbackRun
from zeus_runtime.protocol import Result, decode_result
from zeus_runtime.run import TrainingRun

PATIENCE_SECONDS = 180  # a hang, not a speed, is what it finds


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Args:
        told: what the script printed, JSON by line.
    """

    exit_code: int
    told: list[Any]
    errors: str
    result: Result | None

    def seen_at(self, hook: str) -> list[tuple[int, int, bool]]:
        """Return the run's epochs, steps, and whether it is in an epoch, at each call of `hook`.

        As a callback after ours sees them.
        """
        events = [each["event"] for each in self.told if "event" in each]
        return [(epochs, steps, inside) for name, epochs, steps, inside in events if name == hook]

    @property
    def saved(self) -> bool:
        """Whether the script went on after training."""
        return any("saved" in each for each in self.told)

    @property
    def outcome(self) -> str | None:
        """What the runtime says."""
        assert self.result is not None, self.errors
        return self.result.outcome


class Trainings:
    """A process that has imported `module`, and what it is asked to train."""

    def __init__(self, module: str, folder: Path, environ: dict[str, str]) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_trainings", module],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, plan: dict[str, Any], environ: dict[str, str]) -> Trained:
        """Run one training to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        files = [self._folder / f"{name}-{self._count}" for name in ("output", "errors", "result")]
        output, errors, result = files
        request = {
            "plan": plan,
            "environ": {**environ, "ZEUS_RESULT_PATH": str(result)},
            "streams": [str(output), str(errors)],
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return Trained(
            json.loads(answer),
            [json.loads(line) for line in output.read_text().splitlines() if line[:2] == '{"'],
            errors.read_text(),
            decode_result(result.read_bytes()) if result.exists() else None,
        )

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def tell_end(training: CallbackRun | None) -> None:
    """Print that the script goes on after training, and how that was; for the training scripts."""
    assert training is not None
    run = training.run
    assert isinstance(run, TrainingRun)
    told = {
        "saved": True,
        "reason": run.ending and run.ending.reason,
        "steps_per_epoch": run.steps_per_epoch,
    }
    print(json.dumps(told), flush=True)


def main() -> None:
    """Serve requests; in a forked process, return when its training has ended."""
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
            module.main(request["plan"])
            return
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Be a process of its own."""
    signal.alarm(PATIENCE_SECONDS)
    os.environ.clear()
    os.environ.update(request["environ"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, path in enumerate(request["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)


if __name__ == "__main__":
    main()
