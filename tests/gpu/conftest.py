"""A GPU that these tests only read: no limit, clock or mode is ever changed here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.gpu.measured import Board, Load, boards
from zeus_agent import nvml
from zeus_runtime.gpu import Gpu, open_gpu
from zeus_runtime.meter import EnergyMeter

NO_GPU = "tests/gpu reads a real GPU and NVML shows none here: "


@pytest.fixture(scope="session")
def library() -> Iterator[nvml.Library]:
    """NVML; without a GPU tests are skipped, or fail where ZEUS_TEST_GPU says there is one."""
    try:
        found = nvml.initialize()
        why = "" if nvml.device_count() else "it counts 0"
    except nvml.NvmlFailure as failure:
        found, why = nvml.Library("", simulated=False), str(failure)
    if why:
        say_so = pytest.fail if os.environ.get("ZEUS_TEST_GPU") else pytest.skip
        say_so(NO_GPU + why)
    yield found
    nvml.shut_down()


@pytest.fixture
def every_board(library: nvml.Library) -> list[Board]:
    """All boards, each looked at once."""
    assert library.driver
    return boards()


@pytest.fixture
def gpu(library: nvml.Library) -> Gpu:
    """The first board, as the runtime of a run has it."""
    assert library.driver
    return open_gpu(os.environ)


@pytest.fixture
def meter(gpu: Gpu) -> Iterator[EnergyMeter]:
    """The runtime's meter of that board."""
    made = EnergyMeter(lambda: gpu)
    made.start()
    yield made
    made.close()


@pytest.fixture
def load(gpu: Gpu) -> Iterator[Load]:
    """Work on that board, while it is entered."""
    made = Load(gpu)
    yield made
    made.stop()
