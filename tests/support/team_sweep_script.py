"""Trains with several processes on `ZeusDataLoader` and tells what each was served.

    python team_sweep_script.py '{"batch_size": 16, "metrics": [0.1, 0.1, 0.95]}'

Started as `team_script.py` is, and reducing a number over all in every step as that does.  The last
line is JSON: for each epoch the batches, as [labels, power limit in watts], and the joules of this
process's GPU over the sweep and around it.

`of_rank` changes the plan of one rank: with `collates` it can make no batch of more samples, from
the second one on if it `collates_once`.  At `pause` = {"rank": r, "samples": n} that rank prints
"paused" with the second batch of n samples of the second epoch, and waits for a line.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DistributedSampler, TensorDataset

from gpu_simulator import Simulator
from zeus_runtime import ZeusDataLoader, local_batch_size, sweep

SAMPLES = 3200  # of all processes

# Every size is worth its time here, whatever else keeps the machine busy.
sweep.WINDOW_SHARE = sweep.GIVE_UP_SHARE = math.inf


class Collate:
    """Stacks samples; too many are too many for it, if it is told so."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.most = plan.get("collates", SAMPLES)
        self.spared = int(plan.get("collates_once", False))

    def __call__(self, samples: list[Any]) -> Any:
        if len(samples) > self.most:
            if not self.spared:
                raise ValueError("a batch of so many samples")
            self.spared -= 1
        return torch.utils.data.default_collate(samples)


def main(plan: dict[str, Any]) -> None:
    """Train as planned."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(
        "gloo", init_method=f"file://{os.environ['TEAM_STORE']}", rank=rank, world_size=size
    )
    plan = {**plan, **plan.get("of_rank", {}).get(str(rank), {})}
    torch.manual_seed(3 + rank)
    data = TensorDataset(torch.zeros(SAMPLES, 1), torch.arange(SAMPLES))
    loader = ZeusDataLoader(
        data,
        batch_size=local_batch_size(plan["batch_size"]),
        max_epochs=50,
        distributed="dp",
        sampler=DistributedSampler(data, num_replicas=size, rank=rank, seed=3),
        collate_fn=Collate(plan),
    )
    train(plan, rank, loader)
    distributed.destroy_process_group()


def train(plan: dict[str, Any], rank: int, loader: ZeusDataLoader[Any]) -> None:
    """Do the epochs and tell what was seen."""
    gpu = Simulator(Path(os.environ["GPU_SIM_STATE"]))
    index = int(os.environ["GPU_INDEX"])
    metrics, pause = plan["metrics"], plan.get("pause", {})
    told: dict[str, Any] = {"epochs": []}
    for epoch in loader.epochs():
        batches: list[Any] = []
        joules = [gpu.true_energy_joules(index)]  # at the beginning, and with each batch
        for _, labels in loader:
            batches.append([labels.tolist(), gpu.power_limit_watts(index)])
            distributed.all_reduce(torch.rand(len(labels)).sum())  # draws, as dropout does
            joules.append(gpu.true_energy_joules(index))
            same = [len(before) for before, _ in batches[-2:]]
            if epoch == 1 and rank == pause.get("rank") and same == [pause["samples"]] * 2:
                print("paused", flush=True)
                sys.stdin.readline()
        if epoch == 1:
            swept = len(batches) - len(loader)
            told["joules_within"] = joules[swept] - joules[1] if swept else 0.0
            told["joules_around"] = joules[swept + 1] - joules[0]
        told["epochs"].append(batches)
        loader.report_metric(metrics[min(epoch + 1, len(metrics)) - 1])
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
