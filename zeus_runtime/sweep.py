"""Which other batch sizes a run measures, and for how long.  Pure.

What an epoch costs at a batch size need not be learned by a run at it: a few training
steps tell.  A sweep serves them in the middle of one run.  It is worth that only while it
takes a small share of an epoch, and it must not cost the user a run: sizes go up, and a
larger one is tried only if the memory that the smaller ones took says that it fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from zeus_runtime.trial import TrialRules

WINDOW_SHARE = 0.1
"""Of an epoch, for one size.  Ten sizes then take an epoch at most, once in the life of a job
on a GPU model, where a single run at a size that is wrong for it takes many."""

GIVE_UP_SHARE = 0.3
"""Of an epoch.  A size that takes so long does something else than train (its graph is
compiled, its data loader starts slowly), and the next one would do so too."""

MEMORY_SHARE = 0.85
"""Of the GPU's memory.  The rest is for what a straight line does not foresee: workspaces,
fragments, the allocator's rounding."""

LONG_PERIODS = 20.0
"""Of the energy counter.  In a shorter window it matters what its last tick sees beyond it."""

MEASURE_STEPS = 3
"""Fewer than for a power limit: sizes differ by more than limits do, and their steps are long."""


@dataclass(frozen=True)
class TrainingData:
    """What the loader of a run, or all of them together, could serve at another batch size.

    Args:
        samples: of one epoch.
        dataset_samples: that there are.
        whole_batches: a last batch that is smaller than the others is left out.
        largest_batch: samples that can be served at once; None: no bound is known.
        shares: loaders that serve the same share of a batch each.
    """

    samples: int
    dataset_samples: int
    whole_batches: bool = False
    largest_batch: Optional[int] = None
    shares: int = 1

    def others(self, wanted: Iterable[int], own: int) -> Tuple[int, ...]:
        """Return those of `wanted` that can be served beside the run's own, from small to large."""
        return tuple(size for size in sorted(set(wanted)) if not self._why_not(size, own))

    def why_no_others(self, wanted: Iterable[int], own: int) -> str:
        """Say, where there are no `others`, why none of `wanted` is one."""
        sizes: Dict[str, List[str]] = {}
        for size in sorted(set(wanted)):
            sizes.setdefault(self._why_not(size, own), []).append(str(size))
        return "; ".join(f"{', '.join(found)}: {why}" for why, found in sizes.items())

    def _why_not(self, batch_size: int, own: int) -> str:
        """Say why a size can't be served as a whole beside the run's own; "": it can be."""
        if batch_size == own:
            return "the run's own"
        if batch_size % self.shares:
            return f"not to be shared evenly by {self.shares} loaders"
        if batch_size <= self.shares:
            return "nothing can be normalized over a single sample"
        if batch_size > min(self.samples, self.dataset_samples):
            return "more than the samples of an epoch"
        if self.largest_batch is not None and batch_size > self.largest_batch:
            return "more than fits into the GPU at once, as the script says"
        return ""

    def samples_at(self, batch_size: int) -> int:
        """Return how many samples an epoch at a batch size trains on."""
        left_out = self.samples % batch_size if self.whole_batches else 0
        return self.samples - left_out


@dataclass(frozen=True)
class Room:
    """Memory of a GPU that one process could take.

    Args:
        free_bytes: that nobody holds.
        reserved_bytes: that torch holds for this process already.
    """

    free_bytes: float
    reserved_bytes: float

    def bytes_of(self, processes: int) -> float:
        """Return what this process may take where so many share the GPU, all in the same way."""
        return self.reserved_bytes + self.free_bytes / processes


@dataclass(frozen=True)
class FirstEpoch:
    """What the first epoch has told of all others.

    Args:
        epoch_seconds: until the next epoch began, evaluation included.
        step_seconds: of one step at the run's own batch size.
    """

    epoch_seconds: float
    step_seconds: float


class MemoryUse:
    """Peak memory by batch size, and what it says of a larger one."""

    def __init__(self) -> None:
        self._peaks: Dict[int, float] = {}

    def measured(self, batch_size: int, peak_bytes: float) -> None:
        """Take what training at a batch size took at its peak."""
        self._peaks[batch_size] = peak_bytes

    def at(self, batch_size: int) -> float:
        """Return what training at a batch size takes, by a straight line.

        Through the largest size and the one that makes the line the steepest; through
        nothing, where only one size is known: what does not depend on the batch size
        (the model) is then counted too often, which is on the safe side.
        """
        if not self._peaks:
            return math.inf
        largest = max(self._peaks)
        peak = self._peaks[largest]
        slopes = [
            (peak - other_peak) / (largest - other)
            for other, other_peak in self._peaks.items()
            if other != largest
        ] or [peak / largest]
        return peak + max(max(slopes), 0.0) * (batch_size - largest)


class Sweep:
    """The sizes of one sweep, one after the other.

    The run's own comes first, measured in the same way as the others: what a whole epoch
    takes beyond its steps (evaluation, the start of the data loader) is then known, and
    is the same at every size.

    Args:
        own: the batch size of the run.
        others: those to measure, from small to large (`TrainingData.others`); which of them are
            worth their time is decided here.
        period_seconds: of the energy counter.
    """

    def __init__(
        self,
        own: int,
        others: Sequence[int],
        epoch: FirstEpoch,
        period_seconds: float,
    ) -> None:
        self.own = own
        self.epoch = epoch
        self._period = period_seconds
        self.rules = replace(
            TrialRules.for_period(period_seconds, None, partial_last_step=False),
            measure_steps=MEASURE_STEPS,
        )
        self.memory = MemoryUse()
        self._start_seconds = 0.0
        paying = [size for size in others if self._pays(size)] if self._pays(own) else []
        self._todo: List[int] = [own, *paying] if paying else []

    @property
    def left(self) -> bool:
        """Whether there is a size that is worth its time, as far as is known."""
        return bool(self._todo)

    def window_seconds(self, batch_size: int) -> float:
        """Return how long the steps of a size are expected to take.

        A step of a smaller batch takes no longer than one of the run's own, one of a larger
        batch no longer than its samples would at the run's own.
        """
        step = self.epoch.step_seconds * max(1.0, batch_size / self.own)
        settle = max(self.rules.settle_steps * step, self.rules.settle_seconds)
        measure = max(self.rules.measure_steps * step, self.rules.measure_seconds)
        tail = self.tail_seconds(measure)
        return settle + measure + (max(step, tail) if tail else 0.0)

    def tail_seconds(self, measured_seconds: float) -> float:
        """Return for how long a size goes on when it was measured, until the counter's next tick.

        What follows, another loader that starts, takes less power than training.
        """
        return 0.0 if measured_seconds >= LONG_PERIODS * self._period else self._period

    def next_size(self, room_bytes: Optional[float]) -> Optional[int]:
        """Return the size to measure next; None: the sweep is over.

        Args:
            room_bytes: of GPU memory that this process may take; None: memory is no concern.
        """
        while self._todo:
            size = self._todo.pop(0)
            if not self._pays(size):
                continue
            room = math.inf if room_bytes is None or size <= self.own else room_bytes
            if room < math.inf and not self.memory.at(size) <= MEMORY_SHARE * room:
                self.stop()  # larger ones fit even less
                return None
            return size
        return None

    def took(self, batch_size: int, seconds: float) -> None:
        """Learn from a size how much longer one takes than its steps: its data loader starts."""
        extra = seconds - self.window_seconds(batch_size)
        self._start_seconds = max(self._start_seconds, extra)

    def takes_too_long(self, seconds: float) -> bool:
        """Whether a size has taken so long that there is no use in going on."""
        return seconds > GIVE_UP_SHARE * self.epoch.epoch_seconds

    def stop(self) -> None:
        """Leave out what is left."""
        self._todo = []

    def _pays(self, batch_size: int) -> bool:
        seconds = self._start_seconds + self.window_seconds(batch_size)
        return seconds <= WINDOW_SHARE * self.epoch.epoch_seconds
