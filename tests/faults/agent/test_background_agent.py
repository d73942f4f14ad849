"""The client that holds limits from a thread: never in the way, and back after the agent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS, Machine
from tests.support.eventually import eventually
from zeus_runtime.agent_background import AgentStatus, BackgroundAgent
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import ErrorCode, Lease, Result, SessionRequest

PATIENCE_SECONDS = 60.0


@pytest.fixture
def background(machine: Machine) -> Iterator[BackgroundAgent]:
    """A client with its thread running; the agent is not started yet."""
    made = BackgroundAgent(
        machine.address, "job-1", SessionRequest(job="team/job"), renewal_seconds=0.2
    )
    made.start()
    yield made
    made.close()


def holds(background: BackgroundAgent, uuid: str, watts: float) -> None:
    status = background.wait(
        lambda s: uuid in s.leases and s.leases[uuid].applied_watts == watts, PATIENCE_SECONDS
    )
    assert status.leases[uuid].applied_watts == watts, status


def test_without_an_agent_wishes_are_kept_and_granted_when_one_comes(
    machine: Machine, background: BackgroundAgent
) -> None:
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    status = background.wait(lambda s: "No such file" in s.error, PATIENCE_SECONDS)
    assert not status.connected
    machine.start_agent()
    holds(background, uuid, 150.0)
    assert background.status.connected
    assert background.status.node is not None
    assert machine.limit(uuid) == 150.0
    background.close()
    machine.wait_until_restored()


def test_the_newest_wish_wins_and_a_release_restores(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    for watts in (225.0, 175.0, 125.0):
        background.want_power_limit(uuid, watts)
    holds(background, uuid, 125.0)
    background.release(uuid)
    background.wait(lambda s: uuid not in s.leases, PATIENCE_SECONDS)
    machine.wait_until_restored()


def test_after_a_restart_of_the_agent_the_lease_is_taken_again_and_the_loss_is_told(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    first = background.status.leases[uuid]
    machine.stop_agent(signal.SIGTERM)
    status = background.wait(lambda s: not s.connected, PATIENCE_SECONDS)
    assert status.leases == {}
    assert status.losses == 1
    machine.start_agent()
    holds(background, uuid, 150.0)
    again = background.status.leases[uuid]
    assert again.fence > first.fence
    assert again.previous_watts == ADMIN_CAP_WATTS
    background.close()
    machine.wait_until_restored()


def test_a_foreign_change_is_told_and_not_fought(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    machine.simulator.foreign_limit(uuid, 180.0)
    status = background.wait(lambda s: uuid in s.problems, PATIENCE_SECONDS)
    assert status.problems[uuid].code == ErrorCode.FOREIGN_CHANGE
    assert uuid not in status.leases
    assert status.losses == 1
    background.close()
    assert machine.limit(uuid) == 180.0


def test_a_session_that_expired_while_the_process_was_stopped_is_opened_again(
    machine: Machine,
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    background = BackgroundAgent(machine.address, "job-1", SessionRequest(ttl_seconds=60.0))
    background.start()
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    machine.client().close_session("job-1")
    machine.wait_until_restored()
    # As after an expiry: the next wish finds no session and opens one.
    background.want_power_limit(uuid, 175.0)
    holds(background, uuid, 175.0)
    background.close()
    machine.wait_until_restored()


def test_a_lease_that_another_part_of_the_process_released_is_taken_again(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    first = background.status.leases[uuid]
    machine.client().release("job-1", uuid)
    background.wait(
        lambda s: uuid in s.leases and s.leases[uuid].fence > first.fence, PATIENCE_SECONDS
    )
    assert background.status.leases[uuid].fence > first.fence
    assert background.status.losses == 1
    assert machine.limit(uuid) == 150.0


def test_what_can_not_be_sent_is_told_and_the_rest_goes_on(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    first, second = machine.uuids
    background.want_power_limit(first, float("nan"))
    background.report(Result(sequence=1, last_metric=float("nan")))
    background.want_power_limit(second, 150.0)
    holds(background, second, 150.0)
    assert background.status.problems[first].code == ErrorCode.BAD_REQUEST


class FaultyClient(AgentClient):
    """A client with a fault of its own, which shows when a limit is wanted."""

    def set_power_limit(self, session: str, uuid: str, watts: float, sequence: int = 0) -> Lease:
        raise ZeroDivisionError("a fault")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_client_is_told_and_nothing_counts_as_held(machine: Machine) -> None:
    machine.start_agent()
    background = BackgroundAgent(FaultyClient(machine.address), "job-1", SessionRequest())
    background.start()
    background.wait(lambda s: s.connected, PATIENCE_SECONDS)
    background.want_power_limit(machine.uuids[0], 150.0)
    status = background.wait(lambda s: "a fault" in s.error, PATIENCE_SECONDS)
    assert "a fault" in status.error
    assert not status.connected
    background.close()


def test_trouble_with_a_gpu_is_told_and_tried_again(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "set_ignored")
    background.want_power_limit(uuid, 150.0)
    status = background.wait(lambda s: uuid in s.problems, PATIENCE_SECONDS)
    assert status.problems[uuid].code == ErrorCode.NVML_ERROR
    machine.simulator.clear_fault(uuid)
    holds(background, uuid, 150.0)
    assert uuid not in background.status.problems


def test_reports_reach_the_agent_and_its_log_at_the_end(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    background.wait(lambda s: s.connected, PATIENCE_SECONDS)
    background.report(Result(sequence=1, epochs=3, energy_joules=12.5, outcome="reached"))
    background.close()
    eventually(lambda: "session ended" in machine.log(), "the session has ended")
    assert "epochs=3 energy_joules=12.5 outcome=reached" in machine.log()


def _close_in_child(background: BackgroundAgent) -> None:
    background.want_power_limit("GPU-of-the-child", 1.0)
    background.close()
    os._exit(0)


def test_a_forked_child_does_not_touch_the_parents_session(
    machine: Machine, background: BackgroundAgent
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    background.want_power_limit(uuid, 150.0)
    holds(background, uuid, 150.0)
    child = multiprocessing.get_context("fork").Process(target=_close_in_child, args=(background,))
    child.start()
    child.join(PATIENCE_SECONDS)
    assert child.exitcode == 0
    background.want_power_limit(uuid, 175.0)
    holds(background, uuid, 175.0)


def _use_in_child(background: BackgroundAgent) -> None:
    background.want_power_limit("GPU-of-the-child", 1.0)
    background.release("GPU-of-the-child")
    background.report(Result(sequence=9))
    background.wait(lambda status: False, PATIENCE_SECONDS)
    background.close()
    os._exit(0)


def test_a_child_that_was_forked_while_a_thread_had_the_lock_does_not_wait_for_it(
    background: BackgroundAgent,
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def look(_: AgentStatus) -> bool:
        inside.set()
        return go_on.wait(PATIENCE_SECONDS)

    looking = threading.Thread(target=background.wait, args=(look, PATIENCE_SECONDS))
    looking.start()
    assert inside.wait(PATIENCE_SECONDS)
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(background,))
    child.start()
    child.join(PATIENCE_SECONDS / 4)
    waits = child.is_alive()
    child.kill()
    go_on.set()
    looking.join(PATIENCE_SECONDS)
    assert not waits


def test_a_process_that_just_ends_leaves_the_limit_restored(machine: Machine) -> None:
    machine.start_agent()

    def hold_and_die() -> None:
        background = BackgroundAgent(machine.address, "job-1", SessionRequest())
        background.start()
        background.want_power_limit(machine.uuids[0], 150.0)
        holds(background, machine.uuids[0], 150.0)
        os._exit(1)

    child = multiprocessing.get_context("fork").Process(target=hold_and_die)
    child.start()
    child.join(PATIENCE_SECONDS)
    assert "power limit set" in machine.log()
    machine.wait_until_restored()
