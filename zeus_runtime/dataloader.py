"""`ZeusDataLoader`: a torch `DataLoader` that measures and optimizes the training around it."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Optional, Sized, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from zeus_runtime import current
from zeus_runtime.run import EVALUATION_SHARE, TrainingRun
from zeus_runtime.stop import Ending
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.sweep_loader import samples_of, serve_sweep, training_data

T_co = TypeVar("T_co", covariant=True)


class ZeusDataLoader(DataLoader[T_co]):
    """A `DataLoader` for training (with `max_epochs`) or evaluation (without).

        train_loader = ZeusDataLoader(train_set, batch_size=256, max_epochs=100)
        eval_loader = ZeusDataLoader(eval_set, batch_size=256)

        for epoch in train_loader.epochs():
            for batch in train_loader:
                ...  # learn
            for batch in eval_loader:
                ...  # evaluate
            train_loader.report_metric(validation_metric)

    Args:
        dataset: as for `DataLoader`.
        batch_size: samples of one batch; in a ZeusJob `zeus_runtime.batch_size(default)`.
        max_epochs: most epochs; makes this the training loader of the process (see
            `TrainingRun` for what a second one means).
        distributed: "dp" for data parallel training; only one process for now.
        eta: energy preference outside a ZeusJob; 1 counts only energy, 0 only time.
        on_stop: "raise" ends the script by `StopTraining` where the target was not
            reached; "return" only ends `epochs()`.
        **kwargs: passed on to `DataLoader`.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: this process is one of several.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: Optional[int] = 1,
        *,
        max_epochs: Optional[int] = None,
        distributed: Optional[str] = None,
        eta: float = 0.5,
        on_stop: str = "raise",
        **kwargs: Any,
    ) -> None:
        if distributed not in (None, "dp"):
            raise ValueError(f'distributed={distributed!r}: expected None or "dp"')
        _refuse_several_processes()
        super().__init__(dataset, batch_size=batch_size, **kwargs)
        self._run: Optional[TrainingRun] = None
        if max_epochs is None:
            return
        self._run = TrainingRun(
            max_epochs=max_epochs,
            batch_size=_batch_size_of(self),
            steps_per_epoch=_length(self),
            partial_last_step=_has_partial_batch(self),
            eta=eta,
            on_stop=on_stop,
            gpu_uuid=_torch_gpu_uuid(),
            synchronize=torch.cuda.synchronize if torch.cuda.is_available() else None,
            data=training_data(self),
        )

    @property
    def run(self) -> TrainingRun:
        """The run of this training loader.

        Raises:
            RuntimeError: this is an evaluation loader.
        """
        if self._run is None:
            raise RuntimeError(
                "this ZeusDataLoader is for evaluation: epochs() and report_metric() belong to "
                "the training loader, the one made with max_epochs"
            )
        return self._run

    @property
    def ending(self) -> Optional[Ending]:
        """Why training does no further epoch; None while it may."""
        return self.run.ending

    def epochs(self) -> Iterator[int]:
        """Yield the number of each epoch, from 0, as long as training should go on.

        Ends normally when the target was reached (or, outside a ZeusJob, after
        `max_epochs`).

        Raises:
            StopTraining: training ended without reaching its target.
        """
        run = self.run
        while run.next_epoch():
            set_epoch: Optional[Callable[[int], None]] = getattr(self.sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(run.epochs)
            yield run.epochs
        run.finish()
        run.raise_if_stopped()

    def report_metric(self, value: float) -> None:
        """Report the validation metric of this epoch."""
        self.run.report_metric(value)

    def __iter__(self) -> Any:
        """Iterate over batches, counting steps inside of `epochs()`."""
        if self._run is not None:
            return self._batches(self._run) if self._run.in_epoch else super().__iter__()
        batches = super().__iter__()
        run = current.get()
        if run is None or run.gpu is None or not run.gpu.simulated:
            return batches
        return self._evaluate(batches, run)

    def _batches(self, run: TrainingRun) -> Iterator[T_co]:
        sweep = run.sweep
        if sweep is not None and sweep.due:
            return self._swept(run, sweep)
        if sweep is not None:
            sweep.leave()
        return self._train(super().__iter__(), run)

    def _swept(self, run: TrainingRun, sweep: SweepControl) -> Iterator[T_co]:
        """A few batches of other sizes first; then those of the epoch, as they would have been."""
        yield from serve_sweep(self, run, sweep)
        yield from self._train(super().__iter__(), run)

    def _train(self, batches: Iterator[T_co], run: TrainingRun) -> Iterator[T_co]:
        begin, end = run.begin_step, run.end_step
        if run.gpu is None or not run.gpu.simulated:
            for batch in batches:
                yield batch
                end()
        else:
            for batch in batches:
                begin(samples_of(batch, self.batch_size))
                yield batch
                end()
        run.end_epoch()

    def _evaluate(self, batches: Iterator[T_co], run: TrainingRun) -> Iterator[T_co]:
        """On a simulated GPU: a forward pass is work, too."""
        for batch in batches:
            run.begin_work(EVALUATION_SHARE * samples_of(batch, self.batch_size))
            yield batch
            run.finish_work()


def _refuse_several_processes() -> None:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    size = distributed.get_world_size()
    if size > 1:
        raise RuntimeError(
            f"the process group has {size} processes: this release measures one process with "
            "one GPU; data parallel training with several processes is not supported yet"
        )


def _batch_size_of(loader: DataLoader[Any]) -> Optional[int]:
    """Return the samples of one batch, also where the user brought a batch sampler."""
    if loader.batch_size is not None:
        return int(loader.batch_size)
    size = getattr(loader.batch_sampler, "batch_size", None)
    return int(size) if size is not None else None


def _length(loader: DataLoader[Any]) -> Optional[int]:
    try:
        return len(loader)
    except TypeError:
        return None  # an iterable dataset does not know


def _has_partial_batch(loader: DataLoader[Any]) -> bool:
    size = loader.batch_size
    if size is None or loader.drop_last or not isinstance(loader.sampler, Sized):
        return False
    return len(loader.sampler) % size != 0


def _torch_gpu_uuid() -> Optional[str]:
    """Return the UUID of the GPU that torch uses; None: no GPU, or torch is too old to tell."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"
