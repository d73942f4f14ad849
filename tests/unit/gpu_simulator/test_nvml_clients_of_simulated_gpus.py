"""What unmodified NVML clients see: devices, names, handles, errors, symbols."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pynvml
import pytest

from gpu_simulator import (
    Simulator,
    SimulatorError,
    Unsupported,
    build_library,
    create_state,
    environment,
)
from tests.support.nvml_client import NvmlClient

# What exporters, schedulers and training frameworks look up, in each of its versions.
SYMBOLS = """
nvmlInit nvmlInit_v2 nvmlInitWithFlags nvmlShutdown nvmlErrorString nvmlSystemGetDriverVersion
nvmlSystemGetNVMLVersion nvmlSystemGetCudaDriverVersion nvmlSystemGetCudaDriverVersion_v2
nvmlSystemGetProcessName nvmlUnitGetCount nvmlDeviceGetCount nvmlDeviceGetCount_v2
nvmlDeviceGetHandleByIndex nvmlDeviceGetHandleByIndex_v2 nvmlDeviceGetHandleByUUID
nvmlDeviceGetHandleByUUIDV nvmlDeviceGetHandleByPciBusId nvmlDeviceGetHandleByPciBusId_v2
nvmlDeviceGetHandleBySerial nvmlDeviceGetName nvmlDeviceGetUUID nvmlDeviceGetIndex
nvmlDeviceGetMinorNumber nvmlDeviceGetSerial nvmlDeviceGetPciInfo nvmlDeviceGetPciInfo_v2
nvmlDeviceGetPciInfo_v3 nvmlDeviceGetPciInfoExt nvmlDeviceGetMemoryInfo nvmlDeviceGetMemoryInfo_v2
nvmlDeviceGetBAR1MemoryInfo nvmlDeviceGetPowerUsage nvmlDeviceGetPowerManagementMode
nvmlDeviceGetPowerManagementLimit nvmlDeviceGetPowerManagementDefaultLimit
nvmlDeviceGetPowerManagementLimitConstraints nvmlDeviceGetEnforcedPowerLimit
nvmlDeviceSetPowerManagementLimit nvmlDeviceSetPowerManagementLimit_v2
nvmlDeviceGetTotalEnergyConsumption nvmlDeviceGetFieldValues nvmlDeviceGetViolationStatus
nvmlDeviceGetUtilizationRates nvmlDeviceGetTemperature nvmlDeviceGetTemperatureV
nvmlDeviceGetTemperatureThreshold nvmlDeviceGetClock nvmlDeviceGetClockInfo
nvmlDeviceGetMaxClockInfo nvmlDeviceGetApplicationsClock nvmlDeviceGetPerformanceState
nvmlDeviceGetPowerState nvmlDeviceGetCurrentClocksThrottleReasons
nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetPersistenceMode nvmlDeviceSetPersistenceMode
nvmlDeviceGetCudaComputeCapability nvmlDeviceGetBrand nvmlDeviceGetArchitecture
nvmlDeviceGetMigMode nvmlDeviceGetMaxMigDeviceCount nvmlDeviceIsMigDeviceHandle
nvmlDeviceGetComputeRunningProcesses nvmlDeviceGetComputeRunningProcesses_v2
nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetGraphicsRunningProcesses
nvmlDeviceGetGraphicsRunningProcesses_v3 nvmlDeviceGetMPSComputeRunningProcesses_v3
nvmlDeviceGetEccMode nvmlDeviceGetTotalEccErrors nvmlDeviceGetComputeMode nvmlDeviceGetFanSpeed
nvmlDeviceGetNumFans nvmlDeviceGetEncoderUtilization nvmlDeviceGetDecoderUtilization
nvmlDeviceGetNvLinkState nvmlDeviceGetPcieThroughput nvmlDeviceGetSamples
gpuSimVersion gpuSimBeginWork gpuSimFinishWork gpuSimTrueEnergy
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return create_state(tmp_path / "gpus", ["V100", "A40", "A100", "H100", "V100-SXM2"]).path


def test_two_processes_see_the_same_gpus(state: Path) -> None:
    with NvmlClient(state) as one, NvmlClient(state) as other:
        every = "[nvmlDeviceGetUUID(gpu(i)) for i in range(nvmlDeviceGetCount())]"
        assert one(every) == other(every)
        assert len(set(one(every))) == 5
        one("nvmlDeviceSetPowerManagementLimit(gpu(1), 210000)")
        assert other("nvmlDeviceGetPowerManagementLimit(gpu(1))") == 210_000


def test_models_have_their_true_names_ranges_and_capabilities(state: Path) -> None:
    with NvmlClient(state) as client:
        seen = [
            client(
                f"(nvmlDeviceGetName(gpu({i})),"
                f" *nvmlDeviceGetPowerManagementLimitConstraints(gpu({i})),"
                f" nvmlDeviceGetPowerManagementDefaultLimit(gpu({i})),"
                f" *nvmlDeviceGetCudaComputeCapability(gpu({i})))"
            )
            for i in range(5)
        ]
    assert seen == [
        ["Tesla V100-PCIE-16GB", 100_000, 250_000, 250_000, 7, 0],
        ["NVIDIA A40", 100_000, 300_000, 300_000, 8, 6],
        ["NVIDIA A100-SXM4-40GB", 100_000, 400_000, 400_000, 8, 0],
        ["NVIDIA H100 80GB HBM3", 200_000, 700_000, 700_000, 9, 0],
        ["Tesla V100-SXM2-16GB", 150_000, 300_000, 300_000, 7, 0],
    ]


def test_a_device_is_found_by_uuid_serial_and_pci_bus(state: Path) -> None:
    with NvmlClient(state) as client:
        for found in (
            "nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(gpu(3)))",
            "nvmlDeviceGetHandleBySerial(nvmlDeviceGetSerial(gpu(3)))",
            "nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(gpu(3)).busId)",
            "nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(gpu(3)).busIdLegacy)",
            "nvmlDeviceGetHandleByUUIDV(uuid(3), NVML_UUID_TYPE_ASCII)",
        ):
            assert client(f"nvmlDeviceGetIndex({found})") == 3
        assert (
            client.error_of("nvmlDeviceGetHandleByUUID('GPU-none')") == pynvml.NVML_ERROR_NOT_FOUND
        )
        assert client.error_of("gpu(5)") == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_the_minor_number_is_the_place_until_another_one_is_given(state: Path) -> None:
    simulator = Simulator(state)
    with NvmlClient(state) as client:
        numbers = "[nvmlDeviceGetMinorNumber(gpu(i)) for i in range(nvmlDeviceGetCount())]"
        assert client(numbers) == [0, 1, 2, 3, 4]
        simulator.set("minor_number", 7, 1)
        assert client(numbers) == [0, 7, 2, 3, 4]
        assert client("nvmlDeviceGetIndex(gpu(1))") == 1
        simulator.set_fault(1, "unsupported", Unsupported.MINOR_NUMBER)
        assert (
            client.error_of("nvmlDeviceGetMinorNumber(gpu(1))") == pynvml.NVML_ERROR_NOT_SUPPORTED
        )
        assert client("nvmlDeviceGetMinorNumber(gpu(2))") == 2
    with pytest.raises(SimulatorError, match="out of range"):
        simulator.set("minor_number", 256, 1)


def test_the_same_seed_makes_the_same_machine_and_another_seed_another(tmp_path: Path) -> None:
    def uuids(seed: int) -> tuple[str, ...]:
        return create_state(tmp_path / "gpus", ["V100", "A40"], seed=seed).uuids()

    assert uuids(1) == uuids(1)
    assert not set(uuids(1)) & set(uuids(2))


def test_without_a_state_there_is_no_driver(tmp_path: Path) -> None:
    for state in (None, tmp_path / "absent"):
        with NvmlClient(state, initialise=False) as client:
            assert client.error_of("nvmlInit()") == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
            assert client("library().gpuSimVersion()") == 1


def test_a_file_of_another_layout_is_a_version_mismatch(tmp_path: Path) -> None:
    (tmp_path / "gpus").write_bytes(b"not a state")
    with NvmlClient(tmp_path / "gpus", initialise=False) as client:
        assert client.error_of("nvmlInit()") == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH


def test_calls_need_nvml_to_be_initialised_as_often_as_it_is_shut_down(state: Path) -> None:
    with NvmlClient(state) as client:
        handle = "(globals().setdefault('h', gpu(0)))"
        client(handle)
        client("nvmlInit()")
        client("nvmlShutdown()")
        assert client("nvmlDeviceGetName(h)") == "Tesla V100-PCIE-16GB"
        client("nvmlShutdown()")
        assert client.error_of("nvmlDeviceGetName(h)") == pynvml.NVML_ERROR_UNINITIALIZED
        assert client.error_of("nvmlShutdown()") == pynvml.NVML_ERROR_UNINITIALIZED


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetMemoryInfo(gpu(0)).total == 16945512448",
        "nvmlDeviceGetMemoryInfo(gpu(0), version=nvmlMemory_v2).total == 16945512448",
        "nvmlDeviceGetUtilizationRates(gpu(0)).gpu == 0",
        "20 < nvmlDeviceGetTemperature(gpu(0), 0) == nvmlDeviceGetTemperatureV(gpu(0), 0)",
        "nvmlDeviceGetClockInfo(gpu(0), NVML_CLOCK_SM) < nvmlDeviceGetMaxClockInfo(gpu(0), 1)",
        "nvmlDeviceGetPerformanceState(gpu(0)) == 8",
        "nvmlDeviceGetCurrentClocksEventReasons(gpu(0)) == nvmlClocksEventReasonGpuIdle",
        "nvmlDeviceGetCurrentClocksThrottleReasons(gpu(0)) == nvmlClocksEventReasonGpuIdle",
        "nvmlDeviceGetArchitecture(gpu(1)) == NVML_DEVICE_ARCH_AMPERE",
        "nvmlDeviceGetBrand(gpu(0)) == NVML_BRAND_TESLA",
        "nvmlDeviceGetMigMode(gpu(2)) == [0, 0]",
        "nvmlDeviceGetEccMode(gpu(0)) == [1, 1]",
        "nvmlDeviceGetTotalEccErrors(gpu(0), 0, 0) == 0",
        "nvmlDeviceGetComputeRunningProcesses(gpu(0)) == []",
        "nvmlDeviceGetGraphicsRunningProcesses(gpu(0)) == []",
        "nvmlDeviceGetMinorNumber(gpu(4)) == 4",
        "nvmlDeviceGetPowerManagementMode(gpu(0)) == 1",
        "nvmlDeviceGetViolationStatus(gpu(0), 0).violationTime == 0",
        "nvmlSystemGetCudaDriverVersion_v2() >= 12000",
        "nvmlSystemGetDriverVersion().count('.') == 2",
        "nvmlSystemGetNVMLVersion().endswith(nvmlSystemGetDriverVersion())",
        "nvmlSystemGetProcessName(os.getpid()) == sys.executable",
        "str(NVMLError(NVML_ERROR_GPU_IS_LOST)) == 'GPU is lost'",
    ],
)
def test_an_idle_device_answers_the_common_calls(state: Path, call: str) -> None:
    with NvmlClient(state) as client:
        # pynvml returns lists or tuples by version; JSON makes lists of both.
        assert client(f"json.loads(json.dumps({call}))") is True


def test_calls_that_the_devices_lack_are_not_supported_and_unknown_ones_not_found(
    state: Path,
) -> None:
    with NvmlClient(state) as client:
        assert client.error_of("nvmlDeviceGetFanSpeed(gpu(0))") == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert client.error_of("nvmlDeviceGetMigMode(gpu(0))") == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert (
            client.error_of("nvmlGpmQueryDeviceSupport(gpu(0))")
            == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
        )


def test_the_symbols_that_clients_look_up_exist(state: Path) -> None:
    with NvmlClient(state) as client:
        assert [name for name in SYMBOLS.split() if not client(f"has({name!r})")] == []


def test_a_process_with_work_is_listed_until_it_ends(state: Path) -> None:
    listed = "[p.pid for p in nvmlDeviceGetComputeRunningProcesses(gpu(0))]"
    with NvmlClient(state) as watcher:
        with NvmlClient(state) as worker:
            worker("step(0, 1)")
            assert watcher(listed) == [worker.process.pid]
            assert watcher("nvmlDeviceGetComputeRunningProcesses(gpu(1))") == []
            assert watcher("nvmlDeviceGetMemoryInfo(gpu(0)).used") > watcher(
                "nvmlDeviceGetMemoryInfo(gpu(1)).used"
            )
        assert watcher(listed) == []


C_CLIENT = r"""
#include <stdio.h>
#include <string.h>
typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct { char busIdLegacy[16]; unsigned domain, bus, device, id, sub; char busId[32]; } Pci;
extern int nvmlInit_v2(void), nvmlShutdown(void);
extern const char *nvmlErrorString(int);
extern int nvmlDeviceGetHandleByIndex_v2(unsigned, nvmlDevice_t *);
extern int nvmlDeviceGetUUID(nvmlDevice_t, char *, unsigned);
extern int nvmlDeviceGetPciInfo_v3(nvmlDevice_t, Pci *);
extern int nvmlDeviceSetPowerManagementLimit(nvmlDevice_t, unsigned);
extern int nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t, unsigned *);
int main(void) {
    nvmlDevice_t gpu;
    char uuid[96];
    Pci pci;
    unsigned limit = 0;
    int error = nvmlInit_v2();
    if (!error) error = nvmlDeviceGetHandleByIndex_v2(0, &gpu);
    if (!error) error = nvmlDeviceGetUUID(gpu, uuid, sizeof uuid);
    if (!error) error = nvmlDeviceGetPciInfo_v3(gpu, &pci);
    if (!error) error = nvmlDeviceSetPowerManagementLimit(gpu, 180000);
    if (!error) error = nvmlDeviceGetEnforcedPowerLimit(gpu, &limit);
    if (!error) error = nvmlShutdown();
    if (error) { fprintf(stderr, "%s\n", nvmlErrorString(error)); return 1; }
    printf("%s %s %u\n", uuid, pci.busId, limit);
    return 0;
}
"""


def test_a_c_program_linked_against_the_library_works(state: Path, tmp_path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    source, program = tmp_path / "client.c", tmp_path / "client"
    source.write_text(C_CLIENT)
    subprocess.run([compiler, str(source), str(build_library()), "-o", str(program)], check=True)
    printed = subprocess.run(
        [program],
        env={**os.environ, **environment(state)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    uuid, bus, limit = printed.split()
    assert uuid.startswith("GPU-")
    assert bus == "00000000:07:00.0"
    assert limit == "180000"
