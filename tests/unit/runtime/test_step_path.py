"""Between windows a training step does nothing but count: no file, no call out of Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime_lab import ROOT, RuntimeLab, decided

SCRIPT = str(ROOT / "tests" / "support" / "step_path_script.py")
STEPS = 1000


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


def observed(lab: RuntimeLab, kind: str, *, agent: bool = True) -> dict[str, Any]:
    """Return what 1,000 steps did, in a run that holds its limit."""
    if agent:
        lab.start_agent()
    decision = decided(max_epochs=1000, power_min_percent=100.0)
    ended = lab.run_script([SCRIPT, kind, str(STEPS)], lab.environ(decision, agent=agent))
    assert ended.exit_code == 0, ended.errors
    return dict(json.loads(ended.output))


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["loader", "free"])
def test_a_step_outside_of_windows_only_counts_and_calls_nothing_of_the_system(
    lab: RuntimeLab, kind: str
) -> None:
    seen = observed(lab, kind)
    assert seen["holds a limit"]
    assert seen["audit events"] == {}
    assert seen["calls out of Python"] == {}
    # The loader's generator is gone on with once a step, and calls nothing; without a loader the
    # user calls both ends.
    assert (
        set(seen["functions"])
        == {
            "loader": {"dataloader.py:_train"},
            "free": {"base_run.py:begin_step", "base_run.py:end_step"},
        }[kind]
    )
    assert max(seen["functions"].values()) <= STEPS


@pytest.mark.torch
def test_it_is_so_too_where_there_is_no_agent(lab: RuntimeLab) -> None:
    seen = observed(lab, "loader", agent=False)
    assert not seen["holds a limit"]
    assert seen["audit events"] == {}
    assert seen["calls out of Python"] == {}


@pytest.mark.torch
def test_no_thread_of_ours_spins_while_training_trains(lab: RuntimeLab) -> None:
    seen = observed(lab, "loader")
    assert seen["other threads"] >= 2  # the meter's and the agent client's
    assert seen["busiest other thread"] < 0.1  # while the training used 1 s of the processor
