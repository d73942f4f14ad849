"""`ZeusDataLoader` is a torch `DataLoader`, and the digits example trains on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.runtime_lab import ROOT, RuntimeLab
from zeus_runtime.protocol import Decision

DIGITS = str(ROOT / "examples" / "digits" / "train.py")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


def test_importing_the_runtime_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, zeus_runtime, zeus_runtime.run;"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.torch
def test_the_loader_behaves_as_a_data_loader(lab: RuntimeLab) -> None:
    script = str(ROOT / "tests" / "support" / "loader_script.py")
    environ = lab.environ(None, agent=False)
    environ.pop("LD_LIBRARY_PATH")
    ended = lab.run_script([script], environ)
    assert ended.exit_code == 0, ended.errors
    found = json.loads(ended.output)
    assert found["is a DataLoader"]
    assert (found["batches"], found["epochs"], found["steps"]) == (4, [0, 1, 2], [4, 8, 12])
    assert found["every sample once"]
    assert found["shuffled anew by set_epoch"]
    assert found["evaluation batches"] == [8, 8, 8, 8, 8, 8, 2]
    assert (found["plain iteration outside of epochs"], found["steps after it"]) == (4, 12)
    assert found["runs that know no end"] is False
    assert "made with max_epochs" in found["evaluation has no epochs"]
    assert "dp" in found["distributed"]
    assert "max_epochs=0" in found["max_epochs"]
    assert "on_stop" in found["on_stop"]
    assert "WORLD_SIZE=2" in found["several processes"]


@pytest.mark.torch
def test_the_digits_example_runs_on_a_machine_without_gpu_and_agent(lab: RuntimeLab) -> None:
    environ = lab.environ(None, agent=False)
    environ.pop("LD_LIBRARY_PATH")
    environ.pop("ZEUS_RESULT_PATH")
    ended = lab.run_script([DIGITS, "--batch-size", "32", "--max-epochs", "2"], environ)
    assert ended.exit_code == 0, ended.errors
    assert ended.output.count("validation accuracy") == 2
    assert "energy unknown" in ended.errors


@pytest.mark.torch
def test_the_digits_example_reaches_its_target_under_a_decision(lab: RuntimeLab) -> None:
    lab.start_agent()
    decision = Decision(
        batch_size=32, target=0.9, metric_mode="Max", max_epochs=30, learning_rate=0.0177, seed=3
    )
    ended = lab.run_script([DIGITS], lab.environ(decision))
    result = ended.result
    assert result is not None
    assert (ended.exit_code, result.outcome) == (0, "reached"), ended.errors
    assert result.batch_size == 32
    assert result.best_metric is not None
    assert result.best_metric >= 0.9
    assert result.energy_joules
    assert result.power_profile
    assert lab.limit(lab.uuids[0]) == ADMIN_CAP_WATTS
    shown = [line for line in ended.output.splitlines() if line.startswith("epoch")]
    assert len(shown) == result.epochs


@pytest.mark.torch
def test_a_script_that_ignores_the_decided_batch_size_is_told_so(lab: RuntimeLab) -> None:
    decision = Decision(batch_size=64, target=0.5, metric_mode="Max", max_epochs=5)
    ended = lab.run_script([DIGITS, "--batch-size", "256"], lab.environ(decision, agent=False))
    assert ended.result is not None
    assert ended.result.outcome == "decision_not_applied"
    assert ended.errors.count("decided was a batch size of 64") == 1
    assert "256" in ended.errors
