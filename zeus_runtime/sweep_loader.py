"""Batches of other sizes for a sweep: the same data in the same way, by a loader of their own."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping, Optional, Union

import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from zeus_runtime.base_run import BaseRun
from zeus_runtime.sweep import Room, TrainingData
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.team_sweep import TeamSweep

ENDLESS = 1 << 40  # samples: how many are needed is known when they were
LONGEST_REASON = 200  # characters
NOTHING_ON_A_GPU = "torch has nothing in the memory of a GPU, so nobody knows what would fit"


def training_data(
    loader: DataLoader[Any], largest_batch: Optional[int] = None, *, shares: int = 1
) -> Optional[TrainingData]:
    """Return what `loader`, and those like it, could serve at another batch size; None: nothing.

    A sampler that torch does not know may leave out samples on purpose, such as those
    that are for validation: then nothing but its own batches is ever trained on.

    Args:
        largest_batch: samples that the script says fit into the GPU at once; None: nothing.
        shares: loaders, each of another process, that share a batch and the samples of an epoch.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    sampler = loader.sampler
    # Of several processes each has a share of the data, which no other sampler knows of.
    alone = () if shares > 1 else (RandomSampler, SequentialSampler)
    if type(sampler) not in (*alone, DistributedSampler):
        return None
    if getattr(sampler, "data_source", getattr(sampler, "dataset", None)) is not loader.dataset:
        return None
    try:
        samples, dataset_samples = len(sampler), len(loader.dataset)  # type: ignore[arg-type]  # both are Sized here, or it raises
    except (TypeError, NotImplementedError):
        return None
    return TrainingData(
        samples * shares,
        dataset_samples,
        loader.drop_last,
        None if largest_batch is None else largest_batch * shares,
        shares,
    )


def serve_sweep(
    loader: DataLoader[Any], run: BaseRun, sweep: Union[SweepControl, TeamSweep]
) -> Iterator[Any]:
    """Yield the batches of a sweep.  Those that can't be made end it, never the training."""
    if not sweep.due:
        return  # another iterator of this epoch was quicker
    simulated = run.gpu is not None and run.gpu.simulated
    problem = "" if simulated or _trains_on_cuda() else NOTHING_ON_A_GPU
    if isinstance(sweep, TeamSweep):
        yield from _serve_with_others(loader, run, sweep, simulated, problem)
        return
    if problem:
        sweep.skip(problem)
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
        size = sweep.next_size(None if simulated else _room().bytes_of(1))
        if size is None:
            break
        if not simulated:
            torch.cuda.reset_peak_memory_stats()
        batches = _Batches(loader, size, seed + size)
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


def _serve_with_others(
    loader: DataLoader[Any], run: BaseRun, sweep: TeamSweep, simulated: bool, problem: str
) -> Iterator[Any]:
    random_state = torch.get_rng_state()
    sweep.begin(problem, None if simulated or problem else _room())
    try:
        yield from _ordered_sizes(loader, run, sweep, simulated)
    finally:
        if sweep.going_on:  # else training has gone on without this iterator
            torch.set_rng_state(random_state)
            sweep.end()


def _ordered_sizes(
    loader: DataLoader[Any], run: BaseRun, sweep: TeamSweep, simulated: bool
) -> Iterator[Any]:
    seed = 0 if run.decision is None else run.decision.seed
    while sweep.batch_size is not None:
        size, share = sweep.batch_size, sweep.batch_size // sweep.data.shares
        if not simulated:
            torch.cuda.reset_peak_memory_stats()
        # Of other samples than any other share has.
        batches = _Batches(loader, share, seed + size + getattr(loader.sampler, "rank", 0))
        batches.advance()
        # Before any step: in one that a single process can't do the others would wait for it.
        sweep.meet(batches.problem)
        yield from _ordered_steps(batches, share, run, sweep, simulated)
        batches.close()
    if not simulated:
        torch.cuda.empty_cache()


def _ordered_steps(
    batches: _Batches, share: int, run: BaseRun, sweep: TeamSweep, simulated: bool
) -> Iterator[Any]:
    batch, is_new = batches.batch, True
    while sweep.steps_to_go:
        for _ in range(sweep.steps_to_go):
            # Where no other can be made the last one is trained on once more, as all do the step.
            if not is_new and not batches.problem and batches.advance():
                batch = batches.batch
            is_new = False
            run.begin_work(samples_of(batch, share))
            yield batch
            run.finish_work()
            if not sweep.going_on:
                return
            sweep.steps += 1
        if simulated:
            sweep.meet(batches.problem)
        else:
            peak_bytes = float(torch.cuda.max_memory_allocated())
            sweep.meet(batches.problem, _room(), peak_bytes)


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
    generator.manual_seed(seed)
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


def _room() -> Room:
    """Return how much of the GPU's memory this process could take: all but what others hold."""
    free, total = torch.cuda.mem_get_info()
    return Room(float(free), float(min(total - free, torch.cuda.memory_reserved())))


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
