"""A run that goes on from its script's checkpoint reports what came before it as well."""

from __future__ import annotations

import binascii
import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.runtime_lab import ROOT, Ended, RuntimeLab, decided
from tests.support.team_lab import Node, TeamEnded, run_team
from zeus_runtime import current
from zeus_runtime.gpu import Gpu, GpuUnavailable
from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import Outcome, Result, SweepMeasurement
from zeus_runtime.resume import Before, Owner, StateError, read_state, state_of
from zeus_runtime.run import TrainingRun

OWNER = Owner("team/job", "7", 1, 16)
DONE = Result(
    job="team/job",
    recurrence="7",
    attempt=1,
    batch_size=16,
    epochs=3,
    time_seconds=30.0,
    energy_joules=6000.0,
    gpu_model="Tesla V100",
    gpu_count=1,
    max_power_watts=250.0,
    last_metric=0.4,
    milestones=((1, 0.2), (3, 0.4)),
)
STATE = state_of(DONE, None, 120, 3)


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state as it comes back from a checkpoint of JSON."""
    read: dict[str, Any] = json.loads(json.dumps(state))
    return read


def own(**changes: Any) -> Result:
    """Return what the execution that went on did itself."""
    return replace(DONE, epochs=5, time_seconds=20.0, energy_joules=3000.0, **changes)


# The state -------------------------------------------------------------------


amounts = st.floats(min_value=0.0, max_value=1e9)


@given(
    epochs=st.integers(0, 10**6),
    seconds=amounts,
    joules=st.none() | amounts,
    milestones=st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e300, 1e300)), max_size=5),
    steps=st.integers(0, 10**9),
    into=st.integers(0, 10**9),
    diverged=st.booleans(),
)
def test_what_is_put_into_a_checkpoint_comes_out_of_it(
    epochs: int,
    seconds: float,
    joules: float | None,
    milestones: list[tuple[int, float]],
    steps: int,
    into: int,
    diverged: bool,
) -> None:
    done = replace(
        DONE,
        epochs=epochs,
        time_seconds=seconds,
        energy_joules=joules,
        milestones=tuple(milestones),
        sweep=(SweepMeasurement(8, 1.5, None),),
        sweep_seconds=2.0,
    )
    state = state_of(done, None, steps, epochs, steps_into_epoch=into, diverged=diverged)
    before = read_state(stored(state), OWNER)
    assert before == Before(
        epochs=epochs,
        steps=steps,
        time_seconds=seconds,
        energy_joules=joules if seconds else 0.0,  # nothing was done yet
        gpu_model="Tesla V100",
        gpu_count=1,
        max_power_watts=250.0,
        last_metric=0.4,
        last_metric_epoch=epochs,
        milestones=tuple(milestones),
        sweep=(SweepMeasurement(8, 1.5, None),),
        sweep_seconds=2.0,
        steps_into_epoch=into,
        diverged=diverged,
    )


def test_who_goes_on_in_the_middle_of_an_epoch_takes_the_state_of_that_moment() -> None:
    now = [0.0]

    def no_gpu(environ: object, uuid: object) -> Gpu:
        raise GpuUnavailable("none here")

    run = TrainingRun(
        max_epochs=3, batch_size=16, environ={}, open_device=no_gpu, clock=lambda: now[0]
    )
    assert run.next_epoch()
    run.end_step()
    now[0] = 10.0
    assert run.state_dict()["time_seconds"] == 0.0, "the epoch begins again"
    middle = run.state_dict(within_epoch=True)
    assert (middle["time_seconds"], middle["epochs"], middle["steps"]) == (10.0, 0, 1)
    assert (middle["steps_into_epoch"], run.state_dict()["steps"]) == (1, 0)
    run.finish()


def test_what_was_done_of_an_epoch_is_kept_where_it_is_saved_again_before_it_goes_on() -> None:
    def no_gpu(environ: object, uuid: object) -> Gpu:
        raise GpuUnavailable("none here")

    run = TrainingRun(max_epochs=5, batch_size=16, environ={}, open_device=no_gpu)
    saved = replace(DONE, job="", recurrence="", attempt=0)
    before = state_of(saved, None, 122, 3, steps_into_epoch=2)
    assert run.load_state_dict(before)
    assert run.state_dict(within_epoch=True)["steps_into_epoch"] == 2
    assert run.next_epoch()
    run.end_step()
    assert run.state_dict(within_epoch=True)["steps_into_epoch"] == 3
    run.end_epoch()
    assert run.state_dict(within_epoch=True)["steps_into_epoch"] == 0
    run.finish()


@pytest.mark.parametrize(
    ("owner", "why"),
    [
        (replace(OWNER, attempt=2), "it is of attempt 1 of recurrence 7 of team/job, and this"),
        (replace(OWNER, recurrence="8"), "this run is attempt 1 of recurrence 8"),
        (Owner("", "", 0, 16), "this run is no ZeusJob"),
        (replace(OWNER, batch_size=32), "saved at a batch size of 16, and this run trains with 32"),
        (replace(OWNER, batch_size=None), "trains with None"),
    ],
)
def test_the_state_of_another_training_is_refused(owner: Owner, why: str) -> None:
    with pytest.raises(StateError, match=why):
        read_state(stored(STATE), owner)


def resealed(**changes: Any) -> dict[str, Any]:
    """Return a state with a right checksum over wrong content, as a faulty program makes it."""
    content = {key: value for key, value in {**STATE, **changes}.items() if key != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, "checksum": binascii.crc32(text.encode())}


def test_a_checksum_is_that_of_the_content() -> None:
    assert resealed() == STATE


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {**STATE, "version": 2},
        {**STATE, "epochs": 4},
        {**STATE, "energy_joules": float("nan")},
        {key: value for key, value in STATE.items() if key != "checksum"},
        {key: value for key, value in STATE.items() if key != "milestones"},
        resealed(epochs=-1),
        resealed(epochs="3"),
        resealed(epochs=True),
        resealed(time_seconds=-1.0),
        resealed(energy_joules="much"),
        resealed(milestones=[[1]]),
        resealed(milestones=5),
        resealed(sweep=[[8, 1.0]]),
        resealed(last_metric="good"),
    ],
    ids=range(17),
)
def test_a_damaged_state_is_refused(state: Any) -> None:
    with pytest.raises(StateError):
        read_state(state, OWNER)


def test_the_whole_run_is_both_parts_of_it() -> None:
    whole = read_state(STATE, OWNER).added_to(own())
    assert (whole.epochs, whole.time_seconds, whole.energy_joules) == (5, 50.0, 9000.0)
    assert whole.carried_epochs == 3
    assert (whole.carried_time_seconds, whole.carried_energy_joules) == (30.0, 6000.0)
    assert whole.carried_elsewhere is None


def test_a_run_that_was_ended_twice_has_three_parts() -> None:
    second = read_state(STATE, OWNER).added_to(own())
    third_before = read_state(state_of(second, read_state(STATE, OWNER), 80, 5), OWNER)
    assert third_before.steps == 200
    third = third_before.added_to(own())
    assert (third.time_seconds, third.energy_joules) == (70.0, 12000.0)
    assert (third.carried_epochs, third.carried_energy_joules) == (5, 9000.0)


def test_energy_of_a_part_that_is_not_known_leaves_that_of_the_whole_unknown() -> None:
    before = read_state(STATE, OWNER)
    assert before.added_to(replace(own(), energy_joules=None)).energy_joules is None
    unknown = replace(before, energy_joules=None).added_to(own())
    assert (unknown.energy_joules, unknown.time_seconds) == (None, 50.0)
    assert replace(before, energy_joules=None).cost_joules(0.5, 250.0) is None


def test_a_run_that_has_done_nothing_yet_is_what_was_before_it() -> None:
    """So a script whose model was good enough when it was ended may end at once."""
    nothing = Result(job="team/job", recurrence="7", attempt=1, batch_size=16, epochs=3)
    whole = read_state(STATE, OWNER).added_to(nothing)
    assert (whole.time_seconds, whole.energy_joules) == (30.0, 6000.0)
    assert (whole.gpu_model, whole.gpu_count, whole.max_power_watts) == ("Tesla V100", 1, 250.0)


@pytest.mark.parametrize("gpus", [{"gpu_model": "A40"}, {"gpu_count": 2}])
def test_a_run_that_goes_on_on_other_gpus_says_so_for_good(gpus: dict[str, Any]) -> None:
    before = read_state(STATE, OWNER)
    elsewhere = before.added_to(own(**gpus))
    assert elsewhere.carried_elsewhere is True
    after = read_state(state_of(elsewhere, before, 80, 5), OWNER)
    assert after.added_to(own(**gpus)).carried_elsewhere is True


def test_a_sweep_before_the_checkpoint_is_a_part_of_the_run() -> None:
    swept = replace(
        DONE, sweep=(SweepMeasurement(8, 1.5, 200.0),), sweep_joules=100.0, sweep_seconds=2.0
    )
    before = read_state(state_of(swept, None, 120, 3), OWNER)
    whole = before.added_to(own())
    assert (whole.sweep, whole.sweep_joules, whole.sweep_seconds) == (swept.sweep, 100.0, 2.0)
    again = (SweepMeasurement(32, 1.0, 150.0),)
    both = before.added_to(own(sweep=again, sweep_joules=50.0, sweep_seconds=1.0))
    assert (both.sweep, both.sweep_joules, both.sweep_seconds) == (again, 150.0, 3.0)


def test_a_run_that_has_diverged_has_diverged_for_good(tmp_path: Path) -> None:
    """Though it was ended from outside before it could end by itself."""

    def no_gpu(environ: object, uuid: object) -> Gpu:
        raise GpuUnavailable("none here")

    environ = {"ZEUS_DECISION": decided().to_json(), "ZEUS_RESULT_PATH": str(tmp_path / "result")}

    def run() -> TrainingRun:
        monkeypatch.setattr(current, "_CURRENT", current._Current())
        return TrainingRun(max_epochs=9, batch_size=16, environ=environ, open_device=no_gpu)

    with pytest.MonkeyPatch.context() as monkeypatch:
        first = run()
        assert first.next_epoch()
        first.end_epoch()
        first.report_metric(math.nan)
        state = stored(first.state_dict())
        first.finish()
        again = run()
        assert again.load_state_dict(state)
        assert not again.next_epoch()
        assert again.ending is not None
        assert again.ending.outcome is Outcome.DIVERGED
        again.finish()


def test_a_state_of_a_release_before_is_gone_on_with() -> None:
    later = ("diverged", "steps_into_epoch")
    content = {key: value for key, value in STATE.items() if key not in (*later, "checksum")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    state = {**content, "checksum": binascii.crc32(text.encode())}
    assert read_state(state, OWNER) == read_state(STATE, OWNER)


def test_the_metric_goes_on_where_it_was() -> None:
    metric = MetricRecord(target=0.9)
    metric.restore(((1, 0.2), (3, 0.4)), 0.3, 4)
    assert (metric.best, metric.last, metric.reached, metric.reports) == (0.4, 0.3, False, 1)
    metric.report(5, 0.35)
    metric.report(6, 0.95)
    assert metric.milestones == ((1, 0.2), (3, 0.4), (6, 0.95))
    assert metric.reached


def test_a_metric_that_had_reached_its_target_has_reached_it() -> None:
    metric = MetricRecord(target=0.4)
    metric.restore(((1, 0.2), (3, 0.4)), 0.3, 4)
    assert metric.reached


# A run in a process of its own, killed and started again ---------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


METRICS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.95]


def in_job(lab: RuntimeLab, **changes: Any) -> dict[str, str]:
    return lab.environ(decided(**changes), agent=False)


def killed(lab: RuntimeLab, *, kill_after: int, **plan: Any) -> dict[str, Any]:
    """Train and kill after an epoch; return the state in the checkpoint."""
    first = lab.start({**planned(lab, **plan), "pause_after": [kill_after]}, in_job(lab))
    before = lab.wait_for_pause(first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    state: dict[str, Any] = json.loads((lab.folder / "checkpoint").read_text())
    # It was taken right after the result was written last.
    assert before.energy_joules is not None
    assert 0.0 < before.energy_joules <= state["energy_joules"] * (1.0 + 1e-6)
    assert 0.0 < before.time_seconds <= state["time_seconds"] * (1.0 + 1e-6)
    return state


def resumed(lab: RuntimeLab, environ: dict[str, str] | None = None, **plan: Any) -> Ended:
    """Train on."""
    return lab.run(planned(lab, **plan), environ or in_job(lab))


def planned(lab: RuntimeLab, **plan: Any) -> dict[str, Any]:
    return {"metrics": METRICS, "steps": 90, "checkpoint": str(lab.folder / "checkpoint"), **plan}


def test_the_result_after_a_kill_has_epochs_metric_and_energy_of_both_parts(
    lab: RuntimeLab,
) -> None:
    state = killed(lab, kill_after=2)
    ended = resumed(lab)
    result = ended.result
    assert result is not None, ended.errors
    assert ended.output.split("\n")[0] == "goes on"
    assert (ended.exit_code, result.outcome) == (0, "reached"), ended.errors
    assert (result.epochs, result.carried_epochs) == (6, 2)
    assert result.milestones == tuple(enumerate(METRICS, start=1))
    assert result.energy_joules is not None
    assert result.carried_energy_joules == pytest.approx(state["energy_joules"], rel=1e-6)
    assert result.carried_time_seconds == pytest.approx(state["time_seconds"], rel=1e-6)
    # This part took what the GPU really used in it, but for the process's start and end.
    own_joules = result.energy_joules - state["energy_joules"]
    assert 0.5 * state["energy_joules"] < own_joules <= ended.joules * 1.01
    assert result.epoch_energy_joules is not None
    assert result.epoch_energy_joules * 6 == pytest.approx(result.energy_joules, rel=0.4)


def test_a_run_that_had_reached_its_target_ends_without_another_epoch(lab: RuntimeLab) -> None:
    state = killed(lab, kill_after=6)
    ended = resumed(lab)
    result = ended.result
    assert result is not None, ended.errors
    assert ended.output == "goes on\nsaved the model\n"
    assert (result.outcome, result.epochs) == ("reached", 6)
    assert result.energy_joules == result.carried_energy_joules
    assert result.energy_joules == pytest.approx(state["energy_joules"], rel=1e-6)
    assert result.gpu_model == state["gpu_model"]
    assert "not applied" not in ended.errors


def test_epochs_before_the_checkpoint_count_towards_the_most(lab: RuntimeLab) -> None:
    plan: dict[str, Any] = {"metrics": [0.1] * 5, "max_epochs": 5, "steps": 10}
    killed(lab, kill_after=3, **plan)
    ended = resumed(lab, **plan)
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (86, "max_epochs")
    assert (ended.result.epochs, ended.result.carried_epochs) == (5, 3)


def test_the_cost_threshold_is_of_the_whole_run(lab: RuntimeLab) -> None:
    state = killed(lab, kill_after=6, metrics=[0.1])
    cost = 0.5 * state["energy_joules"] + 0.5 * state["max_power_watts"] * state["time_seconds"]
    # No more than was spent before the kill: of an own part alone there would be room for six.
    limited = in_job(lab, cost_threshold_joules=cost)
    ended = resumed(lab, limited, metrics=[0.1], repeat_last=True)
    assert ended.result is not None, ended.errors
    assert (ended.exit_code, ended.result.outcome) == (86, "cost_exceeded"), ended.errors
    assert ended.result.epochs == 7, "one epoch tells what one costs here"
    assert "threshold is not applied" not in ended.errors


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param({"ZEUS_ATTEMPT": "2"}, id="another attempt"),
        pytest.param({"ZEUS_RECURRENCE": "8"}, id="another recurrence"),
    ],
)
def test_another_attempt_trains_from_the_start_and_says_so_once(
    lab: RuntimeLab, spoil: dict[str, str]
) -> None:
    killed(lab, kill_after=4, steps=10)
    ended = resumed(lab, {**in_job(lab), **spoil}, steps=10)
    assert ended.result is not None, ended.errors
    assert ended.output.split("\n")[0] == "begins"
    assert (ended.exit_code, ended.result.outcome, ended.result.epochs) == (0, "reached", 6)
    assert ended.result.carried_epochs is None
    assert ended.errors.count("is not gone on with") == 1
    assert "attempt 1 of recurrence 7 of team/job" in ended.result.note


def test_outside_of_a_job_a_run_goes_on_as_well(lab: RuntimeLab) -> None:
    environ = lab.environ(None, agent=False)
    for name in ("ZEUS_JOB", "ZEUS_RECURRENCE", "ZEUS_ATTEMPT", "ZEUS_RESULT_PATH"):
        environ.pop(name)
    plan = {"metrics": METRICS, "checkpoint": str(lab.folder / "checkpoint"), "max_epochs": 3}
    assert lab.run(plan, environ).output == "saved the model\n"
    again = lab.run({**plan, "max_epochs": 5}, environ)
    assert again.output == "goes on\nsaved the model\n"
    assert "5 epochs in" in again.errors


# Several processes -----------------------------------------------------------


@pytest.mark.torch
def test_all_processes_go_on_after_the_checkpoint_of_rank_0(tmp_path: Path) -> None:
    lab = RuntimeLab(tmp_path, "V100", "V100")
    try:
        script = str(ROOT / "tests" / "support" / "team_resume_script.py")
        plan = {"checkpoint": str(tmp_path / "checkpoint"), "metrics": [0.1, 0.2, 0.3, 0.95]}

        def train(**more: Any) -> TeamEnded:
            command = (script, json.dumps({**plan, **more}))
            return run_team([Node(lab, 2)], {}, decided(), command=command, agent=False)

        killed = train(kill_after=2)
        assert killed.exit_codes == [-signal.SIGKILL] * 2, killed.errors
        before = killed.result
        ended = train()
    finally:
        lab.close()
    result = ended.result
    assert result is not None, ended.errors
    assert before is not None
    assert ended.exit_codes == [0, 0], ended.errors
    for member in ended.members:
        assert member.seen == {"went_on": True, "numbers": [2, 3], "of_state": 4}
    assert (result.outcome, result.epochs, result.carried_epochs) == ("reached", 4, 2)
    assert result.gpu_count == before.gpu_count == 2
    assert result.carried_elsewhere is None
    assert result.milestones == ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.95))
    assert result.carried_energy_joules is not None
    assert before.energy_joules is not None
    assert result.carried_energy_joules >= before.energy_joules
