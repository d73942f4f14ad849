"""Power limits are measured from the top down and the cheapest one is held."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.virtual_training import GPUS, ModelledGpu, VirtualTraining
from zeus_runtime.agent_client import AgentError
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.power_profile import PowerProfile, candidate_limits, step_cost_joules
from zeus_runtime.power_setup import power_wishes
from zeus_runtime.protocol import Decision, PowerProfilePoint

V100 = GPUS[0]


@pytest.mark.parametrize(
    ("bounds", "percent", "expected"),
    [
        ((100.0, 250.0, 250.0), (0.0, 100.0), (250, 225, 200, 175, 150, 125, 100)),
        ((60.0, 70.0, 70.0), (0.0, 100.0), (70, 60)),
        ((100.0, 300.0, 300.0), (50.0, 100.0), (300, 275, 250, 225, 200, 175, 150)),
        ((100.0, 390.0, 350.0), (0.0, 40.0), (140, 115, 100)),
        ((300.0, 390.0, 350.0), (40.0, 200.0), (390, 365, 340, 315, 300)),
        ((200.0, 200.0, 200.0), (0.0, 100.0), (200,)),
        ((100.0, 250.0, 250.0), (90.0, 80.0), (225,)),
    ],
)  # fmt: skip
def test_candidates_go_down_in_steps_and_hold_both_ends(
    bounds: tuple[float, float, float],
    percent: tuple[float, float],
    expected: tuple[float, ...],
) -> None:
    assert candidate_limits(*bounds, *percent) == pytest.approx(expected)


def point(
    limit: float, watts: float, seconds: float = 1.0, certainty: float = 1.0
) -> PowerProfilePoint:
    return PowerProfilePoint(limit, watts, seconds, certainty)


def test_the_cost_counts_watts_with_watts() -> None:
    assert step_cost_joules(point(200.0, 180.0, 0.5), 0.5, 250.0) == pytest.approx(107.5)
    assert step_cost_joules(point(200.0, 180.0, 0.5), 1.0, 250.0) == pytest.approx(90.0)
    assert step_cost_joules(point(200.0, 180.0, 0.5), 0.0, 250.0) == pytest.approx(125.0)


RISING = ((250.0, 1.0), (225.0, 1.15), (200.0, 1.3))


def test_measuring_ends_once_the_cost_clearly_rises_three_times() -> None:
    profile = PowerProfile((250.0, 225.0, 200.0, 175.0, 150.0), 0.5, 250.0)
    for limit, seconds in RISING:
        profile.measured(point(limit, 220.0, seconds))
    assert profile.candidate == 175.0
    profile.measured(point(175.0, 170.0, 1.6))
    assert profile.candidate is None
    assert profile.best is not None
    assert profile.best.power_limit_watts == 250.0


def test_a_rise_that_noise_explains_does_not_end_measuring() -> None:
    profile = PowerProfile((250.0, 225.0, 200.0, 175.0, 150.0), 0.5, 250.0)
    for limit, seconds in ((250.0, 1.0), (225.0, 1.06), (200.0, 1.06), (175.0, 1.06)):
        profile.measured(point(limit, 220.0, seconds), steps=1)
    assert profile.candidate == 150.0


def test_limits_close_to_the_best_are_looked_at_again_a_bounded_number_of_times() -> None:
    profile = PowerProfile((250.0, 225.0, 200.0, 175.0), 0.5, 250.0)
    for limit, seconds in ((250.0, 1.0), (225.0, 1.01), (200.0, 1.02), (175.0, 1.3)):
        profile.measured(point(limit, 220.0, seconds, 0.2))
    again = []
    while profile.candidate is not None:
        again.append(profile.candidate)
        profile.measured(point(again[-1], 220.0, 1.04, 0.2))
    assert again == [250.0, 225.0]
    seconds = {p.power_limit_watts: p.seconds_per_step for p in profile.points}
    assert seconds[250.0] == pytest.approx(1.02)  # the mean of both looks


def test_a_handed_profile_leaves_nothing_to_measure() -> None:
    known = tuple(point(limit, limit - 10.0, 1.0) for limit in (250.0, 225.0, 200.0))
    profile = PowerProfile((250.0, 225.0, 200.0), 0.5, 250.0, known=known)
    assert profile.candidate is None
    assert profile.best is not None
    assert profile.best.power_limit_watts == 200.0


def test_half_a_handed_profile_is_gone_on_with() -> None:
    known = (point(250.0, 240.0), point(225.0, 220.0))
    profile = PowerProfile((250.0, 225.0, 200.0, 175.0), 0.5, 250.0, known=known)
    assert profile.candidate == 200.0


LIMITS = (250.0, 225.0, 200.0, 175.0, 150.0)


def test_a_window_that_a_busy_host_slowed_down_is_put_right_by_the_next_run() -> None:
    first = tuple(
        point(limit, 220.0, seconds, 0.5)
        for limit, seconds in zip(LIMITS, (1.0, 0.9, 0.95, 1.0, 1.1), strict=True)
    )  # 200 W is really the best, at 0.8
    profile = PowerProfile(LIMITS, 0.5, 250.0, known=first)
    true_seconds = dict(zip(LIMITS, (1.0, 0.9, 0.8, 1.0, 1.1), strict=True))
    looked_at = []
    while (limit := profile.candidate) is not None:
        looked_at.append(limit)
        profile.measured(point(limit, 220.0, true_seconds[limit], 0.5))
    assert 0 < len(looked_at) <= len(LIMITS) // 2
    assert profile.best is not None
    assert profile.best.power_limit_watts == 200.0
    assert profile.best.seconds_per_step == pytest.approx(0.8)


def test_what_is_certain_is_not_measured_again_whatever_run_it_is_from() -> None:
    known = tuple(point(limit, limit - 10.0, certainty=1.0) for limit in LIMITS)
    assert PowerProfile(LIMITS, 0.5, 250.0, known=known).candidate is None


@pytest.mark.parametrize("certainty", [float("nan"), -1.0, None, "much"])
def test_a_certainty_that_makes_no_sense_counts_for_nothing(certainty: object) -> None:
    facts = GpuFacts("GPU-v", "V100", "1")
    decision = Decision(
        batch_size=16,
        target=0.9,
        metric_mode="Max",
        max_epochs=5,
        power_profile=(point(200.0, 180.0, 0.01, certainty),),
        profile_gpu_model="V100",
        profile_driver="1",
    )
    assert power_wishes(facts, decision, 0.5).known[0].certainty == 0.0


def test_a_handed_point_outside_of_the_bounds_is_never_held() -> None:
    known = (point(250.0, 240.0), point(225.0, 220.0), point(150.0, 100.0))
    profile = PowerProfile((225.0, 200.0), 0.5, 250.0, known=known)
    assert [p.power_limit_watts for p in profile.points] == [225.0]
    assert profile.candidate == 200.0


def test_a_second_look_at_a_limit_that_is_no_longer_applied_ends() -> None:
    profile = PowerProfile(
        (250.0, 225.0), 0.5, 250.0, known=(point(250.0, 240.0, 1.0, 0.1), point(225.0, 215.0))
    )
    assert profile.candidate == 250.0
    assert profile.clamped(250.0, applied_watts=225.0)
    profile.skip()
    assert profile.candidate is None


def test_points_measured_over_whole_cycles_are_gone_on_with_in_the_same_way() -> None:
    settings = {"step_seconds": 0.003, "steps_per_epoch": 5, "between_seconds": 0.01}
    first = VirtualTraining(V100, **settings)
    first.train_until_held()
    second = VirtualTraining(V100, **settings, known=first.control.points[:2])
    second.train_until_held()
    assert all(measured.whole_cycles for measured in second.control.points)
    check_optimum(second)


def test_a_limit_that_is_not_granted_is_asked_about_ever_more_rarely() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=20_000, agent_seconds=1e9)
    looks = []
    on_step = run.control.on_step
    run.control.on_step = lambda steps: (looks.append(steps), on_step(steps))
    run.train(1)
    assert 10 < len(looks) < 100


def refuse(run: VirtualTraining, code: str) -> None:
    """From now on the agent refuses every limit with `code`."""
    problem = AgentError(code, f"because {code}", 403)
    run.status = replace(run.status, problems={"GPU-v": problem})
    run.agent_seconds = 1e9


@pytest.mark.parametrize("code", ["not_owner", "gpu_shared", "policy_denied", "no_permission"])
@pytest.mark.parametrize("epochs_before", [0, 3], ids=["at first", "half-way"])
def test_a_limit_that_is_denied_ends_the_profile_and_gives_back_what_was_held(
    code: str, epochs_before: int
) -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=50)
    run.train(epochs_before)
    measured = len(run.control.points)
    refuse(run, code)
    run.train(5)
    assert not run.control.profiling
    assert run.control.held_watts is None
    assert run.limit == V100.max_watts
    assert run.wishes[-1] is None  # so that another agent does not set a mere candidate
    assert len(run.control.points) <= measured + 1
    assert run.notices.note().count(f"because {code}") == 1


@pytest.mark.parametrize("code", ["rate_limited", "identity_unavailable", "gpu_leased"])
def test_a_limit_that_is_refused_for_now_is_waited_for(code: str) -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=50)
    refuse(run, code)
    run.train(5)
    assert run.control.profiling
    assert None not in run.wishes
    assert "asked again" in run.notices.note()
    run.status, run.agent_seconds = replace(run.status, problems={}), 0.002
    run.take_lease_again()
    run.train_until_held()
    check_optimum(run)


def test_an_agent_that_refuses_the_run_is_told_from_none() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=50, agent_seconds=1e9)
    refusal = AgentError("unauthenticated", "the token proves nothing here", 401)
    run.status = replace(run.status, connected=False, error=str(refusal), refusal=refusal)
    run.train(2)
    assert "does not serve this run: the token proves nothing here" in run.notices.note()
    assert run.control.wake_at > run.steps


def test_under_a_policy_on_trial_nothing_is_measured_or_said_to_be_held() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=50, dry_run=True)
    run.train(3)
    assert not run.control.profiling
    assert run.control.points == ()
    assert run.control.held_watts is None
    assert run.ledger.limit_watts is None
    assert "on trial" in run.notices.note()


def check_optimum(run: VirtualTraining) -> None:
    """The limit held costs at most 1 % more than the model's optimum."""
    gpu, held = run.gpu, run.control.held_watts
    assert held is not None
    best = gpu.best_limit(run.eta)
    assert gpu.step_cost(held, run.eta) <= 1.01 * gpu.step_cost(best, run.eta)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("tick_seconds", [0.02, 0.1])
@pytest.mark.parametrize("steps_per_epoch", [5, 60, 5000])
@pytest.mark.parametrize("step_seconds", [0.004, 0.2])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_limit_held_is_the_optimum(
    gpu: ModelledGpu,
    tick_seconds: float,
    steps_per_epoch: int,
    step_seconds: float,
    noise: float,
) -> None:
    run = VirtualTraining(
        gpu,
        step_seconds=step_seconds,
        steps_per_epoch=steps_per_epoch,
        tick_seconds=tick_seconds,
        noise=noise,
        seed=7,
    )
    run.train_until_held()
    check_optimum(run)
    if not noise:
        assert abs(run.control.held_watts - gpu.best_limit(0.5)) <= 25.0 + 1e-6


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_the_preference_moves_the_optimum(eta: float) -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=300, eta=eta)
    run.train_until_held()
    check_optimum(run)


def test_epochs_shorter_than_a_tick_are_measured_with_what_follows_them() -> None:
    run = VirtualTraining(
        V100, step_seconds=0.003, steps_per_epoch=5, between_seconds=0.01, tick_seconds=0.1
    )
    run.train_until_held()
    for measured in run.control.points:
        assert measured.whole_cycles
        per_step = run.gpu.seconds(0.003, measured.power_limit_watts) + 0.01 / 5
        assert measured.seconds_per_step == pytest.approx(per_step, rel=0.02)


def test_long_epochs_are_profiled_within_the_first() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=5000, between_seconds=5.0)
    run.train(1)
    assert run.control.held_watts is not None
    for measured in run.control.points:
        expected = run.gpu.watts(measured.power_limit_watts)
        assert measured.average_power_watts == pytest.approx(expected, rel=0.005)


def test_profiling_takes_a_bounded_share_of_a_long_run() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=5000)
    run.train(1)
    limits = len(run.control.points)
    # Per limit: a tick to settle, five to measure, one until the energy is known, and the agent.
    assert run.ledger.epoch_use(run.control.held_watts, 5000) is not None
    assert limits <= 7
    assert [wish for wish in run.wishes if wish is not None][-1] == run.control.held_watts


def test_a_lease_lost_in_a_trial_only_repeats_that_trial() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=50)
    run.train(3)
    points_before = run.control.points
    run.lose_lease()
    run.train(2)
    assert run.control.points == points_before
    run.take_lease_again()
    run.train_until_held()
    check_optimum(run)
    for measured in run.control.points:
        expected = run.gpu.watts(measured.power_limit_watts)
        assert measured.average_power_watts == pytest.approx(expected, rel=0.01)


def test_what_was_lost_while_holding_is_held_again_and_left_out_of_the_cost_per_epoch() -> None:
    run = VirtualTraining(V100, step_seconds=0.01, steps_per_epoch=100)
    run.train_until_held()
    held = run.control.held_watts
    run.train(5)
    run.train(3, lose_lease_at_step=run.steps + 40)  # noticed at the end of that epoch
    assert run.control.held_watts is None
    run.take_lease_again()
    run.train(5)
    assert run.control.held_watts == held
    use = run.ledger.epoch_use(held, 100)
    assert use is not None
    assert held is not None
    assert use.time_seconds == pytest.approx(100 * V100.seconds(0.01, held), rel=0.003)
    assert use.energy_joules == pytest.approx(use.time_seconds * V100.watts(held), rel=0.02)
