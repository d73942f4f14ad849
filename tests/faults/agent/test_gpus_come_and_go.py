"""GPUs that vanish and return, a driver that is taken away, MIG, and clocks that are held down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gpu_simulator import UNTIL_CLEARED, create_state, environment
from gpu_simulator.faults import Throttle, Unsupported
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


_SHOW_NAMES = """
import asyncio, json, sys, time
from pathlib import Path
from zeus_agent.journal import Journal
from zeus_agent.keeper import Keeper
from zeus_agent.metrics import Metrics

async def show():
    keeper = Keeper(
        Journal(Path(sys.argv[1]), "boot"), Metrics(), poll_seconds=3600.0,
        nvml_timeout_seconds=float(sys.argv[2]), clock=time.monotonic,
    )
    await keeper.start()
    while sys.stdin.readline():
        print(json.dumps(await keeper.named_boards()), flush=True)
    await keeper.stop(30.0)

asyncio.run(show())
"""


class Names:
    """A keeper that looks at its GPUs once, and says by which names it knows them when asked."""

    def __init__(self, folder: Path, models: list[str], nvml_timeout_seconds: float = 30.0) -> None:
        self.simulator = create_state(folder / "gpus", models)
        self.uuids = self.simulator.uuids()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SHOW_NAMES, str(folder / "state"), str(nvml_timeout_seconds)],
            env={**os.environ, **environment(folder / "gpus")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> dict[str, str]:
        """Ask it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        named: dict[str, str] = json.loads(self._process.stdout.readline())
        return named

    def __enter__(self) -> Names:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:  # closes its input, at which it ends
            process.communicate()
        assert process.returncode == 0

    def number(self, *numbers: int) -> None:
        """Give the GPUs, in their order, these minor numbers."""
        for uuid, number in zip(self.uuids, numbers, strict=True):
            self.simulator.set("minor_number", number, uuid)


def test_boards_are_known_by_their_mig_devices_and_device_files(tmp_path: Path) -> None:
    with Names(tmp_path, ["A100", "A100", "V100"]) as names:  # of which the V100 has no MIG
        names.number(2, 0, 1)
        one, two, three = names.uuids
        files = {"nvidia2": one, "nvidia0": two, "nvidia1": three}
        assert names() == files
        names.simulator.set_mig_mode(0, True)
        migs = [names.simulator.create_instance(0, "1g.5gb").uuid for _ in range(2)]
        assert names() == {**files, **dict.fromkeys(migs, one)}
        migs.append(names.simulator.create_instance(0, "1g.5gb").uuid)
        assert names() == {**files, **dict.fromkeys(migs, one)}


def test_a_number_of_two_boards_is_nobodys_until_one_has_it_alone(tmp_path: Path) -> None:
    with Names(tmp_path, ["V100", "A40", "A40"]) as names:
        names.number(0, 0, 1)
        assert names() == {"nvidia1": names.uuids[2]}
        names.number(2, 0, 1)
        one, two, three = names.uuids
        assert names() == {"nvidia2": one, "nvidia0": two, "nvidia1": three}


def test_a_board_whose_driver_tells_no_number_has_none_and_the_others_theirs(
    tmp_path: Path,
) -> None:
    with Names(tmp_path, ["V100", "A100"]) as names:
        names.simulator.set_mig_mode(1, True)
        mig = names.simulator.create_instance(1, "1g.5gb").uuid
        names.simulator.set_fault(1, "unsupported", Unsupported.MINOR_NUMBER)
        assert names() == {"nvidia0": names.uuids[0], mig: names.uuids[1]}


def test_a_board_that_hangs_keeps_its_number_unless_another_one_says_that_it_has_it(
    tmp_path: Path,
) -> None:
    with Names(tmp_path, ["V100", "A40"], nvml_timeout_seconds=0.3) as names:
        one, two = names.uuids
        assert names() == {"nvidia0": one, "nvidia1": two}
        names.simulator.set_fault(0, "hang_seconds", UNTIL_CLEARED)
        assert names() == {"nvidia0": one, "nvidia1": two}
        names.number(1, 0)
        assert names() == {"nvidia0": two}
        names.simulator.set_fault(1, "hang_seconds", UNTIL_CLEARED)
        assert names() == {"nvidia0": two}, "the last one that has said so has it"
        names.simulator.clear_fault(0)
        names.simulator.clear_fault(1)
