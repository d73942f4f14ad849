"""A tiny Lightning `Trainer` that is told by a plan what happens; for `forked_trainings`.

Everything is real but the metric, which the plan scripts, so that it is known when a run ends.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.forked_trainings import tell_end
from zeus_runtime.lightning import ZeusCallback, accelerator

SAMPLES, VALIDATED = 20, 4


class Model(LightningModule):
    """One layer; validation logs what the plan says."""

    def __init__(self, metrics: list[float], fails_at: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self._metrics, self._metric = iter(metrics), 0.0
        self._batches, self._fails_at = 0, fails_at

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        self._batches += 1
        if self._batches == self._fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. There is no room")
        inputs, labels = batch
        return nn.functional.cross_entropy(self.layer(inputs), labels)

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking:
            self._metric = next(self._metrics, self._metric)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        # The sanity check must not end a run, however good it looks.
        metric = 1.0 if self.trainer.sanity_checking else self._metric
        self.log("val_accuracy", metric, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Witness(Callback):
    """Tells what the run looked like at each hook, as a callback after ours sees it."""

    def __init__(self, callback: ZeusCallback) -> None:
        self._callback = callback

    def _tell(self, hook: str) -> None:
        training = self._callback.run
        if training is not None:
            run = training.run
            print(json.dumps({"event": [hook, run.epochs, run.steps, run.in_epoch]}), flush=True)

    def on_train_epoch_start(self, *_: Any) -> None:
        self._tell("epoch_begin")

    def on_train_batch_end(self, *_: Any) -> None:
        self._tell("batch_end")

    def on_validation_end(self, *_: Any) -> None:
        self._tell("evaluate")

    def on_train_epoch_end(self, *_: Any) -> None:
        self._tell("epoch_end")

    def on_fit_end(self, *_: Any) -> None:
        print(json.dumps({"heard": "fit_end"}), flush=True)


def data(samples: int) -> TensorDataset:
    """Return samples whose label is a sign."""
    inputs = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long())


def main(plan: dict[str, Any]) -> None:
    """Train as planned.

    Plan: `trainer` arguments of Trainer, `callback` arguments of ZeusCallback, `metrics` that
    validations give in turn, `batch_size`, `fails_at` a batch, `save` a checkpoint here after
    training, or one as `step=N` in the folder at step `save_at`; `resume` from one; `patience` of
    an early stop.
    """
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    callback = ZeusCallback(**{"metric": "val_accuracy", **plan.get("callback", {})})
    options = {
        "max_epochs": 3,
        "accelerator": accelerator(),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": plan["folder"],
        **plan.get("trainer", {}),
    }
    callbacks: list[Callback] = [callback, Witness(callback)]
    if "save_at" in plan:
        options["enable_checkpointing"] = True
        callbacks.append(
            ModelCheckpoint(plan["folder"], "{step}", every_n_train_steps=plan["save_at"])
        )
    if "patience" in plan:
        callbacks.append(EarlyStopping("val_accuracy", mode="max", patience=plan["patience"]))
    trainer = Trainer(callbacks=callbacks, **options)
    model = Model(plan.get("metrics", []), plan.get("fails_at", -1))
    batch_size = plan.get("batch_size", 4)
    trainer.fit(
        model,
        DataLoader(data(SAMPLES), batch_size=batch_size, shuffle=True),
        DataLoader(data(VALIDATED), batch_size=VALIDATED),
        ckpt_path=plan.get("resume"),
    )
    if "save" in plan:
        trainer.save_checkpoint(plan["save"])
    tell_end(callback.run)
