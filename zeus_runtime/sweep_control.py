"""Serves a sweep over batch sizes within one run and measures it.

Glue between the pure parts (`sweep` says which size is next, `trial` when its window
begins and ends), the meter's thread, and whoever has the data (`ZeusDataLoader`):

    if control.due:
        control.begin()
        while (size := control.next_size(room)) is not None:
            for batch in batches_of(size):
                control.begin_step()
                ...
                if not control.end_step():
                    break
        control.end()
"""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass
from typing import Callable, List, Optional, Protocol, Tuple

from zeus_runtime.accounting import Accounting
from zeus_runtime.ledger import EpochUse, Moment
from zeus_runtime.notices import Notices
from zeus_runtime.power_parts import EnergySource
from zeus_runtime.protocol import Decision, SweepMeasurement
from zeus_runtime.sweep import FirstEpoch, Sweep, TrainingData
from zeus_runtime.trial import Span, Trial


class Trainer(Protocol):
    """What is needed of the run (`run.TrainingRun`)."""

    @property
    def steps(self) -> int:
        """Steps at its own batch size."""

    def write_result_now(self) -> None:
        """Write the result so far, so that it survives what comes next."""

    def sweep_is_over(self) -> None:
        """The power limit is free to be changed."""


class _State(enum.Enum):
    PENDING = "pending"  # the first epoch has to tell whether it pays
    DUE = "due"  # the loader may begin
    SERVING = "serving"
    ABANDONED = "abandoned"  # the loop was left in the middle: by a break, or an exception
    OVER = "over"


@dataclass(frozen=True)
class _Window:
    batch_size: int
    start: Moment
    end: Moment
    samples: int

    def per_sample(self) -> EpochUse:
        """Return what one sample takes; energy None: unknown."""
        seconds = self.end.time_seconds - self.start.time_seconds
        start, end = self.start.energy, self.end.energy
        if start is None or end is None:
            return EpochUse(None, seconds / self.samples)
        return EpochUse((end.joules - start.joules) / self.samples, seconds / self.samples)


class SweepControl:
    """The sweep of one run.  Made before the run's first epoch; over for good after its end.

    Args:
        trainer: the run.
        others: batch sizes to measure, from small to large (`TrainingData.others`).
        own: the batch size of the run.
        data: what its loader could serve.
        synchronize: waits until the GPU is idle.
    """

    def __init__(
        self,
        trainer: Trainer,
        others: Tuple[int, ...],
        own: int,
        data: TrainingData,
        meter: EnergySource,
        accounting: Accounting,
        notices: Notices,
        synchronize: Optional[Callable[[], None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trainer, self._others, self._own, self.data = trainer, others, own, data
        self._meter, self._accounting, self._notices = meter, accounting, notices
        self._synchronize, self._clock = synchronize, clock
        self._state = _State.PENDING
        self._sweep: Optional[Sweep] = None
        self._trial: Optional[Trial] = None
        self._start: Optional[Moment] = None
        self._began = 0.0
        self._steps = 0
        self._tail_until = 0.0
        self._windows: List[_Window] = []
        self.serving: Optional[int] = None

    @property
    def over(self) -> bool:
        """Whether the power limit may be changed again."""
        return self._state is _State.OVER

    @property
    def due(self) -> bool:
        """Whether the loader shall begin now."""
        return self._state is _State.DUE

    def on_epoch_begin(self, now_seconds: float, epochs: int, steps_per_epoch: int) -> None:
        """An epoch begins after `epochs` complete ones: the first has told whether it pays.

        Args:
            steps_per_epoch: as many as the loader has.
        """
        if self._state is not _State.PENDING or epochs < 1:
            self.leave()
            return
        first, last = self._accounting.first, self._accounting.last
        period, steps = self._meter.period_seconds, self._trainer.steps
        if first is None or last is None or period is None or self._meter.problem or not steps:
            self.skip("energy is unknown")
            return
        if steps != steps_per_epoch:
            self.skip(f"the script took {steps} of the {steps_per_epoch} batches of an epoch")
            return
        epoch = FirstEpoch(
            now_seconds - first.time_seconds, (last.time_seconds - first.time_seconds) / steps
        )
        sweep = Sweep(self._own, self._others, epoch, period)
        if not sweep.left:
            self.skip(f"for epochs of {epoch.epoch_seconds:.3g} s a window would take too long")
            return
        self._sweep, self._state = sweep, _State.DUE

    @property
    def going_on(self) -> bool:
        """Whether the loader that began may serve on."""
        return self._state is _State.SERVING

    def skip(self, why: str) -> None:
        """The loader can't serve what is due."""
        self._notices.remark("sweep", f"no other batch size was measured: {why}")
        self._finish()

    def begin(self) -> None:
        """Other batch sizes are served from now on."""
        assert self._state is _State.DUE
        self._state = _State.SERVING
        self._accounting.begin_sweep(self._trainer.steps)

    def next_size(self, room_bytes: Optional[float]) -> Optional[int]:
        """Return the size to serve now; None: `end` the sweep.

        Args:
            room_bytes: of GPU memory that this process may take; None: memory is no concern.
        """
        assert self._sweep is not None
        size = self._sweep.next_size(room_bytes) if self.going_on else None
        self.serving = size
        if size is None:
            return None
        self._began, self._steps = self._clock(), 0
        self._trial = self._start = None
        self._trainer.write_result_now()
        return size

    def begin_step(self) -> None:
        """A batch is handed to training."""
        if self._trial is None:
            # Only now: the ticks of a window should see nothing of how its loader started.
            assert self._sweep is not None
            self._trial = Trial(self._sweep.rules, self._clock(), 0)

    @property
    def steps_to_go(self) -> int:
        """After how many steps of the size there is something to look at, as far as is known."""
        trial = self._trial
        assert trial is not None
        span = trial.span
        if span is None:
            return max(trial.wake_at - self._steps, 1)
        step_seconds = (span.end_seconds - span.start_seconds) / span.steps
        return max(math.ceil((self._tail_until - self._clock()) / step_seconds), 1)

    def end_step(self, steps: int = 1) -> bool:
        """Training has done with a batch; return whether another one of the size is needed.

        Args:
            steps: that were done since the last call.
        """
        sweep, trial = self._sweep, self._trial
        assert sweep is not None
        assert trial is not None
        if not self.going_on:
            return False
        self._steps += steps
        if trial.span is not None:
            return self._clock() < self._tail_until
        if self._steps < trial.wake_at:
            return True
        if self._synchronize is not None:
            self._synchronize()
        now = self._clock()
        trial.on_step(now, self._steps)
        if self._start is None and trial.start_seconds is not None:
            self._start = self._meter.mark(trial.start_seconds)
        if trial.span is not None:
            return self._measured(trial.span, now)
        if sweep.takes_too_long(now - self._began):
            self.fail(f"{self._steps} steps took {now - self._began:.3g} s")
            return False
        return True

    def _measured(self, span: Span, now: float) -> bool:
        assert self._sweep is not None
        assert self._start is not None
        assert self.serving is not None
        end = self._meter.mark(span.end_seconds)
        self._windows.append(_Window(self.serving, self._start, end, span.steps * self.serving))
        tail = self._sweep.tail_seconds(span.end_seconds - span.start_seconds)
        self._sweep.took(self.serving, now - self._began + tail)
        self._tail_until = now + tail
        return tail > 0.0

    def took_memory(self, peak_bytes: float) -> None:
        """Tell the peak memory while the last size was served."""
        if self._sweep is not None and self.serving is not None:
            self._sweep.memory.measured(self.serving, peak_bytes)

    def fail(self, why: str) -> None:
        """Nothing more can be served; `end` the sweep."""
        assert self._sweep is not None
        self._sweep.stop()
        self._notices.remark(
            "sweep", f"the throughput sweep ended at batch size {self.serving}: {why}"
        )

    def end(self) -> None:
        """The run's own batches follow, and nothing of the sweep any more."""
        self._accounting.end_sweep(self._trainer.steps)
        self._finish()
        self._trainer.write_result_now()

    def abandon(self) -> None:
        """The loop was left in the middle.

        Whether by a `break` or by an exception shows in what comes next: until then it counts
        as serving, and the power limit is left alone.
        """
        if self.going_on:
            self._accounting.end_sweep(self._trainer.steps)
            self._state = _State.ABANDONED

    def leave(self) -> None:
        """Training goes on: a sweep that was abandoned, or not begun, is over.

        And so is one whose iterator somebody still has: the power limit must not wait for it.
        """
        self.abandon()
        named = self._state is _State.ABANDONED
        if named or self.due:
            self._finish()
        if named:
            self._trainer.write_result_now()  # what fails from now on is not of the size

    def measurements(self) -> Tuple[SweepMeasurement, ...]:
        """Return what was measured, as far as it is known by now, per epoch at each size."""
        known = [each for each in self._windows if each.start.settled and each.end.settled]
        whole = self._accounting.full_power
        if not known or known[0].batch_size != self._own or whole is None:
            return ()
        own = self._epoch_of_steps(known[0])
        found = []
        for window in known[1:]:
            steps = self._epoch_of_steps(window)
            seconds = _whole_epoch(steps.time_seconds, own.time_seconds, whole.time_seconds)
            joules: Optional[float] = None
            if steps.energy_joules and own.energy_joules and whole.energy_joules:
                joules = _whole_epoch(steps.energy_joules, own.energy_joules, whole.energy_joules)
            found.append(SweepMeasurement(window.batch_size, seconds, joules))
        return tuple(found)

    def _epoch_of_steps(self, window: _Window) -> EpochUse:
        """Return what the steps of an epoch take, by those of a window."""
        one = window.per_sample()
        samples = self.data.samples_at(window.batch_size)
        joules = None if one.energy_joules is None else one.energy_joules * samples
        return EpochUse(joules, one.time_seconds * samples)

    def _finish(self) -> None:
        self._state, self.serving = _State.OVER, None
        self._trainer.sweep_is_over()


def make_sweep_control(
    trainer: Trainer,
    decision: Optional[Decision],
    own: Optional[int],
    data: Optional[TrainingData],
    meter: EnergySource,
    accounting: Accounting,
    notices: Notices,
    synchronize: Optional[Callable[[], None]],
    clock: Callable[[], float],
) -> Optional[SweepControl]:
    """Return the sweep that was decided; None: there is none, or nobody could serve it."""
    if decision is None or not decision.sweep_batch_sizes or own != decision.batch_size:
        return None
    if data is None:
        notices.remark(
            "sweep",
            "no other batch size was measured: this loader can't serve any (it has a sampler of "
            "its own or an iterable dataset, or the loop has no ZeusDataLoader)",
        )
        return None
    if data.largest_batch is not None and own > data.largest_batch:
        notices.remark(
            "sweep",
            "no other batch size was measured: a batch is served in micro-batches, and a few steps "
            "at another size are served whole",
        )
        return None
    others = data.others(decision.sweep_batch_sizes, own)
    if not others:
        why = data.why_no_others(decision.sweep_batch_sizes, own)
        notices.remark("sweep", f"no other batch size was measured ({why})")
        return None
    return SweepControl(
        trainer,
        others,
        own,
        data,
        meter,
        accounting,
        notices,
        synchronize,
        clock=clock,
    )


def _whole_epoch(steps: float, own_steps: float, own_epoch: float) -> float:
    """Return what a whole epoch takes at another size.

    What the run's own takes beyond its steps does not depend on the batch size.  If it seems
    to take less than its steps did in their window, then windows show too much.
    """
    if own_epoch >= own_steps:
        return steps + own_epoch - own_steps
    return steps * own_epoch / own_steps
