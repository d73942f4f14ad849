"""Setting limits: permission, range, rounding, what is read back and what is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from gpu_simulator import Simulator, WritableBy, build_library, create_state
from tests.support.nvml_client import NvmlClient

SET = "nvmlDeviceSetPowerManagementLimit(gpu(0), {})"
GET = "nvmlDeviceGetPowerManagementLimit(gpu(0))"
ENFORCED = "nvmlDeviceGetEnforcedPowerLimit(gpu(0))"


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return create_state(tmp_path / "gpus", ["V100"])


def test_a_limit_that_is_set_is_read_back_and_enforced(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client:
        client(SET.format(150_000))
        assert client(GET) == client(ENFORCED) == 150_000
    assert simulator.power_limit_watts(0) == 150


@pytest.mark.parametrize("milliwatts", [99_999, 250_001, 0])
def test_a_limit_out_of_range_is_refused_and_changes_nothing(
    simulator: Simulator, milliwatts: int
) -> None:
    with NvmlClient(simulator.path) as client:
        refused = client.error_of(SET.format(milliwatts))
        assert refused == pynvml.NVML_ERROR_INVALID_ARGUMENT
        assert client(GET) == 250_000


def test_a_limit_is_rounded_down_to_the_granularity_of_the_driver(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client:
        client(SET.format(150_999))
        assert client(GET) == 150_000
        simulator.set("rounding_watts", 5)
        client(SET.format(159_999))
        assert client(GET) == 155_000


def test_the_second_version_of_the_call_sets_the_limit_too(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client:
        client("nvmlDeviceSetPowerManagementLimit_v2(gpu(0), NVML_POWER_SCOPE_GPU, 170000)")
        assert client(GET) == 170_000
        # nvidia-ml-py drops its return code, so the effect is what tells.
        client("nvmlDeviceSetPowerManagementLimit_v2(gpu(0), NVML_POWER_SCOPE_MODULE, 180000)")
        assert client(GET) == 170_000


def test_field_values_tell_the_limits(simulator: Simulator) -> None:
    simulator.foreign_limit(0, 200)
    simulator.set_fault(0, "enforced_cap_watts", 160)
    fields = "[v.value.uiVal for v in nvmlDeviceGetFieldValues(gpu(0), [187, 188, 189, 190, 192])]"
    with NvmlClient(simulator.path) as client:
        assert client(fields) == [100_000, 250_000, 250_000, 160_000, 200_000]


def test_a_driver_reload_loses_the_limit_unless_persistence_mode_is_on(
    simulator: Simulator,
) -> None:
    with NvmlClient(simulator.path) as client:
        client(SET.format(150_000))
        simulator.reload_driver()
        assert client(GET) == 250_000
        client("nvmlDeviceSetPersistenceMode(gpu(0), 1)")
        client(SET.format(150_000))
        simulator.reload_driver()
        assert client(GET) == 150_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (WritableBy.CREATOR, pynvml.NVML_ERROR_NO_PERMISSION),
        (WritableBy.ROOT, pynvml.NVML_ERROR_NO_PERMISSION),
        (WritableBy.ANYONE, pynvml.NVML_SUCCESS),
    ],
)
def test_another_user_may_read_and_work_but_sets_limits_only_by_the_rule(
    tmp_path: Path, rule: WritableBy, expected: int
) -> None:
    state = create_state(tmp_path / "gpus", ["V100"], writable_by=rule).path
    uuid = Simulator(state).uuids()[0]
    # Reached by full path before the user changes: its folders may be closed to that user.
    program = f"""
import ctypes, os
library = ctypes.CDLL({str(build_library())!r})
assert library.nvmlInit_v2() == 0
os.setuid(65534)
gpu, ticket, seconds = ctypes.c_void_p(), ctypes.c_ulonglong(), ctypes.c_double()
assert library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
assert library.gpuSimBeginWork({uuid.encode()!r}, None, ctypes.c_double(1),
                               ctypes.byref(ticket)) == 0
assert library.gpuSimFinishWork({uuid.encode()!r}, ticket, ctypes.byref(seconds)) == 0
print(library.nvmlDeviceSetPowerManagementLimit(gpu, 150000))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GPU_SIM_STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == expected


def test_the_creator_may_set_limits_without_being_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    program = f"""
import ctypes, os
library = ctypes.CDLL({str(build_library())!r})
if os.geteuid() == 0:
    os.setuid(65534)
models = (ctypes.c_char_p * 1)(b"V100")
assert library.gpuSimCreate(b"gpus", models, 1, 0o600, 0, ctypes.c_ulonglong(0),
                            ctypes.c_double(0.1), ctypes.c_double(0), ctypes.c_double(1),
                            b"bert") == 0
assert library.nvmlInit_v2() == 0
gpu = ctypes.c_void_p()
assert library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
print(library.nvmlDeviceSetPowerManagementLimit(gpu, 150000))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,  # a path from here: the folders above may be closed to that user
        env={**os.environ, "GPU_SIM_STATE": "gpus"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == pynvml.NVML_SUCCESS
