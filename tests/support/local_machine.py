"""A machine of its own for a test of the local mode: home, manifest, simulated GPU, database."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import yaml

from gpu_simulator import Simulator
from tests.support import tiny_training
from tests.support.eventually import eventually
from tests.support.local_children import spec as child_spec
from tests.support.run_program import run_forked
from zeus_operator.local.gpu import GpuChoice, Gpus, choose_gpus
from zeus_operator.local.home import Home

REPOSITORY = Path(__file__).resolve().parents[2]
ADMIN_LIMIT_WATTS = 225.0


@functools.cache
def _server() -> ForkServerContext:
    """Return the context of a process that only forks; it holds no connection and no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.run_program"])
    return context


@dataclass(frozen=True)
class Machine:
    """Where everything is, and how to start the program on it."""

    home: Home
    manifest: Path
    environment: dict[str, str]
    gpus: Gpus

    @property
    def simulator(self) -> Simulator:
        """The driver of the simulated GPU."""
        return Simulator(self.gpus.folder / "gpu.state")

    @property
    def limit_watts(self) -> float:
        """The power limit that holds now."""
        return self.simulator.power_limit_watts(0)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the program in a session of its own, as a terminal does."""
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.run_program",
                str(self.home.root),
                str(self.manifest),
                *arguments,
            ],
            cwd=REPOSITORY,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> Ran:
        """Run the program to its end.

        Forked from a process that has imported everything: most of what such a short run takes
        would be imports.
        """
        output, errors = (self.home.root.parent / name for name in ("stdout", "stderr"))
        process = _server().Process(
            target=run_forked,
            args=(
                [str(self.home.root), str(self.manifest), *arguments],
                {**self.environment, **variables},
                (output, errors),
            ),
        )
        process.start()
        process.join(timeout=300)
        assert process.exitcode is not None, "the program does not end"
        lines = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        return Ran(process.exitcode, lines, errors.read_text("utf-8"))

    def limit_comes_back(self) -> None:
        """Wait until the limit is what it was before anything ran."""
        eventually(
            lambda: self.limit_watts == ADMIN_LIMIT_WATTS,
            f"the limit is {ADMIN_LIMIT_WATTS:g} W again",
        )


@dataclass(frozen=True)
class Ran:
    """How the program ended."""

    exit_code: int
    events: list[dict[str, Any]]
    errors: str

    @property
    def summary(self) -> dict[str, Any]:
        """The last object printed."""
        assert self.events, self.errors
        assert self.events[-1]["event"] == "summary", self.errors
        return self.events[-1]


def machine(
    folder: Path,
    database_url: str | None,
    *,
    arguments: Sequence[str] = (),
    command: Sequence[str] = ("python", "train.py"),
    max_attempts: int = 2,
    grace_seconds: int = 30,
    gpus_asked: int = 1,
    **spec: Any,
) -> Machine:
    """Return a machine in `folder` whose GPU an administrator has limited.

    Args:
        folder: empty.
        database_url: None: the embedded database in its home.
        arguments: of the script `tiny_training`.
        command: of the container.
        max_attempts: of a recurrence.
        grace_seconds: from SIGTERM to SIGKILL.
        gpus_asked: the container's limit of nvidia.com/gpu; the machine has one.
        spec: further fields of the ZeusJob's spec.
    """
    job = folder / "job"
    job.mkdir()
    shutil.copy(tiny_training.__file__, job / "train.py")
    document = {
        "apiVersion": "zeus.energy/v1alpha1",
        "kind": "ZeusJob",
        "metadata": {"name": "tiny"},
        "spec": {
            **child_spec(command, arguments, gpus=gpus_asked, grace_seconds=grace_seconds),
            "retry": {"maxAttempts": max_attempts, "pauseAfterFailures": 3},
            # These tests look at the machinery: how often a recurrence is tried must not hang on
            # how busy this machine is, and so on what seemed worth a try.
            "exploration": {"maxExtraCostPercent": "0"},
            **spec,
        },
    }
    (job / "zeusjob.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ZEUS_")},
        "ZEUS_SIMULATED_GPU": json.dumps({"tick_milliseconds": 5, "noise": 0.0, "time_scale": 0.1}),
    }
    environment.pop("DATABASE_URL", None)
    if database_url is not None:
        environment["DATABASE_URL"] = database_url
    home = Home(folder / "home")
    home.create()
    gpus = choose_gpus(home, GpuChoice.SIMULATED, environment)
    made = Machine(home, job / "zeusjob.yaml", environment, gpus)
    made.simulator.foreign_limit(0, ADMIN_LIMIT_WATTS)
    return made
