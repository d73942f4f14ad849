"""`make demo` as a newcomer runs it: real torch, real PostgreSQL, a real agent, a simulated GPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpu_simulator import Simulator
from tests.support.eventually import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
RECURRENCES, CONTROL = 4, 3
DEADLINE_SECONDS = 600.0  # of a whole demo on a busy machine: a hang, not a speed, is what it finds

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@dataclass(frozen=True)
class Demo:
    """A demo with a state of its own."""

    home: Path
    report: Path

    def make(self, seed: int = 1, recurrences: int = RECURRENCES, control: int = CONTROL) -> str:
        """Run `make demo` to its end and return what it prints."""
        ran = subprocess.run(
            self._command(seed, recurrences, control),
            cwd=REPOSITORY,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def start(self, recurrences: int, control: int) -> subprocess.Popen[str]:
        """Start `make demo` in a process group of its own."""
        return subprocess.Popen(
            self._command(1, recurrences, control),
            cwd=REPOSITORY,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def zeusctl(self, *arguments: str) -> str:
        """Run another command of the program on the demo's state."""
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "zeus_operator.cli.main",
                *arguments,
                "--home",
                str(self.home),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def history(self) -> list[dict[str, Any]]:
        """Return all recurrences, as `zeusctl history` gives them."""
        recurrences = json.loads(self.zeusctl("history", "digits", "-o", "json"))["recurrences"]
        assert isinstance(recurrences, list)
        return recurrences

    @property
    def simulator(self) -> Simulator:
        """The driver of the simulated GPU."""
        (state,) = self.home.glob("simulated/*/gpu.state")
        return Simulator(state)

    @property
    def limit_watts(self) -> float:
        """The power limit that holds now."""
        return self.simulator.power_limit_watts(0)

    @property
    def default_limit_watts(self) -> float:
        """The limit that the simulated GPU had before anybody touched it."""
        return self.simulator.devices()[0].numbers["default_limit_watts"]

    def _command(self, seed: int, recurrences: int, control: int) -> list[str]:
        return [
            "make",
            "demo",
            f"DEMO_HOME={self.home}",
            f"DEMO_REPORT={self.report}",
            f"DEMO_RECURRENCES={recurrences}",
            f"DEMO_CONTROL={control}",
            f"SEED={seed}",
        ]


def _environment() -> dict[str, str]:
    dropped = ("DATABASE_URL", "ZEUS_HOME", "ZEUS_SIMULATED_GPU", "MAKEFLAGS", "MAKELEVEL")
    return {name: value for name, value in os.environ.items() if name not in dropped}


@pytest.fixture
def demo() -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(prefix="zeus-e2e-", ignore_cleanup_errors=True) as name:
        yield Demo(Path(name) / "home", Path(name) / "report.html")


def costs(recurrences: list[dict[str, Any]], kind: str) -> list[float]:
    return [each["cost_joules"] for each in recurrences if each["kind"] == kind]


def test_the_demo_learns_measures_what_it_saved_and_goes_on_learning_when_run_again(
    demo: Demo,
) -> None:
    output = demo.make()

    # Each attempt says what was tried and why, and how it ended.
    assert "figures are simulated" in output
    assert "recurrence 1.1: batch size 256: First run: the default batch size 256" in output
    ended = re.findall(
        r"^(?:recurrence|default) \d+\.\d+: .*batch size \d+, \d+ epochs?, .* k?J, .* s, limit .*"
        r"cost .* k?J",
        output,
        re.MULTILINE,
    )
    assert len(ended) >= RECURRENCES + CONTROL
    # The first run took the default as well, before anything was known.
    assert f"default configuration ({CONTROL + 1})" in output
    assert re.search(r"saved +-?\d+\.\d %", output)

    # What was printed is what was measured: the control runs trained on the default.
    first = demo.history()
    assert len(costs(first, "learned")) == RECURRENCES
    assert len(costs(first, "control")) == CONTROL
    controls = [run for each in first if each["kind"] == "control" for run in each["attempts"]]
    assert {run["batch_size"] for run in controls} == {256}
    assert {run["power_limit_watts"] for run in controls} == {None}
    status = json.loads(demo.zeusctl("status", "digits", "-o", "json"))
    learned_mean = sum(costs(first, "learned")) / RECURRENCES
    cost = status["savings"]["overall"]["cost"]
    first_run = cost["default_mean_joules"] * (CONTROL + 1) - sum(costs(first, "control"))
    each = first[0]["attempts"][0]
    assert first_run == pytest.approx(each["cost_joules"], rel=0.5)  # at another power limit
    assert cost["saved_fraction"] == pytest.approx(1.0 - learned_mean / cost["default_mean_joules"])
    assert cost["saved_fraction_low"] < cost["saved_fraction"] < cost["saved_fraction_high"]
    assert "<svg" in demo.report.read_text()
    assert demo.limit_watts == demo.default_limit_watts

    # The same command again goes on from there.
    demo.make(recurrences=2, control=0)
    second = demo.history()
    assert second[: RECURRENCES + CONTROL] == first
    learned = [each for each in second if each["kind"] == "learned"]
    assert [each["recurrence"] for each in learned] == list(range(1, RECURRENCES + 3))
    assert not learned[-1]["attempts"][0]["reason"].startswith("First run")
    for each in learned:
        for attempt in each["attempts"]:
            name = f"{each['recurrence']}.{attempt['attempt']}"
            explained = demo.zeusctl("explain", "digits", name)
            assert f"batch size {attempt['batch_size']}" in explained
            assert "Made again on the stored history, the decision is the same." in explained


def test_another_seed_measures_other_savings(demo: Demo) -> None:
    demo.make(seed=1, recurrences=1, control=1)
    other = Demo(demo.home.with_name("other"), demo.report)
    other.make(seed=2, recurrences=1, control=1)
    epochs = [
        [attempt["epochs"] for each in run.history() for attempt in each["attempts"]]
        for run in (demo, other)
    ]
    assert epochs[0] != epochs[1]


def test_a_demo_killed_while_it_trains_goes_on_and_counts_nothing_twice(demo: Demo) -> None:
    process = demo.start(recurrences=2, control=1)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("recurrence 2.1:"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    eventually(lambda: demo.limit_watts == demo.default_limit_watts, "the power limit comes back")

    output = demo.make(recurrences=2, control=1)
    history = demo.history()
    assert [(each["kind"], each["recurrence"], each["state"]) for each in history] == [
        ("learned", 1, "reached"),
        ("learned", 2, "reached"),
        ("control", 1, "reached"),
    ]
    assert "recurrence 1.1" not in output
    assert demo.limit_watts == demo.default_limit_watts
