"""A tiny `Trainer` that is told by a plan what happens; for `forked_trainings`.

Everything is real but the metric, which the plan scripts, so that it is known when a run ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from tests.support.forked_trainings import tell_end
from zeus_runtime.huggingface import ZeusCallback, training_arguments

SAMPLES, EVALUATED = 20, 4


class Model(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.calls = 0
        self.fails_at = -1

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return loss and logits, as the Trainer wants them."""
        self.calls += self.training
        if self.calls == self.fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. There is no room")
        logits = self.layer(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Data(Dataset[dict[str, torch.Tensor]]):
    """Samples whose label is a sign."""

    def __init__(self, samples: int) -> None:
        self.inputs = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "labels": (self.inputs[index, 0] > 0).long()}


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """The same samples as a stream, which has no length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        data = Data(SAMPLES)
        return (data[index] for index in range(SAMPLES))


class Witness(TrainerCallback):
    """Tells what the run looked like at each hook, as a callback after ours sees it."""

    def __init__(self, callback: ZeusCallback) -> None:
        self._callback = callback

    def _tell(self, hook: str) -> None:
        training = self._callback.run
        if training is not None:
            run = training.run
            print(json.dumps({"event": [hook, run.epochs, run.steps, run.in_epoch]}), flush=True)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._tell("epoch_begin")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._tell("step_end")

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._tell("evaluate")

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self._tell("epoch_end")


class Heard(TrainerCallback):
    """Tells that it heard of the end; comes before ours."""

    def on_train_end(self, *_: Any, **__: Any) -> None:
        print(json.dumps({"heard": "train_end"}), flush=True)


def main(plan: dict[str, Any]) -> None:
    """Train as planned.

    Plan: `arguments` of TrainingArguments, `callback` arguments of ZeusCallback, `metrics` that
    evaluations give in turn, `stream` for data without a length, `fails_at` a forward pass,
    `resume` from the last checkpoint, `patience` of an early stop, `decided` to take sizes from
    `training_arguments`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scripted = iter(plan.get("metrics", []))
    metrics = {"last": 0.0}

    def compute(_: Any) -> dict[str, float]:
        metrics["last"] = next(scripted, metrics["last"])
        return {"accuracy": metrics["last"]}

    sizes = {"per_device_train_batch_size": 4}
    if "decided" in plan:
        sizes = training_arguments(**plan["decided"])
        print(json.dumps({"sizes": sizes}), flush=True)
    model = Model()
    model.fails_at = plan.get("fails_at", -1)
    callback = ZeusCallback(**{"metric": "eval_accuracy", **plan.get("callback", {})})
    arguments = {
        "output_dir": plan["folder"],
        "num_train_epochs": 3,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **sizes,
        **plan.get("arguments", {}),
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=Stream() if plan.get("stream") else Data(SAMPLES),
        eval_dataset=Data(EVALUATED),
        compute_metrics=compute,
        callbacks=[Heard(), callback, Witness(callback)],
    )
    if "patience" in plan:
        trainer.add_callback(EarlyStoppingCallback(plan["patience"]))
    for _ in range(plan.get("times", 1)):
        trainer.train(resume_from_checkpoint=plan.get("resume", False))
    tell_end(callback.run)
