"""`ZeusCallback` for Lightning, by either of its names: `lightning` or `pytorch_lightning`.

from zeus_runtime.lightning import ZeusCallback

trainer = Trainer(max_epochs=100, callbacks=[ZeusCallback("val_accuracy")])
trainer.fit(model, DataLoader(train_set, batch_size=zeus_runtime.batch_size(64)), validation)
trainer.save_checkpoint("model.ckpt")  # only reached with a model that is good enough
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
import sys
from typing import TYPE_CHECKING, Any, Dict, Optional, Sized

from torch.utils.data import DataLoader

from zeus_runtime.callback_run import CallbackRun, Wishes
from zeus_runtime.callback_schedule import Training
from zeus_runtime.stop import Ending
from zeus_runtime.sweep_loader import samples_of
from zeus_runtime.torch_gpu import used_gpu

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _framework() -> Any:
    """Return the Lightning that the script has imported, else one that is installed."""
    for name in _NAMES:
        if sys.modules.get(name) is not None:
            return sys.modules[name]
    with contextlib.suppress(ImportError):
        return importlib.import_module(_NAMES[0])
    try:
        return importlib.import_module(_NAMES[1])
    except ImportError as error:
        raise ImportError(
            "zeus_runtime.lightning is for Lightning's Trainer, which can't be imported here: "
            "pip install lightning"
        ) from error


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = _framework().Callback


class ZeusCallback(Callback):
    """Measures and optimizes what a `Trainer` fits, and ends it when it should end.

    An epoch is a pass over the data, a step one of the optimizer, however many batches its
    gradients are accumulated over.  The metric is reported after each validation, whether it
    comes after an epoch or within one, but not after the sanity check; epochs without validation
    go on.

    What a checkpoint of the `Trainer` needs to go on with the run is in it.

    Where the run ended without reaching its target, `StopTraining` leaves `trainer.fit()` from
    `teardown`, Lightning's last hook: the strategy is torn down, checkpoints are written, and
    `on_train_end` and `on_fit_end` have been called everywhere.  Lightning then treats it as an
    exception: it calls `on_exception`, and tells loggers that the run has failed, which it has.
    No hook comes later, and a line after `fit()` could be forgotten: then the script would go on
    with a model that is not good enough.

    Args:
        metric: as validation logs it, "val_accuracy"; with several processes by
            `self.log(..., sync_dist=True)`.
        batch_size: the global batch size; None: the data loader's x processes x
            accumulate_grad_batches.  To be given where that is wrong or can't be told: several
            loaders, or processes that share a batch.
        samples_per_epoch: samples that count as one epoch; None: a pass over the data.  For data
            without an end, and for passes so long that nobody wants to wait for the next.
        eta: energy preference outside a ZeusJob; 1 counts only energy, 0 only time.
        on_stop: "raise" ends the script by `StopTraining` where the target was not
            reached; "return" only ends the training.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        metric: str,
        *,
        batch_size: Optional[int] = None,
        samples_per_epoch: Optional[int] = None,
        eta: float = 0.5,
        on_stop: str = "raise",
    ) -> None:
        self._wishes = Wishes(metric, batch_size, samples_per_epoch, eta, on_stop)
        self._training: Optional[CallbackRun] = None
        self._before: Optional[Dict[str, Any]] = None
        self._loader_batch: Optional[int] = None
        self._steps_seen = 0

    @property
    def run(self) -> Optional[CallbackRun]:
        """The run of the training that began last; None before there is one."""
        return self._training

    @property
    def ending(self) -> Optional[Ending]:
        """Why training does no further epoch; None while it may, and before it."""
        return None if self._training is None else self._training.run.ending

    def state_dict(self) -> Dict[str, Any]:
        """Return what a checkpoint keeps of the run, for the process that goes on from it."""
        return {} if self._training is None else {"run": self._training.state_dict()}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Take what a checkpoint has kept, before training goes on from it."""
        self._before = state_dict.get("run")

    # ---- training -------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the run: the processes that train together are there, and so is a checkpoint."""
        loader = trainer.train_dataloader
        self._loader_batch = _batch_size_of(loader)
        self._steps_seen = trainer.global_step
        device = trainer.strategy.root_device
        training = _training(trainer, module, loader, self._loader_batch)
        before, self._before = self._before, None
        self._training = CallbackRun(self._wishes, training, used_gpu(device), before)

    def on_train_epoch_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """See `Callback`."""
        if self._training is not None:
            self._training.begin_pass()
            self._stop(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, _module: LightningModule, batch: Any, _batch_idx: int
    ) -> None:
        """See `Callback`: a step, or a part of one."""
        if self._training is not None:
            self._training.begin_step(samples_of(batch, self._loader_batch))
            self._stop(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        _module: LightningModule,
        _outputs: Any,
        _batch: Any,
        _batch_idx: int,
    ) -> None:
        """See `Callback`: the optimizer has made a step, or gradients are kept for one."""
        training = self._training
        if training is None:
            return
        if trainer.global_step == self._steps_seen:
            training.end_part()
        else:
            self._steps_seen = trainer.global_step
            training.end_step()
        if trainer.is_last_batch:
            training.end_pass()  # now, since validation comes before on_train_epoch_end

    def on_train_epoch_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """See `Callback`: the validation of the epoch, if there is any, is done."""
        if self._training is not None:
            self._training.end_pass(cut=True)  # or else its last batch has ended it
            self._training.judge()
            self._stop(trainer)

    def on_train_end(self, _trainer: Trainer, _module: LightningModule) -> None:
        """End the run."""
        if self._training is not None:
            self._training.end()

    def on_exception(
        self, _trainer: Trainer, _module: LightningModule, exception: BaseException
    ) -> None:
        """Let the run know how training failed."""
        if self._training is not None:
            self._training.failed(exception)

    def teardown(self, _trainer: Trainer, _module: LightningModule, stage: str) -> None:
        """Leave `fit` if training ended without reaching its target.

        Raises:
            StopTraining: unless `on_stop="return"`.
        """
        if stage == "fit" and self._training is not None and self._training.ended:
            self._training.raise_if_stopped()

    # ---- validation -----------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """See `Callback`: within an epoch its steps are interrupted."""
        training = self._validated(trainer)
        if training is not None:
            training.pause()

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        _module: LightningModule,
        batch: Any,
        _batch_idx: int,
        _dataloader_idx: int = 0,
    ) -> None:
        """See `Callback`."""
        training = self._validated(trainer)
        if training is not None:
            training.begin_evaluation(samples_of(batch, self._loader_batch))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        _module: LightningModule,
        _outputs: Any,
        _batch: Any,
        _batch_idx: int,
        _dataloader_idx: int = 0,
    ) -> None:
        """See `Callback`."""
        training = self._validated(trainer)
        if training is not None:
            training.end_evaluation()

    def on_validation_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """See `Callback`: all that validation has logged is there."""
        training = self._validated(trainer)
        if training is not None:
            training.evaluated(trainer.callback_metrics, self._wishes.metric)
            self._stop(trainer)

    def _validated(self, trainer: Trainer) -> Optional[CallbackRun]:
        """Return the training that a validation is of; None: it is a check, or on its own."""
        training = self._training
        return None if training is None or training.ended or trainer.sanity_checking else training

    def _stop(self, trainer: Trainer) -> None:
        if self._training is not None and self._training.over:
            trainer.should_stop = True


def accelerator() -> str:
    """Return what to give to `Trainer(accelerator=...)`: "auto", but "cpu" for a simulated GPU.

    Lightning makes torch ask NVML whether there is a GPU.  The simulated one says yes, and can't
    compute; so where it is one, torch asks CUDA again.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "auto"
    if not hasattr(nvml, "gpuSimVersion"):
        return "auto"
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    return "cpu"


def _training(
    trainer: Trainer, module: LightningModule, loader: Any, loader_batch: Optional[int]
) -> Training:
    """Return what the `Trainer` is about to do.

    Args:
        loader_batch: samples of one batch of this process; None: not known.
    """
    accumulation = trainer.accumulate_grad_batches
    batches = trainer.num_training_batches
    steps: Optional[int] = None
    partial = False
    if math.isfinite(batches):
        steps = max(1, math.ceil(batches / accumulation))
        partial = batches % accumulation != 0 or _ends_on_part(loader, int(batches))
    limit = trainer.max_epochs
    own = None if loader_batch is None else loader_batch * trainer.world_size * accumulation
    # A module that steps by itself may step several times a batch: its steps tell no epochs.
    counts = steps is not None and module.automatic_optimization
    done, into = divmod(trainer.global_step, steps or 1) if counts else (trainer.current_epoch, 0)
    return Training(
        batch_size=own,
        steps_per_epoch=steps,
        partial_last_step=partial,
        max_epochs=None if limit is None or limit < 0 else limit,
        max_steps=None if trainer.max_steps < 0 else trainer.max_steps,
        epochs_done=done,
        steps_done=trainer.global_step,
        steps_into_epoch=into,
    )


def _batch_size_of(loader: Any) -> Optional[int]:
    """Return the samples of one batch; None: there are several loaders, or none of torch's."""
    if not isinstance(loader, DataLoader):
        return None
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    return None if size is None else int(size)


def _ends_on_part(loader: Any, batches: int) -> bool:
    """Whether the last of that many batches is smaller than the others."""
    size = _batch_size_of(loader)
    if size is None or loader.drop_last or not isinstance(loader.sampler, Sized):
        return False
    return batches == len(loader) and len(loader.sampler) % size != 0
