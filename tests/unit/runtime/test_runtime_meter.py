"""Nobody waits for a thread that reads no more."""

from __future__ import annotations

import threading

import pytest

from zeus_runtime.gpu import Gpu, GpuFacts
from zeus_runtime.meter import EnergyMeter


class BrokenGpu(Gpu):
    """Fails in a way that NVML does not."""

    def __init__(self) -> None:
        super().__init__(GpuFacts("GPU-1", "broken", "1"), None, None)

    def read_energy_joules(self) -> float:
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "no text")


def fail_to_open() -> Gpu:
    raise AttributeError("an NVML of another kind")


@pytest.mark.parametrize("open_gpu", [fail_to_open, BrokenGpu])
def test_an_error_in_the_measuring_thread_fails_its_marks(
    open_gpu: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    meter = EnergyMeter(open_gpu)  # type: ignore[arg-type]  # both return a Gpu
    meter.start()
    meter.wait_open()
    assert ended.wait(60.0)
    mark = meter.mark()
    assert mark.failed
    assert "ended by an error" in meter.problem
    meter.close()
