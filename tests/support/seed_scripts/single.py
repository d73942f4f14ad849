"""Training as Zeus's "getting started" shows for one GPU; only the import is ours."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from zeus_runtime import ZeusDataLoader

generator = torch.Generator().manual_seed(1)
features = torch.randn(1024, 8, generator=generator)
labels = (features.sum(dim=1) > 0).long()
train_set = TensorDataset(features[:768], labels[:768])
eval_set = TensorDataset(features[768:], labels[768:])
model = nn.Linear(8, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

# The one instantiated with max_epochs becomes the train dataloader
train_loader = ZeusDataLoader(train_set, batch_size=64, max_epochs=20)
eval_loader = ZeusDataLoader(eval_set, batch_size=64)

for _epoch_number in train_loader.epochs():
    for inputs, targets in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    right = 0
    for inputs, targets in eval_loader:
        right += int((model(inputs).argmax(dim=1) == targets).sum())
    validation_metric = right / len(eval_set)

    train_loader.report_metric(validation_metric)

print("saved the model")
