"""Trains a linear model with `ZeusDataLoader` in micro-batches and tells what came of it.

    python accumulation_script.py '{"batch_size": 12, "largest_micro_batch": 4, "epochs": 2}'

Ends with one line of JSON.  The loop is the one that `update_due` documents.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch.utils.data import TensorDataset

from zeus_runtime import ZeusDataLoader

SAMPLES = 48


def main() -> None:
    """Train as planned."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    inputs = torch.randn(PLAN.get("samples", SAMPLES), 3)
    data = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ZeusDataLoader(
        data,
        batch_size=PLAN["batch_size"],
        largest_micro_batch=PLAN.get("largest_micro_batch"),
        max_epochs=50,
    )
    found: dict[str, Any] = {"sizes": [], "steps": [], "updates": 0}
    for epoch in loader.epochs():
        for features, targets in loader:
            found["sizes"].append(len(targets))
            loss = torch.nn.functional.mse_loss(model(features), targets)
            (loss / loader.accumulation_steps).backward()
            if loader.update_due:
                optimizer.step()
                optimizer.zero_grad()
                found["updates"] += 1
        found["steps"].append(loader.run.steps)
        loader.report_metric(0.95 if epoch + 1 == PLAN["epochs"] else 0.1)
    found["weights"] = [value for each in model.parameters() for value in each.flatten().tolist()]
    print(json.dumps(found))


PLAN: dict[str, Any] = json.loads(sys.argv[1])
if __name__ == "__main__":
    main()
