"""GPUs that vanish and return, a driver that is taken away, MIG, and clocks that are held down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_simulator import Simulator, create_state, environment
from gpu_simulator.faults import Throttle
from tests.support.agent_process import ADMIN_CAP_WATTS, Machine
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import GpuInfo, SessionRequest


def opened(machine: Machine) -> AgentClient:
    machine.start_agent()
    client = machine.client()
    client.open_session("a", SessionRequest(ttl_seconds=300.0))
    return client


def gpu(client: AgentClient, uuid: str) -> GpuInfo:
    return next(g for g in client.node().gpus if g.uuid == uuid)


def test_a_gpu_that_vanishes_from_the_count_is_out_alone_and_its_lease_goes_on_at_its_return(
    machine: Machine,
) -> None:
    client = opened(machine)
    gone, well = machine.uuids  # the other one's index changes with it
    client.set_power_limit("a", gone, 150.0)
    machine.simulator.set_fault(gone, "vanished")
    eventually(lambda: not gpu(client, gone).healthy, "it is noticed")
    assert client.set_power_limit("a", well, 150.0).applied_watts == 150.0
    machine.simulator.clear_fault(gone)
    eventually(lambda: machine.limit(gone) == 150.0, "the lease's limit is set again")
    client.close_session("a")
    machine.wait_until_restored()


def test_a_gpu_that_comes_after_the_agents_start_beside_others_is_found(machine: Machine) -> None:
    late = machine.uuids[1]
    machine.simulator.set_fault(late, "vanished")
    client = opened(machine)
    assert {g.uuid for g in client.node().gpus} == {machine.uuids[0]}
    machine.simulator.clear_fault(late)
    eventually(lambda: [g.healthy for g in client.node().gpus] == [True, True], "it is found")
    assert client.set_power_limit("a", late, 150.0).applied_watts == 150.0


def test_where_every_gpu_has_vanished_the_agent_stays_and_waits(machine: Machine) -> None:
    client = opened(machine)
    for uuid in machine.uuids:
        client.set_power_limit("a", uuid, 150.0)
        machine.simulator.set_fault(uuid, "vanished")
    eventually(lambda: not any(g.healthy for g in client.node().gpus), "it is noticed")
    client.close_session("a")
    assert machine.saved() == sorted(machine.uuids)
    for uuid in machine.uuids:
        machine.simulator.clear_fault(uuid)
    machine.wait_until_restored()


def test_a_driver_that_is_unloaded_and_loaded_again_gets_the_leases_limit_again(
    machine: Machine,
) -> None:
    client = opened(machine)
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 150.0)
    machine.simulator.unload_driver()
    eventually(lambda: not gpu(client, uuid).healthy, "it is noticed")
    machine.simulator.load_driver()
    eventually(lambda: machine.limit(uuid) == 150.0, "the lease's limit is set again")
    client.close_session("a")
    eventually(lambda: machine.limit(uuid) == ADMIN_CAP_WATTS, "what was found is back")
    eventually(lambda: machine.saved() == [], "nothing is left to restore")


def test_why_clocks_are_held_down_is_shown_by_reason(machine: Machine) -> None:
    name = "zeus_agent_gpu_clocks_limited"
    opened(machine)

    def shown(reason: str) -> float:
        return machine.metric_or_zero(name, f'reason="{reason}"')

    assert shown("hw_thermal_slowdown") == 0
    machine.simulator.set_fault(
        machine.uuids[0], "throttle", Throttle.HW_THERMAL | Throttle.POWER_BRAKE
    )
    eventually(lambda: shown("hw_thermal_slowdown") == 1, "heat is shown")
    assert shown("hw_power_brake_slowdown") == 1
    assert shown("sync_boost") == 0
    machine.simulator.clear_fault(machine.uuids[0])
    eventually(lambda: shown("hw_thermal_slowdown") == 0, "it is over")


_SHOW_MIG = """
import asyncio, json, sys, time
from pathlib import Path
from zeus_agent.journal import Journal
from zeus_agent.keeper import Keeper
from zeus_agent.metrics import Metrics

async def show():
    now = [0.0]
    keeper = Keeper(
        Journal(Path(sys.argv[1]), "boot"), Metrics(), poll_seconds=3600.0,
        nvml_timeout_seconds=30.0, clock=lambda: now[0],
    )
    await keeper.start()
    both = await asyncio.gather(keeper.mig_parents(refresh=True), keeper.mig_parents())
    assert both[0] == both[1], both
    print(json.dumps([both[0], sorted(keeper.gpu_uuids())]), flush=True)
    sys.stdin.readline()
    print(json.dumps(await keeper.mig_parents(refresh=True)), flush=True)  # too soon
    now[0] += 1.0
    print(json.dumps(await keeper.mig_parents()), flush=True)  # nobody looks for another one
    print(json.dumps(await keeper.mig_parents(refresh=True)), flush=True)
    await keeper.stop(30.0)

asyncio.run(show())
"""


@pytest.fixture
def divided(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[str], Path]]:
    """A keeper on an A100 in two MIG devices, a whole A100, and a V100, which has no MIG."""
    simulator = create_state(tmp_path / "gpus", ["A100", "A100", "V100"])
    simulator.set_mig_mode(0, True)
    migs = [simulator.create_instance(0, "1g.5gb").uuid for _ in range(2)]
    with subprocess.Popen(
        [sys.executable, "-c", _SHOW_MIG, str(tmp_path / "state")],
        env={**os.environ, **environment(tmp_path / "gpus")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, migs, tmp_path / "gpus"


def test_mig_devices_are_found_under_their_boards_and_looked_for_again_when_one_is_unknown(
    divided: tuple[subprocess.Popen[str], list[str], Path],
) -> None:
    process, migs, path = divided
    assert process.stdin is not None
    assert process.stdout is not None
    simulator = Simulator(path)
    board = simulator.uuids()[0]
    first, boards = json.loads(process.stdout.readline())
    assert first == dict.fromkeys(migs, board)
    assert boards == sorted(simulator.uuids())
    third = simulator.create_instance(0, "1g.5gb").uuid
    process.stdin.write("\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == first
    assert json.loads(process.stdout.readline()) == first
    assert json.loads(process.stdout.readline()) == dict.fromkeys([*migs, third], board)
    assert process.wait(60) == 0
