"""Every fault, in every phase of a run: the limit found is back, or its restore stays due.

The phases are those of a pod's process: it *profiles* (goes from limit to limit), *holds* one, or
is *idle* (has a session and no limit).  Where the hardware answers, the limit found before is back
once the run has ended, whatever happened to it; where it does not, what is to be put back stays on
disk, and is put back when it does.  How soon is measured by `benchmarks/agent`.
"""

from __future__ import annotations

import contextlib
import enum
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import ADMIN_CAP_WATTS
from tests.support.api_server_double import Fault
from tests.support.cluster_node import ClusterNode, Pod, cluster_node, refusal
from tests.support.eventually import eventually
from tests.support.limit_holder import LIMITS_WATTS
from tests.support.wall_clock import WallClock
from zeus_runtime.protocol import ENV_AGENT, ErrorCode, SessionRequest

FOREIGN_WATTS = 125.0
DAY_SECONDS = 86_400


class Phase(enum.Enum):
    """What the run is doing when the fault comes."""

    PROFILING = "profiling"
    HOLDING = "holding"
    IDLE = "idle"


every_phase = pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)


class Run:
    """A process of a pod that is in its phase."""

    def __init__(self, node: ClusterNode, phase: Phase, ttl_seconds: float) -> None:
        self.node = node
        self.phase = phase
        self.uuid = node.uuids[0]
        self.pod: Pod = node.pod("train", self.uuid)
        command = [sys.executable, "-m", "tests.support.limit_holder"]
        self.process = subprocess.Popen(
            [*command, phase.value, "run", str(ttl_seconds), self.uuid],
            env={**os.environ, **self.pod.environment, ENV_AGENT: node.url},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", node.log()

    @property
    def has_limit(self) -> bool:
        """Whether its GPU is at a limit that only the run has asked for."""
        return self.node.limit(self.uuid) in LIMITS_WATTS

    def is_in_its_phase(self) -> None:
        """Wait until it is (again) as it was at the beginning."""
        if self.phase is Phase.IDLE:
            eventually(lambda: "sessions 1.0" in self.node.shown(), "a session")
            assert self.node.limit(self.uuid) == ADMIN_CAP_WATTS
        else:
            eventually(lambda: self.has_limit, "the run has its limit")

    def end(self) -> None:
        """End it without any last word."""
        self.process.kill()
        self.process.wait(60)


def no_session_is_left(node: ClusterNode) -> None:
    """Wait until the agent knows of no run; one that was idle had no limit to give back."""
    eventually(lambda: "zeus_agent_sessions 0.0" in node.shown(), "its session ended")


@pytest.fixture
def node() -> Iterator[ClusterNode]:
    with cluster_node() as made:
        yield made


Start = Callable[[Phase], Run]


@pytest.fixture
def start(node: ClusterNode) -> Iterator[Start]:
    """Starts an agent and a run on the node, and ends the run after the test."""
    with contextlib.ExitStack() as cleanup:

        def begin(phase: Phase, ttl_seconds: float = 60.0) -> Run:
            node.start_agent()
            run = Run(node, phase, ttl_seconds)
            cleanup.callback(run.end)
            run.is_in_its_phase()
            return run

        yield begin


@every_phase
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "sigkill"])
def test_a_client_that_is_ended(
    node: ClusterNode, start: Start, phase: Phase, number: signal.Signals
) -> None:
    run = start(phase)
    run.process.send_signal(number)
    node.wait_until_restored()
    no_session_is_left(node)


@every_phase
def test_a_client_that_hangs(node: ClusterNode, start: Start, phase: Phase) -> None:
    run = start(phase, ttl_seconds=1.0)
    run.process.send_signal(signal.SIGSTOP)
    node.wait_until_restored()
    no_session_is_left(node)
    run.process.send_signal(signal.SIGCONT)
    run.is_in_its_phase()
    run.end()
    node.wait_until_restored()


@every_phase
def test_a_pod_that_is_deleted_while_its_process_lives_on(
    node: ClusterNode, start: Start, phase: Phase
) -> None:
    run = start(phase)
    run.pod.delete()
    node.wait_until_restored()
    no_session_is_left(node)
    assert run.process.poll() is None
    assert not run.has_limit


@every_phase
@pytest.mark.parametrize("client_lives", [True, False], ids=["client-lives", "client-dies-too"])
def test_an_agent_that_is_killed(
    node: ClusterNode, start: Start, phase: Phase, client_lives: bool
) -> None:
    run = start(phase)
    node.stop_agent(signal.SIGKILL)
    if phase is not Phase.IDLE:
        assert run.has_limit
        assert node.saved() == [run.uuid]
    if not client_lives:
        run.end()
    node.start_agent()
    if client_lives:
        run.is_in_its_phase()
        run.end()
    node.wait_until_restored()
    no_session_is_left(node)


@every_phase
def test_an_agent_that_is_upgraded(node: ClusterNode, start: Start, phase: Phase) -> None:
    run = start(phase)
    assert node.stop_agent(signal.SIGTERM) == 0
    assert node.limit(run.uuid) == ADMIN_CAP_WATTS
    assert node.saved() == []
    node.start_agent()
    run.is_in_its_phase()
    run.end()
    node.wait_until_restored()


@every_phase
def test_a_kubelet_that_restarts(node: ClusterNode, start: Start, phase: Phase) -> None:
    run = start(phase)
    asked = len(node.kubelet.calls)
    node.run(node.kubelet.restart())
    eventually(lambda: len(node.kubelet.calls) > asked, "the agent asks the new kubelet")
    run.is_in_its_phase()
    run.end()
    node.wait_until_restored()


@every_phase
def test_a_gpu_that_is_lost_and_comes_back(node: ClusterNode, start: Start, phase: Phase) -> None:
    run = start(phase)
    node.simulator.set_fault(run.uuid, "lost")
    eventually(lambda: f'healthy{{gpu="{run.uuid}"}} 0.0' in node.shown(), "it is out")
    run.end()
    if phase is not Phase.IDLE:
        eventually(lambda: "zeus_agent_sessions 0.0" in node.shown(), "its end is seen")
        assert node.saved() == [run.uuid]
        assert node.previous_watts(run.uuid) == ADMIN_CAP_WATTS
    node.simulator.clear_fault(run.uuid)
    if phase is Phase.IDLE:
        # Nothing was held: the limit that the reset has lost is not the agent's to put back.
        eventually(lambda: node.limit(run.uuid) != 0.0, "it answers")
        assert node.saved() == []
    else:
        node.wait_until_restored()


@every_phase
def test_a_gpu_that_is_lost_while_the_agent_is_replaced(
    node: ClusterNode, start: Start, phase: Phase
) -> None:
    run = start(phase)
    node.simulator.set_fault(run.uuid, "lost")
    run.end()
    code = node.stop_agent(signal.SIGTERM)
    if phase is Phase.IDLE:
        assert code == 0
        return
    assert code == 4  # not restored; saved for the next start
    assert node.previous_watts(run.uuid) == ADMIN_CAP_WATTS
    node.start_agent()
    assert node.saved() == [run.uuid]
    node.simulator.clear_fault(run.uuid)
    node.wait_until_restored()


@every_phase
def test_a_limit_that_somebody_else_changes(node: ClusterNode, start: Start, phase: Phase) -> None:
    run = start(phase)
    node.simulator.foreign_limit(run.uuid, FOREIGN_WATTS)
    if phase is not Phase.IDLE:
        counted = f'foreign_changes_total{{gpu="{run.uuid}"}} 1.0'
        eventually(lambda: counted in node.shown(), "it is noticed")
    assert node.limit(run.uuid) == FOREIGN_WATTS
    run.end()
    eventually(lambda: not node.saved(), "nothing is due")
    assert node.limit(run.uuid) == FOREIGN_WATTS


@every_phase
def test_a_disk_that_is_full(node: ClusterNode, start: Start, phase: Phase) -> None:
    run = start(phase)
    # No file of the agent's may grow: what a full disk does to it, without filling a real one.
    pid = node.agent_pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    other = node.pod("other", node.uuids[1])
    client = other.client()
    client.open_session("other", SessionRequest(job="team/other"))
    asked = ("other", node.uuids[1], LIMITS_WATTS[0])
    assert refusal(client.set_power_limit, *asked) == (507, ErrorCode.STATE_NOT_SAVED)
    assert node.limit(node.uuids[1]) == ADMIN_CAP_WATTS
    run.end()
    eventually(
        lambda: {node.limit(uuid) for uuid in node.uuids} == {ADMIN_CAP_WATTS},
        "the limit is back although nothing can be written",
    )
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    node.wait_until_restored()


@every_phase
@pytest.mark.parametrize("jump_seconds", [DAY_SECONDS, -DAY_SECONDS], ids=["ahead", "back"])
def test_a_wall_clock_that_jumps(
    node: ClusterNode, start: Start, phase: Phase, jump_seconds: int, tmp_path: Path
) -> None:
    clock = WallClock(tmp_path)
    node.environment.update(clock.environment)
    run = start(phase, ttl_seconds=1.0)
    asked = len(node.api.reviewed)
    clock.jump(jump_seconds)
    # A day ahead every token seems to have expired.  Whether it has is for the API server to say,
    # by its own clock: no run loses its limit because a node's date is set.
    if jump_seconds > 0:
        eventually(lambda: len(node.api.reviewed) > asked, "the token is reviewed again")
    run.is_in_its_phase()
    run.end()
    node.wait_until_restored()


@every_phase
@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.HANG], ids=lambda fault: fault.value)
def test_token_reviews_that_are_not_answered(
    node: ClusterNode, start: Start, phase: Phase, fault: Fault
) -> None:
    run = start(phase)
    node.api.review_fault = fault
    other = node.pod("other", node.uuids[1])
    asked = ("other", SessionRequest(job="team/other"))
    assert refusal(other.client().open_session, *asked) == (503, ErrorCode.IDENTITY_UNAVAILABLE)
    assert node.limit(node.uuids[1]) == ADMIN_CAP_WATTS
    run.end()
    node.wait_until_restored()
