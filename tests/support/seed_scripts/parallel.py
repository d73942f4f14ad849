"""Training as Zeus's "getting started" shows for several GPUs; only the import is ours."""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import TensorDataset

from zeus_runtime import ZeusDataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--dist-backend", default="gloo")
parser.add_argument("--dist-url", default="env://")
parser.add_argument("--rank", type=int, default=-1)
parser.add_argument("--world-size", type=int, default=-1)
args = parser.parse_args()

generator = torch.Generator().manual_seed(1)
features = torch.randn(1024, 8, generator=generator)
labels = (features.sum(dim=1) > 0).long()
train_set = TensorDataset(features[:768], labels[:768])
eval_set = TensorDataset(features[768:], labels[768:])

# Step 1: Initialize the default process group.
dist.init_process_group(
    backend=args.dist_backend,
    init_method=args.dist_url,
    rank=args.rank,
    world_size=args.world_size,
)

# Step 2: Create a model and wrap it with `DistributedDataParallel`.
torch.manual_seed(1)
model = torch.nn.parallel.DistributedDataParallel(nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

# Step 3: Create instances of `DistributedSampler` to partition the dataset
# across the GPUs.
train_sampler = torch.utils.data.distributed.DistributedSampler(train_set)
eval_sampler = torch.utils.data.distributed.DistributedSampler(eval_set)

# Step 4: Create instances of `ZeusDataLoader`.
# Pass "dp" to `distributed` and samplers in the previous step to
# `sampler`.
# The one instantiated with `max_epochs` becomes the train dataloader.
train_loader = ZeusDataLoader(
    train_set, batch_size=64, max_epochs=20, sampler=train_sampler, distributed="dp"
)
eval_loader = ZeusDataLoader(eval_set, batch_size=64, sampler=eval_sampler, distributed="dp")

# Step 5: Put your training code here.
for _epoch_number in train_loader.epochs():
    for inputs, targets in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    right = torch.zeros(2)
    for inputs, targets in eval_loader:
        right[0] += (model(inputs).argmax(dim=1) == targets).sum()
        right[1] += len(targets)

    # If doing data parallel training, please make sure to call
    # `torch.distributed.all_reduce()` to reduce the validation metric
    # across all GPUs before calling `train_loader.report_metric()`.
    dist.all_reduce(right)
    train_loader.report_metric(float(right[0] / right[1]))

print("saved the model")
