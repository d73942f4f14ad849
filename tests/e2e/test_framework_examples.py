"""The Hugging Face and the Lightning example as their user runs them, by `zeusctl run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_simulator import Simulator
from tests.support.eventually import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 600.0  # a hang, not a speed, is what it finds
DROPPED = ("DATABASE_URL", "ZEUS_HOME", "ZEUS_SIMULATED_GPU")

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zeus-e2e-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "home"


def zeusctl(home: Path, *arguments: str) -> str:
    """Run the program to its end and return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "zeus_operator.cli.main", *arguments, "--home", str(home)],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name not in DROPPED},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("example", "job", "default"),
    [("huggingface", "reviews", 32), ("lightning", "lightning-digits", 256)],
)
def test_the_example_learns_over_its_recurrences(
    home: Path, example: str, job: str, default: int
) -> None:
    manifest = f"examples/{example}/zeusjob.yaml"
    zeusctl(home, "run", manifest, "--gpu", "simulated", "--seed", "1", "--recurrences", "3")
    history: list[dict[str, Any]] = json.loads(zeusctl(home, "history", job, "-o", "json"))[
        "recurrences"
    ]
    assert [each["state"] for each in history] == ["reached"] * 3
    attempts = [attempt for each in history for attempt in each["attempts"]]
    assert attempts[0]["batch_size"] == default
    assert len({attempt["batch_size"] for attempt in attempts}) > 1
    # Each was trained as decided and measured, and stopped where it had to.
    assert {attempt["outcome"] for attempt in attempts} <= {
        "reached",
        "cost_exceeded",
        "max_epochs",
    }
    assert all(attempt["cost_joules"] > 0.0 for attempt in attempts)
    (state,) = home.glob("simulated/*/gpu.state")
    simulator = Simulator(state)
    found = simulator.devices()[0].numbers["default_limit_watts"]
    eventually(lambda: simulator.power_limit_watts(0) == found, "the power limit comes back")
