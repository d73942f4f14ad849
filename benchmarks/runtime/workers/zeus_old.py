"""Zeus 0.4.0 (PyPI: zeus-ml): `python zeus_old.py loader STEPS ANSWERS`, its `ZeusDataLoader`.

Waiting for a CUDA device is left out: there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import without_cuda
import zeus.monitor
from loop import LOADER_ARGUMENTS, Batches, Body, Epoch, clock, serve, timed_steps
from zeus.run import ZeusDataLoader

zeus.monitor.cuda_sync = without_cuda.synchronize

EPOCHS = 100_000
METRIC = 0.1


class WithLoader:
    """Its data loader, as its documentation shows it."""

    def __init__(self, steps: int) -> None:
        self.train: Any = ZeusDataLoader(Batches(steps), max_epochs=EPOCHS, **LOADER_ARGUMENTS)
        self._evaluation: Any = ZeusDataLoader(Batches(1), **LOADER_ARGUMENTS)
        self._epochs = self.train.epochs()

    def epoch(self, body: Body, epoch: Epoch) -> Iterator[None]:
        """Train for one epoch."""
        begin = clock()
        next(self._epochs)
        yield from timed_steps(self.train, body, epoch)
        for _ in self._evaluation:
            pass
        self.train.report_metric(METRIC, higher_is_better=True)
        epoch.whole_ns = clock() - begin


def main() -> None:
    """Serve."""
    steps = int(sys.argv[2])
    rival = WithLoader(steps)
    serve(rival.epoch, lambda: Path(rival.train.power_json).exists(), steps)


if __name__ == "__main__":
    main()
