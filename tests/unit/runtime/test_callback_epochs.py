"""What an epoch takes where a framework begins in the middle of one, or ends there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime_lab import decided
from zeus_runtime import callback_run, current
from zeus_runtime.callback_run import CallbackRun, UsedGpu, Wishes
from zeus_runtime.callback_schedule import Training
from zeus_runtime.gpu import Gpu, GpuUnavailable
from zeus_runtime.protocol import Decision, Outcome, Result, decode_result
from zeus_runtime.run import TrainingRun

STEPS = 5  # of an epoch
STEP_SECONDS = 10.0
EVALUATION_SECONDS = 7.0
EPOCH_SECONDS = STEPS * STEP_SECONDS + EVALUATION_SECONDS


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def no_gpu(environ: object, uuid: object) -> Gpu:
    raise GpuUnavailable("none here")


class Framework:
    """Calls a `CallbackRun` as a framework does; every step takes `STEP_SECONDS`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self._path, self._monkeypatch = folder / "result", monkeypatch
        self._made: list[CallbackRun] = []

    def begin(
        self,
        training: Training,
        decision: Decision | None = None,
        *,
        before: dict[str, Any] | None = None,
        **wishes: Any,
    ) -> CallbackRun:
        environ = {"ZEUS_RESULT_PATH": str(self._path)}
        if decision is not None:
            environ["ZEUS_DECISION"] = decision.to_json()
        make = partial(TrainingRun, environ=environ, open_device=no_gpu, clock=self.clock)
        self._monkeypatch.setattr(callback_run, "start_run", make)
        # As in a process of its own, where no run was before.
        self._monkeypatch.setattr(current, "_CURRENT", current._Current())
        made = CallbackRun(Wishes("accuracy", **wishes), training, UsedGpu(), before)
        self._made.append(made)
        return made

    def steps(self, training: CallbackRun, count: int) -> None:
        for _ in range(count):
            training.begin_step(4.0)
            self.clock.now += STEP_SECONDS
            training.end_step()

    def epoch(self, training: CallbackRun, steps: int = STEPS, *, cut: bool = False) -> None:
        training.begin_pass()
        self.steps(training, steps)
        training.end_pass(cut=cut)
        self.evaluate(training)

    def evaluate(self, training: CallbackRun, metric: float = 0.1) -> None:
        training.begin_evaluation(4.0)
        self.clock.now += EVALUATION_SECONDS
        training.end_evaluation()
        training.evaluated({"accuracy": metric}, "accuracy")

    def end(self, training: CallbackRun) -> Result:
        training.end()
        result = decode_result(self._path.read_bytes())
        assert result is not None
        return result

    def close(self) -> None:
        for training in self._made:
            training.end()


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Framework]:
    made = Framework(tmp_path, monkeypatch)
    yield made
    made.close()


def test_an_epoch_in_whose_middle_training_ends_counts_and_is_as_long_as_the_others(
    framework: Framework,
) -> None:
    training = framework.begin(Training(4, STEPS, max_steps=7))
    framework.epoch(training)
    framework.epoch(training, 2, cut=True)
    result = framework.end(training)
    assert result.epochs == 2
    assert result.epoch_time_seconds == pytest.approx(EPOCH_SECONDS)
    assert result.full_power_epoch_seconds == pytest.approx(EPOCH_SECONDS)
    assert result.time_seconds == pytest.approx(7 * STEP_SECONDS + 2 * EVALUATION_SECONDS)


def test_a_training_that_ends_within_its_first_epoch_tells_what_a_whole_one_would_take(
    framework: Framework,
) -> None:
    training = framework.begin(Training(4, STEPS, max_epochs=3))
    training.begin_pass()
    framework.steps(training, 2)
    training.end_pass(cut=True)
    result = framework.end(training)
    assert (result.epochs, result.time_seconds) == (1, pytest.approx(2 * STEP_SECONDS))
    assert result.epoch_time_seconds == pytest.approx(STEPS * STEP_SECONDS)


def test_nobody_knows_what_a_whole_one_takes_where_the_data_has_no_length(
    framework: Framework,
) -> None:
    training = framework.begin(Training(4, None, max_steps=7))
    training.begin_pass()
    framework.steps(training, 2)
    training.end_pass(cut=True)
    assert framework.end(training).epoch_time_seconds is None


def test_of_data_without_a_length_only_whole_passes_tell(framework: Framework) -> None:
    training = framework.begin(Training(4, None, max_steps=7))
    framework.epoch(training)
    framework.epoch(training, 2, cut=True)
    assert framework.end(training).epoch_time_seconds == pytest.approx(EPOCH_SECONDS)


def test_training_that_ends_with_the_last_step_of_an_epoch_cuts_none(framework: Framework) -> None:
    training = framework.begin(Training(4, STEPS, max_epochs=1))
    training.begin_pass()
    framework.steps(training, STEPS)
    training.end_pass(cut=True)  # as the Trainer says it: it is about to end
    assert framework.end(training).epoch_time_seconds == pytest.approx(STEPS * STEP_SECONDS)


def test_an_epoch_of_samples_that_is_cut_is_as_long_as_the_others(framework: Framework) -> None:
    training = framework.begin(Training(4, None, max_steps=10), samples_per_epoch=16)
    training.begin_pass()
    for _ in range(2):
        framework.steps(training, 4)
        framework.evaluate(training)
    framework.steps(training, 2)
    result = framework.end(training)
    assert result.epochs == 3
    assert result.epoch_time_seconds == pytest.approx(4 * STEP_SECONDS + EVALUATION_SECONDS)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "alone"])
def test_an_epoch_that_is_gone_on_with_is_as_long_as_the_others(
    framework: Framework, counted: bool
) -> None:
    training = framework.begin(Training(4, STEPS, max_epochs=3))
    framework.epoch(training)
    training.begin_pass()
    framework.steps(training, 3)
    state = training.state_dict()
    assert (state["epochs"], state["steps"], state["steps_into_epoch"]) == (1, 8, 3)
    resumed = Training(4, STEPS, max_epochs=3, epochs_done=1, steps_done=8, steps_into_epoch=3)
    again = framework.begin(resumed, before=state if counted else None)
    framework.epoch(again, 2)
    assert again.state_dict()["steps_into_epoch"] == 0
    framework.epoch(again)
    result = framework.end(again)
    assert result.epoch_time_seconds == pytest.approx(EPOCH_SECONDS)
    assert result.full_power_epoch_seconds == pytest.approx(EPOCH_SECONDS)
    whole = 3 * EPOCH_SECONDS if counted else 7 * STEP_SECONDS + 2 * EVALUATION_SECONDS
    assert result.epochs == (3 if counted else 2)
    assert result.time_seconds == pytest.approx(whole)


def test_an_epoch_that_is_begun_anew_is_counted_from_its_first_step(framework: Framework) -> None:
    """As by `ignore_data_skip`, though the checkpoint was made in the middle of it."""
    training = framework.begin(Training(4, STEPS, max_epochs=2))
    training.begin_pass()
    framework.steps(training, 3)
    state = training.state_dict()
    again = framework.begin(Training(4, STEPS, max_epochs=2, steps_done=3), before=state)
    framework.epoch(again)
    assert framework.end(again).epoch_time_seconds == pytest.approx(EPOCH_SECONDS)


def test_a_training_that_a_framework_ends_by_itself_has_failed_to_converge(
    framework: Framework,
) -> None:
    training = framework.begin(Training(4, STEPS, max_epochs=30), decided(batch_size=4))
    framework.epoch(training)
    framework.epoch(training, cut=True)
    result = framework.end(training)
    assert (result.outcome, result.epochs) == (Outcome.MAX_EPOCHS.value, 2)
    assert "has ended its training after 2 of 30 epochs, without reaching" in result.note


def test_one_that_ends_by_itself_where_the_target_is_reached_has_reached_it(
    framework: Framework,
) -> None:
    training = framework.begin(Training(4, STEPS, max_epochs=30), decided(batch_size=4))
    framework.epoch(training)
    framework.evaluate(training, 0.95)
    result = framework.end(training)
    assert result.outcome == Outcome.REACHED.value
    assert "has ended its training" not in result.note
