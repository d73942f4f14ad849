"""A trial begins and ends at whole steps, and wakes the step path as rarely as it can."""

from __future__ import annotations

import pytest

from zeus_runtime.ledger import Ledger, Phase
from zeus_runtime.trial import NEVER, Trial, TrialRules
from zeus_runtime.windows import Energy

RULES = TrialRules.for_period(0.1, steps_per_epoch=5000, partial_last_step=False)


def walk(trial: Trial, seconds: float, first: int, last: int, start: float) -> list[int]:
    """Take steps of `seconds`; return the steps at which the trial was woken."""
    woken = []
    for steps in range(first + 1, last + 1):
        if steps >= trial.wake_at and trial.span is None:
            trial.on_step(start + seconds * (steps - first), steps)
            woken.append(steps)
    return woken


def test_a_trial_settles_for_a_tick_and_measures_for_five() -> None:
    trial = Trial(RULES, 0.0, 0)
    walk(trial, 0.01, 0, 200, 0.0)
    assert trial.span is not None
    assert trial.span.start_seconds == pytest.approx(0.1, abs=0.011)
    assert trial.span.end_seconds - trial.span.start_seconds >= 0.5 - 1e-9
    assert trial.span.steps == pytest.approx(50, abs=2)


def test_the_step_path_is_woken_a_few_times_and_not_at_each_step() -> None:
    trial = Trial(RULES, 0.0, 0)
    woken = walk(trial, 0.0005, 0, 5000, 0.0)
    assert trial.span is not None
    assert len(woken) < 15


def test_long_steps_are_measured_for_several_of_them() -> None:
    trial = Trial(RULES, 0.0, 0)
    walk(trial, 3.0, 0, 20, 0.0)
    assert trial.span is not None
    assert trial.span.steps == 5


def test_a_smaller_last_batch_is_never_within_the_measured_steps() -> None:
    rules = TrialRules.for_period(0.1, steps_per_epoch=12, partial_last_step=True)
    trial = Trial(rules, 0.0, 0, epoch_start_steps=0)
    walk(trial, 0.06, 0, 12, 0.0)
    assert trial.span is not None
    end_step = round(trial.span.end_seconds / 0.06)
    assert end_step <= 11


def test_epochs_that_are_too_short_are_measured_as_whole_cycles() -> None:
    rules = TrialRules.for_period(0.1, steps_per_epoch=5, partial_last_step=False)
    trial, now, steps, cycles = Trial(rules, 0.0, 0, in_epoch=False), 0.0, 0, 0
    while trial.span is None:
        cycles += 1
        assert cycles < 50
        trial.on_epoch_begin(now, steps)
        for _ in range(5):
            now, steps = now + 0.01, steps + 1
            if steps >= trial.wake_at:
                trial.on_step(now, steps)
        trial.on_epoch_end(now, steps)
        now += 0.02
    assert trial.span.whole_cycles
    assert trial.span.steps % 5 == 0
    length = trial.span.end_seconds - trial.span.start_seconds
    assert length == pytest.approx(trial.span.steps / 5 * 0.07)
    assert trial.wake_at == NEVER


class Known:
    """A moment whose energy is known."""

    failed, settled = False, True

    def __init__(self, time_seconds: float, joules: float) -> None:
        self.time_seconds, self.energy = time_seconds, Energy(joules, 0.0)


def test_an_evaluation_within_an_epoch_is_in_no_window() -> None:
    trial = Trial(RULES, 0.0, 0)
    walk(trial, 0.01, 0, 30, 0.0)  # measuring, and not yet for long enough
    trial.on_epoch_end(0.3, 30)
    assert trial.span is None
    trial.go_on(60.3, 30)
    walk(trial, 0.01, 30, 200, 60.3)
    assert trial.span is not None
    assert trial.span.start_seconds >= 60.3
    assert not trial.span.whole_cycles


def test_what_was_measured_long_enough_before_a_pause_counts() -> None:
    trial = Trial(RULES, 0.0, 0)
    walk(trial, 0.01, 0, 55, 0.0)
    trial.on_epoch_end(0.55, 55)
    assert trial.span is not None
    assert trial.span.end_seconds == 0.55


def test_where_steps_are_interrupted_all_the_time_both_are_measured() -> None:
    trial, now, steps, rounds = Trial(RULES, 0.0, 0), 0.0, 0, 0
    while trial.span is None:
        rounds += 1
        assert rounds < 50
        for _ in range(10):
            now, steps = now + 0.01, steps + 1
            if steps >= trial.wake_at:
                trial.on_step(now, steps)
        trial.on_epoch_end(now, steps)
        now += 0.05
        trial.go_on(now, steps)
    assert trial.span.whole_cycles
    assert trial.span.steps % 10 == 0


def test_whole_cycles_begin_and_end_alike() -> None:
    trial, now, steps = Trial(RULES, 0.0, 0, whole_cycles=True), 0.0, 0
    for cycle in range(8):
        (trial.on_epoch_begin if cycle % 2 == 0 else trial.go_on)(now, steps)
        now, steps = now + 0.2, steps + 10
        trial.on_epoch_end(now, steps)
        now += 2.0 if cycle % 2 else 0.1  # evaluation at the end, a checkpoint in the middle
    assert trial.span is not None
    whole = 2 * 0.2 + 2.0 + 0.1
    cycles = (trial.span.end_seconds - trial.span.start_seconds) / whole
    assert cycles == pytest.approx(round(cycles))


def test_a_pause_leaves_the_end_of_the_epoch_where_it_is() -> None:
    rules = TrialRules.for_period(0.1, steps_per_epoch=200, partial_last_step=True)
    trial = Trial(rules, 0.0, 0, epoch_start_steps=0)
    trial.on_epoch_end(0.0, 0)
    trial.go_on(0.0, 190)
    walk(trial, 0.06, 190, 200, 0.0)
    assert trial.span is not None
    assert trial.span.end_seconds == pytest.approx(9 * 0.06), "the last step is another one"


def test_the_cost_of_an_epoch_leaves_out_segments_at_other_limits() -> None:
    ledger = Ledger()
    ledger.begin_phase(Known(0.0, 0.0), 0, Phase.TRAINING)
    ledger.change_limit(Known(2.0, 500.0), 100, 150.0)  # before: at no limit of ours
    ledger.begin_phase(Known(4.0, 700.0), 200, Phase.BETWEEN)
    ledger.begin_phase(Known(5.0, 760.0), 200, Phase.TRAINING)
    ledger.begin_phase(Known(9.0, 1160.0), 400, Phase.BETWEEN)
    use = ledger.epoch_use(150.0, steps_per_epoch=200)
    assert use is not None
    assert use.time_seconds == pytest.approx(4.0 + 1.0)  # 300 steps in 6 s, and an evaluation
    assert use.energy_joules == pytest.approx(400.0 + 60.0)


def test_a_segment_whose_limit_was_lost_somewhere_is_left_out() -> None:
    ledger = Ledger()
    ledger.change_limit(Known(0.0, 0.0), 0, 150.0)
    ledger.begin_phase(Known(0.0, 0.0), 0, Phase.TRAINING)
    ledger.begin_phase(Known(4.0, 400.0), 200, Phase.BETWEEN)
    ledger.begin_phase(Known(5.0, 440.0), 200, Phase.TRAINING)
    ledger.spoil()
    ledger.begin_phase(Known(7.0, 9999.0), 400, Phase.BETWEEN)
    use = ledger.epoch_use(150.0, steps_per_epoch=200)
    assert use is not None
    assert use.energy_joules == pytest.approx(440.0)
