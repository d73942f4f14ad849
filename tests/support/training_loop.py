"""A training loop without torch on the real `TrainingRun`, told by arguments what happens.

    python training_loop.py '{"metrics": [0.2, 0.5, 0.95], "steps": 20}'

After each epoch named in `pause_after` it prints "paused" and waits for a line.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from zeus_runtime.run import TrainingRun


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def main(plan: dict[str, Any]) -> None:
    """Train as planned."""
    steps, samples = plan.get("steps", 10), plan.get("samples", 16)
    metrics = [math.nan if m is None else float(m) for m in plan.get("metrics", ())]
    run = TrainingRun(
        max_epochs=plan.get("max_epochs", 50),
        batch_size=plan.get("batch_size", samples),
        steps_per_epoch=steps,
        on_stop=plan.get("on_stop", "raise"),
    )
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
        if plan.get("fail_after") == run.epochs:
            raise OutOfMemoryError("no room") if plan["failure"] == "oom" else KeyError("oops")
        if run.epochs in plan.get("pause_after", ()):
            print("paused", flush=True)
            sys.stdin.readline()
    run.finish()
    run.raise_if_stopped()
    print("saved the model", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
