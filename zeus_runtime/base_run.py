"""What every run has, whether it decides for itself or follows rank 0: the loop around training."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Type, Union

from zeus_runtime import current, hooks
from zeus_runtime.gpu import Gpu, GpuFacts
from zeus_runtime.judge import Judge
from zeus_runtime.notices import Notices, say
from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import Decision, Result
from zeus_runtime.resume import Before, Owner, StateError, read_state, state_of
from zeus_runtime.settings import RunSettings
from zeus_runtime.simulated import SimulatedWork
from zeus_runtime.stop import Ending, StopTraining
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.team_sweep import TeamSweep
from zeus_runtime.trial import NEVER

EVALUATION_SHARE = 1.0 / 3.0  # of a training step's work: forward without backward


class BaseRun(ABC):
    """Counts steps and epochs; arguments and errors as of `run.TrainingRun`."""

    _judge: Judge

    def __init__(
        self,
        *,
        max_epochs: int,
        batch_size: Optional[int],
        eta: float,
        on_stop: str,
        synchronize: Optional[Callable[[], None]] = None,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_epochs < 1:
            raise ValueError(f"max_epochs={max_epochs}: at least one epoch is needed")
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta={eta}: expected a number from 0 (time) to 1 (energy)")
        if on_stop not in ("raise", "return"):
            raise ValueError(f'on_stop={on_stop!r}: expected "raise" or "return"')
        self.notices = Notices()
        self._superseded = False
        self.settings, self._is_extra = current.take_over(
            RunSettings.from_environment(environ), self.notices
        )
        decision = self.decision
        self._eta = eta if decision is None else decision.eta
        self.max_epochs = max_epochs if decision is None else min(max_epochs, decision.max_epochs)
        self._on_stop = on_stop
        self._batch_size = batch_size
        self._metric = MetricRecord.of(decision)
        self._synchronize = synchronize
        self._clock = clock
        self._gpu: Optional[Gpu] = None
        self._work: Optional[SimulatedWork] = None
        self._ending: Optional[Ending] = None
        self._finished = False
        self._in_epoch = False
        self._ends_here = False
        self._epoch_start_steps = self._done_before = 0
        self._before: Optional[Before] = None
        self.sweep: Union[SweepControl, TeamSweep, None] = None
        self.epochs = 0
        self.steps = 0
        self.wake_at = NEVER

    # ---- what is known ----------------------------------------------------------

    @property
    def decision(self) -> Optional[Decision]:
        """What the operator decided; None outside a ZeusJob."""
        return self.settings.decision

    @property
    def gpu(self) -> Optional[GpuFacts]:
        """The GPU; None if it can't be read, or before the first epoch."""
        return None if self._gpu is None else self._gpu.facts

    @property
    def in_epoch(self) -> bool:
        """Whether the training part of an epoch is going on."""
        return self._in_epoch

    @property
    def ending(self) -> Optional[Ending]:
        """Why the run does no further epoch; None while it may."""
        return self._ending

    @property
    def used(self) -> bool:
        """Whether an attempt was used up in this process: by this run, or one before it."""
        return self._is_extra or self._began

    @property
    @abstractmethod
    def _began(self) -> bool:
        """Whether an epoch has begun."""

    @property
    @abstractmethod
    def should_stop(self) -> bool:
        """Whether no further epoch should begin.  For between epochs.

        With several processes all of them must ask, and get the same answer.
        """

    # ---- the training loop ----------------------------------------------------------

    def next_epoch(self) -> bool:
        """Begin the next epoch and return True; or return False, if the run shall end.

        Raises:
            RuntimeError: another run was made before this one had ended.
        """
        if self._superseded:
            raise RuntimeError(current.SUPERSEDED)
        if self._in_epoch:
            # A metric that ends the run came after the epoch, whose bounds are the script's.
            self.end_epoch(cut=self._ends_here)
        return not self._finished and self._begin_unless_over()

    @abstractmethod
    def _begin_unless_over(self) -> bool:
        """Begin an epoch unless the run shall end; return whether it began."""

    @abstractmethod
    def begin_epoch(self) -> None:
        """The training part of an epoch begins."""

    def _open_epoch(self) -> int:
        """An epoch begins; return how many of its steps an earlier execution has done."""
        done_before, self._done_before = self._done_before, 0
        self._epoch_start_steps = self.steps - done_before
        self._in_epoch = True
        return done_before

    def begin_step(self, samples: float = 0.0) -> None:
        """A batch of `samples` is handed to training."""
        if self._work is not None:
            self._work.begin(samples)

    def end_step(self) -> None:
        """Training has done with the batch.  `ZeusDataLoader` counts by itself, alike."""
        if self._work is not None:
            self._work.finish()
        self.steps += 1
        if self.steps >= self.wake_at:
            self.wake()

    def begin_work(self, samples: float) -> None:
        """Declare work that is no training step (evaluation) to a simulated GPU."""
        if self._work is not None:
            self._work.begin(samples)

    def finish_work(self) -> None:
        """Await the work declared by `begin_work`."""
        if self._work is not None:
            self._work.finish()

    def pause(self) -> None:
        """Within an epoch, what follows are no steps: evaluation, a checkpoint.

        It counts in what an epoch takes, and not where power limits are compared.
        """
        if self._in_epoch:
            self.finish_work()
            self._wait_for_gpu()
            self._pause()

    @abstractmethod
    def _pause(self) -> None:
        """See `pause`."""

    def go_on(self) -> None:
        """After `pause`: the steps of the epoch go on."""
        if self._in_epoch:
            self.finish_work()
            self._wait_for_gpu()
            self._go_on()

    @abstractmethod
    def _go_on(self) -> None:
        """See `go_on`."""

    def end_epoch(self, *, cut: bool = False) -> None:
        """The training part of the epoch has ended; evaluation may follow.

        Args:
            cut: training ends before the epoch was whole.  It counts as one, but what one epoch
                takes is not told by it.
        """
        if not self._in_epoch:
            return
        self.finish_work()
        self._check_work()
        self._wait_for_gpu()
        self._in_epoch = False
        self._end_epoch(cut)

    @abstractmethod
    def _end_epoch(self, cut: bool) -> None:
        """Count the epoch whose last step is done."""

    @abstractmethod
    def report_metric(self, value: float) -> None:
        """Report the validation metric after the epoch's training part.

        With several processes every one reports the same value, reduced over all.

        Args:
            value: not finite means that the run has diverged.
        """

    def end_here(self) -> None:
        """No further epoch: the script itself ends the training, its target reached or not.

            if has_not_improved_for_long:
                run.end_here()  # `next_epoch` says no, and `raise_if_stopped` says why

        In a ZeusJob a run that misses its target like that has failed to converge, as one that
        has used up its epochs; one that fails after it has crashed.  Within an epoch: that one is
        the last, and need not be whole.  With several processes all say it after the same epoch.
        """
        self._ends_here = True

    def _end_at_will(self) -> None:
        """End where the script has said so, unless a rule has ended the run."""
        if self._ends_here and self._ending is None:
            asked = self._asked_to_end
            ending = self._judge.at_will(self._metric, self.epochs, asked_to_end=asked)
            self._ending = ending
            if ending.stops_script:
                self.notices.remark("ends-here", ending.reason)

    @property
    def _asked_to_end(self) -> bool:
        """Whether the run has been told from outside to end, which the script may have heeded."""
        return hooks.asked_to_end()

    def _end_epoch_left(self) -> None:
        """Count the epoch in whose middle the script has ended the training and left it."""
        if self._in_epoch and self._ends_here:
            self.end_epoch(cut=True)

    @abstractmethod
    def finish(self) -> None:
        """End the run: final measurement, result, limits given back.  May be called again."""

    def raise_if_stopped(self) -> None:
        """Raise `StopTraining` if the run ended without what was asked for.

        Raises:
            StopTraining: unless `on_stop="return"`.
        """
        ending = self._ending
        if ending is None or not ending.stops_script or ending.outcome is None:
            return
        if self._speaks:
            say(f"training stops: {ending.reason}")
        if self._on_stop == "raise":
            raise StopTraining(ending.outcome, ending.reason)

    @property
    def _speaks(self) -> bool:
        """Whether people are told by this process what all of them know."""
        return True

    # ---- checkpoints of the script --------------------------------------------------

    def state_dict(self, *, within_epoch: bool = False) -> Dict[str, Any]:
        """Return what `load_state_dict` of a later run needs, as plain JSON.

        For the script's own checkpoint, after the metric of an epoch was reported; of several
        processes, that of rank 0.

        Args:
            within_epoch: training goes on in the middle of an epoch where it was saved there;
                else such an epoch begins again, and the state is that after the last complete one.
        """
        result, last_metric_epoch = self._so_far(within_epoch)
        into_epoch = self.steps - self._epoch_start_steps if self._in_epoch else self._done_before
        return state_of(
            result,
            self._before,
            self.steps if within_epoch or not self._in_epoch else self._epoch_start_steps,
            last_metric_epoch,
            steps_into_epoch=into_epoch if within_epoch else 0,
            diverged=self._metric.diverged,
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on after `state`, which the script has found in its own checkpoint.

        Before the first epoch; with several processes on each of them.  A state of another
        attempt or batch size, or a damaged one, is refused with a warning: this run then counts
        alone, and should train a model from the start.

        Returns:
            Whether the run goes on after it.
        """
        settings = self.settings
        owner = Owner(settings.job, settings.recurrence, settings.attempt, self._batch_size)
        why = "training has begun already" if self._began else ""
        if not why:
            try:
                self._before = read_state(state, owner)
            except StateError as error:
                why = str(error)
            else:
                before = self._before
                self.epochs, self._done_before = before.epochs, before.steps_into_epoch
                self._metric.restore(
                    before.milestones,
                    before.last_metric,
                    before.last_metric_epoch,
                    diverged=before.diverged,
                )
                if before.sweep:
                    self.sweep = None  # it is known already what the other sizes take
                return True
        if self._speaks:
            self.notices.warn(
                "resume",
                f"the checkpoint's state is not gone on with: {why}. This run counts alone",
            )
        return False

    def resume_epoch(self, steps_done: int) -> None:
        """The first epoch goes on after so many steps, whatever the state says; before it."""
        self._done_before = steps_done

    @property
    def _own_epochs(self) -> int:
        """How many epochs were complete in this process."""
        return self.epochs - (0 if self._before is None else self._before.epochs)

    @abstractmethod
    def _so_far(self, within_epoch: bool) -> Tuple[Result, int]:
        """Return the result so far, and after which epoch the metric was reported last."""

    # ---- how the process ends -------------------------------------------------------

    @abstractmethod
    def failed(self, error: Optional[BaseException]) -> None:
        """The script is ending by an exception."""

    def supersede(self) -> None:
        """End, because another run begins in this process."""
        if self._finished:
            return
        if self.used:
            self.notices.warn(
                "superseded",
                f"another training loader was made before this run had ended; it ends after "
                f"{self.epochs} epochs",
            )
        self.finish()
        self._superseded = True

    @abstractmethod
    def write_result_now(self) -> None:
        """Write the state as it is, taking no lock: for signal handlers."""

    def __enter__(self) -> BaseRun:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.failed(error)

    # ---- inside ---------------------------------------------------------------------

    @abstractmethod
    def wake(self) -> None:
        """A step ended at which there is something to do (`steps >= wake_at`).  Not for scripts."""

    def _wait_for_gpu(self) -> None:
        if self._synchronize is not None:
            self._synchronize()

    def _check_work(self) -> None:
        if self._work is not None and self._work.error_code:
            self.notices.warn(
                "work",
                f"the simulated GPU takes no more work (NVML error {self._work.error_code}); "
                "training goes on without it",
            )
