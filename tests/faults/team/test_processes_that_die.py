"""A process of a run that dies leaves no other waiting for us, and no GPU at our limit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtime_lab import ROOT, RuntimeLab, decided
from tests.support.team_lab import Node, TeamProcesses, start_team
from zeus_runtime.protocol import Outcome

PHASES = {
    "profiling": "step 45",  # of the first epoch: limits are being compared
    "training": "step 1150",  # the best one is held
    "reporting": "report 11",
}
PLAN = {"metrics": [0.1], "steps": 100, "limits_every": 100}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path, "V100", "V100")
    machine.start_agent()
    yield machine
    machine.close()


def paused(lab: RuntimeLab, rank: int, phase: str) -> TeamProcesses:
    """Start a run and return it when `rank` has come to the phase."""
    team = start_team(
        [Node(lab, 2)], {**PLAN, "pause": {"rank": rank, "at": PHASES[phase]}}, decided()
    )
    team.wait_for_pause(rank)
    return team


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_every_limit_comes_back(
    lab: RuntimeLab, rank: int, phase: str
) -> None:
    team = paused(lab, rank, phase)
    team.processes[rank].kill()
    ended = team.end()
    assert ended.exit_codes[rank] == -signal.SIGKILL
    other = ended.members[1 - rank]
    assert other.exit_code not in (0, -signal.SIGKILL), other.output
    lab.wait_until_restored()


@pytest.mark.torch
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_within_a_sweep_ends_all_and_the_result_names_the_size(
    lab: RuntimeLab, rank: int
) -> None:
    script = str(ROOT / "tests" / "support" / "team_sweep_script.py")
    plan = {"batch_size": 16, "metrics": [0.1], "pause": {"rank": rank, "samples": 16}}
    decision = decided(sweep_batch_sizes=(8, 32, 64))
    team = start_team([Node(lab, 2)], {}, decision, command=(script, json.dumps(plan)))
    team.wait_for_pause(rank)
    team.processes[rank].kill()
    ended = team.end()
    assert ended.exit_codes[rank] == -signal.SIGKILL
    assert ended.exit_codes[1 - rank] not in (0, -signal.SIGKILL), ended.errors
    assert ended.result is not None
    assert (ended.result.sweeping, ended.result.outcome, ended.result.epochs) == (32, None, 1)
    lab.wait_until_restored()


def test_what_was_known_before_rank_1_died_stays_in_the_result(lab: RuntimeLab) -> None:
    team = paused(lab, 1, "reporting")
    team.processes[1].kill()
    result = team.end().result
    assert result is not None
    assert result.epochs == 11
    assert result.outcome is None
    assert result.epoch_energy_joules is not None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_all(lab: RuntimeLab, rank: int) -> None:
    plan = {**PLAN, "of_rank": {str(rank): {"fail_at": 450}}}
    ended = start_team([Node(lab, 2)], plan, decided()).end()
    assert ended.exit_codes == [1, 1]
    assert "CUDA error: out of memory" in ended.members[rank].errors
    assert ended.result is not None
    assert ended.result.outcome == Outcome.OUT_OF_MEMORY.value, "whosever memory it was"
    assert ended.result.epochs == 4
    lab.wait_until_restored()


@pytest.mark.parametrize(
    ("rank", "phase"),
    [
        (0, "training"),
        (1, "training"),
        (0, "reporting"),  # the other one waits for us, and not for its gradients
        (1, "reporting"),
    ],
)
def test_a_process_that_hangs_is_waited_for_no_longer_than_the_framework_would(
    lab: RuntimeLab, rank: int, phase: str
) -> None:
    team = paused(lab, rank, phase)
    team.processes[rank].send_signal(signal.SIGSTOP)
    other = team.processes[1 - rank]
    other.communicate(timeout=100)
    assert other.returncode not in (0, None)
    team.kill()
    lab.wait_until_restored()
