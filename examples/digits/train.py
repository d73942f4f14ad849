"""Trains a small network on scikit-learn's handwritten digits until it is good enough.

Runs as it is on any machine, with or without a GPU and agent:

    python train.py --batch-size 256 --max-epochs 60

Run by `zeusctl run zeusjob.yaml` it learns the batch size from run to run.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import logging
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import zeus_runtime
from zeus_runtime import ZeusDataLoader

TRAINING_SAMPLES = 1347  # of 1,797; the other 450 are for validation
SPLIT_SEED = 0  # the split is part of the data: the same in every run


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1,797 images of 8 x 8 pixels in [0, 1], shape (1797, 64), and their labels.

    The file lies beside this script, as in the example's image, or else in scikit-learn's
    folder. It is read without importing scikit-learn, which would take longer than the training.
    """
    path = Path(__file__).with_name("digits.csv.gz")
    if not path.exists():
        package = importlib.util.find_spec("sklearn")
        if package is None or package.origin is None:
            raise SystemExit(
                "this example takes its data from scikit-learn: pip install scikit-learn"
            )
        path = Path(package.origin).parent / "datasets" / "data" / path.name
    with gzip.open(path, "rt") as lines:
        rows = [[float(value) for value in line.split(",")] for line in lines]
    table = torch.tensor(rows)
    return table[:, :64] / 16.0, table[:, 64].long()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=zeus_runtime.batch_size(256))
    parser.add_argument("--learning-rate", type=float, default=zeus_runtime.learning_rate(0.05))
    parser.add_argument("--max-epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=zeus_runtime.seed(0))
    return parser.parse_args()


def accuracy(model: nn.Module, loader: ZeusDataLoader) -> float:
    """Return the share of images that the model recognizes."""
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


class Sgd:
    """SGD with momentum, step for step what `torch.optim.SGD` does.

    Your script keeps its `torch.optim`.  This one does without, because the first optimizer
    of a process imports torch's compiler, which takes longer than the whole training here.
    """

    def __init__(self, model: nn.Module, learning_rate: float, momentum: float = 0.9) -> None:
        self._parameters = list(model.parameters())
        self._velocities = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._learning_rate = learning_rate
        self._momentum = momentum

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter by its velocity."""
        for parameter, velocity in zip(self._parameters, self._velocities, strict=True):
            velocity.mul_(self._momentum).add_(parameter.grad)
            parameter.add_(velocity, alpha=-self._learning_rate)


def main() -> None:
    """Train until the validation accuracy is good enough."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    torch.set_num_threads(1)  # a network this small gains nothing from more

    images, labels = load_digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, validation = order[:TRAINING_SAMPLES], order[TRAINING_SAMPLES:]
    torch.manual_seed(arguments.seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = Sgd(model, arguments.learning_rate)

    train_loader = ZeusDataLoader(
        TensorDataset(images[train], labels[train]),
        batch_size=arguments.batch_size,
        max_epochs=arguments.max_epochs,
        shuffle=True,
    )
    validation_loader = ZeusDataLoader(
        TensorDataset(images[validation], labels[validation]), batch_size=450
    )

    for epoch in train_loader.epochs():
        model.train()
        for batch_images, batch_labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch_images), batch_labels)
            loss.backward()
            optimizer.step()
        metric = accuracy(model, validation_loader)
        print(f"epoch {epoch + 1}: validation accuracy {metric:.4f}", flush=True)
        train_loader.report_metric(metric)


if __name__ == "__main__":
    main()
