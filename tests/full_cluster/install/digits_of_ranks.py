"""Trains the network of `examples/digits` in several processes, each on its share of every batch.

Runs in pods of the example's image, beside whose script it is put.  Whoever starts the processes
tells them of each other by torch's variables: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DistributedSampler, TensorDataset
from train import SPLIT_SEED, TRAINING_SAMPLES, Sgd, load_digits, parse_arguments

import zeus_runtime
from zeus_runtime import ZeusDataLoader


def average_gradients(model: nn.Module) -> None:
    """Give every process the mean of the gradients of all, in one message."""
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def accuracy(model: nn.Module, loader: ZeusDataLoader) -> float:
    """Return the share of images that the model recognizes, the same on every process."""
    right_and_all = torch.zeros(2)
    for images, labels in loader:
        right_and_all[0] += (model(images).argmax(1) == labels).sum()
        right_and_all[1] += len(labels)
    dist.all_reduce(right_and_all)
    return float(right_and_all[0] / right_and_all[1])


def main() -> None:
    """Train until the validation accuracy is good enough."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")

    images, labels = load_digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, validation = order[:TRAINING_SAMPLES], order[TRAINING_SAMPLES:]
    train_set = TensorDataset(images[train], labels[train])
    validation_set = TensorDataset(images[validation], labels[validation])
    torch.manual_seed(arguments.seed)  # the same on all: they begin with the same model
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = Sgd(model, arguments.learning_rate)

    train_loader = ZeusDataLoader(
        train_set,
        batch_size=zeus_runtime.local_batch_size(arguments.batch_size),
        max_epochs=arguments.max_epochs,
        sampler=DistributedSampler(train_set, seed=arguments.seed),
        distributed="dp",
    )
    validation_loader = ZeusDataLoader(
        validation_set,
        batch_size=len(validation),
        sampler=DistributedSampler(validation_set, shuffle=False),
        distributed="dp",
    )

    for epoch in train_loader.epochs():
        for batch_images, batch_labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch_images), batch_labels).backward()
            average_gradients(model)
            optimizer.step()
        metric = accuracy(model, validation_loader)
        if dist.get_rank() == 0:
            print(f"epoch {epoch + 1}: validation accuracy {metric:.4f}", flush=True)
        train_loader.report_metric(metric)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
