"""What a user may do with `ZeusDataLoader`, checked from inside one process with torch."""

from __future__ import annotations

import json
import os

import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from zeus_runtime import ZeusDataLoader
from zeus_runtime.run import TrainingRun


def refusal(**arguments: object) -> str:
    """Return why a loader is refused."""
    try:
        ZeusDataLoader(DATA, **arguments)  # type: ignore[arg-type]  # wrong on purpose
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


DATA = TensorDataset(torch.arange(100).float().reshape(50, 2), torch.arange(50))
found: dict[str, object] = {}

evaluation = ZeusDataLoader(DATA, batch_size=8)  # made before the training loader
sampler = DistributedSampler(DATA, num_replicas=1, rank=0, shuffle=True)
training = ZeusDataLoader(
    DATA, batch_size=16, max_epochs=3, distributed="dp", sampler=sampler, num_workers=1
)
found["is a DataLoader"] = isinstance(training, DataLoader)
found["batches"] = len(training)

orders, epochs, steps = [], [], []
for epoch in training.epochs():
    epochs.append(epoch)
    orders.append(torch.cat([labels for _, labels in training]).tolist())
    steps.append(training.run.steps)
    seen = [len(labels) for _, labels in evaluation]
    training.report_metric(0.1 * epoch)
found["epochs"] = epochs
found["steps"] = steps
found["every sample once"] = all(sorted(order) == list(range(50)) for order in orders)
found["shuffled anew by set_epoch"] = orders[0] != orders[1]
found["evaluation batches"] = seen
found["plain iteration outside of epochs"] = sum(1 for _ in training)
found["steps after it"] = training.run.steps

plain = TrainingRun(max_epochs=1, batch_size=1)
found["runs that know no end"] = plain.should_stop
plain.finish()

found["evaluation has no epochs"] = ""
try:
    list(evaluation.epochs())
except RuntimeError as error:
    found["evaluation has no epochs"] = str(error)
found["distributed"] = refusal(distributed="ddp")
found["max_epochs"] = refusal(max_epochs=0)
found["on_stop"] = refusal(max_epochs=1, on_stop="exit")
os.environ["WORLD_SIZE"] = "2"
found["several processes"] = refusal(max_epochs=1)
print(json.dumps(found))
