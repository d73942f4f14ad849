"""Scripts written for Zeus, as its "getting started" shows them, run here with another import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtime_lab import ROOT, RuntimeLab, decided
from tests.support.team_lab import Node, run_team
from zeus_runtime.protocol import Outcome

SCRIPTS = ROOT / "tests" / "support" / "seed_scripts"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path, "V100", "V100")
    machine.start_agent()
    yield machine
    machine.close()


def test_the_script_for_one_gpu(lab: RuntimeLab) -> None:
    ended = lab.run_script(
        [str(SCRIPTS / "single.py")], lab.environ(decided(batch_size=64, target=0.9))
    )
    assert ended.exit_code == 0, ended.errors
    assert ended.output == "saved the model\n"
    assert ended.result is not None
    assert ended.result.outcome == Outcome.REACHED.value
    assert (ended.result.batch_size, ended.result.gpu_count) == (64, 1)
    lab.wait_until_restored()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_script_for_data_parallel_training(lab: RuntimeLab, processes: int) -> None:
    command = [str(SCRIPTS / "parallel.py"), f"--dist-url=file://{lab.folder / 'rendezvous'}"]
    nodes = [Node(lab, processes)]
    ended = run_team(
        nodes,
        {},
        decided(batch_size=64 * processes, target=0.9),
        command=[*command, f"--world-size={processes}"],
        ranked="--rank={rank}",
    )
    assert ended.exit_codes == [0] * processes, ended.errors
    assert [member.output for member in ended.members] == ["saved the model\n"] * processes
    result = ended.result
    assert result is not None
    assert result.outcome == Outcome.REACHED.value
    assert (result.batch_size, result.gpu_count) == (64 * processes, processes)
    assert result.energy_joules is not None
    lab.wait_until_restored()
