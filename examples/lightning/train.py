"""Trains a small network on scikit-learn's handwritten digits, with Lightning.

Runs as it is on any machine, with or without a GPU and agent:

    python train.py --max-epochs 60

Run by `zeusctl run zeusjob.yaml` it learns the batch size from run to run.
"""

from __future__ import annotations

import argparse
import logging

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zeus_runtime
from zeus_runtime.lightning import ZeusCallback, accelerator

TRAINING_SAMPLES = 1347  # of 1,797; the other 450 are for validation
SPLIT_SEED = 0  # the split is part of the data: the same in every run


class Digits(LightningModule):
    """Reads an image of 8 x 8 pixels."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self._learning_rate = learning_rate
        self._network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self._network(images), labels)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        """Log the share of images that the network recognizes."""
        images, labels = batch
        right = (self._network(images).argmax(1) == labels).float().mean()
        self.log("val_accuracy", right, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return what makes the steps."""
        return torch.optim.SGD(self.parameters(), lr=self._learning_rate, momentum=0.9)


def data() -> tuple[TensorDataset, TensorDataset]:
    """Return images in [0, 1], shape (samples, 64), and labels, for training and validation."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16.0
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, validation = order[:TRAINING_SAMPLES], order[TRAINING_SAMPLES:]
    return (
        TensorDataset(images[train], labels[train]),
        TensorDataset(images[validation], labels[validation]),
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-epochs", type=int, default=60)
    parser.add_argument("--output", default="", help="file that takes the model")
    return parser.parse_args()


def main() -> None:
    """Train until the validation accuracy is good enough."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    torch.set_num_threads(1)  # a network this small gains nothing from more
    seed_everything(zeus_runtime.seed(0), verbose=False)
    train_set, validation_set = data()
    trainer = Trainer(
        max_epochs=arguments.max_epochs,
        accelerator=accelerator(),  # "auto", but for a simulated GPU
        callbacks=[ZeusCallback("val_accuracy")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    processes = trainer.num_nodes * trainer.num_devices
    batch_size = zeus_runtime.local_batch_size(256, replicas=processes)
    trainer.fit(
        Digits(zeus_runtime.learning_rate(0.05)),
        DataLoader(train_set, batch_size=batch_size, shuffle=True),
        DataLoader(validation_set, batch_size=len(validation_set)),
    )
    if arguments.output:
        trainer.save_checkpoint(arguments.output)  # only reached with a model that is good enough


if __name__ == "__main__":
    main()
