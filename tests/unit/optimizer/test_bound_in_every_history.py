"""`bound: EveryHistory`: what was really spent on exploring never exceeds the share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.optimizer_histories import HistoryBuilder, problem
from tests.support.running_job import JobHistory, RunningJob
from zeus_operator.optimizer import worst_case
from zeus_operator.optimizer.structured import StructuredPolicy
from zeus_operator.optimizer.types import Choice, Observation, Situation
from zeus_operator.optimizer.valuation import Arm
from zeus_runtime.protocol import Outcome

POLICY = StructuredPolicy()
Attempts = Sequence[tuple[Situation, Choice, Observation]]
SIZES = (8, 16, 32, 64, 128, 256, 512)
UNITS = dict(zip(SIZES, (400.0, 220.0, 130.0, 80.0, 65.0, 60.0, 57.0), strict=True))
GOOD: dict[int, float | None] = dict(zip(SIZES, (6, 6.5, 7.5, 9, 14, 25, None), strict=True))
HOPELESS: dict[int, float | None] = {**dict.fromkeys(SIZES), 256: 25.0}
# Every other batch size costs so much more than the default.
DECOYS: dict[int, float | None] = {s: 25.0 * 60.0 / UNITS[s] * 1.08 for s in SIZES} | {256: 25.0}
FLAT: dict[int, float | None] = dict(zip(SIZES, (30, 28, 26, 25, 25, 24, 60), strict=True))


def job(epochs: dict[int, float | None], **changes: object) -> RunningJob:
    return RunningJob(epochs, UNITS, 256, **changes)  # type: ignore[arg-type]  # by name


STEADY = {
    "others are better": job(GOOD),
    "others are better, without curves": job(GOOD, curves=False),
    "others never reach the target": job(HOPELESS),
    "others never reach it, without curves": job(HOPELESS, curves=False),
    "others are a little dearer": job(DECOYS, spread=0.05),
    "the default is the best": job(FLAT, spread=0.15),
    "profiling takes whole epochs": job(GOOD, profiling=2.0),
    "the power limit saves nothing": job(GOOD, full_power=1.0),
}
NOISY = {
    "others are better": job(GOOD, spread=0.4),
    "others are a little dearer": job(DECOYS, spread=0.5),
    "the default is the best": job(FLAT, spread=0.4),
    "very noisy": job(GOOD, spread=0.7, max_epochs=200),
}


@dataclass(frozen=True)
class Spent:
    """What exploring had really cost after an attempt, in joules, and how much it might."""

    extra: float
    allowed: float


def spending(job: RunningJob, attempts: Attempts, share: float) -> Iterator[Spent]:
    """Count all that was not a run of the default, less a default run for each model it gave.

    The default's own runs are what always running it costs, the profiling of its power limit
    apart, which is no exploring of batch sizes.
    """
    default = job.expected_default_joules()
    extra, models = 0.0, 0
    for _, _, seen in attempts:
        reached = seen.outcome is Outcome.REACHED
        own = seen.batch_size == job.default
        if own:
            assert seen.outcome is not Outcome.COST_EXCEEDED  # it is never limited
            extra += seen.sweep_cost_joules
        else:
            extra += seen.cost_joules - default * reached
        models += reached
        planned = max(10, models if reached else models + 1)
        yield Spent(extra, share * planned * job.expected_default_joules(job.full_power))


def overspent(job: RunningJob, attempts: Attempts, share: float) -> bool:
    return any(spent.extra > spent.allowed for spent in spending(job, attempts, share))


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
def test_on_a_steady_job_no_history_ever_spends_more(name, share):
    for seed in range(12):
        terms = {"exploration_share": share, "bound_every_history": True}
        attempts = STEADY[name].run(POLICY, 25, seed, **terms)
        assert not overspent(STEADY[name], attempts, share), seed


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_on_a_noisy_job_the_default_may_be_misjudged_but_hardly_ever_so_that_more_is_spent(
    name, share
):
    # The first runs of a noisy default can all be long: it is then taken to cost more than it does.
    terms = {"exploration_share": share, "bound_every_history": True}
    histories = [NOISY[name].run(POLICY, 25, seed, **terms) for seed in range(25)]
    over = [attempts for attempts in histories if overspent(NOISY[name], attempts, share)]
    assert len(over) <= 2
    for attempts in over:
        default = NOISY[name].expected_default_joules()
        assert max(s.extra - s.allowed for s in spending(NOISY[name], attempts, share)) < default


@settings(deadline=None, max_examples=40)
@given(
    epochs=st.lists(st.one_of(st.none(), st.floats(1.0, 60.0)), min_size=6, max_size=6),
    default=st.floats(2.0, 40.0),
    steps=st.lists(st.floats(0.2, 1.0), min_size=7, max_size=7),
    profiling=st.floats(0.0, 2.0),
    full_power=st.floats(1.0, 1.5),
    curves=st.booleans(),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 1000),
)
def test_it_holds_whatever_the_arms_are_like(
    epochs, default, steps, profiling, full_power, curves, share, seed
):
    means = [*epochs[:5], default, epochs[5]]
    # A step costs from a fifth to all of what one of the default does; up to twice is allowed for.
    units = [60.0 * step * max(1.0, 256 / size) for size, step in zip(SIZES, steps, strict=True)]
    units[5] = 60.0
    any_job = RunningJob(
        dict(zip(SIZES, means, strict=True)),
        dict(zip(SIZES, units, strict=True)),
        256,
        spread=0.05,
        profiling=profiling,
        full_power=full_power,
        curves=curves,
    )
    attempts = any_job.run(POLICY, 16, seed, exploration_share=share, bound_every_history=True)
    default_run = any_job.expected_default_joules()
    for spent in spending(any_job, attempts, share):
        # Whole epochs: the mean that was meant and the one that comes out differ by up to half.
        rounding = 0.5 / default * (spent.allowed + 16 * default_run)
        assert spent.extra <= spent.allowed + rounding


def test_in_expectation_single_histories_do_spend_more():
    attempts = STEADY["others never reach the target"].run(POLICY, 25, 1, exploration_share=0.05)
    assert overspent(STEADY["others never reach the target"], attempts, 0.05)


def test_it_still_finds_the_better_arm_when_there_is_something_to_spend():
    good = STEADY["others are better"]
    terms = {"exploration_share": 0.1, "bound_every_history": True}
    last = [good.run(POLICY, 40, seed, **terms)[-1][1].batch_size for seed in range(10)]
    assert sum(size in (32, 64, 128) for size in last) >= 7


def test_with_nothing_to_spend_the_default_always_runs():
    for name in ("others are better", "others never reach the target"):
        terms = {"exploration_share": 0.0, "bound_every_history": True}
        attempts = STEADY[name].run(POLICY, 20, 3, **terms)
        assert {(c.batch_size, c.cost_threshold_joules, c.sweep) for _, c, _ in attempts} == {
            (256, None, ())
        }


def ask(history: HistoryBuilder, share: float = 0.3, **changes: object) -> Choice:
    terms = problem(exploration_share=share, bound_every_history=True)  # type: ignore[arg-type]
    return POLICY.choose(terms, history.observations, history.situation(**changes), 0)


def tried() -> HistoryBuilder:
    """The default is known well, so that others may be tried."""
    history = HistoryBuilder()
    for _ in range(8):
        history.add(256, 1000.0)
    return history


def test_an_attempt_may_cost_what_is_left_and_no_more():
    history = tried()
    first = ask(history)
    assert first.batch_size != 256
    assert first.cost_threshold_joules is not None
    spent = 0.0
    while (choice := ask(history)).batch_size != 256:
        assert choice.cost_threshold_joules is not None
        assert spent + choice.cost_threshold_joules <= 0.3 * 10 * 1050.0
        spent += choice.cost_threshold_joules
        cost = choice.cost_threshold_joules
        history.add(choice.batch_size, cost, Outcome.COST_EXCEEDED, epochs=9)
        history.failed, history.recurrence = (), history.recurrence + 20
    assert spent > 1000.0


def test_while_another_batch_size_is_under_way_the_default_runs():
    history = tried()
    assert ask(history).batch_size != 256
    assert ask(history, in_flight=(64,)).batch_size == 256
    assert ask(history, in_flight=(256, 256)).batch_size != 256


def test_on_a_gpu_model_without_a_known_joule_the_default_runs():
    there = ask(tried(), gpu_model="SimGPU-B")
    assert (there.batch_size, there.cost_threshold_joules) == (256, None)


def test_until_the_default_has_reached_the_target_nothing_else_runs():
    history = HistoryBuilder().failure(256)
    choice = ask(history)
    assert (choice.batch_size, choice.cost_threshold_joules) == (256, None)
    assert choice.sentence == (
        "The default batch size 256 once more: until it has reached the target, nothing says what "
        "another may cost."
    )


def test_nor_does_an_arm_that_was_proven_before_the_bound_was_set():
    history = HistoryBuilder().failure(256, 5000.0).add(128, 50.0)
    choice = ask(history, share=1.0)
    assert (choice.batch_size, choice.cost_threshold_joules) == (256, None)


KNOWN_DEFAULT = Arm(1, 256, math.log(10.0), 0.001, 0.04, 0.0, 1e-4, 1.0, 8, cost_measured=True)


def small(**changes: object) -> Arm:
    """Batch size 64: nine times as dear an epoch, measured in passing; never run."""
    arm = Arm(0, 64, math.log(5.0), 0.1, 0.04, math.log(9.0), 1e-4, 0.98, 0, cost_measured=True)
    return replace(arm, **changes)  # type: ignore[arg-type]  # by name


def test_an_arm_may_run_only_if_what_is_left_pays_for_a_first_epoch_at_the_worst():
    # Nine, three standard deviations of a percent more, and twice the half epoch of profiling.
    worst = 9.0 * math.exp(0.03) * 2.0
    assert not worst_case.may_run(small(overhead_epochs=0.5), KNOWN_DEFAULT, 0.99 * worst)
    assert worst_case.may_run(small(overhead_epochs=0.5), KNOWN_DEFAULT, 1.01 * worst)


def test_profiling_of_cheap_epochs_may_take_as_long_as_that_of_the_defaults():
    cheap = small(log_cost=math.log(0.1), overhead_epochs=0.5)
    assert not worst_case.may_run(cheap, KNOWN_DEFAULT, 1.09)
    assert worst_case.may_run(cheap, KNOWN_DEFAULT, 1.12)


def test_an_epoch_that_was_never_measured_may_take_twice_the_defaults_for_each_step():
    unknown = small(log_cost=math.log(0.5), cost_measured=False)
    assert not worst_case.may_run(unknown, KNOWN_DEFAULT, 7.9)  # four times as many steps
    assert worst_case.may_run(unknown, KNOWN_DEFAULT, 8.1)


def test_an_arm_that_has_reached_the_target_runs_only_if_most_of_its_runs_are_paid_for():
    proven = small(runs=3, log_epochs_variance=0.01, log_cost=0.0)
    most = 5.0 * math.exp(math.sqrt(0.01 + 0.04))
    assert not worst_case.may_run(proven, KNOWN_DEFAULT, most - 0.5)
    assert worst_case.may_run(proven, KNOWN_DEFAULT, most + 1.0)


def test_profiling_is_part_of_what_an_attempt_may_cost():
    assert worst_case.affordable_epochs(small(overhead_epochs=0.5), 20.0) == 1
    assert worst_case.affordable_epochs(small(), 20.0) == 2
    assert worst_case.affordable_epochs(small(), -5.0) == 0


def test_a_cheaper_arm_whose_long_runs_do_not_fit_waits_and_the_sentence_says_so():
    history = tried().add(128, 800.0)
    terms = problem((128, 256), exploration_share=0.05, bound_every_history=True)  # type: ignore[arg-type]
    choice = POLICY.choose(terms, history.observations, history.situation(), 0)
    assert choice.batch_size == 256
    assert "128 looks cheaper (about 762 J after 1 run, against 1.00 kJ)" in choice.sentence
    assert "a long run of it could cost more than may still be spent in the worst case (" in (
        choice.sentence
    )


def test_what_waits_for_something_else_says_for_what():
    history = tried().add(128, 500.0).add(128, 500.0)
    two = problem((128, 256), exploration_share=0.3, bound_every_history=True)  # type: ignore[arg-type]

    def sentence(**changes: object) -> str:
        situation = history.situation(**changes)
        return POLICY.choose(two, history.observations, situation, 0).sentence

    assert sentence().startswith("Batch size 128 again")
    for changes, why in (
        ({"in_flight": (128,)}, "what the run of another batch size that is under way will cost"),
        ({"gpu_model": "SimGPU-B"}, "what runs cost on these GPUs"),
    ):
        assert sentence(**changes).startswith("Batch size 256 again: 128 looks cheaper (about ")
        assert sentence(**changes).endswith(f"), but {why} is not known yet.")


def test_a_sweep_takes_at_most_half_of_what_may_be_spent_and_the_nearest_come_first():
    nothing = HistoryBuilder()
    assert ask(nothing, share=0.05).sweep == (32, 64, 128, 512)
    assert ask(nothing, share=0.009).sweep == (64, 128)
    assert ask(nothing, share=0.003).sweep == ()


def test_a_job_that_changes_again_and_again_is_granted_no_new_advance_each_time():
    # Every ten recurrences it takes four times as long, or a quarter: each time it is learned anew.
    longer = {s: None if e is None else 4.0 * e for s, e in HOPELESS.items()}
    regimes = [job(HOPELESS, max_epochs=240), job(longer, max_epochs=240)]
    share = 0.1
    for seed in range(6):
        terms = regimes[0].problem(exploration_share=share, bound_every_history=True)
        history = JobHistory(regimes[0], POLICY.begin(terms), seed)
        allowed = 0.0
        for recurrence in range(60):
            history.job = regimes[recurrence // 10 % 2]
            history.recur()
            allowed += share * history.job.expected_default_joules(1.15)
            others = [o.cost_joules for _, _, o in history.attempts if o.batch_size != 256]
            # Ten recurrences are granted in advance once, of what the job was at first.
            advance = max(0, 9 - recurrence) * share * regimes[0].expected_default_joules(1.15)
            assert sum(others) <= allowed + advance, (seed, recurrence)
