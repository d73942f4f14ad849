"""What the callbacks of all training frameworks share: they are thin on this, and it on a run.

A framework owns the loop: a callback only hears of it, and may ask it to end.  It evaluates
whenever it likes, between epochs or within one, and may go on with a training from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Mapping, Optional, Set

from zeus_runtime.base_run import EVALUATION_SHARE
from zeus_runtime.callback_schedule import Training, schedule
from zeus_runtime.resume import Owner, StateError, read_state
from zeus_runtime.settings import RunSettings
from zeus_runtime.start import Run, start_run


@dataclass(frozen=True)
class Wishes:
    """What the user told a callback.

    Args:
        metric: name of the validation metric.
        batch_size: the global batch size, samples; None: as the framework says.
        samples_per_epoch: samples that count as one epoch; None: a pass over the data.
        eta, on_stop: as of `run.TrainingRun`.

    Raises:
        ValueError: an argument is out of range.
    """

    metric: str
    batch_size: Optional[int] = None
    samples_per_epoch: Optional[int] = None
    eta: float = 0.5
    on_stop: str = "raise"

    def __post_init__(self) -> None:
        if not self.metric:
            raise ValueError("metric: expected the name of a validation metric")
        for name in ("batch_size", "samples_per_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected a whole number above 0")


@dataclass(frozen=True)
class UsedGpu:
    """What torch says of the GPU that trains; see `run.TrainingRun`."""

    uuid: Optional[str] = None
    synchronize: Optional[Callable[[], None]] = None


class CallbackRun:
    """The run of one training.

    With several processes the callback of each must make it, and call it, at the same places.

    Args:
        before: what `state_dict` gave for the checkpoint that training goes on from; None: it is
            not in there, or training begins.

    Raises:
        ValueError: see `callback_schedule.schedule`, `run.TrainingRun`.
        RuntimeError: see `start.start_run`.
    """

    def __init__(
        self,
        wishes: Wishes,
        training: Training,
        gpu: UsedGpu,
        before: Optional[Mapping[str, Any]] = None,
    ) -> None:
        if wishes.batch_size is not None:
            training = replace(training, batch_size=wishes.batch_size)
        plan = self._schedule = schedule(training, wishes.samples_per_epoch)
        counted = before is not None and _is_of_this_attempt(before, training.batch_size)
        self._run: Run = start_run(
            # Epochs that this run knows nothing of are no part of it.
            max_epochs=plan.max_epochs if counted else max(plan.max_epochs - plan.epochs_done, 1),
            batch_size=training.batch_size,
            steps_per_epoch=plan.steps_per_epoch,
            partial_last_step=plan.partial_last_step,
            eta=wishes.eta,
            on_stop=wishes.on_stop,
            gpu_uuid=gpu.uuid,
            synchronize=gpu.synchronize,
        )
        if before is not None:
            self._run.load_state_dict(before)
        elif training.steps_done:
            self._run.notices.warn(
                "resume",
                "the checkpoint that training goes on from holds nothing of a run: it was saved "
                "without ZeusCallback. This run counts alone",
            )
        self._run.resume_epoch(plan.steps_into_epoch)
        self._step: Optional[int] = None  # of the epoch; None: there was none yet
        self._may_open = True
        self._judged = True
        self._paused = False
        self._reported = False
        self._asked = ""
        self._names: Set[str] = set()
        self.over = False
        self.ended = False

    @property
    def run(self) -> Run:
        """The run itself, for what a callback does not know."""
        return self._run

    @property
    def follows_data(self) -> bool:
        """Whether an epoch is a pass over the data, and not a number of steps."""
        return self._schedule.follows_data

    # ---- steps ----------------------------------------------------------------------

    def begin_pass(self) -> None:
        """A pass over the data begins.  See `over` afterwards."""
        if self._schedule.follows_data:
            self._may_open = True
        self._open()

    def begin_step(self, samples: float) -> None:
        """Training begins with `samples`, a step or a part of it.  See `over` afterwards."""
        if self._paused:
            self._go_on()
        if not self._run.in_epoch:
            self._open()
        if self._run.in_epoch:
            self._run.begin_step(samples)

    def end_part(self) -> None:
        """A part of a step is done, whose gradients are kept for the next one."""
        self._run.finish_work()

    def end_step(self) -> None:
        """The optimizer has made a step."""
        if not self._run.in_epoch or self._step is None:
            return
        self._run.end_step()
        self._step += 1
        if self._step == self._schedule.steps_per_epoch:
            self._close()
            self._may_open = not self._schedule.follows_data

    def end_pass(self, *, cut: bool = False) -> None:
        """A pass over the data has ended.

        Args:
            cut: by the end of training, perhaps in the middle of it.
        """
        if self._schedule.follows_data:
            self._close(cut=cut)
            self._may_open = True

    # ---- what comes between steps -----------------------------------------------------

    def pause(self) -> None:
        """What follows are no steps, though an epoch may be going on."""
        if self._paused or not self._run.in_epoch:
            return
        self._paused = True
        self._run.pause()

    def begin_evaluation(self, samples: float) -> None:
        """A batch of `samples` is evaluated."""
        self.pause()
        self._run.begin_work(EVALUATION_SHARE * samples)

    def end_evaluation(self) -> None:
        """The batch is evaluated."""
        self._run.finish_work()

    def evaluated(self, metrics: Mapping[str, Any], name: str) -> None:
        """Take what an evaluation gave, the metric by its `name`.  See `over` afterwards."""
        self._run.finish_work()
        if self.ended or self._step is None:
            return  # before the first step nothing was learned
        if name not in metrics:
            self._asked = name
            self._names.update(metrics)
            return
        self._reported = True
        self._run.report_metric(float(metrics[name]))
        if not self._run.in_epoch:
            self._judged = False  # whatever was found before: now more is known
            self.judge()
        elif self._run.ending is not None:
            self.over = True  # in a team it is none yet: all of it ends where the epoch does

    def judge(self) -> None:
        """Between epochs, once all is known of the last one.  See `over` afterwards."""
        if self._judged or self._run.in_epoch or self.ended:
            return
        self._judged = True
        self.over = self._run.should_stop or self.over

    def state_dict(self) -> Dict[str, Any]:
        """Return what a later process needs to go on after this point, as plain JSON."""
        return self._run.state_dict(within_epoch=True)

    # ---- the end --------------------------------------------------------------------

    def end(self) -> None:
        """Training has ended."""
        if self.ended:
            return
        self._close(cut=True)
        self._run.end_here()  # where no rule has ended it, the framework itself has
        self._judged = False  # though there was no epoch: a checkpoint may have had them all
        self.judge()
        self._say_if_unnamed()
        self.ended = True
        self._run.finish()

    def failed(self, error: BaseException) -> None:
        """Training has ended by an exception."""
        if not self.ended:
            self.ended = True
            self._run.failed(error)

    def raise_if_stopped(self) -> None:
        """Raise `StopTraining` if training ended without what was asked for.

        Raises:
            StopTraining: unless `on_stop="return"`.
        """
        self._run.raise_if_stopped()

    # ---- inside ---------------------------------------------------------------------

    def _open(self) -> None:
        """Begin an epoch, unless this pass has had its own or the run is over."""
        if self.ended or self.over or self._run.in_epoch or not self._may_open:
            return
        self._say_if_unnamed()
        if not self._run.next_epoch():
            self.over = True
            return
        self._step = self._schedule.steps_into_epoch if self._step is None else 0
        self._may_open = False

    def _close(self, *, cut: bool = False) -> None:
        if self._run.in_epoch:
            if self._paused:
                self._go_on()
            is_whole = self._step == self._schedule.steps_per_epoch
            self._run.end_epoch(cut=cut and not is_whole)
            self._judged = False

    def _go_on(self) -> None:
        self._paused = False
        self._say_if_unnamed()
        self._run.go_on()

    def _say_if_unnamed(self) -> None:
        """Say once that no evaluation gives the metric, and what they give instead."""
        if self._reported or not self._names:
            return
        self._run.notices.error(
            "metric",
            f"the evaluation gives no {self._asked!r}, so that nothing is known of the model; "
            f"it gives: {', '.join(sorted(self._names))}. Name one of them to the callback: "
            "ZeusCallback(metric=...)",
        )


def _is_of_this_attempt(state: Mapping[str, Any], batch_size: Optional[int]) -> bool:
    """Whether a run of this process may go on after `state`."""
    settings = RunSettings.from_environment()
    owner = Owner(settings.job, settings.recurrence, settings.attempt, batch_size)
    try:
        read_state(state, owner)
    except StateError:
        return False
    return True
