"""Trains with `ZeusDataLoader` on torch tensors and tells what it was served.

    python sweep_script.py '{"batch_size": 16, "epochs": 3}'

Ends with one line of JSON: for each epoch the batches, as [labels, power limit in watts].
`{"at": 64, "do": "oom"}` does something else with the first batch of 64 samples after
the first epoch.

Every size is worth its time here, whatever else keeps the machine busy; when it is not is the
matter of pure tests.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from typing import Any

import pynvml
import torch
from torch.utils.data import IterableDataset, SubsetRandomSampler, TensorDataset

from zeus_runtime import ZeusDataLoader, sweep

SAMPLES = 8000

sweep.WINDOW_SHARE = sweep.GIVE_UP_SHARE = math.inf


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class Stream(IterableDataset):
    """The same samples, as a stream."""

    def __iter__(self) -> Any:
        return iter([(torch.tensor([0.0]), label) for label in range(SAMPLES)])

    def __len__(self) -> int:
        return SAMPLES


def collate(samples: list[Any]) -> Any:
    """Stack samples; too many are too many for it, if it is told so."""
    if len(samples) > PLAN.get("collates", SAMPLES):
        raise ValueError("a batch of so many samples")
    return torch.utils.data.default_collate(samples)


def power_limit_watts() -> float:
    """Return what the GPU has now."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return float(pynvml.nvmlDeviceGetPowerManagementLimit(handle)) / 1e3


def act(what: str) -> bool:
    """Do what was planned; return whether to leave the loop."""
    if what == "oom":
        raise OutOfMemoryError("no room")
    if what == "crash":
        raise ValueError("only batches of the usual size, please")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return what == "break"


def main() -> None:
    """Train as planned."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    dataset: Any = TensorDataset(torch.zeros(SAMPLES, 1), torch.arange(SAMPLES))
    more: dict[str, Any] = {"shuffle": True}
    kind = PLAN.get("data", "plain")
    if kind == "stream":
        dataset, more = Stream(), {}
    elif kind == "subset":
        more = {"sampler": SubsetRandomSampler(range(SAMPLES // 2))}
    elif kind == "batch sampler":
        sampler = torch.utils.data.RandomSampler(dataset)
        batches = torch.utils.data.BatchSampler(sampler, PLAN["batch_size"], drop_last=False)
        more = {"batch_sampler": batches, "batch_size": 1}
    loader = ZeusDataLoader(
        dataset,
        **{"batch_size": PLAN["batch_size"], **more},
        max_epochs=50,
        num_workers=PLAN.get("workers", 0),
        collate_fn=collate,
    )
    epochs: list[Any] = []
    acted = False
    for epoch in loader.epochs():
        epochs.append([])
        for _, labels in loader:
            epochs[-1].append([labels.tolist(), power_limit_watts()])
            torch.rand(len(labels))  # as dropout does
            if epoch and len(labels) == PLAN.get("at") and not acted:
                acted = True
                if act(PLAN["do"]):
                    break
        loader.report_metric(0.95 if epoch + 1 == PLAN["epochs"] else 0.1)
    print(json.dumps(epochs))


PLAN: dict[str, Any] = json.loads(sys.argv[1])
if __name__ == "__main__":
    main()
