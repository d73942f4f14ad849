"""Two processes that train one model serve a sweep, each on a simulated GPU of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from gpu_simulator import environment
from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.forked_scripts import Scripts
from tests.support.runtime_lab import ROOT, RuntimeLab, decided
from tests.support.team_lab import MemberEnded, Node, TeamEnded, run_team
from zeus_runtime.protocol import Decision, Outcome, Result

pytestmark = pytest.mark.torch
SCRIPT = str(ROOT / "tests" / "support" / "team_sweep_script.py")
SAMPLES, BATCH_SIZE = 3200, 16
SIZES = (8, 32, 64)
SWEEPS = decided(batch_size=BATCH_SIZE, sweep_batch_sizes=SIZES)
PLAN = {"batch_size": BATCH_SIZE, "metrics": [0.1, 0.1, 0.95]}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    folder = tmp_path_factory.mktemp("scripts")
    environ = {**os.environ, **environment(folder / "none"), "OMP_NUM_THREADS": "1"}
    made = Scripts(["torch.distributed", "torch.utils.data"], folder, environ)
    yield made
    made.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path, "V100", "V100")
    yield machine
    machine.close()


def trained(
    scripts: Scripts, lab: RuntimeLab, decision: Decision, *, agent: bool = False, **plan: Any
) -> TeamEnded:
    command = (SCRIPT, json.dumps({**PLAN, **plan}))
    run = partial(run_team, scripts=scripts)
    return run([Node(lab, 2)], {}, decision, command=command, agent=agent)


def sizes(member: MemberEnded, epoch: int) -> list[tuple[int, int]]:
    """Return the sizes of the batches of an epoch in their order, with how many in a row."""
    batches = groupby(len(labels) for labels, _ in member.seen["epochs"][epoch])
    return [(size, len(list(same))) for size, same in batches]


def own_labels(member: MemberEnded) -> list[list[int]]:
    """Return the samples of the batches that end each epoch, as many as it has."""
    return [
        [label for labels, _ in epoch for label in labels][-SAMPLES // 2 :]
        for epoch in member.seen["epochs"]
    ]


def result_of(ended: TeamEnded) -> Result:
    assert ended.result is not None, ended.errors
    return ended.result


def test_all_serve_the_same_sizes_and_rank_0_tells_what_they_take_on_all_gpus(
    scripts: Scripts, lab: RuntimeLab
) -> None:
    lab.start_agent()
    ended = trained(scripts, lab, SWEEPS, agent=True)
    result = result_of(ended)
    assert ended.exit_codes == [0, 0], ended.errors
    assert (result.outcome, result.epochs) == (Outcome.REACHED.value, 3)
    first, second = ended.members
    for epoch, served in enumerate(([8], [8, 4, 16, 32, 8], [8])):
        assert [size for size, _ in sizes(first, epoch)] == served
        assert sizes(first, epoch) == sizes(second, epoch)
    # Each in the order that it would have had.
    plain = trained(scripts, lab, decided(batch_size=BATCH_SIZE), agent=True)
    for member, without in zip(ended.members, plain.members, strict=True):
        assert own_labels(member) == own_labels(without)
    assert own_labels(first) != own_labels(second)
    # No limit is set before the sweep is over.
    for member in ended.members:
        epochs = member.seen["epochs"]
        before = [*epochs[0], *epochs[1][: -len(epochs[0])]]
        assert {watts for _, watts in before} == {ADMIN_CAP_WATTS}
        assert len({watts for _, watts in epochs[1]}) > 1
    assert result.power_profile
    # What was measured, of both GPUs.
    assert [each.batch_size for each in result.sweep] == list(SIZES)
    assert all(each.epoch_joules and each.epoch_seconds > 0.0 for each in result.sweep)
    assert result.sweep_joules is not None
    assert result.sweep_seconds is not None
    assert 0.0 < result.sweep_seconds < result.time_seconds
    within = sum(member.seen["joules_within"] for member in ended.members)
    around = sum(member.seen["joules_around"] for member in ended.members)
    assert 0.98 * within <= result.sweep_joules <= 1.02 * around
    assert (result.sweeping, result.gpu_count) == (None, 2)
    lab.wait_until_restored()


@pytest.mark.parametrize("spares", [False, True], ids=["at once", "after its first batch"])
def test_a_rank_that_can_not_make_the_batches_of_a_size_ends_the_sweep_for_all(
    scripts: Scripts, lab: RuntimeLab, spares: bool
) -> None:
    fails = {"1": {"collates": 16, "collates_once": spares}}
    ended = trained(scripts, lab, SWEEPS, of_rank=fails)
    result = result_of(ended)
    assert ended.exit_codes == [0, 0], ended.errors
    assert (result.outcome, result.epochs) == (Outcome.REACHED.value, 3)
    assert [each.batch_size for each in result.sweep] == [8, 32]
    assert "ended at batch size 64" in result.note
    assert "a batch of so many samples) (rank 1 on " in result.note
    first, second = ended.members
    assert sizes(first, 1) == sizes(second, 1)
    assert [size for size, _ in sizes(first, 1)] == [8, 4, 16, *([32] if spares else []), 8]
    assert result.energy_joules is not None
