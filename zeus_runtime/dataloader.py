"""`ZeusDataLoader`: a torch `DataLoader` that measures and optimizes the training around it."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sized, TypeVar, Union

import torch
from torch.utils.data import DataLoader, Dataset

from zeus_runtime import current
from zeus_runtime.base_run import EVALUATION_SHARE, BaseRun
from zeus_runtime.micro_batches import MicroBatches, in_micro_batches
from zeus_runtime.place import torch_place
from zeus_runtime.start import start_run
from zeus_runtime.stop import Ending
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.sweep_loader import samples_of, serve_sweep, training_data
from zeus_runtime.team_sweep import TeamSweep
from zeus_runtime.torch_gpu import torch_gpu_uuid

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
        batch_size: samples of one batch of this process; in a ZeusJob
            `zeus_runtime.local_batch_size(default)`, its share of the global one.
        max_epochs: most epochs; makes this the training loader of the process (see
            `TrainingRun` for what a second one means).
        largest_micro_batch: samples that fit into the GPU at once.  A larger batch is served in
            equal parts (`accumulation_steps`, `update_due`); None: each is served as a whole.
        distributed: "dp" where several processes train one model, each with a loader like this
            and a sampler for its share of the data, such as `DistributedSampler`.  All of them
            must do the same number of steps, and report the same metric.
        eta: energy preference outside a ZeusJob; 1 counts only energy, 0 only time.
        on_stop: "raise" ends the script by `StopTraining` where the target was not
            reached; "return" only ends `epochs()`.
        **kwargs: passed on to `DataLoader`.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: this process is one of several and `distributed` does not say so, or their
            process group was not initialized yet.
    """

    _micro: Optional[MicroBatches] = None  # every batch is served as a whole

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: Optional[int] = 1,
        *,
        max_epochs: Optional[int] = None,
        largest_micro_batch: Optional[int] = None,
        distributed: Optional[str] = None,
        eta: float = 0.5,
        on_stop: str = "raise",
        **kwargs: Any,
    ) -> None:
        if distributed not in (None, "dp"):
            raise ValueError(f'distributed={distributed!r}: expected None or "dp"')
        replicas = _replicas(distributed, kwargs)
        micro, batch_size, kwargs = in_micro_batches(batch_size, largest_micro_batch, kwargs)
        super().__init__(dataset, batch_size=batch_size, **kwargs)
        self._micro = micro
        self._run: Optional[BaseRun] = None
        if max_epochs is None:
            return
        own_batch_size = _batch_size_of(self)
        self._run = start_run(
            max_epochs=max_epochs,
            batch_size=None if own_batch_size is None else own_batch_size * replicas,
            steps_per_epoch=_length(self) if micro is None else micro.updates(_length(self)),
            partial_last_step=_has_partial_batch(self),
            eta=eta,
            on_stop=on_stop,
            gpu_uuid=torch_gpu_uuid(),
            synchronize=torch.cuda.synchronize if torch.cuda.is_available() else None,
            data=training_data(self, largest_micro_batch, shares=replicas),
        )

    @property
    def run(self) -> BaseRun:
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
    def accumulation_steps(self) -> int:
        """How many micro-batches make one batch; divide the loss by it."""
        return 1 if self._micro is None else self._micro.split.accumulation_steps

    @property
    def update_due(self) -> bool:
        """Whether the optimizer shall step after the batch served last.

            for batch in train_loader:
                (loss_of(batch) / train_loader.accumulation_steps).backward()
                if train_loader.update_due:
                    optimizer.step()
                    optimizer.zero_grad()

        Always, where every batch is served as a whole.
        """
        return self._micro is None or self._micro.update_due

    def __len__(self) -> int:
        """Return how many batches are served; where they are split, how many micro-batches."""
        batches = super().__len__()
        return batches if self._micro is None else self._micro.served_of(batches)

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

    def end_here(self) -> None:
        """End the training, its target reached or not: no further epoch (`BaseRun.end_here`)."""
        self.run.end_here()

    def state_dict(self) -> Dict[str, Any]:
        """Return the state of the run for the script's own checkpoint (`BaseRun.state_dict`).

        That of a loader for evaluation is empty, since frameworks ask every loader.
        """
        return {} if self._run is None else self._run.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on after the checkpoint of this attempt (`BaseRun.load_state_dict`).

            if train_loader.load_state_dict(checkpoint["zeus"]):
                model.load_state_dict(checkpoint["model"])

        Returns:
            Whether the run goes on after it; False for a loader for evaluation.
        """
        return False if self._run is None else self._run.load_state_dict(state)

    def __iter__(self) -> Any:
        """Iterate over batches, counting steps inside of `epochs()`."""
        if self._run is not None:
            return self._batches(self._run) if self._run.in_epoch else self._served()
        batches = self._served()
        run = current.get()
        if run is None or run.gpu is None or not run.gpu.simulated:
            return batches
        return self._evaluate(batches, run)

    def _batches(self, run: BaseRun) -> Iterator[T_co]:
        sweep = run.sweep
        if sweep is not None and sweep.due:
            return self._swept(run, sweep)
        if sweep is not None:
            sweep.leave()
        if self._micro is not None:
            simulated = run.gpu is not None and run.gpu.simulated
            samples = self._samples_of if simulated else None
            return self._micro.train(self._served(), run, samples)
        return self._train(super().__iter__(), run)

    def _samples_of(self, batch: object) -> float:
        return samples_of(batch, self.batch_size)

    def _served(self) -> Iterator[T_co]:
        batches: Iterator[T_co] = super().__iter__()
        return batches if self._micro is None else self._micro.serve(batches, _length(self))

    def _swept(self, run: BaseRun, sweep: Union[SweepControl, TeamSweep]) -> Iterator[T_co]:
        """A few batches of other sizes first; then those of the epoch, as they would have been."""
        yield from serve_sweep(self, run, sweep)
        for number, batch in enumerate(self._train(super().__iter__(), run)):
            if number == 1:
                # A process that was lost at a size is missed in the first step after it.
                sweep.leave()
            yield batch

    def _train(self, batches: Iterator[T_co], run: BaseRun) -> Iterator[T_co]:
        if run.gpu is None or not run.gpu.simulated:
            for batch in batches:
                yield batch
                # As `end_step` does, without a call: all that is done on the path of every step.
                run.steps = steps = run.steps + 1
                if steps >= run.wake_at:
                    run.wake()
        else:
            begin, end = run.begin_step, run.end_step
            for batch in batches:
                begin(samples_of(batch, self.batch_size))
                yield batch
                end()
        run.end_epoch()

    def _evaluate(self, batches: Iterator[T_co], run: BaseRun) -> Iterator[T_co]:
        """On a simulated GPU: a forward pass is work, too."""
        for batch in batches:
            run.begin_work(EVALUATION_SHARE * samples_of(batch, self.batch_size))
            yield batch
            run.finish_work()


def _replicas(distributed: Optional[str], arguments: Mapping[str, Any]) -> int:
    """Return how many loaders share the global batch.

    As the sampler says: where several processes work on one batch (tensor parallel), there are
    fewer shares than processes.
    """
    place = torch_place()
    if place is None:
        return 1
    if distributed is None:
        raise RuntimeError(
            f'this process is one of {place.size} that train together: give distributed="dp" and '
            "a sampler for its share of the data to each of their loaders"
        )
    sampler = arguments.get("sampler") or getattr(arguments.get("batch_sampler"), "sampler", None)
    return int(getattr(sampler, "num_replicas", place.size))


def _batch_size_of(loader: ZeusDataLoader[Any]) -> Optional[int]:
    """Return the samples of one batch, also where the user brought a batch sampler."""
    if loader._micro is not None:
        return loader._micro.split.per_process
    if loader.batch_size is not None:
        return int(loader.batch_size)
    size = getattr(loader.batch_sampler, "batch_size", None)
    return int(size) if size is not None else None


def _length(loader: DataLoader[Any]) -> Optional[int]:
    try:
        return len(loader)
    except TypeError:
        return None  # an iterable dataset does not know


def _has_partial_batch(loader: ZeusDataLoader[Any]) -> bool:
    size = None if loader.batch_size is None else _batch_size_of(loader)
    if size is None or loader.drop_last or not isinstance(loader.sampler, Sized):
        return False
    return len(loader.sampler) % size != 0
