"""Trains with several processes that go on from the checkpoint of rank 0.

    python team_resume_script.py '{"checkpoint": "/path", "metrics": [0.1, 0.95], "kill_after": 1}'

Started as `team_script.py` is.  After the epoch named in `kill_after` every process kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from zeus_runtime import start_run


def main(plan: dict[str, Any]) -> None:
    """Train as planned."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['TEAM_STORE']}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    checkpoint, metrics, steps = Path(plan["checkpoint"]), plan["metrics"], 20
    run = start_run(max_epochs=50, batch_size=16, steps_per_epoch=steps)
    went_on = checkpoint.exists() and run.load_state_dict(json.loads(checkpoint.read_text()))
    numbers = []
    while run.next_epoch():
        numbers.append(run.epochs)
        for _ in range(steps):
            run.begin_step(8)
            distributed.all_reduce(torch.ones(1))
            run.end_step()
        run.end_epoch()
        run.report_metric(metrics[run.epochs - 1])
        state = run.state_dict()
        if distributed.get_rank() == 0:
            checkpoint.write_text(json.dumps(state))
        distributed.barrier()
        if plan.get("kill_after") == run.epochs:
            os.kill(os.getpid(), signal.SIGKILL)
    run.finish()
    epochs = {"went_on": went_on, "numbers": numbers, "of_state": state_epochs(run.state_dict())}
    print(json.dumps(epochs), flush=True)
    distributed.destroy_process_group()


def state_epochs(state: dict[str, Any]) -> int:
    """Return how many epochs a state tells of."""
    return int(state["epochs"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
