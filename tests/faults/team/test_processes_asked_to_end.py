"""A run of several processes of which one is asked to end, as where its node is drained."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtime_lab import RuntimeLab, decided
from tests.support.team_lab import Node, start_team


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path, "V100", "V100")
    yield machine
    machine.close()


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("rank", [0, 1])
def test_all_are_preempted_where_all_heed_it(lab: RuntimeLab, rank: int, leaves: bool) -> None:
    plan = {
        "metrics": [0.1],
        "heeds_sigterm": True,
        "leaves": leaves,
        "pause": {"rank": rank, "at": "report 2"},
    }
    team = start_team([Node(lab, 2)], plan, decided(), agent=False)
    team.wait_for_pause(rank)
    team.processes[rank].terminate()
    team.go_on(rank)
    ended = team.end()
    assert ended.exit_codes == [128 + signal.SIGTERM] * 2, ended.errors
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.epochs) == (None, 2)
    assert ended.result.energy_joules is not None
    assert "lost each other" not in ended.errors
    reason = "the process was asked to end before its target was reached"
    assert [member.seen["ending"] for member in ended.members] == [reason] * 2
