"""A training loop of several processes on the real runs, told by arguments what happens.

    python team_script.py '{"metrics": [0.2, 0.95], "steps": 20}'

Started once for each rank, with the variables of a launcher and `TEAM_STORE`, the file by which
torch's processes find each other.  Every step reduces a number over all, as the gradients of data
parallel training are: who is gone is missed at the next step.  The last line tells as JSON what
this process saw.

At `pause` = {"rank": r, "at": "step 30" | "report 2"} that rank prints "paused" and waits for a
line; the others go on until they need it.

Where one that `heeds_sigterm` gets SIGTERM, all end the training after that epoch, and `leaves` the
loop, or not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from gpu_simulator import Simulator
from zeus_runtime import start_run

SAMPLES = 32  # of one process and step: some milliseconds, of which the GPU's are most
TIMEOUT_SECONDS = 20.0
"""Of the process group, which is the framework's own."""


def main(plan: dict[str, Any]) -> None:
    """Train as planned."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['TEAM_STORE']}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
    )
    if "default_device" in plan:
        torch.set_default_device(plan["default_device"])
    train(plan, rank)
    distributed.destroy_process_group()


def train(plan: dict[str, Any], rank: int) -> None:
    """Do the epochs and tell what was seen."""
    own = plan.get("of_rank", {}).get(str(rank), {})
    plan = {**plan, **own}
    steps, metrics = plan.get("steps", 20), plan.get("metrics", [0.1])
    asked: list[int] = []
    if plan.get("heeds_sigterm"):
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    gpu = Simulator(Path(os.environ["GPU_SIM_STATE"]))
    index = int(os.environ["GPU_INDEX"])
    seen: dict[str, Any] = {"rank": rank, "limits": [], "stops": []}
    run = start_run(
        max_epochs=plan.get("max_epochs", 50),
        batch_size=plan.get("batch_size", 16),
        steps_per_epoch=steps,
        on_stop=plan.get("on_stop", "raise"),
    )
    # The run's energy is between both: what it takes to begin and to end is in the second alone.
    around = gpu.true_energy_joules(index)
    within = 0.0
    while run.next_epoch():
        if run.epochs == 0:
            within = gpu.true_energy_joules(index)
        for step in range(steps):
            run.begin_step(plan.get("samples", SAMPLES))
            if plan.get("reduce", True):
                distributed.all_reduce(torch.ones(1, device="cpu"))
            run.end_step()
            pause_if(plan, rank, f"step {run.steps}")
            if plan.get("fail_at") == run.steps:
                raise RuntimeError("CUDA error: out of memory")
            seen["limits"].append((run.epochs, step, gpu.power_limit_watts(index)))
        run.end_epoch()
        run.begin_work(plan.get("samples", SAMPLES) / 3)
        run.finish_work()
        run.report_metric(metrics[min(run.epochs, len(metrics)) - 1])
        pause_if(plan, rank, f"report {run.epochs}")
        seen["joules_within"] = gpu.true_energy_joules(index) - within
        if plan.get("heeds_sigterm") and is_so_anywhere(bool(asked)):
            run.end_here()
            if plan.get("leaves"):
                break
    run.finish()
    seen["joules_around"] = gpu.true_energy_joules(index) - around
    seen |= {"epochs": run.epochs, "steps": run.steps}
    seen["limits"] = seen["limits"][:: plan.get("limits_every", 1)]
    seen["ending"] = None if run.ending is None else run.ending.reason
    print(json.dumps(seen), flush=True)
    run.raise_if_stopped()
    print("saved the model", flush=True)


def is_so_anywhere(here: bool) -> bool:
    """Return on every process whether it is so on one of them."""
    count = torch.tensor([float(here)], device="cpu")
    distributed.all_reduce(count)
    return bool(count.item())


def pause_if(plan: dict[str, Any], rank: int, place: str) -> None:
    """Wait where the plan says so."""
    pause = plan.get("pause")
    if pause is not None and (pause["rank"], pause["at"]) == (rank, place):
        print("paused", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
