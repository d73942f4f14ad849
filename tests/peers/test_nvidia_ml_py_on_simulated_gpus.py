"""nvidia-ml-py reads all that `nvidia-smi -q` shows, in the versions that we and Zeus use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu_simulator import create_state
from tests.peers.peers import driver_environment

# The sections of `nvidia-smi -q` in their order; "?" marks what these boards show as N/A.
CALLS = """
product name: nvmlDeviceGetName(h)
product brand: nvmlDeviceGetBrand(h)
product architecture: nvmlDeviceGetArchitecture(h)
display mode: nvmlDeviceGetDisplayMode(h)
display active: nvmlDeviceGetDisplayActive(h)
persistence mode: nvmlDeviceGetPersistenceMode(h)
mig mode?: nvmlDeviceGetMigMode(h)
accounting mode?: nvmlDeviceGetAccountingMode(h)
serial number: nvmlDeviceGetSerial(h)
gpu uuid: nvmlDeviceGetUUID(h)
minor number: nvmlDeviceGetMinorNumber(h)
vbios version: nvmlDeviceGetVbiosVersion(h)
multigpu board: nvmlDeviceGetMultiGpuBoard(h)
board id: nvmlDeviceGetBoardId(h)
board part number: nvmlDeviceGetBoardPartNumber(h)
module id: nvmlDeviceGetModuleId(h)
inforom image?: nvmlDeviceGetInforomImageVersion(h)
operation mode?: nvmlDeviceGetGpuOperationMode(h)
virtualization mode?: nvmlDeviceGetVirtualizationMode(h)
pci bus id: nvmlDeviceGetPciInfo(h).busId
link generation: nvmlDeviceGetCurrPcieLinkGeneration(h)
link generation max: nvmlDeviceGetMaxPcieLinkGeneration(h)
link width: nvmlDeviceGetCurrPcieLinkWidth(h)
link width max: nvmlDeviceGetMaxPcieLinkWidth(h)
bridge chip?: nvmlDeviceGetBridgeChipInfo(h)
replays?: nvmlDeviceGetPcieReplayCounter(h)
throughput?: nvmlDeviceGetPcieThroughput(h, 0)
fan speed?: nvmlDeviceGetFanSpeed(h)
performance state: nvmlDeviceGetPerformanceState(h)
clock event reasons: nvmlDeviceGetCurrentClocksEventReasons(h)
supported reasons: nvmlDeviceGetSupportedClocksEventReasons(h)
memory total: nvmlDeviceGetMemoryInfo(h).total
memory reserved: nvmlDeviceGetMemoryInfo(h, version=nvmlMemory_v2).reserved
bar1 total: nvmlDeviceGetBAR1MemoryInfo(h).bar1Total
compute mode: nvmlDeviceGetComputeMode(h)
utilization: nvmlDeviceGetUtilizationRates(h).gpu
encoder?: nvmlDeviceGetEncoderUtilization(h)
decoder?: nvmlDeviceGetDecoderUtilization(h)
ecc mode: nvmlDeviceGetEccMode(h)
ecc errors: nvmlDeviceGetTotalEccErrors(h, 0, 0)
retired pages?: nvmlDeviceGetRetiredPages(h, 0)
remapped rows?: nvmlDeviceGetRemappedRows(h)
temperature: nvmlDeviceGetTemperature(h, 0)
shutdown temperature: nvmlDeviceGetTemperatureThreshold(h, 0)
slowdown temperature: nvmlDeviceGetTemperatureThreshold(h, 1)
power draw: nvmlDeviceGetPowerUsage(h)
average power: nvmlDeviceGetFieldValues(h, [185])[0].value.uiVal
instant power: nvmlDeviceGetFieldValues(h, [186])[0].value.uiVal
current limit: nvmlDeviceGetPowerManagementLimit(h)
requested limit: nvmlDeviceGetFieldValues(h, [192])[0].value.uiVal
default limit: nvmlDeviceGetPowerManagementDefaultLimit(h)
enforced limit: nvmlDeviceGetEnforcedPowerLimit(h)
limits: nvmlDeviceGetPowerManagementLimitConstraints(h)
total energy: nvmlDeviceGetTotalEnergyConsumption(h)
graphics clock: nvmlDeviceGetClockInfo(h, 0)
sm clock: nvmlDeviceGetClockInfo(h, 1)
memory clock: nvmlDeviceGetClockInfo(h, 2)
video clock: nvmlDeviceGetClockInfo(h, 3)
application clock: nvmlDeviceGetApplicationsClock(h, 0)
default application clock: nvmlDeviceGetDefaultApplicationsClock(h, 0)
max sm clock: nvmlDeviceGetMaxClockInfo(h, 1)
compute processes: [p.pid for p in nvmlDeviceGetComputeRunningProcesses_v3(h)]
graphics processes: [p.pid for p in nvmlDeviceGetGraphicsRunningProcesses_v3(h)]
compute capability: nvmlDeviceGetCudaComputeCapability(h)
""".strip().splitlines()

_PROGRAM = """
import json, sys
from pynvml import *
import pynvml
nvmlInit()
calls = json.load(sys.stdin)
shown = {"driver": nvmlSystemGetDriverVersion(), "cuda": nvmlSystemGetCudaDriverVersion(),
         "gpus": []}
for i in range(nvmlDeviceGetCount()):
    h, gpu = nvmlDeviceGetHandleByIndex(i), {}
    for name, call in calls:
        try:
            gpu[name] = eval(call)
        except NVMLError_NotSupported:
            gpu[name] = "N/A"
    shown["gpus"].append(gpu)
print(json.dumps(shown, default=lambda value: getattr(value, "value", repr(value))))
"""

CASES = [tuple(line.split(": ", 1)) for line in CALLS]


def shown_by(interpreter: Path | str, state: Path, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [interpreter, "-c", _PROGRAM],
        input=json.dumps(CASES),
        env=driver_environment(state, folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("whose", ["ours", "Zeus's"])
def test_it_reads_all_that_nvidia_smi_shows(
    whose: str, zeus_interpreter: Path, folder: Path
) -> None:
    simulator = create_state(folder / "gpus", ["V100", "A40", "A100", "H100"] * 4)
    simulator.foreign_limit(0, 180)
    simulator.set_fault(0, "enforced_cap_watts", 170)
    interpreter = sys.executable if whose == "ours" else zeus_interpreter
    shown = shown_by(interpreter, simulator.path, folder)
    assert shown["driver"].count(".") == 2
    assert shown["cuda"] >= 12_000
    assert len(shown["gpus"]) == 16
    for gpu in shown["gpus"]:
        missing = [name for name, _ in CASES if gpu[name] == "N/A" and not name.endswith("?")]
        assert missing == []
    first = shown["gpus"][0]
    assert first["product name"] == "Tesla V100-PCIE-16GB"
    assert first["gpu uuid"] == simulator.uuids()[0]
    assert first["current limit"] == first["requested limit"] == 180_000
    assert first["enforced limit"] == 170_000
    assert first["limits"] == [100_000, 250_000]
    assert first["compute capability"] == [7, 0]
    assert shown["gpus"][15]["product name"] == "NVIDIA H100 80GB HBM3"
