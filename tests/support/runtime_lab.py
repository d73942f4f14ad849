"""Runs training scripts on a simulated GPU, with or without an agent, and reads their results."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.agent_process import Machine
from tests.support.eventually import eventually
from zeus_runtime.protocol import Decision, Result, decode_result

ROOT = Path(__file__).parents[2]
TICK_SECONDS = 0.02
DECISION = Decision(batch_size=16, target=0.9, metric_mode="Max", max_epochs=50)


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    exit_code: int
    result: Result | None
    output: str
    errors: str
    joules: float  # what the simulated GPU really used while the process lived


class RuntimeLab(Machine):
    """A machine whose GPU does a step of the tests in a few milliseconds."""

    def __init__(self, folder: Path, *models: str, seed: int = 0) -> None:
        super().__init__(folder, models or ("V100",), seed=seed)
        self.simulator.set("tick_seconds", TICK_SECONDS)
        self.simulator.set("time_scale", 0.1)
        for index in range(len(self.uuids)):
            self.simulator.set_workload(index, "resnet18")
        self.result_path = folder / "result"
        for name in ("ZEUS_AGENT", "ZEUS_DECISION", "XDG_RUNTIME_DIR"):
            self.environment.pop(name, None)

    def environ(
        self, decision: Decision | str | None, *, agent: bool = True, **more: str
    ) -> dict[str, str]:
        """Return the environment of a run."""
        environ = {**self.environment, "PYTHONPATH": str(ROOT)}
        environ["ZEUS_RESULT_PATH"] = str(self.result_path)
        environ.update({"ZEUS_JOB": "team/job", "ZEUS_RECURRENCE": "7", "ZEUS_ATTEMPT": "1"})
        if agent:
            environ["ZEUS_AGENT"] = self.address
        if decision is not None:
            text = decision if isinstance(decision, str) else decision.to_json()
            environ["ZEUS_DECISION"] = text
        return {**environ, **more}

    def start(self, plan: dict[str, Any], environ: dict[str, str]) -> subprocess.Popen[str]:
        """Start the loop of `training_loop.py`."""
        script = ROOT / "tests" / "support" / "training_loop.py"
        return subprocess.Popen(
            [sys.executable, str(script), json.dumps(plan)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, plan: dict[str, Any], environ: dict[str, str]) -> Ended:
        """Run the loop to its end."""
        before = self.simulator.true_energy_joules(0)
        return self.end(self.start(plan, environ), before)

    def run_script(self, command: list[str], environ: dict[str, str]) -> Ended:
        """Run any script to its end."""
        before = self.simulator.true_energy_joules(0)
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.end(process, before)

    def end(self, process: subprocess.Popen[str], joules_before: float = 0.0) -> Ended:
        """Wait for the end and gather what is left."""
        output, errors = process.communicate(timeout=120)
        joules = self.simulator.true_energy_joules(0) - joules_before
        return Ended(process.returncode, self.result(), output, errors, joules)

    def result(self) -> Result | None:
        """Return the result written last."""
        if not self.result_path.exists():
            return None
        return decode_result(self.result_path.read_bytes())

    def wait_for_pause(self, process: subprocess.Popen[str]) -> Result:
        """Wait until the loop pauses; return the result then."""
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "paused\n", line + (process.stderr.read() if process.stderr else "")
        result = self.result()
        assert result is not None
        return result

    @staticmethod
    def go_on(process: subprocess.Popen[str]) -> None:
        """Let a paused loop go on."""
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    def wait_for_limit(self, differs_from: float) -> float:
        """Wait until the GPU has another limit and return it."""
        eventually(lambda: self.limit(self.uuids[0]) != differs_from, "the limit changes")
        return self.limit(self.uuids[0])


def decided(**changes: Any) -> Decision:
    """Return the usual decision with changes."""
    return replace(DECISION, **changes)
