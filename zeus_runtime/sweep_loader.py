"""Batches of other sizes for a sweep: the same data in the same way, by a loader of their own."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping, Optional

import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from zeus_runtime.base_run import BaseRun
from zeus_runtime.sweep import TrainingData
from zeus_runtime.sweep_control import SweepControl

ENDLESS = 1 << 40  # samples: how many are needed is known when they were
LONGEST_REASON = 200  # characters


def training_data(
    loader: DataLoader[Any], largest_batch: Optional[int] = None
) -> Optional[TrainingData]:
    """Return what `loader` could serve at another batch size; None: nothing.

    A sampler that torch does not know may leave out samples on purpose, such as those
    that are for validation: then nothing but its own batches is ever trained on.

    Args:
        largest_batch: samples that the script says fit into the GPU at once; None: nothing.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    sampler = loader.sampler
    if type(sampler) not in (RandomSampler, SequentialSampler, DistributedSampler):
        return None
    if getattr(sampler, "data_source", getattr(sampler, "dataset", None)) is not loader.dataset:
        return None
    try:
        samples, dataset_samples = len(sampler), len(loader.dataset)  # type: ignore[arg-type]  # both are Sized here, or it raises
    except (TypeError, NotImplementedError):
        return None
    return TrainingData(samples, dataset_samples, loader.drop_last, largest_batch)


def serve_sweep(loader: DataLoader[Any], run: BaseRun, sweep: SweepControl) -> Iterator[Any]:
    """Yield the batches of a sweep.  Those that can't be made end it, never the training."""
    if not sweep.due:
        return  # another iterator of this epoch was quicker
    simulated = run.gpu is not None and run.gpu.simulated
    if not simulated and not _trains_on_cuda():
        sweep.skip("torch has nothing in the memory of a GPU, so nobody knows what would fit")
        return
    # Whatever training draws meanwhile, the epoch's own order stays what it would have been.
    random_state = torch.get_rng_state()
    sweep.begin()
    try:
        yield from _sizes(loader, run, sweep, simulated)
    except BaseException:  # the loop was left, which closes this generator; or Ctrl-C
        _end(sweep.abandon, sweep, random_state)
        raise
    _end(sweep.end, sweep, random_state)


def _end(end: Callable[[], None], sweep: SweepControl, random_state: torch.Tensor) -> None:
    if sweep.going_on:  # else training has gone on without this iterator
        torch.set_rng_state(random_state)
        end()


def _sizes(
    loader: DataLoader[Any], run: BaseRun, sweep: SweepControl, simulated: bool
) -> Iterator[Any]:
    seed = 0 if run.decision is None else run.decision.seed
    while True:
        size = sweep.next_size(None if simulated else _room_bytes())
        if size is None:
            break
        if not simulated:
            torch.cuda.reset_peak_memory_stats()
        batches = _Batches(loader, size, seed)
        while batches.advance():
            sweep.begin_step()
            run.begin_work(samples_of(batches.batch, size))
            yield batches.batch
            run.finish_work()
            if not sweep.end_step():
                break
        batches.close()
        if batches.problem:
            sweep.fail(batches.problem)
        elif not simulated:
            sweep.took_memory(torch.cuda.max_memory_allocated())
    if not simulated:
        torch.cuda.empty_cache()  # what a larger size took is not kept from others


class _Batches:
    """Batches of one size, whose failures are told and not raised."""

    def __init__(self, loader: DataLoader[Any], size: int, seed: int) -> None:
        self.batch: Any = None
        self.problem = ""
        self._iterator: Optional[Iterator[Any]] = None
        try:
            self._iterator = iter(_loader_of(loader, size, seed))
        except Exception as error:
            self._failed(error)

    def advance(self) -> bool:
        """Put the next batch into `batch`; False: there is none."""
        self.batch = None  # two large batches at a time may be one too many
        if self._iterator is None:
            return False
        try:
            self.batch = next(self._iterator)
        except Exception as error:
            self._failed(error)
            return False
        return True

    def close(self) -> None:
        """Let batch and workers go."""
        self.batch = self._iterator = None

    def _failed(self, error: Exception) -> None:
        # That of a worker holds its whole traceback, and a result has little room for its note.
        last = (str(error).strip().splitlines() or [""])[-1].strip()[:LONGEST_REASON]
        self.problem = f"its batches can't be made ({type(error).__name__}: {last})"


def _loader_of(loader: DataLoader[Any], size: int, seed: int) -> DataLoader[Any]:
    generator = torch.Generator()
    generator.manual_seed(seed + size)
    own = loader.batch_size or size
    ahead = loader.prefetch_factor
    if ahead is not None:
        ahead = max(1, ahead * own // max(own, size))  # as much memory as before, if it can be
    return DataLoader(
        loader.dataset,
        batch_size=size,
        # With replacement: an order of the whole data set for a few batches of it is a waste.
        sampler=RandomSampler(
            loader.dataset,  # type: ignore[arg-type]  # `training_data` has seen its length
            replacement=True,
            num_samples=ENDLESS,
            generator=generator,
        ),
        drop_last=True,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        pin_memory_device=loader.pin_memory_device,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=ahead,
        generator=generator,
    )


def _trains_on_cuda() -> bool:
    try:
        return torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    except RuntimeError:
        return False  # an allocator of the script's own may tell nothing of what it holds


def _room_bytes() -> float:
    """Return how much of the GPU's memory this process may take: all but what others hold."""
    free, total = torch.cuda.mem_get_info()
    return float(min(total, free + torch.cuda.memory_reserved()))


def samples_of(batch: Any, default: Optional[int]) -> float:
    """Return how many samples a batch holds: the length of the first tensor in it."""
    found = batch
    while not isinstance(found, torch.Tensor):
        if isinstance(found, Mapping) and found:
            found = next(iter(found.values()))
        elif isinstance(found, (list, tuple)) and found:
            found = found[0]
        else:
            return float(default or 1)
    return float(found.shape[0]) if found.dim() else 1.0
