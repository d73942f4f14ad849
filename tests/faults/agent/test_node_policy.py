"""The node's policy on a real agent: defaults, bounds, dry runs and rates that come and go."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS, Machine
from tests.support.eventually import eventually
from zeus_agent.main import EXIT_USAGE
from zeus_runtime.agent_client import AgentClient, AgentError
from zeus_runtime.protocol import ErrorCode, SessionRequest

DEFAULT_WATTS = 180.0
DEFAULT = f"version: 1\ngpus: [{{model: '*', defaultWatts: {DEFAULT_WATTS:g}}}]"


def write(machine: Machine, text: str) -> Path:
    """Put a policy in the place of the one before, at once."""
    path, other = machine.folder / "policy.yaml", machine.folder / "policy.new"
    other.write_text(text)
    other.replace(path)
    return path


def start(machine: Machine, policy: str) -> AgentClient:
    machine.start_agent("--policy", str(write(machine, policy)))
    client = machine.client()
    client.open_session("a", SessionRequest(ttl_seconds=300.0))
    return client


def wait_for_limits(machine: Machine, watts: float) -> None:
    eventually(
        lambda: {machine.limit(uuid) for uuid in machine.uuids} == {watts},
        f"every limit is {watts:g} W",
    )


def refusal(client: AgentClient, uuid: str, watts: float) -> AgentError:
    with pytest.raises(AgentError) as refused:
        client.set_power_limit("a", uuid, watts)
    return refused.value


def test_the_node_default_holds_where_no_lease_does_and_the_limit_found_after_the_agent(
    machine: Machine,
) -> None:
    client = start(machine, DEFAULT)
    wait_for_limits(machine, DEFAULT_WATTS)
    assert machine.saved() == sorted(machine.uuids)
    lease = client.set_power_limit("a", machine.uuids[0], 150.0)
    assert lease.previous_watts == ADMIN_CAP_WATTS
    client.release("a", machine.uuids[0])
    wait_for_limits(machine, DEFAULT_WATTS)
    assert machine.stop_agent() == 0
    assert {machine.limit(uuid) for uuid in machine.uuids} == {ADMIN_CAP_WATTS}
    assert machine.saved() == []


@pytest.mark.parametrize("held_watts", [None, 150.0])
def test_an_agent_killed_under_a_node_default_is_followed_by_one_that_knows_what_was_found(
    machine: Machine, held_watts: float | None
) -> None:
    client = start(machine, DEFAULT)
    wait_for_limits(machine, DEFAULT_WATTS)
    if held_watts is not None:
        client.set_power_limit("a", machine.uuids[0], held_watts)
    machine.stop_agent(signal.SIGKILL)
    start(machine, DEFAULT)
    wait_for_limits(machine, DEFAULT_WATTS)
    machine.stop_agent(signal.SIGKILL)
    machine.start_agent()  # whose administrator has no default any more
    machine.wait_until_restored()


def test_a_driver_that_is_reloaded_gets_the_node_default_again(machine: Machine) -> None:
    start(machine, DEFAULT)
    wait_for_limits(machine, DEFAULT_WATTS)
    for uuid in machine.uuids:
        machine.simulator.reload_driver(uuid)
    wait_for_limits(machine, DEFAULT_WATTS)
    assert machine.stop_agent() == 0
    assert {machine.limit(uuid) for uuid in machine.uuids} == {ADMIN_CAP_WATTS}


def test_a_gpu_that_is_back_gets_the_node_default_again(machine: Machine) -> None:
    start(machine, DEFAULT)
    wait_for_limits(machine, DEFAULT_WATTS)
    machine.simulator.set_fault(machine.uuids[0], "lost")
    eventually(lambda: machine.metric("zeus_agent_gpu_healthy") == 1, "the loss is noticed")
    machine.simulator.clear_fault(machine.uuids[0])
    wait_for_limits(machine, DEFAULT_WATTS)
    machine.stop_agent()
    machine.wait_until_restored()


def test_someone_elses_limit_goes_above_the_node_default_and_stays(machine: Machine) -> None:
    start(machine, DEFAULT)
    wait_for_limits(machine, DEFAULT_WATTS)
    for uuid in machine.uuids:
        machine.simulator.foreign_limit(uuid, 190.0)
    eventually(lambda: machine.saved() == [], "what was saved is dropped")
    assert machine.metric("zeus_agent_foreign_changes_total") == 2
    assert machine.stop_agent() == 0
    assert {machine.limit(uuid) for uuid in machine.uuids} == {190.0}


def test_a_policy_that_changes_moves_what_is_held_and_a_wrong_one_changes_nothing(
    machine: Machine,
) -> None:
    client = start(machine, "version: 1")
    uuid = machine.uuids[0]
    client.set_power_limit("a", uuid, 240.0)
    write(machine, "version: 1\ngpus: [{model: '*', maxWatts: 210}]")
    eventually(lambda: client.session("a").leases[0].applied_watts == 210.0, "it is moved")
    assert client.session("a").leases[0].clamped
    assert machine.limit(uuid) == 210.0
    write(machine, "version: 1\ngpus: [{model: '*', maxWatt: 230}]")
    eventually(lambda: machine.metric("zeus_agent_policy_valid") == 0, "it is refused")
    assert "gpus[0].maxWatt: unknown" in machine.log()
    assert machine.limit(uuid) == 210.0
    write(machine, "version: 1")
    eventually(lambda: machine.limit(uuid) == 240.0, "it is moved back")
    assert machine.metric("zeus_agent_policy_valid") == 1
    client.close_session("a")
    machine.wait_until_restored()


def test_a_dry_run_writes_nothing_and_answers_with_what_was_found(machine: Machine) -> None:
    client = start(machine, f"{DEFAULT}\ndryRun: true")
    lease = client.set_power_limit("a", machine.uuids[0], 150.0)
    assert lease.applied_watts == lease.previous_watts == ADMIN_CAP_WATTS
    assert lease.requested_watts == 150.0
    assert machine.saved() == []
    assert {machine.limit(uuid) for uuid in machine.uuids} == {ADMIN_CAP_WATTS}
    assert machine.metric("zeus_agent_dry_run") == 1
    assert "dry run: power limit not set" in machine.log()


def test_a_dry_run_that_begins_gives_back_what_is_held(machine: Machine) -> None:
    client = start(machine, DEFAULT)
    client.set_power_limit("a", machine.uuids[0], 150.0)
    write(machine, f"{DEFAULT}\ndryRun: true")
    machine.wait_until_restored()
    assert client.session("a").leases == ()


def test_changes_above_the_policys_rate_are_refused_with_the_time_to_wait(
    machine: Machine,
) -> None:
    client = start(machine, "version: 1\nmaxChangesPerMinute: 1")
    uuid = machine.uuids[0]
    for index in range(20):
        client.set_power_limit("a", uuid, 120.0 + 2.0 * index)
    refused = refusal(client, uuid, 200.0)
    assert (refused.code, refused.status) == (ErrorCode.RATE_LIMITED, 429)
    assert 0.0 < refused.details["retry_after_seconds"] <= 60.0
    assert client.set_power_limit("a", uuid, 158.0).applied_watts == 158.0, "that is no change"
    client.close_session("a")
    machine.wait_until_restored()


def test_persistence_mode_is_on_while_a_limit_is_held_and_back_after_a_kill_too(
    machine: Machine,
) -> None:
    def modes() -> set[float]:
        return {machine.simulator.get("persistence", uuid) for uuid in machine.uuids}

    policy = "version: 1\npersistenceMode: Enable"
    client = start(machine, policy)
    assert modes() == {0}
    for uuid in machine.uuids:
        client.set_power_limit("a", uuid, 150.0)
    assert modes() == {1}
    client.close_session("a")
    machine.wait_until_restored()
    assert modes() == {0}
    client.open_session("a", SessionRequest(ttl_seconds=300.0))
    client.set_power_limit("a", machine.uuids[0], 150.0)
    machine.stop_agent(signal.SIGKILL)
    machine.start_agent()
    machine.wait_until_restored()
    assert modes() == {0}


@pytest.mark.parametrize("policy", ["version: 3", None])
def test_an_agent_does_not_start_without_a_valid_policy_and_says_why(
    machine: Machine, policy: str | None
) -> None:
    path = machine.folder / "policy.yaml"
    if policy is not None:
        write(machine, policy)
    ended = subprocess.run(
        machine.command("--policy", str(path)),
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == EXIT_USAGE
    assert str(path) in ended.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_the_energy_total_goes_on_over_restarts(machine: Machine, signal_number: int) -> None:
    name = "zeus_agent_gpu_energy_joules_total"
    machine.start_agent()
    eventually(lambda: (machine.state_dir / "energy.json").exists(), "the totals are written")
    eventually(lambda: machine.metric(name) > 1.0, "energy is counted")
    before = machine.metric(name)
    machine.stop_agent(signal_number)
    machine.start_agent()
    assert machine.metric(name) >= before
    assert machine.metric(name) < before + 10_000.0, "and is not counted twice"
