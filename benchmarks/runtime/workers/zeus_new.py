"""Zeus 0.16.0 (PyPI: zeus): `python zeus_new.py optimizer STEPS ANSWERS`.

Its `GlobalPowerLimitOptimizer` around a plain `DataLoader`, and a window of its monitor around each
epoch, since nothing else would measure it.  Waiting for a CUDA device is left out: there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import without_cuda
from loop import LOADER_ARGUMENTS, Batches, Body, Epoch, clock, serve
from torch.utils.data import DataLoader
from zeus.monitor import ZeusMonitor
from zeus.optimizer.power_limit import Done, GlobalPowerLimitOptimizer

WARM_UP_STEPS, PROFILE_STEPS = 100, 1000
"""A window must be longer than a tick of the energy counter, or its profile is of zeros."""


class WithOptimizer:
    """Its optimizer and monitor."""

    def __init__(self, steps: int) -> None:
        self._train: DataLoader[Any] = DataLoader(Batches(steps), **LOADER_ARGUMENTS)
        self._evaluation: DataLoader[Any] = DataLoader(Batches(1), **LOADER_ARGUMENTS)
        self._monitor = ZeusMonitor(gpu_indices=[0], sync_execution_with=without_cuda.FRAMEWORK)
        self.optimizer = GlobalPowerLimitOptimizer(
            self._monitor, warmup_steps=WARM_UP_STEPS, profile_steps=PROFILE_STEPS
        )

    def epoch(self, body: Body, epoch: Epoch) -> Iterator[None]:
        """Train for one epoch."""
        optimizer, begin = self.optimizer, clock()
        add = epoch.gaps_ns.append
        optimizer.on_epoch_begin()
        self._monitor.begin_window("epoch")
        end = clock()
        for batch in self._train:
            optimizer.on_step_begin()
            start = clock()
            add(start - end)
            body(batch)
            yield
            end = clock()
            optimizer.on_step_end()
        self._monitor.end_window("epoch")
        optimizer.on_epoch_end()
        for _ in self._evaluation:
            pass
        epoch.whole_ns = clock() - begin


def main() -> None:
    """Serve."""
    steps = int(sys.argv[2])
    rival = WithOptimizer(steps)
    serve(rival.epoch, lambda: isinstance(rival.optimizer.state, Done), steps)


if __name__ == "__main__":
    main()
