"""A GPU that is cut into MIG instances, as NVML's clients see it."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from gpu_simulator import Simulator, SimulatorError, Unsupported, create_state
from tests.support.nvml_client import NvmlClient

MIG = "nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), {})"
PART = "nvmlDeviceGetHandleByUUID({!r})"


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    made = create_state(tmp_path / "gpus", ["A100", "H100", "V100"], time_scale=1e-3)
    made.set_mig_mode(0, True)
    return made


@pytest.mark.parametrize(
    "profiles",
    [
        ["7g.40gb"],
        ["4g.20gb", "3g.20gb"],
        ["3g.20gb", "3g.20gb"],
        ["4g.20gb", "2g.10gb", "1g.5gb"],
        ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"],
        ["2g.10gb", "2g.10gb", "2g.10gb", "1g.5gb"],
        ["1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb"],
        ["1g.5gb"] * 7,
    ],
)
def test_a_board_is_cut_as_the_real_one_and_no_further(
    simulator: Simulator, profiles: list[str]
) -> None:
    made = [simulator.create_instance(0, profile) for profile in profiles]
    assert [part.profile for part in made] == profiles
    assert len({part.uuid for part in made}) == len({part.instance_id for part in made})
    assert set(simulator.instances(0)) == set(made)
    with pytest.raises(SimulatorError, match="no room"):
        simulator.create_instance(0, "4g.20gb")


def test_what_can_not_be_cut_is_said(simulator: Simulator) -> None:
    with pytest.raises(SimulatorError, match="MIG is off on GPU 1"):
        simulator.create_instance(1, "1g.10gb")
    with pytest.raises(SimulatorError, match=r"no MIG profile '9g'; there are 1g\.5gb"):
        simulator.create_instance(0, "9g")
    with pytest.raises(SimulatorError, match="Tesla V100-PCIE-16GB has no MIG"):
        simulator.set_mig_mode(2, True)
    with pytest.raises(SimulatorError, match="no MIG instance MIG-x on GPU 0"):
        simulator.destroy_instance(0, "MIG-x")


def test_a_client_finds_the_instances_of_a_board_and_the_board_of_an_instance(
    simulator: Simulator,
) -> None:
    parts = [simulator.create_instance(0, "3g.20gb"), simulator.create_instance(0, "2g.10gb")]
    with NvmlClient(simulator.path) as client:
        assert client("nvmlDeviceGetMigMode(gpu(0))") == [1, 1]
        assert client("nvmlDeviceGetMigMode(gpu(1))") == [0, 0]
        assert client("[nvmlDeviceGetMaxMigDeviceCount(gpu(i)) for i in range(2)]") == [7, 0]
        for slot, part in enumerate(parts):
            found = MIG.format(slot)
            assert client(f"nvmlDeviceGetUUID({found})") == part.uuid
            assert client(f"nvmlDeviceGetUUID({PART.format(part.uuid)})") == part.uuid
            assert client(f"nvmlDeviceIsMigDeviceHandle({found}).value") == 1
            assert client(f"nvmlDeviceGetGpuInstanceId({found})") == part.instance_id
            assert client(f"nvmlDeviceGetComputeInstanceId({found})") == 0
            board = f"nvmlDeviceGetDeviceHandleFromMigDeviceHandle({found})"
            assert client(f"nvmlDeviceGetUUID({board})") == simulator.uuids()[0]
        assert client(f"nvmlDeviceGetName({MIG.format(0)})") == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
        memory = client(f"nvmlDeviceGetMemoryInfo({MIG.format(0)}).total")
        assert memory == client("nvmlDeviceGetMemoryInfo(gpu(0)).total") // 2
        shares = client(f"nvmlDeviceGetAttributes({MIG.format(1)}).gpuInstanceSliceCount")
        assert shares == 2
        assert client.error_of(MIG.format(2)) == pynvml.NVML_ERROR_NOT_FOUND
        assert client("nvmlDeviceIsMigDeviceHandle(gpu(0)).value") == 0


def test_power_and_energy_are_the_boards_alone(simulator: Simulator) -> None:
    simulator.create_instance(0, "1g.5gb")
    with NvmlClient(simulator.path) as client:
        for call in (
            "nvmlDeviceGetPowerUsage({})",
            "nvmlDeviceGetTotalEnergyConsumption({})",
            "nvmlDeviceGetPowerManagementLimit({})",
            "nvmlDeviceSetPowerManagementLimit({}, 200000)",
        ):
            part = call.format(MIG.format(0))
            assert client.error_of(part) == pynvml.NVML_ERROR_NOT_SUPPORTED
            assert client.error_of(call.format("gpu(0)")) == 0
        used = "nvmlDeviceGetUtilizationRates(gpu({}))"
        assert client.error_of(used.format(0)) == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert client.error_of(used.format(1)) == 0


def test_the_older_form_of_the_uuids_can_be_had(simulator: Simulator) -> None:
    part = simulator.create_instance(0, "1g.5gb")
    old = f"MIG-{simulator.uuids()[0]}/{part.instance_id}/0"
    with NvmlClient(simulator.path) as client:
        assert client(f"nvmlDeviceGetUUID({PART.format(old)})") == part.uuid
        simulator.set("legacy_mig_ids", 1)
        assert client(f"nvmlDeviceGetUUID({PART.format(part.uuid)})") == old
        assert [found.uuid for found in simulator.instances(0)] == [old]


def test_work_runs_on_an_instance_and_shows_in_the_lists_of_both(simulator: Simulator) -> None:
    first, second = (simulator.create_instance(0, "1g.5gb") for _ in range(2))
    begin = "check(library().gpuSimBeginWork({!r}, None, ctypes.c_double(1), ctypes.byref(t)))"
    with NvmlClient(simulator.path) as client, NvmlClient(simulator.path) as watcher:
        client("globals().update(t=ctypes.c_ulonglong())")
        whole = begin.format(simulator.uuids()[0].encode())
        assert client.error_of(whole) == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert client.error_of(begin.format(second.uuid.encode())) == 0
        listed = "[[p.pid, p.gpuInstanceId] for p in nvmlDeviceGetComputeRunningProcesses({})]"
        expected = [[client.process.pid, second.instance_id]]
        assert watcher(listed.format("gpu(0)")) == expected
        assert watcher(listed.format(PART.format(second.uuid))) == expected
        assert watcher(listed.format(PART.format(first.uuid))) == []
        details = "[[p.pid, p.gpuInstanceId] for p in nvmlDeviceGetRunningProcessDetailList({})]"
        details = details.replace("({})", "({}, nvmlProcessDetailList_v1, 0)")
        assert watcher(details.format("gpu(0)")) == expected
        assert watcher(details.format("gpu(1)")) == []
        simulator.destroy_instance(0, second.uuid)
        assert watcher(listed.format("gpu(0)")) == []
        assert watcher.error_of(PART.format(second.uuid)) == pynvml.NVML_ERROR_NOT_FOUND


def test_an_administrator_switches_mig_at_once_or_with_the_next_reset(
    simulator: Simulator,
) -> None:
    with NvmlClient(simulator.path) as client:
        assert client("nvmlDeviceSetMigMode(gpu(1), 1)") == pynvml.NVML_SUCCESS
        assert client("nvmlDeviceGetMigMode(gpu(1))") == [1, 1]
        client("nvmlDeviceSetMigMode(gpu(1), 0)")
        simulator.set("time_scale", 1e5)
        client("begin(1, 64)")
        assert client("nvmlDeviceSetMigMode(gpu(1), 1)") == pynvml.NVML_ERROR_IN_USE
        assert client("nvmlDeviceGetMigMode(gpu(1))") == [0, 1]
        simulator.reload_driver(1)
        assert client("nvmlDeviceGetMigMode(gpu(1))") == [1, 1]
        assert client.error_of("nvmlDeviceSetMigMode(gpu(2), 1)") == pynvml.NVML_ERROR_NOT_SUPPORTED
        simulator.set("no_permission", 1)
        assert client.error_of("nvmlDeviceSetMigMode(gpu(1), 0)") == pynvml.NVML_ERROR_NO_PERMISSION


def test_a_reset_leaves_the_mode_and_no_instances(simulator: Simulator) -> None:
    part = simulator.create_instance(0, "7g.40gb")
    simulator.set_fault(0, "lost")
    simulator.clear_fault(0)
    assert simulator.instances(0) == ()
    with NvmlClient(simulator.path) as client:
        assert client("nvmlDeviceGetMigMode(gpu(0))") == [1, 1]
        assert client.error_of(PART.format(part.uuid)) == pynvml.NVML_ERROR_NOT_FOUND
        again = simulator.create_instance(0, "7g.40gb")
        assert again.uuid != part.uuid


def test_a_driver_can_lack_mig_calls(simulator: Simulator) -> None:
    simulator.set_fault(0, "unsupported", Unsupported.MIG)
    with NvmlClient(simulator.path) as client:
        assert client.error_of("nvmlDeviceGetMigMode(gpu(0))") == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert client.error_of("nvmlDeviceGetName(gpu(0))") == 0
