"""Faults that are turned on and off while clients run."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from gpu_simulator import UNTIL_CLEARED, Scope, Simulator, Throttle, Unsupported, create_state
from tests.support.eventually import eventually
from tests.support.nvml_client import NvmlClient, NvmlFailedError

SET = "nvmlDeviceSetPowerManagementLimit(gpu(0), 150000)"
GET = "nvmlDeviceGetPowerManagementLimit(gpu(0))"
ENFORCED = "nvmlDeviceGetEnforcedPowerLimit(gpu(0))"
COUNTER = "nvmlDeviceGetTotalEnergyConsumption(gpu(0))"
KEPT = "globals().setdefault('h', gpu(0)) and None"


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    return create_state(tmp_path / "gpus", ["V100", "A40"], tick_seconds=0.01)


def test_a_lost_gpu_fails_every_call_and_its_work_and_spares_the_others(
    simulator: Simulator,
) -> None:
    simulator.set("time_scale", 1e5)
    with NvmlClient(simulator.path) as client, NvmlClient(simulator.path) as worker:
        client(KEPT)
        worker.send("step(0, 64)")
        eventually(lambda: simulator.get("queued", 0), "work is queued")
        simulator.set_fault(0, "lost")
        with pytest.raises(NvmlFailedError) as failed:
            worker.receive()
        assert failed.value.code == pynvml.NVML_ERROR_GPU_IS_LOST
        for call in (
            "nvmlDeviceGetName(h)",
            "nvmlDeviceGetPowerUsage(h)",
            "nvmlDeviceSetPowerManagementLimit(h, 150000)",
            "gpu(0)",
            "begin(0, 8)",
        ):
            assert client.error_of(call) == pynvml.NVML_ERROR_GPU_IS_LOST
        assert client("nvmlDeviceGetName(gpu(1))") == "NVIDIA A40"
        assert client("nvmlDeviceGetCount()") == 2


def test_a_gpu_that_comes_back_is_as_after_a_reset(simulator: Simulator) -> None:
    simulator.set("time_scale", 1e-3)
    with NvmlClient(simulator.path) as client:
        client(SET)
        eventually(lambda: client(COUNTER) > 2000, "two joules are counted")
        simulator.set_fault(0, "lost")
        assert client.error_of(GET) == pynvml.NVML_ERROR_GPU_IS_LOST
        simulator.clear_fault(0, "lost")
        assert client(GET) == 250_000
        assert client(COUNTER) < 2000
        assert client("step(0, 8)") > 0


def test_without_permission_limits_can_be_read_and_not_set(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client:
        simulator.set_fault(0, "no_permission")
        assert client.error_of(SET) == pynvml.NVML_ERROR_NO_PERMISSION
        assert (
            client.error_of("nvmlDeviceSetPersistenceMode(gpu(0), 1)")
            == pynvml.NVML_ERROR_NO_PERMISSION
        )
        assert client(GET) == 250_000
        assert client.error_of(SET.replace("gpu(0)", "gpu(1)")) == 0
        simulator.clear_fault(0)
        assert client.error_of(SET) == 0
        simulator.set("no_permission", 1)
        assert client.error_of(SET) == pynvml.NVML_ERROR_NO_PERMISSION


@pytest.mark.parametrize(
    ("lacks", "calls"),
    [
        (Unsupported.POWER_SET, [SET]),
        (Unsupported.ENERGY_COUNTER, [COUNTER]),
        (Unsupported.POWER_USAGE, ["nvmlDeviceGetPowerUsage(gpu(0))"]),
        (
            Unsupported.LIMIT_GET,
            [GET, ENFORCED, "nvmlDeviceGetPowerManagementLimitConstraints(gpu(0))"],
        ),
    ],
)
def test_a_device_can_lack_a_call_and_no_other(
    simulator: Simulator, lacks: Unsupported, calls: list[str]
) -> None:
    every = [SET, COUNTER, "nvmlDeviceGetPowerUsage(gpu(0))", GET, ENFORCED]
    every.append("nvmlDeviceGetPowerManagementLimitConstraints(gpu(0))")
    simulator.set_fault(0, "unsupported", lacks)
    with NvmlClient(simulator.path) as client:
        failing = [call for call in every if client.error_of(call)]
        assert failing == calls
        assert {client.error_of(call) for call in calls} == {pynvml.NVML_ERROR_NOT_SUPPORTED}


def test_an_unsupported_counter_is_unsupported_as_a_field_too(simulator: Simulator) -> None:
    simulator.set_fault(0, "unsupported", Unsupported.ENERGY_COUNTER)
    with NvmlClient(simulator.path) as client:
        codes = client("[v.nvmlReturn for v in nvmlDeviceGetFieldValues(gpu(0), [83, 186, 1])]")
        assert codes == [pynvml.NVML_ERROR_NOT_SUPPORTED, 0, pynvml.NVML_ERROR_NOT_SUPPORTED]


@pytest.mark.parametrize("code", [999, 10, 17])
def test_any_error_can_be_injected_into_reads_or_writes(simulator: Simulator, code: int) -> None:
    with NvmlClient(simulator.path) as client:
        client(KEPT)
        simulator.set_fault(0, "error", code, scope=Scope.WRITES)
        assert client(GET) == 250_000
        assert client.error_of(SET) == code
        simulator.set_fault(0, "error", code, scope=Scope.ALL)
        assert client.error_of("nvmlDeviceGetPowerUsage(h)") == code
        assert client.error_of("nvmlDeviceGetName(gpu(1))") == 0
        simulator.clear_fault(0)
        assert client.error_of(SET) == 0


def test_a_call_that_hangs_holds_up_neither_other_devices_nor_other_clients(
    simulator: Simulator,
) -> None:
    with NvmlClient(simulator.path) as stuck, NvmlClient(simulator.path) as other:
        stuck(KEPT)
        simulator.set_fault(0, "hang_seconds", UNTIL_CLEARED)
        stuck.send("nvmlDeviceGetPowerUsage(h)")
        assert other("nvmlDeviceGetName(gpu(1))") == "NVIDIA A40"
        assert simulator.power_limit_watts(0) == 250
        simulator.clear_fault(0, "hang_seconds")
        assert stuck.receive() > 0


def test_a_hang_of_writes_lets_reads_through_and_ends_by_itself(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client, NvmlClient(simulator.path) as reader:
        client(KEPT)
        simulator.set_fault(0, "hang_seconds", 0.2, scope=Scope.WRITES)
        client.send("nvmlDeviceSetPowerManagementLimit(h, 150000)")
        assert reader(GET) in (150_000, 250_000)
        assert client.receive() is None
        assert simulator.power_limit_watts(0) == 150


def test_a_slow_driver_answers_all_the_same(simulator: Simulator) -> None:
    simulator.set_fault(0, "slow_seconds", 0.003)
    with NvmlClient(simulator.path) as client:
        client(SET)
        assert client(GET) == 150_000


def test_a_foreign_change_of_a_limit_is_seen_at_once(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client:
        client(SET)
        simulator.foreign_limit(0, 210)
        assert client(GET) == client(ENFORCED) == 210_000


def test_a_counter_reset_is_seen_as_a_step_back_and_true_energy_goes_on(
    simulator: Simulator,
) -> None:
    with NvmlClient(simulator.path) as client:
        eventually(lambda: client(COUNTER) > 2000, "two joules are counted")
        client(SET)
        true_before = simulator.true_energy_joules(0)
        simulator.reset_counter(0)
        assert client(COUNTER) < 2000
        assert simulator.true_energy_joules(0) >= true_before
        assert client(GET) == 150_000


def test_a_driver_reload_loses_work_counter_and_limit(simulator: Simulator) -> None:
    simulator.set("time_scale", 1e5)
    with NvmlClient(simulator.path) as client, NvmlClient(simulator.path) as worker:
        client(SET)
        eventually(lambda: client(COUNTER) > 2000, "two joules are counted")
        worker.send("step(0, 64)")
        eventually(lambda: simulator.get("queued", 0), "work is queued")
        simulator.reload_driver(0)
        with pytest.raises(NvmlFailedError):
            worker.receive()
        assert client(GET) == 250_000
        assert client(COUNTER) < 2000


def test_the_enforced_limit_can_be_lower_than_the_one_requested(simulator: Simulator) -> None:
    simulator.set_fault(0, "enforced_cap_watts", 120)
    with NvmlClient(simulator.path) as client:
        client(SET)
        assert client(GET) == 150_000
        assert client(ENFORCED) == 120_000
        simulator.foreign_limit(0, 110)
        assert client(ENFORCED) == 110_000


def test_a_set_can_succeed_and_not_stick(simulator: Simulator) -> None:
    simulator.set_fault(0, "set_ignored")
    with NvmlClient(simulator.path) as client:
        assert client.error_of(SET) == 0
        assert client(GET) == 250_000


def test_nvml_can_fail_to_initialise(simulator: Simulator) -> None:
    simulator.set("init_error", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with NvmlClient(simulator.path, initialise=False) as client:
        assert client.error_of("nvmlInit()") == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        simulator.set("init_error", 0)
        client("nvmlInit()")
        assert client("nvmlDeviceGetCount()") == 2


def test_a_gpu_that_vanishes_is_not_counted_and_not_found_until_it_is_back(
    simulator: Simulator,
) -> None:
    uuid = simulator.uuids()[0]
    by_uuid = f"nvmlDeviceGetHandleByUUID({uuid!r})"
    with NvmlClient(simulator.path) as client:
        client(KEPT)
        client(SET)
        simulator.set_fault(0, "vanished")
        assert client("nvmlDeviceGetCount()") == 1
        assert client("nvmlDeviceGetName(gpu(0))") == "NVIDIA A40"  # the others move up
        assert client("nvmlDeviceGetIndex(gpu(0))") == 0
        assert client.error_of(by_uuid) == pynvml.NVML_ERROR_NOT_FOUND
        assert client.error_of("nvmlDeviceGetName(h)") == pynvml.NVML_ERROR_GPU_NOT_FOUND
        simulator.clear_fault(0)
        assert client("nvmlDeviceGetCount()") == 2
        assert client("nvmlDeviceGetPowerManagementLimit(h)") == 250_000  # as after a reset
        assert client(f"nvmlDeviceGetUUID({by_uuid})") == uuid


def test_work_on_a_gpu_that_vanishes_ends_with_its_loss(simulator: Simulator) -> None:
    simulator.set("time_scale", 1e5)
    with NvmlClient(simulator.path) as worker:
        worker.send("step(0, 64)")
        eventually(lambda: simulator.get("queued", 0), "work is queued")
        simulator.set_fault(0, "vanished")
        with pytest.raises(NvmlFailedError) as failed:
            worker.receive()
        assert failed.value.code == pynvml.NVML_ERROR_GPU_IS_LOST


def test_while_the_driver_is_unloaded_nothing_works_and_afterwards_only_who_starts_anew(
    simulator: Simulator,
) -> None:
    persistence = "nvmlDeviceSetPersistenceMode(gpu(0), 1)"
    with NvmlClient(simulator.path) as client:
        client(KEPT)
        client(persistence)
        client(SET)
        simulator.unload_driver()
        for call in (
            "nvmlDeviceGetName(h)",
            "nvmlDeviceGetCount()",
            "nvmlSystemGetDriverVersion()",
        ):
            assert client.error_of(call) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        assert client.error_of("nvmlInit()") == 0  # counted only: it is initialised
        with NvmlClient(simulator.path, initialise=False) as other:
            assert other.error_of("nvmlInit()") == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
            simulator.load_driver()
            other("nvmlInit()")
            assert other(GET) == 250_000  # lost, persistence mode or not
            assert other("nvmlDeviceGetPersistenceMode(gpu(0))") == 0
        assert client.error_of("nvmlDeviceGetName(h)") == pynvml.NVML_ERROR_UNINITIALIZED
        client("nvmlShutdown()")
        client("nvmlShutdown()")
        client("nvmlInit()")
        assert client(GET) == 250_000


CODES = [1, 2, 3, 4, 9, 10, 13, 15, 16, 17, 18, 19, 21, 25, 27, 28, 999]
GROUPS = {
    Unsupported.POWER_SET: SET,
    Unsupported.ENERGY_COUNTER: COUNTER,
    Unsupported.POWER_USAGE: "nvmlDeviceGetPowerUsage(gpu(0))",
    Unsupported.LIMIT_GET: GET,
    Unsupported.PERSISTENCE: "nvmlDeviceGetPersistenceMode(gpu(0))",
    Unsupported.CLOCK_REASONS: "nvmlDeviceGetCurrentClocksEventReasons(gpu(0))",
    Unsupported.PROCESSES: "nvmlDeviceGetComputeRunningProcesses_v3(gpu(0))",
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_error_can_hit_one_group_of_calls_alone(
    simulator: Simulator, group: Unsupported
) -> None:
    with NvmlClient(simulator.path) as client:
        for code in CODES:
            simulator.set_fault(0, "error", code, calls=group)
            answers = {each: client.error_of(call) for each, call in GROUPS.items()}
            assert answers == {each: code if each is group else 0 for each in GROUPS}
        simulator.clear_fault(0, "error")
        assert client.error_of(GROUPS[group]) == 0
        simulator.set_fault(0, "unsupported", group)
        assert client.error_of(GROUPS[group]) == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_an_error_can_pass_by_itself_after_some_calls(simulator: Simulator) -> None:
    with NvmlClient(simulator.path) as client:
        client(KEPT)
        simulator.set_fault(0, "error", pynvml.NVML_ERROR_TIMEOUT, count=2)
        codes = [client.error_of("nvmlDeviceGetName(h)") for _ in range(4)]
        assert codes == [10, 10, 0, 0]
        assert simulator.device(0).faults == {}


@pytest.mark.parametrize("code", CODES)
def test_calls_about_no_device_can_fail_too(simulator: Simulator, code: int) -> None:
    with NvmlClient(simulator.path) as client:
        client(KEPT)
        simulator.set("system_error", code)
        for call in ("nvmlDeviceGetCount()", "gpu(0)", "nvmlSystemGetDriverVersion()"):
            assert client.error_of(call) == code
        assert client.error_of("nvmlDeviceGetName(h)") == 0
        simulator.set("system_error", 0)
        assert client("nvmlDeviceGetCount()") == 2


@pytest.mark.parametrize(
    ("throttle", "clock"),
    [
        (Throttle.HW_SLOWDOWN, 0.5),
        (Throttle.SW_THERMAL, 0.8),
        (Throttle.HW_THERMAL | Throttle.HW_SLOWDOWN, 0.5),
        (Throttle.POWER_BRAKE, 0.5),
        (Throttle.USER_CLOCKS | Throttle.SYNC_BOOST, 1.0),
    ],
)
def test_a_throttled_gpu_says_why_and_is_slower(
    simulator: Simulator, throttle: Throttle, clock: float
) -> None:
    reasons = "nvmlDeviceGetCurrentClocksEventReasons(gpu(0))"
    idle = 1
    with NvmlClient(simulator.path) as client:
        simulator.set("time_scale", 1e-3)
        free = client("step(0, 256, 'bert')")
        simulator.set_fault(0, "throttle", throttle)
        assert client(reasons) == throttle | idle
        assert throttle & ~client("nvmlDeviceGetSupportedClocksEventReasons(gpu(0))") == 0
        slowed = client("step(0, 256, 'bert')")
        assert (slowed > 1.05 * free) == (clock < 1)
        simulator.set("time_scale", 1e5)
        client("begin(0, 256, 'resnet50')")
        assert client(reasons) & ~4 == throttle
        assert client("nvmlDeviceGetClockInfo(gpu(0), 1)") <= 1380 * clock + 1
        heat = bool(throttle & (Throttle.SW_THERMAL | Throttle.HW_THERMAL))
        assert (client("nvmlDeviceGetViolationStatus(gpu(0), 1).violationTime") > 0) == heat
        simulator.clear_fault(0)
        assert client(reasons) & ~4 == 0


def test_the_power_cap_is_a_reason_only_where_it_is_what_slows_the_gpu(
    simulator: Simulator,
) -> None:
    reasons = "nvmlDeviceGetCurrentClocksEventReasons(gpu(0)) & 4"
    simulator.set("time_scale", 1e5)
    simulator.foreign_limit(0, 150)
    with NvmlClient(simulator.path) as client:
        client("begin(0, 256, 'resnet50')")
        assert client(reasons) == 4
        simulator.set_fault(0, "throttle", Throttle.HW_SLOWDOWN)
        assert client(reasons) == 0  # at half the clock it draws less than the limit
        simulator.clear_fault(0)
        assert client(reasons) == 4
