"""Several processes that train one model: rank 0 decides, all do it, and energy is summed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gpu_simulator import environment
from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.forked_scripts import Scripts
from tests.support.runtime_lab import RuntimeLab, decided
from tests.support.team_lab import (
    Limits,
    Node,
    TeamEnded,
    energy_is_that_of,
    limits_held,
    odd_limits,
    run_team,
)
from zeus_runtime.power_profile import STEP_WATTS
from zeus_runtime.protocol import STOP_EXIT_CODE, Outcome, PowerProfilePoint

MakeLab = Callable[..., RuntimeLab]
Run = Callable[..., TeamEnded]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run_team` with processes that need not import torch, each for itself."""
    folder = tmp_path_factory.mktemp("scripts")
    environ = {**os.environ, **environment(folder / "none"), "OMP_NUM_THREADS": "1"}
    scripts = Scripts(["torch.distributed"], folder, environ)
    yield partial(run_team, scripts=scripts)
    scripts.close()


@pytest.fixture
def lab_of(tmp_path: Path) -> Iterator[MakeLab]:
    made: list[RuntimeLab] = []

    def make(*models: str, agent: bool = True) -> RuntimeLab:
        lab = RuntimeLab(tmp_path, *models)
        made.append(lab)
        if agent:
            lab.start_agent()
        return lab

    yield make
    for lab in made:
        lab.close()


def test_energy_is_the_sum_and_all_are_held_at_one_limit(lab_of: MakeLab, run: Run) -> None:
    lab = lab_of("V100", "V100")
    ended = run([Node(lab, 2)], {"metrics": [0.1] * 11 + [0.95], "steps": 80}, decided())
    result = ended.result
    assert ended.exit_codes == [0, 0], ended.errors
    assert result is not None
    assert result.outcome == Outcome.REACHED.value
    assert energy_is_that_of(ended, ended.members)
    model = "Tesla V100-PCIE-16GB (simulated)"
    assert (result.gpu_count, result.gpu_model) == (2, model)
    assert result.max_power_watts == 500.0
    held = result.power_limit_watts
    assert held is not None
    assert held < 250.0
    assert [round(p.power_limit_watts) for p in result.power_profile[:3]] == [250, 225, 200]
    assert {member.seen["epochs"] for member in ended.members} == {12}
    assert odd_limits(ended) == []
    assert {(250.0, 250.0), (225.0, 225.0), (200.0, 200.0)} <= limits_held(ended)
    lab.wait_until_restored()


def test_one_limit_costs_what_one_gpu_costs_times_their_number(lab_of: MakeLab, run: Run) -> None:
    # Long steps, or on a busy machine the two would wait for each other for much of their time.
    plan = {"metrics": [0.1] * 11 + [0.95], "steps": 10, "samples": 320}
    lab = lab_of("V100", "V100")
    one = run([Node(lab, 1)], plan, decided()).result
    two = run([Node(lab, 2)], plan, decided()).result
    assert one is not None
    assert two is not None
    assert one.power_limit_watts is not None
    assert two.power_limit_watts is not None
    assert abs(two.power_limit_watts - one.power_limit_watts) <= STEP_WATTS
    (one_held,) = (p for p in one.power_profile if p.power_limit_watts == one.power_limit_watts)
    (two_held,) = (p for p in two.power_profile if p.power_limit_watts == one.power_limit_watts)
    assert two_held.average_power_watts == pytest.approx(
        2.0 * one_held.average_power_watts, rel=0.1
    )


def test_a_known_profile_of_as_many_gpus_is_held_from_the_first_epoch(
    lab_of: MakeLab, run: Run
) -> None:
    lab = lab_of("V100", "V100")
    known = tuple(
        PowerProfilePoint(watts, 1.6 * watts, 0.01) for watts in (250.0, 225.0, 200.0, 175.0, 150.0)
    )
    decision = decided(
        power_profile=known,
        profile_gpu_model="Tesla V100-PCIE-16GB (simulated)",
        profile_gpu_count=2,
        profile_driver=driver_version(lab),
        eta=1.0,
        power_min_percent=60.0,
    )
    plan = {"metrics": [0.1] * 3 + [0.95], "steps": 10, "samples": 320}
    ended = run([Node(lab, 2)], plan, decision)
    assert ended.result is not None, ended.errors
    assert ended.result.power_limit_watts == 150.0
    assert odd_limits(ended) == []
    found = (ADMIN_CAP_WATTS, ADMIN_CAP_WATTS)
    assert limits_held(ended) - {found} == {(150.0, 150.0)}, "no other one is tried"


def driver_version(lab: RuntimeLab) -> str:
    result = lab.run({"max_epochs": 1, "metrics": [0.95]}, lab.environ(decided(), agent=False))
    assert result.result is not None, result.errors
    return result.result.gpu_driver


def test_all_stop_at_the_same_epoch_when_it_can_no_longer_pay(lab_of: MakeLab, run: Run) -> None:
    lab = lab_of("V100", "V100")
    ended = run([Node(lab, 2)], {"steps": 60}, decided(cost_threshold_joules=400.0))
    assert ended.exit_codes == [STOP_EXIT_CODE] * 2, ended.errors
    assert ended.result is not None
    assert ended.result.outcome == Outcome.COST_EXCEEDED.value
    first, second = (member.seen for member in ended.members)
    assert first["epochs"] == second["epochs"] == ended.result.epochs
    assert first["ending"] == second["ending"]
    assert "400 J" in first["ending"]
    assert ended.members[1].errors.count("training stops") == 0, "one process speaks for all"
    lab.wait_until_restored()


def test_without_an_agent_on_one_machine_no_limit_is_touched_anywhere(
    lab_of: MakeLab, run: Run
) -> None:
    lab = lab_of("V100", "V100")
    away = {"ZEUS_AGENT": "unix:///nowhere/agent.sock", "CUDA_VISIBLE_DEVICES": lab.uuids[1]}
    alone = Node(lab, 1, variables=away)
    ended = run([Node(lab, 1), alone], {"metrics": [0.1, 0.95], "steps": 30}, decided())
    assert ended.exit_codes == [0, 0], ended.errors
    assert ended.result is not None
    assert ended.result.power_limit_watts is None
    assert "rank 1" in ended.result.note
    assert ended.result.energy_joules is not None
    lab.wait_until_restored()


def test_a_gpu_that_two_processes_share_counts_once(lab_of: MakeLab, run: Run) -> None:
    lab = lab_of("V100", agent=False)
    shared = Node(lab, 1, variables={"CUDA_VISIBLE_DEVICES": lab.uuids[0]})
    ended = run([shared, shared], {"max_epochs": 3, "steps": 60}, None, agent=False)
    assert ended.exit_codes == [0, 0], ended.errors
    assert ended.result is not None
    assert (ended.result.gpu_count, ended.result.max_power_watts) == (1, 250.0)
    assert energy_is_that_of(ended, ended.members[:1])


def test_gpus_of_two_models_are_limited_at_the_same_place_between_their_bounds(
    lab_of: MakeLab, run: Run
) -> None:
    lab = lab_of("V100", "A40")
    plan = {"metrics": [0.1] * 11 + [0.95], "steps": 80}
    ended = run([Node(lab, 2)], plan, decided(), CUDA_DEVICE_ORDER="PCI_BUS_ID")
    result = ended.result
    assert result is not None, ended.errors
    assert result.gpu_model == ("1 x Tesla V100-PCIE-16GB (simulated) + 1 x NVIDIA A40 (simulated)")

    def at_one_place(limits: Limits) -> bool:
        own, other = limits
        place = (own - 100.0) / 150.0
        return abs(100.0 + place * 200.0 - other) <= 1.0  # set in whole watts

    assert odd_limits(ended, at_one_place) == []
    assert len(limits_held(ended, at_one_place)) >= 3, "several were compared"
    assert energy_is_that_of(ended, ended.members)


def test_processes_that_have_parted_train_on_and_end_alike_and_by_their_metric(
    lab_of: MakeLab, run: Run
) -> None:
    lab = lab_of("V100", "V100")
    plan = {"metrics": [0.1, 0.95], "of_rank": {"1": {"steps": 29}}, "steps": 30, "reduce": False}
    ended = run([Node(lab, 2)], plan, decided(max_epochs=2))
    assert ended.exit_codes == [0, 0], ended.errors
    assert ended.result is not None
    assert ended.result.outcome == Outcome.REACHED.value
    assert ended.result.energy_joules is None
    assert "every process must train the same number of steps" in ended.result.note
    assert all(member.output.endswith("saved the model\n") for member in ended.members)
    lab.wait_until_restored()


def test_tensors_of_the_script_may_be_made_on_another_device_by_default(
    lab_of: MakeLab, run: Run
) -> None:
    lab = lab_of("V100", "V100", agent=False)
    plan = {"metrics": [0.1, 0.95], "default_device": "meta"}
    ended = run([Node(lab, 2)], plan, decided(), agent=False)
    assert ended.exit_codes == [0, 0], ended.errors
    assert ended.result is not None
    assert ended.result.energy_joules is not None
