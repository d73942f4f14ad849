"""Sick GPUs, foreign hands and a full disk: one thing fails, the rest goes on."""

from __future__ import annotations

import signal
import threading

import pytest

from gpu_simulator import UNTIL_CLEARED, Scope, Unsupported
from tests.support.agent_process import ADMIN_CAP_WATTS, Machine
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient, AgentError
from zeus_runtime.protocol import ErrorCode, GpuInfo, SessionRequest


def opened(machine: Machine, *options: str) -> AgentClient:
    machine.start_agent(*options)
    client = machine.client()
    client.open_session("a", SessionRequest(ttl_seconds=300.0))
    return client


def gpu(client: AgentClient, uuid: str) -> GpuInfo:
    return next(g for g in client.node().gpus if g.uuid == uuid)


def refusal(client: AgentClient, uuid: str, watts: float = 150.0) -> AgentError:
    with pytest.raises(AgentError) as refused:
        client.set_power_limit("a", uuid, watts)
    return refused.value


def test_a_hung_gpu_stops_neither_the_others_nor_the_agent(machine: Machine) -> None:
    client = opened(machine)
    sick, well = machine.uuids
    client.set_power_limit("a", sick, 150.0)
    machine.simulator.set_fault(sick, "hang_seconds", UNTIL_CLEARED)
    assert refusal(client, sick, 175.0).code in (ErrorCode.NVML_TIMEOUT, ErrorCode.GPU_LOST)
    assert client.set_power_limit("a", well, 150.0).applied_watts == 150.0
    assert not gpu(client, sick).healthy
    client.close_session("a")
    assert machine.limit(well) == ADMIN_CAP_WATTS
    assert machine.saved() == [sick]
    machine.simulator.clear_fault(sick)
    machine.wait_until_restored()


def test_a_set_that_hangs_and_comes_late_is_undone_when_its_session_has_ended(
    machine: Machine,
) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "hang_seconds", UNTIL_CLEARED, scope=Scope.WRITES)
    assert refusal(client, uuid).code == ErrorCode.NVML_TIMEOUT
    client.close_session("a")
    assert machine.saved() == [uuid]
    machine.simulator.clear_fault(uuid)
    machine.wait_until_restored()


def test_an_agent_with_a_hung_gpu_stops_and_keeps_what_is_to_be_restored(
    machine: Machine,
) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    machine.simulator.set_fault(uuid, "hang_seconds", UNTIL_CLEARED)
    assert machine.stop_agent(signal.SIGTERM) != 0
    assert machine.saved() == [uuid]
    machine.simulator.clear_fault(uuid)
    machine.start_agent()
    machine.wait_until_restored()


def test_a_lost_gpu_is_quarantined_alone_and_its_lease_goes_on_when_it_is_back(
    machine: Machine,
) -> None:
    client = opened(machine)
    lost, well = machine.uuids
    client.set_power_limit("a", lost, 150.0)
    machine.simulator.set_fault(lost, "lost")
    eventually(lambda: not gpu(client, lost).healthy, "the loss is noticed")
    assert refusal(client, lost).code == ErrorCode.GPU_LOST
    client.set_power_limit("a", well, 150.0)
    machine.simulator.clear_fault(lost)
    eventually(lambda: machine.limit(lost) == 150.0, "the lease's limit is set again")
    client.close_session("a")
    machine.wait_until_restored()


def test_a_gpu_lost_when_its_session_ends_is_restored_when_it_is_back(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    machine.simulator.set_fault(uuid, "lost")
    client.close_session("a")
    assert machine.saved() == [uuid]
    eventually(lambda: machine.metric("zeus_agent_restore_failures_total") > 0, "it is counted")
    assert machine.metric("zeus_agent_restores_pending") == 1
    machine.simulator.clear_fault(uuid)
    machine.wait_until_restored()
    assert machine.metric("zeus_agent_restores_pending") == 0
    assert "power limit not restored; it stays saved" in machine.log()


def test_a_foreign_change_is_noticed_reported_and_left_alone(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    machine.simulator.foreign_limit(uuid, 180.0)
    eventually(lambda: client.session("a").leases[0].foreign_change, "the change is noticed")
    assert refusal(client, uuid).code == ErrorCode.FOREIGN_CHANGE
    client.close_session("a")
    assert machine.limit(uuid) == 180.0
    eventually(lambda: machine.saved() == [], "nothing is left to restore")
    assert machine.metric("zeus_agent_foreign_changes_total") == 1


def test_a_driver_that_was_reloaded_gets_the_leases_limit_again(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    before = machine.metric("zeus_agent_gpu_energy_joules_total")
    eventually(
        lambda: machine.metric("zeus_agent_gpu_energy_joules_total") > before, "energy is counted"
    )
    energy = machine.metric("zeus_agent_gpu_energy_joules_total")
    machine.simulator.reload_driver(uuid)
    eventually(lambda: machine.limit(uuid) == 150.0, "the limit is set again")
    assert machine.metric("zeus_agent_gpu_energy_joules_total") >= energy
    assert not client.session("a").leases[0].foreign_change
    client.close_session("a")
    machine.wait_until_restored()


def test_a_reset_between_two_looks_is_not_taken_for_somebodys_decision(machine: Machine) -> None:
    client = opened(machine, "--poll-seconds", "3600")
    wished_again, released = machine.uuids
    for uuid in machine.uuids:
        client.set_power_limit("a", uuid, 150.0)
        machine.simulator.reload_driver(uuid)
    again = client.set_power_limit("a", wished_again, 175.0)
    assert again.previous_watts == ADMIN_CAP_WATTS
    client.release("a", released)
    client.close_session("a")
    machine.wait_until_restored()


def test_many_looks_at_a_slow_gpu_do_not_delay_its_limit(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "slow_seconds", 0.01)

    def look() -> None:
        other = machine.client()
        other.node()
        other.close()

    threads = [threading.Thread(target=look) for _ in range(60)]
    for thread in threads:
        thread.start()
    assert client.set_power_limit("a", uuid, 150.0).applied_watts == 150.0
    for thread in threads:
        thread.join(60)


def test_without_permission_nothing_is_set_and_the_node_says_why(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "no_permission")
    assert refusal(client, uuid).code == ErrorCode.NO_PERMISSION
    info = gpu(client, uuid)
    assert not info.can_set_power_limit
    assert info.reason
    assert machine.limit(uuid) == ADMIN_CAP_WATTS
    eventually(lambda: machine.saved() == [], "nothing is left to restore")
    machine.simulator.clear_fault(uuid)
    assert client.set_power_limit("a", uuid, 150.0).applied_watts == 150.0
    assert gpu(client, uuid).can_set_power_limit


def test_permission_lost_before_the_restore_keeps_the_limit_saved(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    machine.simulator.set_fault(uuid, "no_permission")
    client.close_session("a")
    assert machine.saved() == [uuid]
    machine.simulator.clear_fault(uuid)
    machine.wait_until_restored()


def test_a_gpu_that_can_not_be_limited_says_so_and_is_still_measured(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "unsupported", Unsupported.POWER_SET)
    assert refusal(client, uuid).code == ErrorCode.NOT_SUPPORTED
    assert gpu(client, uuid).healthy
    assert machine.metric("zeus_agent_gpu_power_watts") > 0


def test_a_gpu_without_counters_is_healthy(machine: Machine) -> None:
    uuid = machine.uuids[0]
    machine.simulator.set_fault(
        uuid, "unsupported", Unsupported.ENERGY_COUNTER | Unsupported.POWER_USAGE
    )
    client = opened(machine)
    assert gpu(client, uuid).healthy
    assert client.set_power_limit("a", uuid, 150.0).applied_watts == 150.0


def test_a_set_that_does_not_stick_is_an_error_and_not_a_lease(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "set_ignored")
    error = refusal(client, uuid)
    assert error.code == ErrorCode.NVML_ERROR
    assert "still is 200 W" in error.message
    assert client.session("a").leases == ()


def test_unknown_errors_of_one_gpu_do_not_touch_the_other(machine: Machine) -> None:
    client = opened(machine)
    sick, well = machine.uuids
    client.set_power_limit("a", sick, 150.0)
    machine.simulator.set_fault(sick, "error", 999)
    assert refusal(client, sick).code in (ErrorCode.NVML_ERROR, ErrorCode.GPU_LOST)
    assert client.set_power_limit("a", well, 150.0).applied_watts == 150.0
    client.close_session("a")
    assert machine.saved() == [sick]
    machine.simulator.clear_fault(sick)
    machine.wait_until_restored()


UNAVAILABLE = {ErrorCode.NVML_ERROR, ErrorCode.GPU_LOST}
OUT, IN = False, True
NVML_TABLE = [
    # code, what a wish may be answered, whether the GPU stays in
    *((code, UNAVAILABLE, OUT) for code in (1, 9, 18)),  # the driver: initialize again
    (2, UNAVAILABLE, OUT),  # an argument: look at the bounds anew; for every call it is no answer
    *((code, {ErrorCode.NVML_TIMEOUT, ErrorCode.GPU_LOST}, OUT) for code in (10, 19, 27)),
    *((code, {ErrorCode.GPU_LOST}, OUT) for code in (15, 16, 28)),
    (12, UNAVAILABLE, OUT),
    *((code, UNAVAILABLE, OUT) for code in (17, 999)),
    # Last, since what a GPU does not support is not asked of it again for a minute.
    *((code, {ErrorCode.NOT_SUPPORTED}, IN) for code in (3, 13, 21, 25)),
    (4, {ErrorCode.NO_PERMISSION}, IN),  # read-only
]


@pytest.mark.parametrize(("code", "answers", "stays_in"), NVML_TABLE)
def test_each_error_of_nvml_is_answered_counted_kept_to_its_gpu_and_survived(
    shared_machine: Machine, code: int, answers: set[ErrorCode], stays_in: bool
) -> None:
    machine = shared_machine
    sick, well = machine.uuids
    client = machine.client()
    client.open_session("a", SessionRequest(ttl_seconds=300.0))
    client.set_power_limit("a", well, 150.0)
    counted = machine.metric_or_zero("zeus_agent_nvml_errors_total", f'code="{code}"')
    machine.simulator.set_fault(sick, "error", code)
    assert refusal(client, sick).code in answers
    eventually(
        lambda: machine.metric_or_zero("zeus_agent_nvml_errors_total", f'code="{code}"') > counted,
        "the error is counted",
    )
    if not stays_in:
        eventually(lambda: not gpu(client, sick).healthy, "the GPU is out")
    assert gpu(client, sick).reason
    assert gpu(client, well).healthy
    assert client.set_power_limit("a", well, 175.0).applied_watts == 175.0
    machine.simulator.clear_fault(sick)
    eventually(lambda: gpu(client, sick).healthy, "the GPU is back")
    assert client.set_power_limit("a", sick, 150.0).applied_watts == 150.0
    assert not client.session("a").leases[0].foreign_change
    client.close_session("a")
    machine.wait_until_restored()


@pytest.mark.parametrize("code", [1, 9, 18, 999])
def test_where_no_gpu_answers_nvml_is_initialized_again_until_it_does(
    machine: Machine, code: int
) -> None:
    client = opened(machine)
    client.set_power_limit("a", machine.uuids[0], 150.0)
    for uuid in machine.uuids:
        machine.simulator.set_fault(uuid, "error", code)
    eventually(lambda: "NVML must be initialized again" in machine.log(), "the driver is given up")
    for uuid in machine.uuids:
        machine.simulator.clear_fault(uuid)
    eventually(lambda: gpu(client, machine.uuids[0]).healthy, "the driver is back")
    eventually(lambda: machine.limit(machine.uuids[0]) == 150.0, "the lease's limit is there")
    client.close_session("a")
    machine.wait_until_restored()


def test_one_sick_gpu_does_not_have_nvml_initialized_again_under_the_others(
    machine: Machine,
) -> None:
    client = opened(machine)
    sick, well = machine.uuids
    machine.simulator.set_fault(sick, "error", 1)
    eventually(lambda: not gpu(client, sick).healthy, "the GPU is out")
    looked = machine.metric("zeus_agent_nvml_call_seconds_count")
    eventually(
        lambda: machine.metric("zeus_agent_nvml_call_seconds_count") > looked + 20, "looks go on"
    )
    assert gpu(client, well).healthy
    assert "NVML must be initialized again" not in machine.log()


def test_a_driver_that_must_be_initialized_again_is(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "error", 9)
    eventually(lambda: not gpu(client, uuid).healthy, "the driver's absence is noticed")
    machine.simulator.clear_fault(uuid)
    eventually(lambda: gpu(client, uuid).healthy, "the driver is back")
    assert client.set_power_limit("a", uuid, 150.0).applied_watts == 150.0


def test_a_wish_outside_the_drivers_bounds_is_clamped_to_them(machine: Machine) -> None:
    client = opened(machine)
    assert client.set_power_limit("a", machine.uuids[0], 5000.0).clamped
    low = client.set_power_limit("a", machine.uuids[0], 1.0)
    assert low.clamped
    assert low.applied_watts == gpu(client, machine.uuids[0]).min_limit_watts


def test_where_the_limit_found_can_not_be_saved_nothing_is_set(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    # A folder in the file's way fails for root too, unlike permissions.
    blocker = machine.state_dir / "saved" / f"{uuid}.json.tmp"
    blocker.mkdir()
    error = refusal(client, uuid)
    assert error.code == ErrorCode.STATE_NOT_SAVED
    assert error.status == 507
    assert machine.limit(uuid) == ADMIN_CAP_WATTS
    blocker.rmdir()
    assert client.set_power_limit("a", uuid, 150.0).applied_watts == 150.0


def test_a_full_disk_during_a_lease_leaves_what_can_be_undone(machine: Machine) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    # No other file can be written, but the entry's place on the disk is taken already.
    (machine.state_dir / "saved" / f"{uuid}.json.tmp").mkdir()
    assert client.set_power_limit("a", uuid, 175.0).applied_watts == 175.0
    machine.stop_agent(signal.SIGKILL)
    (machine.state_dir / "saved" / f"{uuid}.json.tmp").rmdir()
    machine.start_agent()
    machine.wait_until_restored()


def test_without_a_driver_the_agent_is_ready_and_says_so(machine: Machine) -> None:
    machine.start_agent(without_driver=True)
    client = machine.client()
    node = client.node()
    assert node.gpus == ()
    assert "no GPU can be managed" in node.note
    client.open_session("a", SessionRequest())
    assert refusal(client, "GPU-0").code == ErrorCode.NOT_FOUND
    assert machine.stop_agent(signal.SIGTERM) == 0


def test_gpus_that_appear_later_are_found(machine: Machine) -> None:
    gpus = machine.folder / "gpus"
    gpus.rename(machine.folder / "away")
    machine.start_agent()
    client = machine.client()
    assert client.node().gpus == ()
    (machine.folder / "away").rename(gpus)
    eventually(
        lambda: [g.healthy for g in client.node().gpus] == [True, True], "the GPUs are found"
    )
    client.open_session("a", SessionRequest())
    assert client.set_power_limit("a", machine.uuids[0], 150.0).applied_watts == 150.0


def test_one_callers_burst_on_a_slow_driver_is_done_by_its_newest_wish(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "slow_seconds", 0.02)
    client = machine.client()
    client.open_session("a", SessionRequest())
    threads = [
        threading.Thread(target=_set_from_own_connection, args=(machine, uuid, float(watts)))
        for watts in range(110, 190)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert machine.metric("zeus_agent_limits_set_total") < len(threads)
    client.close_session("a")
    machine.wait_until_restored()


def _set_from_own_connection(machine: Machine, uuid: str, watts: float) -> None:
    client = machine.client()
    client.set_power_limit("a", uuid, watts)
    client.close()
