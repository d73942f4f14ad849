"""Trains until a limit is held and then watches every call of many steps: `loader|free STEPS`.

The simulated GPU is taken for a real one, whose steps declare no work to it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import zeus_runtime
from zeus_runtime import ZeusDataLoader
from zeus_runtime.protocol import decode_result
from zeus_runtime.run import TrainingRun
from zeus_runtime.simulated import SimulatedWork

OURS = str(Path(zeus_runtime.__file__).parent)
FILE_MODULES = ("posix", "_io", "io", "_socket", "_posixsubprocess")
AUDITED = ("open", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "glob.", "pathlib.")
FIRST_STEPS = 10
MOST_EPOCHS = 500
EPOCHS_WITHOUT_AGENT = 3
TRAINED_SECONDS = 1.0


class Watch:
    """Counts what the main thread calls while it is open."""

    def __init__(self) -> None:
        self.functions: Counter[str] = Counter()
        self.calls_out: Counter[str] = Counter()
        self.audit_events: Counter[str] = Counter()
        self._open = False
        sys.addaudithook(self._audit)

    def __enter__(self) -> Watch:
        sys.setprofile(self._see)
        self._open = True
        return self

    def __exit__(self, *error: object) -> None:
        self._open = False
        sys.setprofile(None)

    def _see(self, frame: Any, event: str, function: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(OURS):
            self.functions[f"{Path(path).name}:{frame.f_code.co_name}"] += 1
        elif event == "c_call" and function is not sys.setprofile:
            of_system = getattr(function, "__module__", None) in FILE_MODULES
            if of_system or path.startswith(OURS):
                self.calls_out[function.__name__] += 1

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        del arguments
        main = threading.current_thread() is threading.main_thread()
        if self._open and main and event.startswith(AUDITED):
            self.audit_events[event] += 1


def take_gpu_for_a_real_one() -> None:
    def of_library(library: Any, uuid: str, environ: Any) -> None:
        del library, uuid, environ

    SimulatedWork.of_library = of_library  # type: ignore[assignment,method-assign]  # as it says


def holds_a_limit() -> bool:
    path = Path(os.environ["ZEUS_RESULT_PATH"])
    result = decode_result(path.read_bytes()) if path.exists() else None
    return result is not None and result.power_limit_watts is not None


def epochs_of_loader(data: TensorDataset) -> Iterator[Iterator[Any]]:
    """Yield the batches of each epoch, as `ZeusDataLoader` serves them."""
    loader = ZeusDataLoader(data, batch_size=16, max_epochs=MOST_EPOCHS)
    for _ in loader.epochs():
        yield iter(loader)
        loader.report_metric(0.1)


def epochs_without_loader(data: TensorDataset) -> Iterator[Iterator[Any]]:
    """Yield the same from a loop on a `TrainingRun`."""
    loader = DataLoader(data, batch_size=16)
    run = TrainingRun(max_epochs=MOST_EPOCHS, batch_size=16, steps_per_epoch=len(loader))

    def batches() -> Iterator[Any]:
        for batch in loader:
            run.begin_step(16)
            yield batch
            run.end_step()
        run.end_epoch()

    while run.next_epoch():
        yield batches()
        run.report_metric(0.1)


def other_threads_seconds() -> dict[str, float]:
    """Return the processor time of each thread but the main one."""
    used = {}
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            used[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return used


def main() -> None:
    kind, steps = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    take_gpu_for_a_real_one()
    data = TensorDataset(torch.zeros(16 * (steps + 2 * FIRST_STEPS), 2))
    watch, trained = Watch(), 0
    for batches in (epochs_of_loader if kind == "loader" else epochs_without_loader)(data):
        trained += 1
        ready = holds_a_limit() if "ZEUS_AGENT" in os.environ else trained > EPOCHS_WITHOUT_AGENT
        if not ready:
            for _ in batches:
                pass
            continue
        for _ in range(FIRST_STEPS):
            next(batches)
        with watch:
            for _ in range(steps):
                next(batches)
        before, begin = other_threads_seconds(), time.thread_time()
        while time.thread_time() - begin < TRAINED_SECONDS:
            sum(range(1000))
        after = other_threads_seconds()
        break
    found = {
        "holds a limit": holds_a_limit(),
        "functions": watch.functions,
        "calls out of Python": watch.calls_out,
        "audit events": watch.audit_events,
        "busiest other thread": max(
            (after[task] - before.get(task, 0.0) for task in after), default=0.0
        ),
        "other threads": len(after),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
