"""A process sees the devices that were given to it, under numbers of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pynvml
import pytest

from gpu_simulator import VISIBLE_VARIABLE, Simulator, create_state
from tests.support.nvml_client import NvmlClient

UUIDS = "[nvmlDeviceGetUUID(gpu(i)) for i in range(nvmlDeviceGetCount())]"


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return create_state(tmp_path / "gpus", ["V100", "A40", "A100"], time_scale=1e-3)


def client_of(simulator: Simulator, **variables: str) -> NvmlClient:
    return NvmlClient(simulator.path, environ={**os.environ, **variables})


def give(simulator: Simulator, *uuids: str) -> None:
    """Do as a container runtime does: a file beside the state."""
    (simulator.path.parent / "visible").write_text("".join(f"{uuid}\n" for uuid in uuids))


def test_the_devices_in_view_are_numbered_from_zero(simulator: Simulator) -> None:
    first, second, third = simulator.uuids()
    give(simulator, third, first)
    with client_of(simulator) as client:
        assert client(UUIDS) == [first, third]
        assert client("[nvmlDeviceGetIndex(gpu(i)) for i in range(2)]") == [0, 1]
        assert client("[nvmlDeviceGetMinorNumber(gpu(i)) for i in range(2)]") == [0, 2]
        assert client.error_of("gpu(2)") == pynvml.NVML_ERROR_INVALID_ARGUMENT
        client("nvmlDeviceSetPowerManagementLimit(gpu(1), 210000)")
    assert [simulator.power_limit_watts(uuid) for uuid in (second, third)] == [300, 210]


def test_a_variable_narrows_the_view_and_does_not_widen_it(simulator: Simulator) -> None:
    first, second, third = simulator.uuids()
    with client_of(simulator, **{VISIBLE_VARIABLE: f"{second},{third}"}) as client:
        assert client(UUIDS) == [second, third]
    give(simulator, first, second)
    for chosen, seen in (
        (f"{second},{third}", [second]),
        (f"{first},{second},{third}", [first, second]),
        ("all", []),
        ("", []),
    ):
        with client_of(simulator, **{VISIBLE_VARIABLE: chosen}) as client:
            assert client(UUIDS) == seen
    with client_of(simulator, NVIDIA_VISIBLE_DEVICES="all") as client:
        assert client(UUIDS) == [first, second]


def test_a_state_reached_by_another_path_shows_no_more(
    simulator: Simulator, tmp_path: Path
) -> None:
    give(simulator, simulator.uuids()[1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "gpus").symlink_to(simulator.path)
    with NvmlClient(elsewhere / "gpus") as client:
        assert client(UUIDS) == [simulator.uuids()[1]]


def test_a_view_that_can_not_be_read_shows_nothing(simulator: Simulator) -> None:
    (simulator.path.parent / "visible").mkdir()
    with client_of(simulator) as client:
        assert client("nvmlDeviceGetCount()") == 0


def test_a_process_that_never_initialises_nvml_is_held_to_its_view_too(
    simulator: Simulator,
) -> None:
    mine, other = simulator.uuids()[:2]
    give(simulator, mine)
    begin = (
        "library().gpuSimBeginWork({!r}, None, ctypes.c_double(1),"
        " ctypes.byref(ctypes.c_ulonglong()))"
    )
    with NvmlClient(simulator.path, initialise=False) as client:
        assert client(begin.format(mine.encode())) == pynvml.NVML_SUCCESS
        assert client(begin.format(other.encode())) == pynvml.NVML_ERROR_NOT_FOUND


def test_the_view_is_read_anew_when_nvml_is_initialised_again(simulator: Simulator) -> None:
    first, second, _ = simulator.uuids()
    give(simulator, first)
    with client_of(simulator) as client:
        give(simulator, second)
        assert client(UUIDS) == [first]
        client("nvmlShutdown()")
        client("nvmlInit()")
        assert client(UUIDS) == [second]
