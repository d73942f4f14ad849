"""The stop rule: what it believes of a run under way, and when it ends it."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from zeus_operator.optimizer.valuation import Arm, trials
from zeus_runtime.stopping import Level, StopRule, first_epoch_at

# Levels of a curve that rises by the square root of the way: half of the metric after a quarter
# of the epochs, and so on.  Gaps are ln(epochs to the target / epoch of the level).
LEVELS = tuple(
    Level(metric, -2.0 * math.log(metric), 0.1 + 0.4 * math.sqrt(-2.0 * math.log(metric)))
    for metric in (0.3, 0.5, 0.7, 0.9)
)
RULE = StopRule(
    log_epochs_mean=math.log(20.0),
    arm_variance=0.5,
    run_variance=0.04,
    probability=0.9,
    best_cost_joules=3000.0,
    cap_joules=4500.0,
    budget_joules=2000.0,
    horizon=5.0,
    leave_factor=2.0,
    max_epochs=100,
    levels=LEVELS,
)
EPOCH = 100.0  # joules: the best known arm costs 30 epochs of this one


def on_the_way_to(target: float, epochs: int) -> list[tuple[int, float]]:
    """Milestones, one an epoch, of a run that will reach its target after `target` epochs."""
    return [(epoch, math.sqrt(min(epoch / target, 1.0))) for epoch in range(1, epochs + 1)]


def ends_at(rule: StopRule, target: float, epoch_cost: float = EPOCH) -> int | None:
    """After how many epochs a run on its way to `target` is ended; None: it gets there."""
    for epochs in range(1, math.ceil(target)):
        if not rule.goes_on(epochs, on_the_way_to(target, epochs), epoch_cost):
            return epochs
    return None


rules = st.builds(
    StopRule,
    log_epochs_mean=st.floats(0.0, 5.0),
    arm_variance=st.floats(0.001, 4.0),
    run_variance=st.floats(0.001, 0.5),
    probability=st.floats(0.01, 0.99),
    best_cost_joules=st.floats(1e-3, 1e9),
    cap_joules=st.floats(0.0, 1e10),
    budget_joules=st.floats(-1e9, 1e9),
    horizon=st.floats(0.0, 40.0),
    leave_factor=st.floats(1.0, 3.0),
    max_epochs=st.integers(1, 300),
    rising=st.booleans(),
    levels=st.lists(
        st.builds(Level, st.floats(-5, 5), st.floats(0, 4), st.floats(0.05, 1.0)), max_size=6
    ).map(tuple),
)
curves = st.lists(
    st.tuples(st.integers(1, 200), st.floats(-5, 5)), max_size=12, unique_by=lambda m: m[0]
).map(sorted)


# ---- what is believed -------------------------------------------------------------


def test_before_the_first_epoch_the_belief_is_the_prior():
    seen = RULE.belief(0, ())
    assert seen.probability == pytest.approx(0.9)
    assert seen.mean == pytest.approx(math.log(20.0))
    assert seen.variance == pytest.approx(0.54, rel=0.01)  # cut off at four standard deviations
    assert sum(seen.weights) == pytest.approx(1.0)


def integrated(
    rule: StopRule, epochs: int, reached: tuple[Level, int] | None, waiting: Level | None
) -> tuple[float, float, float]:
    """Probability, mean and variance of ln(epochs), by numerical integration."""
    variance = rule.arm_variance + rule.run_variance
    prior = norm(rule.log_epochs_mean, math.sqrt(variance))

    def told(u: float) -> float:
        density = 1.0
        if reached is not None:
            level, epoch = reached
            spread = math.sqrt(level.log_gap_sd**2 + 1.0 / (12.0 * (epoch - 0.5) ** 2))
            density *= norm.pdf(math.log(epoch - 0.5) + level.log_gap, u, spread)
        return float(prior.pdf(u) * density)

    def not_yet(u: float) -> float:
        left = norm.cdf((u - math.log(epochs + 0.5)) / 0.1)
        if waiting is not None:
            spread = math.hypot(waiting.log_gap_sd, 0.1)
            left *= norm.cdf((u - waiting.log_gap - math.log(epochs)) / spread)
        return float(left)

    def integral(function: Any) -> float:
        centre = rule.log_epochs_mean
        value, _ = integrate.quad(function, centre - 8, centre + 8, limit=400, points=[centre])
        return float(value)

    whole = integral(told)
    total = integral(lambda u: told(u) * not_yet(u))
    mean = integral(lambda u: u * told(u) * not_yet(u)) / total
    spread = integral(lambda u: (u - mean) ** 2 * told(u) * not_yet(u)) / total
    p, share = rule.probability, total / whole
    return p * share / (p * share + 1.0 - p), mean, spread


@pytest.mark.parametrize(
    ("epochs", "milestones", "reached", "waiting"),
    [
        (5, [], None, LEVELS[0]),
        (12, [], None, LEVELS[0]),
        (2, [(1, 0.31)], (LEVELS[0], 1), LEVELS[1]),
        (3, [(3, 0.31)], (LEVELS[0], 3), LEVELS[1]),
        (9, [(3, 0.31), (7, 0.55)], (LEVELS[1], 7), LEVELS[2]),
        (25, [(3, 0.31), (7, 0.72), (20, 0.95)], (LEVELS[3], 20), None),
    ],
)
def test_a_belief_is_bayes_rule_on_a_grid(epochs, milestones, reached, waiting):
    seen = RULE.belief(epochs, milestones)
    probability, mean, variance = integrated(RULE, epochs, reached, waiting)
    assert seen.probability == pytest.approx(probability, abs=0.01)
    assert seen.mean == pytest.approx(mean, abs=0.02)
    assert seen.variance == pytest.approx(variance, rel=0.1)


def test_without_levels_only_the_epochs_gone_by_tell():
    bare = replace(RULE, levels=())
    seen = bare.belief(30, on_the_way_to(40, 30))
    probability, mean, _ = integrated(bare, 30, None, None)
    assert (seen.probability, seen.mean) == pytest.approx((probability, mean), abs=0.02)
    assert seen == bare.belief(30, ())


def test_a_level_counts_from_the_epoch_it_was_reached_first_either_way_up():
    assert first_epoch_at(0.5, [(2, 0.4), (3, 0.6), (9, 0.7)], rising=True) == 3
    assert first_epoch_at(0.5, [(2, 0.7), (3, 0.6), (9, 0.4)], rising=False) == 9
    assert first_epoch_at(0.9, [(2, 0.4)], rising=True) is None
    down = tuple(replace(level, metric=-level.metric) for level in LEVELS)
    falling = replace(RULE, rising=False, levels=down)
    mirrored = [(epoch, -metric) for epoch, metric in on_the_way_to(20, 9)]
    assert falling.belief(9, mirrored) == RULE.belief(9, on_the_way_to(20, 9))


def test_a_run_long_past_its_time_is_believed_never_to_get_there():
    sure = replace(RULE, arm_variance=1e-4, run_variance=1e-3, levels=())
    seen = sure.belief(90, ())
    assert seen.probability < 1e-6
    assert math.isfinite(seen.mean)
    assert not sure.goes_on(45, (), EPOCH)


@settings(deadline=None)
@given(rule=rules, epochs=st.integers(0, 300), milestones=curves)
def test_every_belief_is_one(rule, epochs, milestones):
    seen = rule.belief(epochs, milestones)
    assert 0.0 <= seen.probability <= 1.0
    assert sum(seen.weights) == pytest.approx(1.0)
    assert min(seen.weights) >= 0.0
    assert list(seen.points) == sorted(seen.points)
    assert seen.points[0] - 1e-9 <= seen.mean <= seen.points[-1] + 1e-9
    assert 0.0 < seen.variance < math.inf


# ---- going on or not --------------------------------------------------------------


@pytest.mark.parametrize("target", [6, 12, 18, 24])
def test_a_run_that_is_on_its_way_to_something_better_gets_there(target):
    assert ends_at(RULE, target) is None


def test_a_run_that_will_take_far_too_long_is_ended_early():
    assert ends_at(RULE, 400) in range(1, 9)


def test_a_run_that_does_not_move_at_all_is_ended():
    assert not RULE.goes_on(10, [(1, 0.01)], EPOCH)


def test_the_worse_a_run_looks_the_sooner_it_ends():
    patient = replace(RULE, horizon=20.0, budget_joules=1e9)
    ends = [ends_at(patient, target) or math.inf for target in (20, 40, 60, 100, 200, 400)]
    assert ends == sorted(ends, reverse=True)
    assert (ends[0], len(set(ends)) > 2) == (math.inf, True)


def test_a_metric_that_is_not_a_number_is_a_level_not_reached_and_ends_nothing():
    lost = [(1, 0.1), (2, math.nan), (3, math.nan)]
    for epochs in (1, 2, 3):
        seen = [m for m in lost if m[0] <= epochs]
        assert RULE.belief(epochs, seen) == RULE.belief(epochs, [(1, 0.1)])
        assert RULE.goes_on(epochs, seen, EPOCH) == RULE.goes_on(epochs, [(1, 0.1)], EPOCH)
    assert RULE.goes_on(3, [(1, math.nan), (2, 0.5), (3, 0.6)], EPOCH)


def test_nothing_goes_on_past_the_cap_or_the_last_epoch():
    promising = on_the_way_to(60, 45)
    wide = replace(RULE, horizon=1e6, budget_joules=1e9)
    assert wide.goes_on(44, promising[:44], EPOCH)
    assert not wide.goes_on(45, promising, EPOCH)  # 4,500 J
    assert not replace(wide, cap_joules=1e9, max_epochs=45).goes_on(45, promising, EPOCH)


@settings(deadline=None)
@given(rule=rules, epochs=st.integers(1, 300), milestones=curves, cost=st.floats(1e-3, 1e6))
def test_the_cap_holds_for_every_rule(rule, epochs, milestones, cost):
    if epochs >= min(rule.cap_joules / cost + 1e-9, rule.max_epochs):
        assert not rule.goes_on(epochs, milestones, cost)


@settings(deadline=None)
@given(
    rule=rules,
    epochs=st.integers(0, 100),
    milestones=curves,
    cost=st.floats(1e-3, 1e6),
    more=st.floats(0.0, 40.0),
)
def test_the_longer_a_gain_is_counted_the_more_going_on_is_worth(
    rule, epochs, milestones, cost, more
):
    longer = replace(rule, horizon=rule.horizon + more)
    now, then = (r.prospect(epochs, milestones, cost) for r in (rule, longer))
    assert then.net_gain >= now.net_gain - 1e-9 * abs(now.net_gain)


@settings(deadline=None)
@given(rule=rules, epochs=st.integers(1, 100), milestones=curves, more=st.floats(0.0, 1e9))
def test_a_larger_budget_ends_no_run_earlier(rule, epochs, milestones, more):
    assume(rule.goes_on(epochs, milestones, 10.0))
    assert replace(rule, budget_joules=rule.budget_joules + more).goes_on(epochs, milestones, 10.0)


def test_a_longer_horizon_and_a_larger_budget_give_a_run_more_time():
    def epochs(**changes: float) -> float:
        return ends_at(replace(RULE, **changes), 90) or math.inf  # type: ignore[arg-type]

    free = {"budget_joules": 1e9}
    by_horizon = [epochs(horizon=h, **free) for h in (0.0, 2.0, 10.0, 40.0)]
    by_budget = [epochs(budget_joules=b, horizon=40.0) for b in (0.0, 500.0, 1500.0, 1e9)]
    for ends in (by_horizon, by_budget):
        assert ends == sorted(ends)
        assert ends[0] < ends[-1]


def test_without_a_budget_a_run_goes_on_only_while_that_is_expected_to_cost_nothing():
    poor = replace(RULE, budget_joules=0.0)
    epochs = [n for n in range(1, 17) if poor.goes_on(n, on_the_way_to(24, n), EPOCH)]
    for n in epochs:
        assert poor.prospect(n, on_the_way_to(24, n), EPOCH, 2.0).extra <= 0.0
    assert len(epochs) < 16


def test_after_sixteen_epochs_it_is_asked_sixteen_times_a_doubling():
    hopeless = replace(RULE, probability=0.01, horizon=0.0, cap_joules=1e9, max_epochs=1000)
    asked = [n for n in range(1, 129) if not hopeless.goes_on(n, (), EPOCH)]
    assert asked[:16] == list(range(1, 17))
    assert [n for n in asked if 16 < n < 32] == list(range(17, 32))
    assert [n for n in asked if 32 <= n < 64] == [n for n in range(32, 64) if n % (n // 16) == 0]
    assert len([n for n in asked if 64 <= n < 128]) <= 20


@settings(deadline=None)
@given(
    rule=rules,
    epochs=st.integers(0, 300),
    milestones=curves,
    cost=st.floats(1e-6, 1e9),
    overhead=st.floats(0.0, 10.0),
)
def test_every_prospect_is_a_number(rule, epochs, milestones, cost, overhead):
    found = rule.prospect(epochs, milestones, cost, rule.leave_factor, overhead)
    assert math.isfinite(found.net_gain)
    assert math.isfinite(found.extra)


@settings(deadline=None)
@given(rule=rules, epochs=st.integers(1, 60), milestones=curves, power=st.integers(-20, 20))
def test_the_unit_of_cost_does_not_matter(rule, epochs, milestones, power):
    scale = 2.0**power
    scaled = replace(
        rule,
        best_cost_joules=rule.best_cost_joules * scale,
        cap_joules=rule.cap_joules * scale,
        budget_joules=rule.budget_joules * scale,
    )
    assert scaled.goes_on(epochs, milestones, 7.0 * scale) == rule.goes_on(epochs, milestones, 7.0)


def test_profiling_makes_a_run_worth_less_by_what_it_takes():
    plain, paid = (RULE.prospect(0, (), EPOCH, overhead_epochs=extra) for extra in (0.0, 2.0))
    assert plain.net_gain - paid.net_gain == pytest.approx(2.0, abs=0.2)
    assert paid.extra - plain.extra == pytest.approx(2.0, abs=0.5)


# ---- the optimizer counts the same ------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    mean=st.floats(0.0, 6.0),
    variance=st.floats(1e-6, 4.0),
    noise=st.floats(1e-3, 0.5),
    log_cost=st.floats(-3.0, 3.0),
    cost_variance=st.floats(0.0, 1.0),
    probability=st.floats(0.01, 0.99),
    overhead=st.floats(0.0, 3.0),
    best=st.floats(0.1, 1e3),
    cap=st.integers(1, 200),
    horizon=st.floats(0.0, 40.0),
)
def test_a_trial_is_worth_what_the_rule_says_before_its_first_epoch(
    mean, variance, noise, log_cost, cost_variance, probability, overhead, best, cap, horizon
):
    arm = Arm(
        *(0, 64, mean, variance, noise, log_cost, cost_variance, probability, 0),
        overhead_epochs=overhead,
    )
    (trial,) = trials([arm], best, [cap], horizon)
    rule = replace(
        RULE,
        log_epochs_mean=mean,
        arm_variance=variance,
        run_variance=noise,
        probability=probability,
        best_cost_joules=best,
        cap_joules=cap * arm.epoch_cost,
        horizon=horizon,
        max_epochs=1000,
    )
    found = rule.prospect(0, (), arm.epoch_cost, 1.0, overhead)
    scale = max(abs(trial.net_gain), best)
    assert trial.net_gain == pytest.approx(found.net_gain * arm.epoch_cost, abs=1e-9 * scale)
    assert trial.extra == pytest.approx(found.extra * arm.epoch_cost, abs=1e-9 * scale)


# ---- on the wire ------------------------------------------------------------------


@given(rule=rules)
def test_a_rule_is_read_back_as_it_was_sent(rule):
    assert StopRule.from_body(rule.to_body()) == rule


def test_fields_of_a_newer_operator_are_passed_over():
    assert StopRule.from_body({**RULE.to_body(), "mood": "good"}) == RULE


def broken(**changes: object) -> dict[str, object]:
    return {**RULE.to_body(), **changes}


def missing(name: str) -> dict[str, object]:
    return {key: value for key, value in RULE.to_body().items() if key != name}


@pytest.mark.parametrize(
    "body",
    [
        {},
        missing("horizon"),
        broken(log_epochs_mean="3"),
        broken(log_epochs_mean=None),
        broken(probability=True),
        broken(cap_joules=math.nan),
        broken(budget_joules=math.inf),
        broken(arm_variance=0.0),
        broken(run_variance=-1.0),
        broken(best_cost_joules=0.0),
        broken(levels=[{"metric": 1.0}]),
        broken(levels=[{**asdict(LEVELS[0]), "log_gap": math.nan}]),
        broken(levels=3),
        broken(levels=["soon"]),
    ],
    ids=lambda body: str(sorted(body))[:20],
)
def test_a_malformed_rule_is_refused(body):
    with pytest.raises((TypeError, ValueError)):
        StopRule.from_body(body)
