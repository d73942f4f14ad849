"""Books energy and time of a run by segments of constant power limit.  Pure.

All of a run counts in its total.  The cost of one epoch is told from the segments
at the limit that is held, so that neither profiling, nor a sweep over batch sizes, nor a
limit restored by someone else disturbs what is learned.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Dict, List, Optional, Protocol, Tuple

from zeus_runtime.windows import Energy


class Moment(Protocol):
    """A point in time whose energy is known, or will be, or never (`meter.Mark`)."""

    time_seconds: float
    energy: Optional[Energy]
    failed: bool

    @property
    def settled(self) -> bool:
        """Whether nothing more will be learned about it."""


class Phase(enum.Enum):
    """What the run does in a segment."""

    TRAINING = "training"  # steps of an epoch
    BETWEEN = "between"  # evaluation and whatever else follows until the next epoch
    SWEEP = "sweep"  # steps at other batch sizes than the run's own


@dataclass(frozen=True)
class EpochUse:
    """What one epoch takes, or another part of a run; energy None: unknown."""

    energy_joules: Optional[float]
    time_seconds: float


@dataclass
class _Sum:
    seconds: float = 0.0
    steps: int = 0
    whole: int = 0  # segments that were one whole phase
    measured_seconds: float = 0.0  # of `seconds`, those whose energy is known
    joules: float = 0.0

    @property
    def watts(self) -> Optional[float]:
        return self.joules / self.measured_seconds if self.measured_seconds > 0.0 else None


@dataclass(frozen=True)
class _Segment:
    start: Moment
    end: Moment
    phase: Phase
    limit_watts: Optional[float]
    steps: int
    whole: bool


class Ledger:
    """The segments of one run."""

    def __init__(self) -> None:
        self._first: Optional[Moment] = None
        self._start: Optional[Moment] = None
        self._start_steps = 0
        self._phase = Phase.TRAINING
        self._limit: Optional[float] = None
        self._whole = True
        self._spoilt = False
        self._open: List[_Segment] = []
        self._sums: Dict[Tuple[Phase, Optional[float]], _Sum] = {}

    @property
    def first(self) -> Optional[Moment]:
        """Where the run began."""
        return self._first

    @property
    def limit_watts(self) -> Optional[float]:
        """The limit of the open segment; None: not set by us."""
        return self._limit

    def begin_phase(self, moment: Moment, steps: int, phase: Phase) -> None:
        """The run goes over to `phase`; `steps` of the run are done."""
        self._close(moment, steps, phase_ends=True)
        self._phase, self._whole, self._spoilt = phase, True, False

    def change_limit(self, moment: Moment, steps: int, limit_watts: Optional[float]) -> None:
        """From now on the limit is another one; None: not ours."""
        self._close(moment, steps, phase_ends=False)
        self._limit, self._whole, self._spoilt = limit_watts, False, False

    def spoil(self) -> None:
        """The limit was lost somewhere in the open segment: leave it out of the epoch's cost."""
        self._spoilt = True

    def settle(self) -> None:
        """Book the segments whose ends are known by now."""
        still_open = []
        for segment in self._open:
            if segment.start.settled and segment.end.settled:
                self._book(segment)
            else:
                still_open.append(segment)
        self._open = still_open

    def epoch_use(self, limit_watts: Optional[float], steps_per_epoch: float) -> Optional[EpochUse]:
        """Return what one epoch takes at a limit; None: no step was measured at it.

        What follows an epoch (evaluation) is taken from segments at that limit if
        there is a whole one, else from those at any limit.
        """
        self.settle()
        training = self._sums.get((Phase.TRAINING, limit_watts))
        if training is None or training.steps == 0:
            return None
        seconds = training.seconds / training.steps * steps_per_epoch
        joules = None if training.watts is None else training.watts * seconds
        between = self.between_use(limit_watts)
        if between is None:
            return EpochUse(joules, seconds)
        if joules is not None and between.energy_joules is not None:
            joules += between.energy_joules
        return EpochUse(joules, seconds + between.time_seconds)

    def training_steps(self, limit_watts: Optional[float]) -> int:
        """Return how many training steps were measured at a limit."""
        self.settle()
        training = self._sums.get((Phase.TRAINING, limit_watts))
        return 0 if training is None else training.steps

    def sweep_use(self) -> Optional[EpochUse]:
        """Return what all steps at other batch sizes took; None: there were none."""
        self.settle()
        sums = [each for (phase, _), each in self._sums.items() if phase is Phase.SWEEP]
        if not sums:
            return None
        seconds = sum(each.seconds for each in sums)
        known = all(each.watts is not None for each in sums)
        joules = sum((each.watts or 0.0) * each.seconds for each in sums)
        return EpochUse(joules if known else None, seconds)

    def between_use(self, limit_watts: Optional[float]) -> Optional[EpochUse]:
        """Return what follows one epoch (evaluation) takes; None: none was seen."""
        at_limit = self._sums.get((Phase.BETWEEN, limit_watts), _Sum())
        if not at_limit.whole:
            at_limit = _Sum()
            for (phase, _), other in self._sums.items():
                if phase is Phase.BETWEEN and other.whole:
                    at_limit.seconds += other.seconds
                    at_limit.whole += other.whole
                    at_limit.measured_seconds += other.measured_seconds
                    at_limit.joules += other.joules
        if not at_limit.whole:
            return None
        seconds = at_limit.seconds / at_limit.whole
        watts = at_limit.watts
        return EpochUse(None if watts is None else watts * seconds, seconds)

    def _close(self, moment: Moment, steps: int, *, phase_ends: bool) -> None:
        if self._first is None:
            self._first = moment
        elif self._start is not None and not self._spoilt:
            whole = self._whole and phase_ends
            taken = steps - self._start_steps
            self._open.append(_Segment(self._start, moment, self._phase, self._limit, taken, whole))
        self._start, self._start_steps = moment, steps
        self.settle()

    def _book(self, segment: _Segment) -> None:
        if segment.phase is Phase.BETWEEN and not segment.whole:
            return  # a part of an evaluation says little about a whole one
        total = self._sums.setdefault((segment.phase, segment.limit_watts), _Sum())
        seconds = segment.end.time_seconds - segment.start.time_seconds
        total.seconds += seconds
        total.steps += segment.steps
        total.whole += int(segment.whole)
        start, end = segment.start.energy, segment.end.energy
        if start is not None and end is not None:
            total.measured_seconds += seconds
            total.joules += end.joules - start.joules
