"""Our runtime: `python ours.py loader|free STEPS ANSWERS`.

The simulated GPU is taken for a real one, whose steps declare no work to it: that takes 50 to
110 us and is the simulator's, not ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loop import LOADER_ARGUMENTS, Batches, Body, Epoch, clock, serve, timed_steps
from torch.utils.data import DataLoader

from zeus_runtime import ZeusDataLoader
from zeus_runtime.protocol import decode_result
from zeus_runtime.run import TrainingRun
from zeus_runtime.simulated import SimulatedWork

EPOCHS = 100_000
METRIC = 0.1


def take_gpu_for_a_real_one() -> None:
    """Find no declarations of work in the simulated driver, as in a real one."""

    def of_library(library: Any, uuid: str, environ: Any) -> None:
        del library, uuid, environ

    SimulatedWork.of_library = of_library  # type: ignore[assignment,method-assign]  # as it says


def settled() -> bool:
    """Whether a limit is held, as the result says."""
    path = Path(os.environ["ZEUS_RESULT_PATH"])
    result = decode_result(path.read_bytes()) if path.exists() else None
    return result is not None and result.power_limit_watts is not None


class WithLoader:
    """A `ZeusDataLoader`, as the documentation shows it."""

    def __init__(self, steps: int) -> None:
        self._train: ZeusDataLoader[Any] = ZeusDataLoader(
            Batches(steps), max_epochs=EPOCHS, **LOADER_ARGUMENTS
        )
        self._evaluation: ZeusDataLoader[Any] = ZeusDataLoader(Batches(1), **LOADER_ARGUMENTS)
        self._epochs = self._train.epochs()

    def epoch(self, body: Body, epoch: Epoch) -> Iterator[None]:
        """Train for one epoch."""
        begin = clock()
        next(self._epochs)
        yield from timed_steps(self._train, body, epoch)
        for _ in self._evaluation:
            pass
        self._train.report_metric(METRIC)
        epoch.whole_ns = clock() - begin


class WithoutLoader:
    """A `TrainingRun` around a plain `DataLoader`."""

    def __init__(self, steps: int) -> None:
        self._train: DataLoader[Any] = DataLoader(Batches(steps), **LOADER_ARGUMENTS)
        self._evaluation: DataLoader[Any] = DataLoader(Batches(1), **LOADER_ARGUMENTS)
        self._run = TrainingRun(max_epochs=EPOCHS, batch_size=1, steps_per_epoch=steps)

    def epoch(self, body: Body, epoch: Epoch) -> Iterator[None]:
        """Train for one epoch."""
        run, begin = self._run, clock()
        add = epoch.gaps_ns.append
        run.next_epoch()
        end = clock()
        for batch in self._train:
            run.begin_step(1)
            start = clock()
            add(start - end)
            body(batch)
            yield
            end = clock()
            run.end_step()
        run.end_epoch()
        for _ in self._evaluation:
            pass
        run.report_metric(METRIC)
        epoch.whole_ns = clock() - begin


def main() -> None:
    """Serve."""
    kind, steps = sys.argv[1], int(sys.argv[2])
    take_gpu_for_a_real_one()
    rival = WithLoader(steps) if kind == "loader" else WithoutLoader(steps)
    serve(rival.epoch, settled, steps)


if __name__ == "__main__":
    main()
