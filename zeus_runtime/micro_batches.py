"""Serves the batches of a loader in micro-batches, and tells when the optimizer shall step.

A batch that is too large for the GPU is trained on in parts whose gradients are summed.  For
the run all parts of a batch are one step: only at its end do the gradients meet, so that the
parts alone are no even measure for anything.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Tuple,
    TypeVar,
)

from zeus_runtime.batch_split import BatchSplit, split_batch
from zeus_runtime.notices import LOGGER

if TYPE_CHECKING:
    from zeus_runtime.base_run import BaseRun

T = TypeVar("T")
POOR_SHARE = 0.5
"""Of the largest micro-batch.  With less the GPU is half empty, and people should know."""


class MicroBatches:
    """The parts in which one loader serves its batches.

    Args:
        split: of one batch of the loader.
        drop_last: a batch at the end of an epoch that is not whole is left out.
        batch_sampler: the user's own, split into parts; None: torch makes the batches.
    """

    def __init__(
        self, split: BatchSplit, *, drop_last: bool, batch_sampler: Optional[SplitBatches] = None
    ) -> None:
        self.split = split
        self.update_due = True  # nothing has been served yet that waits for its update
        self._drop_last = drop_last
        self._batch_sampler = batch_sampler

    def served_of(self, parts: int) -> int:
        """Return how many of the parts that torch would make of an epoch are served."""
        steps = self.split.accumulation_steps
        return parts // steps * steps if self._drop_last else parts

    def updates(self, parts: Optional[int]) -> Optional[int]:
        """Return how often the optimizer steps in an epoch of `parts`; None: not known."""
        if self._batch_sampler is not None:
            return self._batch_sampler.batches
        return None if parts is None else -(-parts // self.split.accumulation_steps)

    def serve(self, parts: Iterator[T], count: Optional[int]) -> Iterator[T]:
        """Yield the parts of an epoch, keeping `update_due` up to date.

        Args:
            parts: an iterator that the loader has just made.
            count: how many of them to serve; None: not known.
        """
        steps = self.split.accumulation_steps
        if self._batch_sampler is not None:
            return self._told(_by_batch(parts, self._batch_sampler.ends))
        if self._drop_last:
            parts = _whole_batches(parts, steps) if count is None else islice(parts, count)
        return self._told(_counted(parts, steps))

    def _told(self, parts: Iterator[Tuple[T, bool]]) -> Iterator[T]:
        for part, self.update_due in parts:
            yield part

    def train(
        self, parts: Iterator[T], run: BaseRun, samples: Optional[Callable[[T], float]]
    ) -> Iterator[T]:
        """Yield the parts of an epoch of `run`, whose steps are those of the optimizer.

        Args:
            parts: as `serve` has returned them.
            samples: how many a part holds, for a GPU that has to be told; None: it has not.
        """
        for part in parts:
            if samples is not None:
                run.begin_step(samples(part))
            yield part
            if self.update_due:
                run.end_step()
            else:
                run.finish_work()
        run.end_epoch()


class SplitBatches:
    """A batch sampler that gives each batch of another one in parts.

    Whatever else is asked of it, such as `set_epoch`, the other one answers.

    Args:
        batches: the user's batch sampler.

    Attributes:
        ends: for each part given by the newest iterator, in order, whether it ends a batch.
            Batches need not be of one size, so that this can't be counted later.
    """

    def __init__(self, batches: Iterable[Iterable[Any]], split: BatchSplit) -> None:
        self._batches = batches
        self._split = split
        self.ends: Deque[bool] = deque()

    @property
    def batches(self) -> Optional[int]:
        """How many batches there are; None: not known."""
        try:
            return len(self._batches)  # type: ignore[arg-type]  # it raises where it has no length
        except TypeError:
            return None

    def __iter__(self) -> Iterator[List[Any]]:
        """Begin anew; torch calls it where an epoch's iterator is made."""
        self.ends = deque()
        return self._parts(self.ends)

    def _parts(self, ends: Deque[bool]) -> Iterator[List[Any]]:
        size = self._split.micro_batch
        for batch in self._batches:
            indices = list(batch)
            for start in range(0, len(indices), size):
                ends.append(start + size >= len(indices))
                yield indices[start : start + size]

    def __len__(self) -> int:
        """Return how many parts there are, if all batches are whole; else there are fewer."""
        count = self.batches
        if count is None:
            raise TypeError("the batch sampler has no length")
        return count * self._split.accumulation_steps

    def __getattr__(self, name: str) -> Any:
        """Ask the user's batch sampler."""
        if name == "_batches":  # it is being copied and holds nothing yet
            raise AttributeError(name)
        return getattr(self._batches, name)


def in_micro_batches(
    batch_size: Optional[int], largest: Optional[int], arguments: Dict[str, Any]
) -> Tuple[Optional[MicroBatches], Optional[int], Dict[str, Any]]:
    """Return how a loader serves its batches in parts, and the arguments for torch's `DataLoader`.

    Args:
        batch_size: of the loader; 1 where a batch sampler is given.
        largest: samples that fit into the GPU at once; None: all.
        arguments: further ones of the loader.

    Returns:
        None, where every batch fits as a whole; then batch size and arguments as they are.

    Raises:
        ValueError: the batches can't be split.
    """
    sampler = arguments.get("batch_sampler")
    if largest is None:
        return None, batch_size, arguments
    size = batch_size if sampler is None else getattr(sampler, "batch_size", None)
    if size is None:
        raise ValueError(
            f"largest_micro_batch={largest}: the size of a batch is not known; give batch_size, or "
            "a batch_sampler that has it"
        )
    split = split_batch(int(size), largest_micro_batch=largest)
    if split.accumulation_steps == 1:
        return None, batch_size, arguments
    if split.micro_batch < POOR_SHARE * largest:
        LOGGER.warning(
            "a batch of %d samples can only be split evenly into %d micro-batches of %d, though %d "
            "fit into the GPU: a size with a divisor near that, such as %d, trains faster",
            split.per_process,
            split.accumulation_steps,
            split.micro_batch,
            largest,
            -(-split.per_process // largest) * largest,
        )
    if sampler is None:
        drop_last = bool(arguments.get("drop_last", False))
        return MicroBatches(split, drop_last=drop_last), split.micro_batch, arguments
    if not arguments.get("in_order", True):
        raise ValueError(
            "in_order=False: the parts of a batch must come one after the other; leave it out, or "
            "leave out largest_micro_batch"
        )
    parts = SplitBatches(sampler, split)
    micro = MicroBatches(split, drop_last=False, batch_sampler=parts)
    return micro, batch_size, {**arguments, "batch_sampler": parts}


def _by_batch(parts: Iterator[T], ends: Deque[bool]) -> Iterator[Tuple[T, bool]]:
    for part in parts:
        yield part, ends.popleft()


def _counted(parts: Iterator[T], steps: int) -> Iterator[Tuple[T, bool]]:
    """Yield each part, and whether it is the last of `steps` or of all.

    By looking one ahead, not by a length: that of a stream may be unknown, or wrong.
    """
    held: List[T] = []
    for before, part in enumerate(parts):
        if held:
            yield held.pop(), before % steps == 0
        held.append(part)
    if held:
        yield held.pop(), True


def _whole_batches(parts: Iterator[T], steps: int) -> Iterator[T]:
    """Yield the parts of whole batches; each batch is waited for before any part of it is used."""
    while True:
        batch = list(islice(parts, steps))
        if len(batch) < steps:
            return
        yield from batch
