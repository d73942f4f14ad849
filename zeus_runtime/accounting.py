"""Energy, time and cost of a run, from the meter's marks and the ledger's segments."""

from __future__ import annotations

from typing import Optional, Protocol

from zeus_runtime.cost import cost_joules
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.ledger import EpochUse, Ledger, Phase
from zeus_runtime.meter import Mark
from zeus_runtime.power_control import PowerControl
from zeus_runtime.protocol import PowerProfilePoint
from zeus_runtime.windows import Energy

FINAL_WAIT_SECONDS = 1.0
PATIENCE_SECONDS = 0.25  # a healthy GPU answers within milliseconds
FULL_POWER_SHARE = 0.5  # of an epoch's steps: the first few of a process are slow


class Meter(Protocol):
    """What is needed of a meter (`meter.EnergyMeter`, or a team's)."""

    @property
    def problem(self) -> str:
        """Why energy is unknown now; "" if it is known."""
        ...

    def mark(self, time_seconds: Optional[float] = None) -> Mark:
        """Return a mark at this moment or one just past."""
        ...

    def wait(self, mark: Mark, timeout_seconds: float) -> Optional[Energy]:
        """Return the energy at `mark`, waiting for it if need be; None: unknown."""
        ...

    def wait_rough(self, mark: Mark, timeout_seconds: float) -> Optional[Energy]:
        """Return the energy at `mark`, off by up to a tick if it is not known better yet."""
        ...


class Accounting:
    """What one run has used so far.

    As of the last `refresh`; energy None: unknown.

    Attributes:
        use: of one epoch at the limit held.
        full_power: of one epoch at the limit found, before any was set.
        sweep: all steps at other batch sizes; they count in the totals alone.

    Args:
        steps_per_epoch: as planned, for a run of which no epoch was whole; None: not known.
    """

    def __init__(self, meter: Meter, steps_per_epoch: Optional[int] = None) -> None:
        self.ledger = Ledger()
        self.energy_joules: Optional[float] = None
        self.time_seconds = 0.0
        self.use: Optional[EpochUse] = None
        self.full_power: Optional[EpochUse] = None
        self.sweep: Optional[EpochUse] = None
        self._meter = meter
        self._first: Optional[Mark] = None
        self._last: Optional[Mark] = None
        self._planned_steps = steps_per_epoch
        self._epoch_start_steps = 0
        self._epochs = 0
        self._whole_epochs = 0
        self._steps_of_whole = 0
        self._final = False
        self._unanswered: Optional[Mark] = None

    @property
    def first(self) -> Optional[Mark]:
        """Where the run began."""
        return self._first

    @property
    def last(self) -> Optional[Mark]:
        """Where the training part of an epoch last ended, or the run."""
        return self._last

    @property
    def problem(self) -> str:
        """Why energy is unknown."""
        return self._meter.problem

    def begin_epoch(self, steps: int, done_before: int = 0) -> float:
        """An epoch begins; return the moment.

        Args:
            done_before: steps of it that an earlier execution has done.
        """
        self._epoch_start_steps = steps - done_before
        mark = self._meter.mark()
        if self._first is None:
            self._first = mark
        self.ledger.begin_phase(mark, steps, Phase.TRAINING)
        return mark.time_seconds

    def end_epoch(self, steps: int, *, cut: bool = False) -> float:
        """The training part of an epoch ended; return the moment.

        Args:
            cut: before it was whole, so that it does not tell how many steps an epoch has.
        """
        mark = self._last = self._meter.mark()
        self.ledger.begin_phase(mark, steps, Phase.BETWEEN)
        self._epochs += 1
        if cut:
            self.ledger.spoil()  # what follows is the end of training, no usual evaluation
        else:
            self._whole_epochs += 1
            self._steps_of_whole += steps - self._epoch_start_steps
        return mark.time_seconds

    def begin_sweep(self, steps: int) -> None:
        """What follows are steps at other batch sizes; `steps` of the run's own are done."""
        # What the script did until here it does once an epoch, and this epoch's steps don't count.
        self.ledger.spoil()
        self.ledger.begin_phase(self._meter.mark(), steps, Phase.SWEEP)

    def end_sweep(self, steps: int) -> None:
        """The run's own steps go on."""
        self.ledger.begin_phase(self._meter.mark(), steps, Phase.TRAINING)
        # The data loader starts once more here, which is no part of a usual epoch.
        self.ledger.spoil()

    def finish(self, steps: int) -> None:
        """The run ends after `steps`: wait for the energy at this moment to be known."""
        if self._first is None:
            return
        self._last = self._meter.mark()
        self.ledger.begin_phase(self._last, steps, Phase.TRAINING)
        self._meter.wait(self._last, FINAL_WAIT_SECONDS)
        self._final = True

    def refresh(self, control: Optional[PowerControl]) -> None:
        """Bring `energy_joules`, `time_seconds` and `use` up to now."""
        first = self._first
        if first is None:
            return
        mark = self._last if self._final and self._last is not None else self._meter.mark()
        self.use = self._epoch_use(control)
        self.full_power = self._full_power_use(control)
        self.sweep = self.ledger.sweep_use()
        self.time_seconds = mark.time_seconds - first.time_seconds
        now = mark.energy if self._final else self._energy_at(mark)
        start = first.energy or first.rough
        if now is None or start is None:
            self.energy_joules = None
        else:
            self.energy_joules = max(now.joules - start.joules, 0.0)

    def _energy_at(self, mark: Mark) -> Optional[Energy]:
        """Return the energy at `mark`; a hanging GPU makes the training thread wait only once."""
        before = self._unanswered
        hanging = before is not None and not before.answered
        now = self._meter.wait_rough(mark, 0.0 if hanging else PATIENCE_SECONDS)
        if not hanging:
            self._unanswered = None if now is not None else mark
        return now

    @property
    def steps_per_epoch(self) -> Optional[float]:
        """Of those that were whole, else as planned; None: not known, or no epoch has ended."""
        if self._whole_epochs:
            return self._steps_of_whole / self._whole_epochs
        return self._planned_steps if self._epochs else None

    def _epoch_use(self, control: Optional[PowerControl]) -> Optional[EpochUse]:
        """Return what one epoch takes at the limit held, or would take at the best one so far."""
        steps_per_epoch = self.steps_per_epoch
        if steps_per_epoch is None:
            return None
        if control is None or not control.profiling:
            limit = self.ledger.limit_watts if control is None else control.held_watts
            use = self.ledger.epoch_use(limit, steps_per_epoch)
            if use is not None:
                return use
        best = None if control is None else control.best
        return None if best is None else self._use_at(best, steps_per_epoch)

    def _full_power_use(self, control: Optional[PowerControl]) -> Optional[EpochUse]:
        """Return what one epoch takes at the limit found.

        From the steps before any limit was set, if they are enough for those that warm up
        not to matter; else from the profile, if it holds that limit.
        """
        steps_per_epoch = self.steps_per_epoch
        if steps_per_epoch is None:
            return None
        if self.ledger.training_steps(None) >= FULL_POWER_SHARE * steps_per_epoch:
            return self.ledger.epoch_use(None, steps_per_epoch)
        found = None if control is None else control.found_point
        return None if found is None else self._use_at(found, steps_per_epoch)

    def _use_at(self, point: PowerProfilePoint, steps_per_epoch: float) -> EpochUse:
        """Return what one epoch takes at the limit of a point."""
        seconds = point.seconds_per_step * steps_per_epoch
        joules: Optional[float] = point.average_power_watts * seconds
        if not point.whole_cycles:
            between = self.ledger.between_use(point.power_limit_watts)
            if between is not None:
                seconds += between.time_seconds
                joules = (
                    None
                    if joules is None or between.energy_joules is None
                    else joules + between.energy_joules
                )
        return EpochUse(joules, seconds)

    def cost(self, eta: float, gpu: Optional[GpuFacts]) -> Optional[float]:
        """Return the cost so far; None: energy is unknown."""
        if self.energy_joules is None:
            return None
        return cost_joules(self.energy_joules, self.time_seconds, _max_watts(gpu), eta)

    def epoch_cost(self, eta: float, gpu: Optional[GpuFacts]) -> Optional[float]:
        """Return the cost of one epoch at the limit held; None: not known yet.

        Before a limit is held it is that at the limit found.
        """
        use = self.use or self.full_power
        if use is None or use.energy_joules is None:
            return None
        return cost_joules(use.energy_joules, use.time_seconds, _max_watts(gpu), eta)


def _max_watts(gpu: Optional[GpuFacts]) -> float:
    return 0.0 if gpu is None else gpu.max_power_watts
