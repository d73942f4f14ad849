"""Defects that were reproduced in zeusd 0.5.0 and Zeus 0.16.0, each as a test that ours passes.

Those that other tests hold already, by their names:

zeusd
* nothing restored at SIGTERM, SIGKILL, a client's death or a restart: `test_limits_come_back`,
  `test_the_limits_come_back_when_the_client_is_killed`, `..._when_the_agent_is_stopped`,
  `..._when_a_killed_agent_is_started_again`;
* 300 queued sets delay another caller by 6 s: `test_gpu_faults`,
  `test_one_callers_burst_on_a_slow_driver_is_done_by_its_newest_wish`; timed in benchmarks/agent;
* the log names no caller: `test_agent_refusals`,
  `test_the_log_names_the_caller_in_few_short_lines`;
* a token's scope is a group of calls, not a GPU: `test_agent_attackers`,
  `test_another_pods_gpu_is_refused_as_one_that_does_not_exist`;
* an expired token is accepted for up to a minute: tests/unit/agent/cluster,
  test_token_authentication, `test_an_expired_token_is_refused_unasked`.

Zeus
* the limit of the last profile stays after SIGTERM and SIGKILL: as the first above, and
  tests/unit/runtime/test_runtime_process,
  `test_the_result_survives_sigkill_and_the_limit_comes_back`;
* profiling never ends with short epochs: test_runtime_power_profile,
  `test_epochs_shorter_than_a_tick_are_measured_with_what_follows_them`;
* a window shorter than the counter's tick ends training with an exception, or counts 0 W:
  test_runtime_trial, `test_epochs_that_are_too_short_are_measured_as_whole_cycles`,
  test_runtime_windows, `test_nothing_is_claimed_about_a_moment_that_is_not_known_yet`;
* UUIDs in CUDA_VISIBLE_DEVICES crash it: test_runtime_process,
  `test_the_gpu_of_cuda_visible_devices_is_measured`;
* its cost adds watts to milliwatts: test_runtime_power_profile,
  `test_the_cost_counts_watts_with_watts`;
* a lowest limit off the grid of 25 W ends training: test_runtime_power_profile,
  `test_candidates_go_down_in_steps_and_hold_both_ends`.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS, Machine, raw_request
from tests.support.eventually import eventually
from tests.support.runtime_lab import DECISION, ROOT, RuntimeLab
from zeus_runtime.agent_client import AgentError
from zeus_runtime.protocol import ErrorCode, SessionRequest

SLOW_SECONDS = 0.02
WAITING_REQUESTS = 20_000
GROWTH_MEGABYTES = 40.0

# ---- zeusd -----------------------------------------------------------------------------


def test_a_socket_left_by_a_killed_agent_does_not_block_the_next_start(machine: Machine) -> None:
    machine.start_agent()
    machine.stop_agent(signal.SIGKILL)
    assert machine.socket.is_socket()
    machine.start_agent()
    assert len(machine.client().node().gpus) == 2


@pytest.mark.parametrize(
    ("watts", "bound"), [(1.0, "min_limit_watts"), (99_999.0, "max_limit_watts")]
)
def test_a_limit_that_the_device_does_not_take_is_never_answered_as_set(
    machine: Machine, watts: float, bound: str
) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    client.open_session("a", SessionRequest())
    lease = client.set_power_limit("a", uuid, watts)
    assert lease.clamped
    assert lease.requested_watts == watts
    assert lease.applied_watts == machine.limit(uuid) == machine.simulator.get(bound, uuid)


@pytest.mark.parametrize("watts", ["0", "-5", "1e9", "NaN", '"200"', "null", "true"])
def test_a_limit_that_is_none_is_refused_and_changes_nothing(
    shared_machine: Machine, watts: str
) -> None:
    uuid = shared_machine.uuids[0]
    shared_machine.client().open_session("illegal", SessionRequest())
    url = f"/v1/sessions/illegal/gpus/{uuid}/power-limit"
    body = b'{"power_limit_watts": %s}' % watts.encode()
    status, answer = raw_request(shared_machine.socket, "PUT", url, body)
    assert (status, json.loads(answer)["code"]) == (400, ErrorCode.BAD_REQUEST.value)
    assert shared_machine.limit(uuid) == ADMIN_CAP_WATTS


def test_a_burst_of_one_caller_leaves_another_gpu_and_the_next_owner_alone(
    machine: Machine,
) -> None:
    machine.start_agent()
    first, second = machine.uuids
    for uuid in machine.uuids:
        machine.simulator.set_fault(uuid, "slow_seconds", SLOW_SECONDS)
    sets = 60
    with burst(machine, "a", first, sets):
        other = machine.client()
        other.open_session("b", SessionRequest())
        with pytest.raises(AgentError) as refused:
            other.set_power_limit("b", first, 130.0)
        assert refused.value.code == ErrorCode.GPU_LEASED.value
        assert other.set_power_limit("b", second, 130.0).applied_watts == 130.0
        machine.client().close_session("a")
        # Nothing of the burst waits before the next owner's wish.
        assert other.set_power_limit("b", first, 130.0).applied_watts == 130.0
        assert machine.limit(first) == 130.0
    assert machine.metric("zeus_agent_limits_set_total") < sets / 2
    machine.client().close_session("b")
    machine.wait_until_restored()


def test_what_waits_of_a_client_that_has_gone_is_never_set(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    machine.simulator.set_fault(uuid, "slow_seconds", SLOW_SECONDS)
    with burst_process(machine, "gone", uuid, 40) as process:
        eventually(lambda: machine.limit(uuid) != ADMIN_CAP_WATTS, "the burst is being set")
        process.kill()
        process.wait(60)
        machine.wait_until_restored()
    machine.simulator.clear_fault(uuid)
    done = machine.metric("zeus_agent_limits_set_total")
    # The device's calls go one after another: what still waited would come before this one.
    client = machine.client()
    client.open_session("next", SessionRequest())
    lease = client.set_power_limit("next", uuid, 150.0)
    assert (lease.applied_watts, lease.previous_watts) == (150.0, ADMIN_CAP_WATTS)
    assert machine.metric("zeus_agent_limits_set_total") == done + 1
    client.close_session("next")
    machine.wait_until_restored()


def test_thousands_of_requests_that_wait_take_no_memory_and_end_with_the_agent(
    machine: Machine,
) -> None:
    agent = machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    client.open_session("a", SessionRequest())
    machine.simulator.set_fault(uuid, "slow_seconds", SLOW_SECONDS)
    before = resident_megabytes(agent.pid)
    connections = []
    each = 200
    url = f"/v1/sessions/a/gpus/{uuid}/power-limit"
    for number in range(WAITING_REQUESTS // each):
        body = b'{"power_limit_watts": %d}' % (110 + number % 80)
        head = f"PUT {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        connection.connect(str(machine.socket))
        # What the server does not read stays with its sender.
        connection.send((head.encode() + body) * each)
        connections.append(connection)
    eventually(lambda: machine.limit(uuid) != ADMIN_CAP_WATTS, "some of them are being set")
    assert len(machine.client().node().gpus) == 2
    assert resident_megabytes(agent.pid) - before < GROWTH_MEGABYTES
    assert machine.stop_agent(signal.SIGTERM) == 0
    machine.wait_until_restored()
    for connection in connections:
        connection.close()


def test_a_gpu_is_named_by_its_uuid_and_not_by_an_index(shared_machine: Machine) -> None:
    client = shared_machine.client()
    client.open_session("named", SessionRequest())
    uuid = shared_machine.uuids[1]
    assert client.set_power_limit("named", uuid, 150.0).gpu_uuid == uuid
    with pytest.raises(AgentError) as refused:
        client.set_power_limit("named", "1", 150.0)
    assert refused.value.code == ErrorCode.BAD_REQUEST.value
    assert "UUID" in refused.value.message
    client.close_session("named")


def test_what_changes_nothing_writes_nothing_to_the_log(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    client = machine.client()
    client.open_session("a", SessionRequest(job="team/job"))
    client.set_power_limit("a", uuid, 150.0)
    eventually(lambda: "watts=150" in machine.log(), "the answer is followed by its line")
    before = len(machine.log())
    for _ in range(10):
        client.renew("a")
        client.node()
        client.set_power_limit("a", uuid, 150.0)
    client.set_power_limit("a", uuid, 160.0)
    eventually(lambda: "watts=160" in machine.log(), "the answer is followed by its line")
    new = machine.log()[before:]
    assert new.count("\n") == 1  # lines are in order: none for what changed nothing
    assert len(new) < 300  # bytes; zeusd's every request takes 877


# ---- Zeus ------------------------------------------------------------------------------


def test_the_limit_found_is_restored_and_not_the_devices_highest(machine: Machine) -> None:
    machine.start_agent()
    uuid = machine.uuids[0]
    assert machine.simulator.get("max_limit_watts", uuid) > ADMIN_CAP_WATTS
    with machine.caller("a", (uuid, 150.0)) as (_, said):
        assert said == "holding"
    machine.wait_until_restored(ADMIN_CAP_WATTS)


def test_a_process_with_gpus_in_another_order_sets_the_limit_of_the_gpu_it_trains_on(
    tmp_path: Path,
) -> None:
    # In a container that sees the second GPU alone, index 0 is the machine's GPU 1.
    machine = Machine(tmp_path)
    try:
        machine.start_agent()
        first, second = machine.uuids
        with machine.caller("a", (second, 150.0)) as (_, said):
            assert said == "holding"
            assert (machine.limit(first), machine.limit(second)) == (ADMIN_CAP_WATTS, 150.0)
    finally:
        machine.close()


def test_a_training_step_looks_at_no_file(tmp_path: Path) -> None:
    lab = RuntimeLab(tmp_path)
    few, many = (file_looks(lab, steps) for steps in (20, 420))
    assert many - few < 20  # of 400 more steps; a thread of its own may look now and then


# ---- inside ----------------------------------------------------------------------------


_COUNTING = """
import os, runpy, sys
looks = 0
def counted(function):
    def call(*arguments, **options):
        global looks
        looks += 1
        return function(*arguments, **options)
    return call
for name in ("stat", "lstat", "access", "open", "listdir", "scandir"):
    setattr(os, name, counted(getattr(os, name)))
script = sys.argv.pop(1)
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print("looks", looks)
"""


def file_looks(lab: RuntimeLab, steps: int) -> int:
    """Return how often a run of one epoch with so many steps looks at a file."""
    script = ROOT / "tests" / "support" / "training_loop.py"
    plan = json.dumps({"metrics": [0.95], "steps": steps})
    environ = lab.environ(DECISION, agent=False)
    ended = lab.run_script(["-c", _COUNTING, str(script), plan], environ)
    assert ended.result is not None, ended.errors
    return int(ended.output.rpartition("looks")[2])


@contextmanager
def burst(machine: Machine, session: str, uuid: str, count: int) -> Iterator[None]:
    """Set limits from `count` connections of this process at once."""
    client = machine.client()
    client.open_session(session, SessionRequest())

    def set_one(watts: float) -> None:
        own = machine.client()
        try:
            own.set_power_limit(session, uuid, watts)
        except AgentError as error:
            # The session was closed while this one waited.
            if error.code != ErrorCode.NOT_FOUND.value:
                raise
        finally:
            own.close()

    threads = [threading.Thread(target=set_one, args=(110.0 + n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    eventually(lambda: machine.limit(uuid) != ADMIN_CAP_WATTS, "the burst is being set")
    yield
    for thread in threads:
        thread.join(60)
    client.close()


_BURST = """
import sys, threading
from zeus_runtime.agent_client import AgentClient, AgentError
from zeus_runtime.protocol import SessionRequest
address, session, uuid, count = sys.argv[1:]
AgentClient(address, 30.0).open_session(session, SessionRequest())
def set_one(watts):
    AgentClient(address, 30.0).set_power_limit(session, uuid, watts)
for n in range(int(count)):
    threading.Thread(target=set_one, args=(110.0 + n,)).start()
"""


@contextmanager
def burst_process(
    machine: Machine, session: str, uuid: str, count: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that sets limits from `count` connections at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BURST, machine.address, session, uuid, str(count)],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def resident_megabytes(pid: int) -> float:
    """Return the memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000.0
    raise AssertionError(f"process {pid} has no memory")
