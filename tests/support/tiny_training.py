"""A training script without torch, so that a run takes a second: copied next to a manifest.

It trains nothing, but everything else is real: the runtime, the power limit that it takes from
the agent, the energy of the work that the (simulated) GPU does, the result.
Arguments: how it ends, and how many epochs it takes.
"""

from __future__ import annotations

import math
import signal
import sys

import zeus_runtime
from zeus_runtime.run import TrainingRun

STEPS = 8


def main(behaviour: str = "reach", epochs: int = 3) -> None:
    """Train until the metric is good enough."""
    if behaviour == "crash":
        raise SystemExit("no such dataset: /data/train")
    if behaviour == "ignore-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    batch_size = zeus_runtime.batch_size(32)
    run = TrainingRun(max_epochs=100_000, batch_size=batch_size, steps_per_epoch=STEPS)
    print("training", flush=True)
    while run.next_epoch():
        for _ in range(STEPS):
            run.begin_step(batch_size)
            run.end_step()
        run.end_epoch()
        print("epoch", run.epochs, flush=True)
        if behaviour == "diverge":
            run.report_metric(math.nan)
        elif behaviour != "silent":
            run.report_metric(min(0.99, run.epochs / epochs))
        elif run.epochs == epochs:
            break
    run.finish()
    run.raise_if_stopped()


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
