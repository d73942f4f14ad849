"""What counts as an epoch where a framework owns the training loop."""

from __future__ import annotations

import pytest

from zeus_runtime.callback_run import Wishes
from zeus_runtime.callback_schedule import MANY_EPOCHS, Training, schedule


@pytest.mark.parametrize(
    ("training", "max_epochs"),
    [
        (Training(steps_per_epoch=5, max_epochs=3), 3),
        (Training(steps_per_epoch=5, max_steps=10), 2),
        (Training(steps_per_epoch=5, max_steps=11), 3),
        (Training(steps_per_epoch=5, max_epochs=2, max_steps=11), 2),
        (Training(max_steps=11), 11),  # an epoch of unknown length has at least one step
        (Training(), MANY_EPOCHS),
    ],
)
def test_an_epoch_is_a_pass_over_the_data(training: Training, max_epochs: int) -> None:
    plan = schedule(training, None)
    assert (plan.max_epochs, plan.steps_per_epoch) == (max_epochs, training.steps_per_epoch)
    assert plan.follows_data


@pytest.mark.parametrize(
    ("training", "max_epochs"),
    [
        (Training(batch_size=32, max_steps=100), 10),
        (Training(batch_size=32, max_steps=101), 11),
        (Training(batch_size=32, steps_per_epoch=25, max_epochs=3), 8),
        (Training(batch_size=32), MANY_EPOCHS),
        (Training(batch_size=32, max_epochs=3), MANY_EPOCHS),  # of a length that nobody knows
    ],
)
def test_samples_that_count_as_one_epoch_are_that_many_steps(
    training: Training, max_epochs: int
) -> None:
    plan = schedule(training, 320)
    assert (plan.max_epochs, plan.steps_per_epoch, plan.follows_data) == (max_epochs, 10, False)


def test_an_epoch_has_at_least_one_step() -> None:
    assert schedule(Training(batch_size=1024, max_steps=7), 320).steps_per_epoch == 1


def test_what_a_checkpoint_holds_is_counted_in_the_same_epochs() -> None:
    resumed = Training(
        batch_size=32, steps_per_epoch=5, max_steps=40, epochs_done=4, steps_done=23,
        steps_into_epoch=3,
    )  # fmt: skip
    plan = schedule(resumed, None)
    assert (plan.epochs_done, plan.steps_into_epoch) == (4, 3)
    plan = schedule(resumed, 320)
    assert (plan.epochs_done, plan.steps_into_epoch) == (2, 3)


def test_samples_need_a_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        schedule(Training(max_steps=7), 320)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"samples_per_epoch": -1}, {"metric": ""}])
def test_what_a_callback_is_told_is_checked_where_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Wishes(**{"metric": "accuracy", **wrong})  # type: ignore[arg-type]  # wrong on purpose
