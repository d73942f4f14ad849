"""A training loop without torch on the real `TrainingRun`, told by arguments what happens.

    python training_loop.py '{"metrics": [0.2, 0.5, 0.95], "steps": 20}'

After each epoch named in `pause_after` it prints "paused" and waits for a line.  With `checkpoint`,
the path of a file, it goes on where the one before it was after its last checkpoint.  After the
epoch `ends_here`, or SIGTERM if it `heeds_sigterm`, it ends the training by itself, and `leaves`
the loop, or not.  It hears of SIGTERM from "before" the run is made on, or from "after" that, and
then calls the handler that it replaces.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from zeus_runtime.run import TrainingRun


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def main(plan: dict[str, Any]) -> None:
    """Train as planned."""
    steps, samples = plan.get("steps", 10), plan.get("samples", 16)
    asked: list[int] = []
    if plan.get("heeds_sigterm") == "before":
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    metrics = [math.nan if m is None else float(m) for m in plan.get("metrics", ())]
    run = TrainingRun(
        max_epochs=plan.get("max_epochs", 50),
        batch_size=plan.get("batch_size", samples),
        steps_per_epoch=steps,
        on_stop=plan.get("on_stop", "raise"),
    )
    if plan.get("heeds_sigterm") == "after":
        hear_as_well(asked)
    checkpoint = Path(plan["checkpoint"]) if "checkpoint" in plan else None
    if checkpoint is not None and checkpoint.exists():
        print("goes on" if run.load_state_dict(json.loads(checkpoint.read_text())) else "begins")
    while run.next_epoch():
        for _ in range(steps):
            run.begin_step(samples)
            run.end_step()
        run.end_epoch()
        run.begin_work(samples / 3)
        run.finish_work()
        if run.epochs <= len(metrics):
            run.report_metric(metrics[run.epochs - 1])
        elif plan.get("repeat_last") and metrics:
            run.report_metric(metrics[-1])
        if checkpoint is not None and run.epochs <= plan.get("last_checkpoint", math.inf):
            checkpoint.write_text(json.dumps(run.state_dict()))
        if plan.get("fail_after") == run.epochs:
            raise OutOfMemoryError("no room") if plan["failure"] == "oom" else KeyError("oops")
        if run.epochs in plan.get("pause_after", ()):
            print("paused", flush=True)
            sys.stdin.readline()
        if asked or plan.get("ends_here") == run.epochs:
            run.end_here()
            if plan.get("leaves"):
                break
    if plan.get("fails_at_end"):
        raise KeyError("oops")
    run.finish()
    run.raise_if_stopped()
    print("saved the model", flush=True)


def hear_as_well(asked: list[int]) -> None:
    """Note SIGTERM, and call whoever heard of it before."""

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        assert callable(former)
        former(number, frame)

    former = signal.signal(signal.SIGTERM, hear)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
