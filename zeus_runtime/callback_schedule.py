"""What counts as an epoch where a framework owns the training loop.  Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

MANY_EPOCHS = 1 << 31  # where the framework has no bound


@dataclass(frozen=True)
class Training:
    """What a framework is about to do.  Steps are those of the optimizer.

    Args:
        batch_size: the global one, samples; None: not known.
        steps_per_epoch: of one pass over the data; None: not known.
        partial_last_step: the last step of such a pass sees fewer samples.
        max_epochs, max_steps: whichever comes first ends it; None: no such bound.  What was done
            before a checkpoint counts.
        epochs_done, steps_done: before this process, as the checkpoint says.
        steps_into_epoch: of `steps_done`, those of a pass that is gone on with.
    """

    batch_size: Optional[int] = None
    steps_per_epoch: Optional[int] = None
    partial_last_step: bool = False
    max_epochs: Optional[int] = None
    max_steps: Optional[int] = None
    epochs_done: int = 0
    steps_done: int = 0
    steps_into_epoch: int = 0


@dataclass(frozen=True)
class Schedule:
    """The epochs of a run.

    Args:
        steps_into_epoch: of the first epoch, those done before.
        follows_data: whether an epoch is a pass over the data, which begins and ends where the
            framework says so; else it is a number of steps.
    """

    max_epochs: int
    steps_per_epoch: Optional[int]
    partial_last_step: bool
    epochs_done: int
    steps_into_epoch: int
    follows_data: bool


def schedule(training: Training, samples_per_epoch: Optional[int]) -> Schedule:
    """Return the epochs of a training.

    Args:
        samples_per_epoch: samples that count as one epoch; None: a pass over the data.

    Raises:
        ValueError: steps can't be told from samples, because the batch size is not known.
    """
    bounds = [] if training.max_epochs is None else [training.max_epochs]
    if samples_per_epoch is None:
        if training.max_steps is not None:
            # An epoch of unknown length has at least one step.
            bounds.append(math.ceil(training.max_steps / (training.steps_per_epoch or 1)))
        return Schedule(
            max_epochs=max(min(bounds, default=MANY_EPOCHS), 1),
            steps_per_epoch=training.steps_per_epoch,
            partial_last_step=training.partial_last_step,
            epochs_done=training.epochs_done,
            steps_into_epoch=training.steps_into_epoch,
            follows_data=True,
        )
    if training.batch_size is None:
        raise ValueError(
            f"samples_per_epoch={samples_per_epoch}: the batch size can't be told from the data "
            "loader; give it to the callback as well (batch_size=...)"
        )
    own = max(1, round(samples_per_epoch / training.batch_size))
    totals = [] if training.max_steps is None else [training.max_steps]
    if training.steps_per_epoch is not None:
        totals += [bound * training.steps_per_epoch for bound in bounds]
    done, into = divmod(training.steps_done, own)
    return Schedule(
        max_epochs=max(math.ceil(min(totals, default=MANY_EPOCHS * own) / own), 1),
        steps_per_epoch=own,
        partial_last_step=False,
        epochs_done=done,
        steps_into_epoch=into,
        follows_data=False,
    )
