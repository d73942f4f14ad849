"""A whole run in a process of its own, on a simulated GPU."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.eventually import eventually
from tests.support.runtime_lab import RuntimeLab, decided
from zeus_runtime.protocol import Outcome, PowerProfilePoint


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


@pytest.fixture
def lab_with_agent(lab: RuntimeLab) -> RuntimeLab:
    lab.start_agent()
    return lab


PROFILE = tuple(
    PowerProfilePoint(limit, 0.8 * limit, 0.01) for limit in (250.0, 225.0, 200.0, 175.0, 150.0)
)


def test_a_run_profiles_holds_the_best_limit_and_gives_it_back(lab_with_agent: RuntimeLab) -> None:
    lab = lab_with_agent
    ended = lab.run({"metrics": [0.1] * 11 + [0.95], "steps": 90}, lab.environ(decided()))
    result = ended.result
    assert result is not None, ended.errors
    assert (ended.exit_code, result.outcome) == (0, Outcome.REACHED.value), ended.errors
    assert ended.output == "saved the model\n"
    assert result.epochs == 12
    assert [round(p.power_limit_watts) for p in result.power_profile[:3]] == [250, 225, 200]
    assert result.power_limit_watts is not None
    assert result.power_limit_watts < 250.0
    assert result.milestones == ((1, 0.1), (12, 0.95))
    assert result.gpu_model == "Tesla V100-PCIE-16GB (simulated)"
    assert (result.job, result.recurrence, result.attempt) == ("team/job", "7", 1)
    assert lab.limit(lab.uuids[0]) == ADMIN_CAP_WATTS
    # The process's own time before and after training is at idle power (25 W).
    assert result.energy_joules is not None
    assert 0.5 * ended.joules < result.energy_joules <= ended.joules
    assert result.epoch_energy_joules is not None
    assert result.epoch_time_seconds is not None
    assert result.epoch_energy_joules * 12 == pytest.approx(result.energy_joules, rel=0.3)
    # Of the limit found only a few first steps were trained: the profile tells what it costs.
    (found,) = (p for p in result.power_profile if p.power_limit_watts == ADMIN_CAP_WATTS)
    assert result.full_power_epoch_seconds is not None
    assert result.full_power_epoch_joules is not None
    steps_seconds = 90 * found.seconds_per_step
    assert steps_seconds * 0.99 <= result.full_power_epoch_seconds < 1.5 * steps_seconds
    assert result.full_power_epoch_joules > 0.99 * found.average_power_watts * steps_seconds


def test_a_profile_handed_over_for_this_gpu_is_used_and_not_measured_again(
    lab_with_agent: RuntimeLab,
) -> None:
    lab = lab_with_agent
    first = lab.run({"metrics": [0.95], "steps": 10}, lab.environ(decided()))
    assert first.result is not None
    same = decided(
        power_profile=PROFILE,
        power_min_percent=60.0,
        profile_gpu_model=first.result.gpu_model,
        profile_driver=first.result.gpu_driver,
    )
    plan = {"metrics": [0.1, 0.1, 0.1, 0.95], "steps": 40}
    used = lab.run(plan, lab.environ(same))
    assert used.result is not None
    assert used.result.power_profile == PROFILE
    assert used.result.power_limit_watts == 150.0
    assert used.result.epoch_energy_joules is not None
    other = decided(power_profile=PROFILE, profile_gpu_model="another", profile_driver="1")
    anew = lab.run(plan, lab.environ(other))
    assert anew.result is not None
    assert anew.result.power_profile != PROFILE


def test_a_control_run_leaves_the_limit_alone_and_is_measured(lab_with_agent: RuntimeLab) -> None:
    lab = lab_with_agent
    decision = decided(optimize_power=False)
    plan = {"metrics": [0.1, 0.1, 0.95], "pause_after": [2], "steps": 30}
    process = lab.start(plan, lab.environ(decision))
    lab.wait_for_pause(process)
    assert lab.limit(lab.uuids[0]) == ADMIN_CAP_WATTS
    lab.go_on(process)
    result = lab.end(process).result
    assert result is not None
    assert result.power_limit_watts is None
    assert result.power_profile == ()
    assert result.epoch_energy_joules is not None
    assert result.full_power_epoch_joules == result.epoch_energy_joules
    assert result.full_power_epoch_seconds == result.epoch_time_seconds


@pytest.mark.parametrize("case", ["no agent", "agent not running", "agent may not set limits"])
def test_training_goes_on_where_the_limit_can_not_be_set_and_says_so_once(
    lab: RuntimeLab, case: str
) -> None:
    if case == "agent may not set limits":
        lab.simulator.set_fault(0, "no_permission")
        lab.start_agent()
    environ = lab.environ(decided(), agent=case != "no agent")
    ended = lab.run({"metrics": [0.1, 0.1, 0.1, 0.95], "steps": 60}, environ)
    assert ended.result is not None
    assert (ended.exit_code, ended.result.outcome) == (0, "reached"), ended.errors
    assert ended.result.energy_joules is not None
    assert ended.result.power_limit_watts is None
    assert ended.errors.count("limit that there is") == 1, ended.errors
    assert "limit that there is" in ended.result.note


@pytest.mark.parametrize("fault", ["no library", "no device", "no such device", "mig"])
def test_training_goes_on_without_a_gpu_that_can_be_read(lab: RuntimeLab, fault: str) -> None:
    environ = lab.environ(decided(), agent=False)
    if fault == "no library":
        environ.pop("LD_LIBRARY_PATH")
    environ.update(
        {
            "no device": {"CUDA_VISIBLE_DEVICES": ""},
            "no such device": {"CUDA_VISIBLE_DEVICES": "7"},
            "mig": {"CUDA_VISIBLE_DEVICES": "MIG-4f5e"},
        }.get(fault, {})
    )
    ended = lab.run({"metrics": [0.1, 0.95]}, environ)
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (0, "reached")
    assert ended.result.energy_joules is None
    assert ended.errors.count("Energy is not measured") == 1
    assert ended.result.time_seconds > 0.0


def test_without_an_energy_counter_power_is_integrated(lab: RuntimeLab) -> None:
    lab.simulator.set("unsupported", 2, 0)
    ended = lab.run({"metrics": [0.1] * 5 + [0.95], "steps": 50}, lab.environ(decided()))
    result = ended.result
    assert result is not None
    assert result.energy_joules is not None, ended.errors
    assert 60.0 < result.energy_joules / result.time_seconds < 250.0


@pytest.mark.parametrize("how", ["index", "uuid"])
def test_the_gpu_of_cuda_visible_devices_is_measured(tmp_path: Path, how: str) -> None:
    lab = RuntimeLab(tmp_path)
    uuid = lab.uuids[0]
    visible = "0" if how == "index" else uuid[:12]
    environ = lab.environ(decided(), agent=False, CUDA_VISIBLE_DEVICES=visible)
    ended = lab.run({"metrics": [0.95]}, environ)
    assert ended.result is not None
    assert ended.result.gpu_count == 1


def test_a_threshold_ends_the_script_before_the_epoch_that_would_pass_it(lab: RuntimeLab) -> None:
    decision = decided(cost_threshold_joules=200.0, optimize_power=False)
    plan = {"metrics": [0.1], "repeat_last": True, "steps": 30}
    ended = lab.run(plan, lab.environ(decision))
    result = ended.result
    assert result is not None
    assert (ended.exit_code, result.outcome) == (86, "cost_exceeded"), ended.errors
    assert ended.output == ""
    said = re.search(r"after (\d+) epochs at ([\d.]+) J another one of ([\d.]+) J", ended.errors)
    assert said is not None, ended.errors
    epochs, cost, another = (float(number) for number in said.groups())
    assert cost + another > 200.0
    assert result.epochs == epochs >= 1
    assert result.energy_joules is not None
    at_the_end = 0.5 * result.energy_joules + 0.5 * result.max_power_watts * result.time_seconds
    assert at_the_end >= 0.99 * cost


def test_a_tiny_threshold_still_costs_one_epoch(lab: RuntimeLab) -> None:
    ended = lab.run(
        {"metrics": [0.1], "repeat_last": True}, lab.environ(decided(cost_threshold_joules=0.001))
    )
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.epochs) == ("cost_exceeded", 1)
    assert ended.result.energy_joules


@pytest.mark.parametrize(
    ("plan", "exit_code", "outcome"),
    [
        ({"metrics": [0.1], "repeat_last": True}, 86, Outcome.MAX_EPOCHS),
        ({"metrics": [0.1, None]}, 86, Outcome.DIVERGED),
        ({"metrics": []}, 0, Outcome.NO_TELEMETRY),
        ({"metrics": [0.95], "batch_size": 99}, 0, Outcome.DECISION_NOT_APPLIED),
        ({"metrics": [0.1], "fail_after": 2, "failure": "oom"}, 1, Outcome.OUT_OF_MEMORY),
        ({"metrics": [0.1], "fail_after": 2, "failure": "crash"}, 1, None),
        ({"metrics": [0.1], "repeat_last": True, "on_stop": "return"}, 0, Outcome.MAX_EPOCHS),
        ({"metrics": [0.1, 0.2], "ends_here": 2}, 86, Outcome.MAX_EPOCHS),
        ({"metrics": [0.1, 0.2], "ends_here": 2, "leaves": True}, 86, Outcome.MAX_EPOCHS),
        (
            {"metrics": [0.1], "ends_here": 1, "leaves": True, "fails_at_end": True},
            1,
            None,
        ),
        ({"metrics": [0.1, 0.95], "ends_here": 2}, 0, Outcome.REACHED),
        ({"metrics": [], "ends_here": 2}, 0, Outcome.NO_TELEMETRY),
    ],
    ids=lambda value: value.value if isinstance(value, Outcome) else "",
)
def test_how_a_run_ends_is_in_its_exit_code_and_its_result(
    lab: RuntimeLab, plan: dict[str, object], exit_code: int, outcome: Outcome | None
) -> None:
    ended = lab.run(plan, lab.environ(decided(max_epochs=4), agent=False))
    assert ended.result is not None, ended.errors
    assert ended.exit_code == exit_code, ended.errors
    assert ended.result.outcome == (None if outcome is None else outcome.value)
    assert ("saved the model" in ended.output) is (exit_code == 0)
    assert ended.result.epochs <= 4


def test_a_malformed_decision_is_said_and_training_goes_on(lab: RuntimeLab) -> None:
    ended = lab.run({"metrics": [0.1], "max_epochs": 3}, lab.environ("{broken", agent=False))
    assert ended.result is not None
    assert (ended.exit_code, ended.result.epochs) == (0, 3)
    assert ended.result.outcome == "decision_not_applied"
    assert ended.errors.count("not JSON") == 1


def test_a_plain_script_optimizes_the_limit_too_and_says_what_it_used(
    lab_with_agent: RuntimeLab,
) -> None:
    lab = lab_with_agent
    environ = lab.environ(None)
    environ.pop("ZEUS_RESULT_PATH")
    ended = lab.run({"max_epochs": 12, "steps": 90}, environ)
    assert ended.exit_code == 0
    summary = ended.errors.strip().splitlines()
    assert len(summary) == 1, ended.errors
    for part in ("12 epochs", " J on Tesla V100", "power limit", "chosen among"):
        assert part in summary[0]
    assert lab.limit(lab.uuids[0]) == ADMIN_CAP_WATTS
    assert not lab.result_path.exists()


def test_the_result_survives_sigkill_and_the_limit_comes_back(lab_with_agent: RuntimeLab) -> None:
    lab = lab_with_agent
    plan = {"metrics": [0.1, 0.3], "steps": 120, "pause_after": [4]}
    process = lab.start(plan, lab.environ(decided()))
    lab.wait_for_pause(process)
    process.kill()
    ended = lab.end(process)
    assert ended.exit_code == -signal.SIGKILL
    assert ended.result is not None
    assert (ended.result.epochs, ended.result.outcome) == (4, None)
    assert ended.result.best_metric == 0.3
    assert ended.result.energy_joules
    lab.wait_until_restored()


def test_sigterm_leaves_the_last_state_and_ends_by_the_signal(lab: RuntimeLab) -> None:
    process = lab.start({"metrics": [0.1], "pause_after": [3]}, lab.environ(decided()))
    before = lab.wait_for_pause(process)
    process.terminate()
    ended = lab.end(process)
    assert ended.exit_code == -signal.SIGTERM
    assert ended.result is not None
    assert ended.result.sequence > before.sequence
    assert (ended.result.epochs, ended.result.outcome) == (3, None)


@pytest.mark.parametrize("heeds", ["before", "after"])
def test_a_script_that_ends_its_training_as_it_was_asked_to_has_not_failed_to_converge(
    lab: RuntimeLab, heeds: str
) -> None:
    plan = {"metrics": [0.1], "pause_after": [1], "heeds_sigterm": heeds}
    process = lab.start(plan, lab.environ(decided(), agent=False))
    lab.wait_for_pause(process)
    process.terminate()
    lab.go_on(process)
    ended = lab.end(process)
    assert ended.result is not None, ended.errors
    # As if it had not heeded it, so that whoever runs it sees that it was ended from outside.
    assert (ended.exit_code, ended.result.outcome, ended.result.epochs) == (143, None, 1)
    assert "training stops: the process was asked to end" in ended.errors
    assert ended.output == ""  # no model is saved as if it were good enough


def test_an_agent_killed_and_started_again_gets_its_wish_again(lab_with_agent: RuntimeLab) -> None:
    lab = lab_with_agent
    facts = lab.run({"metrics": [0.95]}, lab.environ(decided())).result
    assert facts is not None
    decision = decided(
        power_profile=PROFILE,
        power_min_percent=60.0,
        profile_gpu_model=facts.gpu_model,
        profile_driver=facts.gpu_driver,
    )
    plan = {"metrics": [0.1] * 9 + [0.95], "steps": 40, "pause_after": [2, 4, 6, 8]}
    process = lab.start(plan, lab.environ(decision))
    lab.wait_for_pause(process)
    eventually(lambda: lab.limit(lab.uuids[0]) == 150.0, "the limit is held")
    lab.stop_agent(signal.SIGKILL)
    lab.go_on(process)
    lab.wait_for_pause(process)  # it trains on without
    lab.start_agent()
    eventually(lambda: lab.limit(lab.uuids[0]) == 150.0, "the limit is held again")
    for _ in range(2):
        lab.go_on(process)
        lab.wait_for_pause(process)
    lab.go_on(process)
    ended = lab.end(process)
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (0, "reached"), ended.errors
    assert ended.result.power_limit_watts == 150.0
    lab.wait_until_restored()


@pytest.mark.parametrize("fault", ["lost", "hang_seconds"])
def test_a_gpu_that_fails_in_the_middle_does_not_break_training(
    lab: RuntimeLab, fault: str
) -> None:
    plan = {"metrics": [0.1, 0.1, 0.1, 0.95], "pause_after": [2]}
    process = lab.start(plan, lab.environ(decided(), agent=False))
    assert lab.wait_for_pause(process).energy_joules is not None
    lab.simulator.set_fault(0, fault, *([3600.0] if fault == "hang_seconds" else []))
    lab.go_on(process)
    eventually(lambda: process.poll() is not None, "the script ends")
    ended = lab.end(process)
    assert ended.result is not None
    assert (ended.exit_code, ended.result.outcome) == (0, "reached"), ended.errors
    assert ended.result.epochs == 4
    assert ended.result.energy_joules is None
    assert "could not be read after epoch" in ended.result.note
    assert ended.errors.count("could not be read after epoch") == 1


def test_a_reset_of_the_counter_does_not_make_energy_negative_or_huge(lab: RuntimeLab) -> None:
    plan = {"metrics": [0.1, 0.1, 0.1, 0.95], "steps": 40, "pause_after": [2]}
    process = lab.start(plan, lab.environ(decided(), agent=False))
    before = lab.wait_for_pause(process)
    lab.simulator.reset_counter(0)
    lab.go_on(process)
    result = lab.end(process).result
    assert result is not None
    assert before.energy_joules is not None
    assert result.energy_joules is not None
    assert before.energy_joules < result.energy_joules < 250.0 * result.time_seconds


def test_energy_is_what_the_gpu_really_used(lab: RuntimeLab) -> None:
    plan = {"metrics": [0.1], "repeat_last": True, "steps": 40, "pause_after": [1, 21]}
    process = lab.start(plan, lab.environ(decided(), agent=False))
    first = lab.wait_for_pause(process)
    true_before = lab.simulator.true_energy_joules(0)
    lab.go_on(process)
    last = lab.wait_for_pause(process)
    true_after = lab.simulator.true_energy_joules(0)
    lab.go_on(process)
    lab.end(process)
    assert first.energy_joules is not None
    assert last.energy_joules is not None
    measured = last.energy_joules - first.energy_joules
    assert measured == pytest.approx(true_after - true_before, rel=0.05)


def test_a_driver_that_does_not_answer_delays_the_start_but_does_not_stop_it(
    lab: RuntimeLab,
) -> None:
    lab.simulator.set_fault(0, "hang_seconds", 3600.0)
    ended = lab.run({"metrics": [0.1, 0.95]}, lab.environ(decided(), agent=False))
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (0, "reached")
    assert ended.result.energy_joules is None
    assert "did not answer" in ended.result.note
