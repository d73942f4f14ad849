"""Finding, starting and keeping the agent of this machine."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from zeus_operator.local.agent import LocalAgent
from zeus_operator.local.gpu import GpuChoice, Gpus, choose_gpus
from zeus_operator.local.home import Home
from zeus_runtime.agent_client import AgentClient, AgentUnavailable

Starter = Callable[..., LocalAgent]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket."""
    with tempfile.TemporaryDirectory(prefix="zeus-test-") as name:
        yield Path(name)


@pytest.fixture
def gpus(folder: Path) -> Gpus:
    return choose_gpus(Home(folder / "home"), GpuChoice.SIMULATED, {})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def start(gpus: Gpus, said: list[str]) -> Iterator[Starter]:
    started: list[LocalAgent] = []

    def one(**arguments: object) -> LocalAgent:
        agent = LocalAgent(
            gpus.folder,
            gpus.uuids,
            gpus.environment,
            notify=said.append,
            idle_exit_seconds=1.0,
            renew_seconds=0.1,
            system_socket=arguments.get("system_socket"),
        )
        agent.start()
        started.append(agent)
        return agent

    yield one
    for agent in started:
        agent.close()


def pids(gpus: Gpus) -> list[int]:
    """Return the agents of this test's machine."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"zeus_agent.main" in words and str(gpus.folder / "agent.sock").encode() in words:
                found.append(int(directory.name))
    return found


def test_a_second_program_uses_the_agent_of_the_first(start: Starter, gpus: Gpus) -> None:
    first, second = start(), start()
    assert first.address == second.address
    assert len(pids(gpus)) == 1


def test_it_ends_by_itself_once_nobody_needs_it(start: Starter, gpus: Gpus) -> None:
    agent = start()
    agent.close()
    eventually(lambda: not pids(gpus), "the agent has ended")


def test_a_killed_agent_is_started_again(start: Starter, gpus: Gpus, said: list[str]) -> None:
    agent = start()
    (before,) = pids(gpus)
    os.kill(before, signal.SIGKILL)

    def answers() -> bool:
        if pids(gpus) in ([], [before]):
            return False
        client = AgentClient(str(agent.address))
        try:
            return bool(client.node().gpus)
        except AgentUnavailable:
            return False
        finally:
            client.close()

    eventually(answers, "another agent answers")
    assert said == []


def test_the_machines_own_agent_is_preferred_if_it_knows_the_gpu(
    start: Starter, gpus: Gpus, folder: Path
) -> None:
    first = start()
    system = folder / "system.sock"
    system.symlink_to(gpus.folder / "agent.sock")
    second = start(system_socket=system)
    assert first.address != second.address == f"unix://{system}"
    assert len(pids(gpus)) == 1


def test_a_machine_agent_that_does_not_know_the_gpu_is_passed_over(
    start: Starter, gpus: Gpus, folder: Path
) -> None:
    other = choose_gpus(
        Home(folder / "other"), GpuChoice.SIMULATED, {"ZEUS_SIMULATED_GPU": '{"seed": 5}'}
    )
    stranger = LocalAgent(
        other.folder, other.uuids, other.environment, notify=print, system_socket=None,
        idle_exit_seconds=1.0,
    )  # fmt: skip
    stranger.start()
    agent = start(system_socket=other.folder / "agent.sock")
    stranger.close()
    assert agent.address == f"unix://{gpus.folder / 'agent.sock'}"
