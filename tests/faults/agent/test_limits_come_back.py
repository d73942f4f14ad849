"""Whatever ends, the limit found before is back.  Each is a defect of a peer (design notes)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS, Machine
from tests.support.eventually import eventually
from zeus_agent.journal import read_boot_id
from zeus_agent.main import EXIT_NOT_RESTORED
from zeus_runtime.agent_client import AgentError
from zeus_runtime.protocol import ErrorCode, SessionRequest


def test_a_limit_is_set_read_back_and_restored_on_release(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    client.open_session("a", SessionRequest())
    lease = client.set_power_limit("a", uuid, 150.0)
    assert machine.limit(uuid) == 150.0 == lease.applied_watts
    assert lease.previous_watts == ADMIN_CAP_WATTS
    assert machine.saved() == [uuid]
    client.release("a", uuid)
    assert machine.limit(uuid) == ADMIN_CAP_WATTS
    assert machine.saved() == []


def test_closing_a_session_restores_all_its_gpus_before_it_answers(machine: Machine) -> None:
    machine.start_agent()
    client = machine.client()
    client.open_session("a", SessionRequest())
    for uuid in machine.uuids:
        client.set_power_limit("a", uuid, 150.0)
    client.close_session("a")
    assert [machine.limit(uuid) for uuid in machine.uuids] == [ADMIN_CAP_WATTS] * 2


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_the_limits_come_back_when_the_client_is_killed(
    machine: Machine, signal_number: int
) -> None:
    machine.start_agent()
    with machine.caller("a", *((uuid, 150.0) for uuid in machine.uuids)) as (process, said):
        assert said == "holding"
        assert machine.saved() == sorted(machine.uuids)
        process.send_signal(signal_number)
        machine.wait_until_restored()


def test_the_limits_come_back_when_the_client_just_ends(machine: Machine) -> None:
    machine.start_agent()
    with machine.caller("a", (machine.uuids[0], 150.0)) as (_, said):
        assert said == "holding"
    machine.wait_until_restored()


def test_a_client_that_hangs_loses_its_limits_when_its_time_to_live_is_over(
    machine: Machine,
) -> None:
    machine.start_agent()
    with machine.caller("a", (machine.uuids[0], 150.0), ttl_seconds=1.0) as (process, said):
        assert said == "holding"
        process.send_signal(signal.SIGSTOP)
        machine.wait_until_restored()
        process.send_signal(signal.SIGCONT)
    assert "not renewed in time" in machine.log()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_the_limits_come_back_when_the_agent_is_stopped(
    machine: Machine, signal_number: int
) -> None:
    machine.start_agent()
    with machine.caller("a", *((uuid, 150.0) for uuid in machine.uuids)) as (_, said):
        assert said == "holding"
        assert machine.stop_agent(signal_number) == 0
        assert [machine.limit(uuid) for uuid in machine.uuids] == [ADMIN_CAP_WATTS] * 2
        assert machine.saved() == []
        assert not machine.socket.exists()


def test_the_limits_come_back_when_a_killed_agent_is_started_again(machine: Machine) -> None:
    machine.start_agent()
    with machine.caller("a", *((uuid, 150.0) for uuid in machine.uuids)) as (_, said):
        assert said == "holding"
        machine.stop_agent(signal.SIGKILL)
        assert {machine.limit(uuid) for uuid in machine.uuids} == {150.0}
        assert machine.saved() == sorted(machine.uuids)
        assert machine.socket.exists(), "a stale socket is what the next start finds"
        machine.start_agent()
        machine.wait_until_restored()


def test_a_gpu_that_is_lost_when_a_killed_agent_starts_again_is_restored_when_it_is_back(
    machine: Machine,
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    with machine.caller("a", (uuid, 150.0)) as (_, said):
        assert said == "holding"
        machine.stop_agent(signal.SIGKILL)
    machine.simulator.set_fault(uuid, "lost")
    machine.start_agent()
    machine.stop_agent(signal.SIGKILL)
    assert machine.saved() == [uuid]
    machine.start_agent()
    machine.simulator.clear_fault(uuid)  # it comes back reset, at the default of its model
    machine.wait_until_restored()


def test_a_client_that_lives_on_takes_its_lease_again_after_a_restart(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    client.open_session("a", SessionRequest())
    first = client.set_power_limit("a", uuid, 150.0)
    machine.stop_agent(signal.SIGKILL)
    machine.start_agent()
    with pytest.raises(AgentError) as gone:
        client.renew("a")
    assert gone.value.code == ErrorCode.NOT_FOUND
    client.open_session("a", SessionRequest())
    again = client.set_power_limit("a", uuid, 150.0)
    assert again.previous_watts == ADMIN_CAP_WATTS
    assert again.fence > first.fence


def test_a_limit_changed_by_an_admin_while_the_agent_was_dead_is_left_alone(
    machine: Machine,
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    with machine.caller("a", (uuid, 150.0)) as (_, said):
        assert said == "holding"
        machine.stop_agent(signal.SIGKILL)
        machine.simulator.foreign_limit(uuid, 180.0)
        machine.start_agent()
        eventually(lambda: machine.saved() == [], "the saved limit is dropped")
        assert machine.limit(uuid) == 180.0


def test_a_simulated_gpus_limit_is_restored_even_after_a_reboot_because_it_survives_one(
    machine: Machine,
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    with machine.caller("a", (uuid, 150.0)) as (_, said):
        assert said == "holding"
        machine.stop_agent(signal.SIGKILL)
    entry = machine.state_dir / "saved" / f"{uuid}.json"
    entry.write_text(entry.read_text().replace(read_boot_id(), "0" * 36))
    machine.start_agent()
    machine.wait_until_restored()


_CLOCK_JUMPS = """
import itertools, sys, time
day = 24 * 3600.0
jumps = itertools.cycle([0.0, 400 * day, -20_000 * day, 1.0, -day])
real = time.time
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: int(time.time() * 1e9)
from zeus_agent.main import main
sys.exit(main())
"""


def test_a_wall_clock_that_jumps_ends_no_lease_and_keeps_none_alive(machine: Machine) -> None:
    machine.program = ["-c", _CLOCK_JUMPS]
    machine.start_agent()
    first, second = machine.uuids
    with (
        machine.caller("a", (first, 150.0)) as (_, one),
        machine.caller("b", (second, 125.0), ttl_seconds=1.0) as (hung, two),
    ):
        assert one == two == "holding"
        hung.send_signal(signal.SIGSTOP)
        eventually(lambda: machine.limit(second) == ADMIN_CAP_WATTS, "its time to live is over")
        assert machine.limit(first) == 150.0
        machine.stop_agent(signal.SIGKILL)
        machine.start_agent()
        machine.wait_until_restored()
        hung.send_signal(signal.SIGCONT)


_ADOPT_AFTER_REBOOT = """
import asyncio, sys, time
from dataclasses import replace
from pathlib import Path
from zeus_agent import nvml
from zeus_agent.journal import Journal
from zeus_agent.keeper import Keeper
from zeus_agent.metrics import Metrics

async def adopt():
    keeper = Keeper(
        Journal(Path(sys.argv[1]), "another-boot"), Metrics(), poll_seconds=1.0,
        nvml_timeout_seconds=30.0, clock=time.monotonic,
        # As on real GPUs: their driver has forgotten every limit at the reboot.
        initialize=lambda: replace(nvml.initialize(), simulated=False),
    )
    await keeper.start()
    print(await keeper.stop(30.0))

asyncio.run(adopt())
"""


def test_what_an_earlier_boot_saved_for_a_real_gpu_is_dropped_and_nothing_is_written(
    machine: Machine,
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    with machine.caller("a", (uuid, 150.0)) as (_, said):
        assert said == "holding"
        machine.stop_agent(signal.SIGKILL)
    adopting = subprocess.run(
        [sys.executable, "-c", _ADOPT_AFTER_REBOOT, str(machine.state_dir)],
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert adopting.stdout.strip() == "True", adopting.stderr
    assert machine.saved() == []
    assert machine.limit(uuid) == 150.0, "what a boot script has set, say"


def test_an_agent_that_stops_before_a_gpu_has_come_back_says_that_a_limit_is_left(
    machine: Machine,
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    with machine.caller("a", (uuid, 150.0)) as (_, said):
        assert said == "holding"
        machine.stop_agent(signal.SIGKILL)
    machine.start_agent(without_driver=True)
    assert machine.stop_agent() == EXIT_NOT_RESTORED
    assert machine.saved() == [uuid]
    machine.start_agent()
    machine.wait_until_restored()


def test_an_idle_agent_ends_by_itself_and_one_with_a_session_does_not(machine: Machine) -> None:
    agent = machine.start_agent("--idle-exit-seconds", "5")
    with machine.caller("a", (machine.uuids[0], 150.0)) as (_, said):
        assert said == "holding"
    assert agent.wait(60) == 0
    machine.wait_until_restored()
    assert not machine.socket.exists()


def test_many_clients_killed_at_once_leave_every_limit_restored(machine: Machine) -> None:
    machine.start_agent()
    first, second = machine.uuids
    with (
        machine.caller("a", (first, 150.0)) as (one, _),
        machine.caller("b", (second, 125.0)) as (two, _),
    ):
        for process in (one, two):
            os.kill(process.pid, signal.SIGKILL)
        machine.wait_until_restored()
