"""Trains ShuffleNet v2 on CIFAR-100, on one GPU, until it is good enough.

    python train.py --data ~/cifar-100-binary --batch-size 1024

Run by `zeusctl run zeusjob.yaml` it learns the batch size from run to run.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import torch
from data import CLASSES, augmented, normalized, read_images
from torch import nn
from torchvision import models

import zeus_runtime
from zeus_runtime import StopTraining, ZeusDataLoader

NETWORKS = {
    0.5: models.shufflenet_v2_x0_5,
    1.0: models.shufflenet_v2_x1_0,
    1.5: models.shufflenet_v2_x1_5,
    2.0: models.shufflenet_v2_x2_0,
}
"""ShuffleNet v2 of each width."""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="has train.bin and test.bin")
    parser.add_argument("--batch-size", type=int, default=zeus_runtime.batch_size(1024))
    parser.add_argument("--learning-rate", type=float, default=zeus_runtime.learning_rate(1.0))
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=zeus_runtime.seed(0))
    parser.add_argument("--width", type=float, default=1.0, choices=NETWORKS)
    parser.add_argument("--workers", type=int, default=4, help="processes that load images")
    parser.add_argument(
        "--checkpoints", type=Path, help="folder that outlives the pod; an interrupted run goes on"
    )
    parser.add_argument("--save", type=Path, help="file for the model that is good enough")
    return parser.parse_args()


def network(width: float) -> nn.Module:
    """Return ShuffleNet v2 for images of 32 x 32 pixels, which have no detail to give away."""
    model = NETWORKS[width](num_classes=CLASSES)
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    return model


def train(
    model: nn.Module,
    loader: ZeusDataLoader[Any],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    """Do one epoch, in half precision where there is a GPU."""
    model.train()
    for images, labels in loader:
        inputs = normalized(augmented(images.to(device, non_blocking=True)))
        with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
            logits = model(inputs)
            loss = nn.functional.cross_entropy(logits, labels.to(device, non_blocking=True))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


@torch.no_grad()
def accuracy(model: nn.Module, loader: ZeusDataLoader[Any], device: torch.device) -> float:
    """Return the share of images whose class the model finds."""
    model.eval()
    right = torch.zeros((), device=device)
    total = 0
    for images, labels in loader:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            found = model(normalized(images.to(device, non_blocking=True))).argmax(dim=1)
        right += (found == labels.to(device, non_blocking=True)).sum()
        total += len(labels)
    return float(right) / total


class Checkpoint:
    """What an interrupted run goes on from: a file for each attempt, with the run's own state.

    Args:
        folder: None: nothing is kept.
        parts: what has a `state_dict`.
    """

    def __init__(self, folder: Path | None, loader: ZeusDataLoader[Any], **parts: Any) -> None:
        recurrence, attempt = (os.environ.get(f"ZEUS_{n}", "0") for n in ("RECURRENCE", "ATTEMPT"))
        self._path = None if folder is None else folder / f"{recurrence}-{attempt}.pt"
        self._loader = loader
        self._parts = parts

    def load(self, device: torch.device) -> None:
        """Go on, if this attempt was interrupted."""
        if self._path is None or not self._path.exists():
            return
        saved = torch.load(self._path, map_location=device, weights_only=True)
        if self._loader.load_state_dict(saved["zeus"]):
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])

    def save(self) -> None:
        """Keep what was trained; the file is whole at any moment."""
        if self._path is None:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        torch.save({**state, "zeus": self._loader.state_dict()}, new)
        new.replace(self._path)

    def remove(self) -> None:
        """The run is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def main() -> None:
    """Train until the accuracy on the test images is good enough."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True

    model = network(arguments.width).to(device)
    # Without a schedule: how many epochs a run takes is then up to the batch size alone.
    optimizer = torch.optim.Adadelta(model.parameters(), lr=arguments.learning_rate)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    loading = {
        "num_workers": arguments.workers,
        "persistent_workers": arguments.workers > 0,
        "pin_memory": device.type == "cuda",
    }
    train_loader = ZeusDataLoader(
        read_images(arguments.data / "train.bin"),
        batch_size=arguments.batch_size,
        max_epochs=arguments.max_epochs,
        shuffle=True,
        **loading,
    )
    test_loader = ZeusDataLoader(
        read_images(arguments.data / "test.bin"), batch_size=1000, **loading
    )

    checkpoint = Checkpoint(
        arguments.checkpoints, train_loader, model=model, optimizer=optimizer, scaler=scaler
    )
    checkpoint.load(device)
    try:
        for epoch in train_loader.epochs():
            train(model, train_loader, optimizer, scaler, device)
            metric = accuracy(model, test_loader, device)
            print(f"epoch {epoch + 1}: test accuracy {metric:.4f}", flush=True)
            train_loader.report_metric(metric)
            checkpoint.save()
    except StopTraining:
        checkpoint.remove()
        raise
    if arguments.save is not None:
        torch.save(model.state_dict(), arguments.save)
    checkpoint.remove()


if __name__ == "__main__":
    main()
