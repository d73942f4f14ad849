"""The rivals, each in a process of its own on a simulated machine of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.agent.machines import agent, node
from tests.peers.peers import zeus_python
from tests.support.peers import PeerUnavailable
from zeus_runtime.protocol import Decision

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OLD_ZEUS = HERE / "zeus-ml.txt"
OLD_WARM_UP_AND_PROFILE_STEPS = "100,1000"
"""A window must be longer than a tick of the energy counter."""


@dataclass
class Worker:
    """One rival beside a plain loader.

    Args:
        name: as in the tables.
        process: what it runs in; takes wishes.
        answers: to them, one a line.
    """

    name: str
    process: subprocess.Popen[str]
    answers: TextIO

    def epoch(self, who: str, body: str) -> dict[str, Any]:
        """Train for one epoch; return how long things took."""
        return dict(self._ask({"who": who, "body": body}))

    def added_ns(self, body: str) -> float:
        """Train an epoch of each, step by step in turns; return what a step of its own adds."""
        return float(self._ask({"who": "both", "body": body}))

    def file_calls(self, who: str) -> int:
        """Return how many file-system calls an epoch on data alone makes."""
        return int(self._ask({"who": who, "body": "data", "count": True}))

    def _ask(self, wish: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        line = self.answers.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended with {self.process.wait()}")
        return json.loads(line)


OURS = ("ZeusDataLoader", "without a loader")
THEIRS = ("Zeus 0.4.0", "Zeus 0.16.0")


@contextmanager
def rivals(steps: int) -> Iterator[list[Worker]]:
    """Yield all of them, with epochs of so many steps.

    Raises:
        PeerUnavailable: Zeus can't be installed.
    """
    with ExitStack() as stack:
        yield [
            stack.enter_context(_ours(OURS[0], "loader", steps)),
            stack.enter_context(_ours(OURS[1], "free", steps)),
            stack.enter_context(_theirs(THEIRS[0], "zeus_old.py", steps, [old_zeus()])),
            stack.enter_context(_theirs(THEIRS[1], "zeus_new.py", steps, [])),
        ]


@contextmanager
def _ours(name: str, kind: str, steps: int) -> Iterator[Worker]:
    with node(1) as machine, agent(machine):
        decision = Decision(batch_size=1, target=1.0, metric_mode="Max", max_epochs=100_000)
        environ = {
            **machine.environment,
            "ZEUS_AGENT": f"unix://{machine.agent_socket}",
            "ZEUS_RESULT_PATH": str(machine.folder / "result"),
            "ZEUS_DECISION": decision.to_json(),
            "ZEUS_JOB": "bench/job",
            "ZEUS_RECURRENCE": "1",
            "ZEUS_ATTEMPT": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(HERE / "workers" / "ours.py"), kind, str(steps)]
        with _running(name, command, environ, machine.folder) as worker:
            yield worker


@contextmanager
def _theirs(name: str, script: str, steps: int, first: list[Path]) -> Iterator[Worker]:
    python = zeus_python()
    with node(1) as machine:
        environ = {
            **machine.environment,
            "ZEUS_TARGET_METRIC": "1.0",
            "ZEUS_LOG_DIR": str(machine.folder / "zeus_log"),
            "ZEUS_PROFILE_PARAMS": OLD_WARM_UP_AND_PROFILE_STEPS,
            "PYTHONPATH": os.pathsep.join(map(str, first)),
        }
        # torch is ours, behind Zeus's own packages.
        ours = str(Path(torch.__file__).parents[1])
        start = (
            f"import runpy, sys; sys.path.append({ours!r}); sys.argv = sys.argv[1:]; "
            f"sys.path.insert(0, {str(HERE / 'workers')!r}); "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = [
            *(str(python), "-c", start, str(HERE / "workers" / script)),
            *("rival", str(steps)),
        ]
        with _running(name, command, environ, machine.folder) as worker:
            yield worker


@contextmanager
def _running(
    name: str, command: list[str], environ: Mapping[str, str], folder: Path
) -> Iterator[Worker]:
    log = folder / "worker.log"
    reading, writing = os.pipe()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, str(writing)],
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            text=True,
            pass_fds=(writing,),
        )
    os.close(writing)
    answers = os.fdopen(reading)
    try:
        yield Worker(name, process, answers)
    except SystemExit:
        sys.stderr.write(log.read_text()[-2000:])
        raise
    finally:
        answers.close()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def old_zeus(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of zeus-ml, installed once; what it needs is taken from Zeus's own.

    Raises:
        PeerUnavailable: it can't be installed.
    """
    contents = hashlib.sha256(OLD_ZEUS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = zeus_python(environ).parents[1].with_name(f"zeus-ml-{contents}")
    complete = folder / "complete"
    with folder.with_name(f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists():
            return folder
        uv = str(Path(sys.executable).parent / "uv")
        command = [
            *(uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)),
            *("--no-deps", "--require-hashes", "-r", str(OLD_ZEUS)),
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            raise PeerUnavailable(f"`{' '.join(command)}` failed:\n{done.stdout[-2000:]}")
        complete.touch()
    return folder
