"""What is read of real GPUs, for the tests and for the page that shows it.  Writes to no GPU.

`python -m tests.gpu.measured` prints the figures of this machine's GPUs as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from zeus_agent import nvml
from zeus_runtime.gpu import Gpu, open_gpu
from zeus_runtime.meter import EnergyMeter

SETTLE_SECONDS = 3.0
"""NVML's power is a mean over up to a second: so long until it says what the load draws."""

WINDOW_SECONDS = 5.0
POWER_PERIOD_SECONDS = 0.02


@dataclass(frozen=True)
class Board:
    """One board, read by the agent's code."""

    identity: nvml.Identity
    reading: nvml.Reading
    persistence: bool | None
    mig_uuids: frozenset[str]
    call_seconds: dict[str, float]


@dataclass(frozen=True)
class Window:
    """The same window by the counter, aligned to its ticks, and by integrated power."""

    seconds: float
    counter_joules: float
    counter_error_joules: float
    power_joules: float

    @property
    def ratio(self) -> float:
        """Counter over power."""
        return self.counter_joules / self.power_joules


def boards() -> list[Board]:
    """Look at every board once, as the agent does.

    Raises:
        nvml.NvmlFailure: a board does not answer.
    """
    found = []
    for index in range(nvml.device_count()):
        spent: dict[str, float] = {}
        device = nvml.Device(nvml.uuid_at(index), spent.__setitem__)
        identity = device.identify()
        reading = _reading(device)
        persistence, mig_uuids = device.persistence(), device.mig_uuids()
        found.append(Board(identity, reading, persistence, mig_uuids, spent))
    return found


def _reading(device: nvml.Device) -> nvml.Reading:
    steps = device.read()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            reading: nvml.Reading = end.value
            return reading


class Load:
    """Multiplies matrices on a board where torch sees it, until stopped; else does nothing."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin; return whether the board works."""
        import torch

        if self._gpu.facts.simulated or not torch.cuda.is_available():
            return False
        matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

        def multiply() -> None:
            while not self._stop.is_set():
                torch.mm(matrix, matrix)
                torch.cuda.synchronize()

        self._thread = threading.Thread(target=multiply, daemon=True)
        self._thread.start()
        time.sleep(SETTLE_SECONDS)  # the load is real, and so is its time
        return True

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def window(gpu: Gpu, meter: EnergyMeter) -> Window:
    """Measure one window both ways.

    Raises:
        AssertionError: the meter knows no energy.
    """
    start = meter.mark()
    joules, last_seconds = 0.0, start.time_seconds
    watts = gpu.read_power_watts()
    while last_seconds < start.time_seconds + WINDOW_SECONDS:
        time.sleep(POWER_PERIOD_SECONDS)
        before, watts, now = watts, gpu.read_power_watts(), time.monotonic()
        joules += 0.5 * (before + watts) * (now - last_seconds)
        last_seconds = now
    end = meter.mark(last_seconds)
    at_start, at_end = meter.wait(start, 10.0), meter.wait(end, 10.0)
    assert at_start is not None, meter.problem
    assert at_end is not None, meter.problem
    return Window(
        seconds=last_seconds - start.time_seconds,
        counter_joules=at_end.joules - at_start.joules,
        counter_error_joules=at_end.error_joules + at_start.error_joules,
        power_joules=joules,
    )


def _figures() -> dict[str, Any]:
    library = nvml.initialize()
    gpu = open_gpu()
    meter = EnergyMeter(lambda: gpu)
    meter.start()
    meter.wait_open()
    load = Load(gpu)
    is_loaded = load.start()
    windows = [window(gpu, meter) for _ in range(3)]
    load.stop()
    period_seconds = meter.period_seconds
    meter.close()
    return {
        "driver": library.driver,
        "simulated": library.simulated,
        "boards": [asdict(board) for board in boards()],
        "energy_counter_period_seconds": period_seconds,
        "loaded": is_loaded,
        "windows": [{**asdict(each), "ratio": each.ratio} for each in windows],
    }


if __name__ == "__main__":
    json.dump(_figures(), sys.stdout, indent=1, default=sorted)
    print()
