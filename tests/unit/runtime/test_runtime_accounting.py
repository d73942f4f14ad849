"""What a run has used, also where the GPU answers late or the run ends within an epoch."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from zeus_runtime.accounting import Accounting
from zeus_runtime.gpu import Gpu, GpuFacts
from zeus_runtime.meter import EnergyMeter


class LateGpu(Gpu):
    """Counts half a joule with each reading; answers only while `answers` is set."""

    def __init__(self, answers: threading.Event) -> None:
        super().__init__(GpuFacts("GPU-1", "late", "1"), None, None)
        self.answers = answers
        self.reads = 0

    def read_energy_joules(self) -> float:
        self.answers.wait(60.0)
        self.reads += 1
        return 0.5 * self.reads

    def close(self) -> None:
        return


@pytest.fixture
def gpu() -> Iterator[LateGpu]:
    answers = threading.Event()
    answers.set()
    yield LateGpu(answers)
    answers.set()


@pytest.fixture
def accounting(gpu: LateGpu) -> Iterator[Accounting]:
    meter = EnergyMeter(lambda: gpu)
    meter.start()
    assert meter.wait_open() is gpu
    books = Accounting(meter)
    books.begin_epoch(0)
    yield books
    gpu.answers.set()
    meter.close()


def test_energy_is_known_again_once_a_gpu_that_hung_answers(
    gpu: LateGpu, accounting: Accounting
) -> None:
    accounting.refresh(None)
    assert accounting.energy_joules is not None
    gpu.answers.clear()
    accounting.refresh(None)
    accounting.refresh(None)
    assert accounting.energy_joules is None
    gpu.answers.set()

    def known() -> bool:
        accounting.refresh(None)
        return accounting.energy_joules is not None

    eventually(known, "the energy is known again")


def test_a_run_that_ends_within_an_epoch_does_not_make_a_step_look_longer() -> None:
    now = 0.0
    meter = EnergyMeter(lambda: LateGpu(threading.Event()), clock=lambda: now)
    meter.close()  # energy is unknown at once: time is what counts here
    accounting = Accounting(meter)
    accounting.begin_epoch(0)
    now = 10.0
    accounting.end_epoch(100)
    accounting.begin_epoch(100)
    now = 15.0
    accounting.finish(150)
    accounting.refresh(None)
    assert accounting.use is not None
    assert accounting.use.time_seconds == pytest.approx(10.0)
