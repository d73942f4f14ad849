"""Trains ResNet-50 on ImageNet, on all GPUs of a machine, until it is good enough.

    torchrun --standalone --nproc-per-node=4 train.py --data ~/imagenet --batch-size 256

Run by a ZeusJob (`zeusjob.yaml`) it learns the batch size from run to run.
"""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from schedule import share_of_rate
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler
from torchvision.datasets import ImageFolder
from torchvision.models import resnet50
from torchvision.transforms import v2

import zeus_runtime
from zeus_runtime import StopTraining, ZeusDataLoader

AS_NUMBERS = (
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="has the folders train and val")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="of all GPUs together; in a ZeusJob its own"
    )
    parser.add_argument(
        "--largest-micro-batch", type=int, help="images that fit into one GPU; none: all"
    )
    parser.add_argument("--learning-rate", type=float, default=zeus_runtime.learning_rate(0.1))
    parser.add_argument("--max-epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=zeus_runtime.seed(0))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument(
        "--width", type=int, default=64, help="channels inside of a block; 64: as published"
    )
    parser.add_argument("--workers", type=int, default=8, help="loading processes of each GPU")
    parser.add_argument(
        "--checkpoints", type=Path, help="folder that outlives the pod; an interrupted run goes on"
    )
    parser.add_argument("--save", type=Path, help="file for the model that is good enough")
    return parser.parse_args()


def read_images(folder: Path, *transforms: nn.Module) -> ImageFolder:
    """Return the images of a folder that has one folder for each class."""
    return ImageFolder(str(folder), v2.Compose([*transforms, *AS_NUMBERS]))


def train(
    model: DistributedDataParallel,
    loader: ZeusDataLoader[Any],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    """Do one epoch, in half precision where there are GPUs."""
    model.train()
    for images, labels in loader:
        inputs = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        targets = labels.to(device, non_blocking=True)
        # Of a batch that comes in parts, the gradients of all processes meet at the last one.
        with nullcontext() if loader.update_due else model.no_sync():
            with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
                loss = nn.functional.cross_entropy(model(inputs), targets, label_smoothing=0.1)
            scaler.scale(loss / loader.accumulation_steps).backward()
        if loader.update_due:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


@torch.no_grad()
def accuracy(model: nn.Module, loader: ZeusDataLoader[Any], device: torch.device) -> float:
    """Return the share of images whose class the model finds, the same on every process.

    The sampler gives all processes equally many images, a few of them twice.
    """
    model.eval()
    right_and_all = torch.zeros(2, device=device)
    for images, labels in loader:
        inputs = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            found = model(inputs).argmax(dim=1)
        right_and_all[0] += (found == labels.to(device, non_blocking=True)).sum()
        right_and_all[1] += len(labels)
    dist.all_reduce(right_and_all)
    return float(right_and_all[0] / right_and_all[1])


class Checkpoint:
    """What an interrupted run goes on from: a file for each attempt, with the run's own state.

    Every process loads it, that of rank 0 writes it.

    Args:
        folder: None: nothing is kept.
        parts: what has a `state_dict`.
    """

    def __init__(self, folder: Path | None, loader: ZeusDataLoader[Any], **parts: Any) -> None:
        recurrence, attempt = (os.environ.get(f"ZEUS_{n}", "0") for n in ("RECURRENCE", "ATTEMPT"))
        self._path = None if folder is None else folder / f"{recurrence}-{attempt}.pt"
        self._writes = dist.get_rank() == 0
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
        if self._path is None or not self._writes:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        torch.save({**state, "zeus": self._loader.state_dict()}, new)
        new.replace(self._path)

    def remove(self) -> None:
        """The run is over."""
        if self._path is not None and self._writes:
            self._path.unlink(missing_ok=True)


def main() -> None:
    """Train until the accuracy on the validation images is good enough."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    on_gpu = torch.cuda.is_available()
    local_rank = int(os.environ["LOCAL_RANK"])  # torchrun says it
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    # Other random parts of images on each process; the model becomes that of rank 0 on all.
    torch.manual_seed(arguments.seed + dist.get_rank())
    torch.backends.cudnn.benchmark = True

    size = arguments.image_size
    train_set = read_images(
        arguments.data / "train", v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()
    )
    validation_set = read_images(
        arguments.data / "val", v2.Resize(size * 256 // 224), v2.CenterCrop(size)
    )
    loading = {
        "num_workers": arguments.workers,
        "persistent_workers": arguments.workers > 0,
        "pin_memory": on_gpu,
        "distributed": "dp",
    }
    train_loader = ZeusDataLoader(
        train_set,
        batch_size=zeus_runtime.local_batch_size(arguments.batch_size),
        largest_micro_batch=arguments.largest_micro_batch,
        max_epochs=arguments.max_epochs,
        sampler=DistributedSampler(train_set, seed=arguments.seed),
        drop_last=True,
        **loading,
    )
    validation_loader = ZeusDataLoader(
        validation_set,
        batch_size=128,
        sampler=DistributedSampler(validation_set, shuffle=False),
        **loading,
    )

    network = resnet50(
        num_classes=len(train_set.classes),
        width_per_group=arguments.width,
        zero_init_residual=True,  # each block begins as the identity: better with large batches
    )
    network.to(device=device, memory_format=torch.channels_last)
    model = DistributedDataParallel(network, device_ids=[local_rank] if on_gpu else None)
    optimizer = torch.optim.SGD(
        model.parameters(), arguments.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-5
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: share_of_rate(epoch, arguments.max_epochs)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)

    parts = {"model": network, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    checkpoint = Checkpoint(arguments.checkpoints, train_loader, **parts)
    checkpoint.load(device)
    try:
        for epoch in train_loader.epochs():
            train(model, train_loader, optimizer, scaler, device)
            metric = accuracy(network, validation_loader, device)
            schedule.step()
            if dist.get_rank() == 0:
                print(f"epoch {epoch + 1}: validation accuracy {metric:.4f}", flush=True)
            train_loader.report_metric(metric)
            checkpoint.save()
    except StopTraining:  # on every process, after the same epoch
        checkpoint.remove()
        dist.destroy_process_group()
        raise
    if arguments.save is not None and dist.get_rank() == 0:
        torch.save(network.state_dict(), arguments.save)
    checkpoint.remove()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
