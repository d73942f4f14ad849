"""The agent's image: a simulated GPU where it is asked for, and a real one's library elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_simulator import Simulator, WritableBy, create_state
from tests.images.containers import Container, Image, Mount, Runc, Running
from tests.support.eventually import eventually
from zeus_runtime.agent_client import AgentClient
from zeus_runtime.protocol import SessionRequest

SIMULATOR = {"GPU_SIM_STATE": "/gpus/state", "LD_LIBRARY_PATH": "/opt/gpu-simulator/lib"}
LIBRARY = "libnvidia-ml.so.1"


@pytest.fixture
def gpus(tmp_path: Path) -> Simulator:
    """One GPU whose limit only those with CAP_SYS_ADMIN may change."""
    folder = tmp_path / "gpus"
    folder.mkdir()
    return create_state(folder / "state", ["V100"], writable_by=WritableBy.ROOT)


class AgentContainer:
    """An agent in its image, with a folder of its own to write to and no other."""

    def __init__(self, image: Image, runc: Runc, folder: Path, gpus: Path) -> None:
        self._state = folder / "agent"
        self._state.mkdir()
        self._running = runc.started(
            Container(
                image,
                arguments=["serve", "--socket=/state/socket", "--state-dir=/state"],
                environment=SIMULATOR,
                mounts=[Mount(self._state, "/state", writable=True), Mount(gpus, "/gpus", True)],
                capabilities=["CAP_SYS_ADMIN"],
                sees_machine=True,  # over a Unix socket a caller is known by its process
            )
        )
        self.running: Running | None = None

    def __enter__(self) -> AgentContainer:
        self.running = running = self._running.__enter__()
        socket = self._state / "socket"
        eventually(lambda: socket.is_socket() or running.has_ended, "the agent serves")
        assert socket.is_socket(), running.errors
        self.client = AgentClient(f"unix://{socket}")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._running.__exit__(None, None, None)


@pytest.fixture
def agent(
    agent_image: Image, runc: Runc, tmp_path: Path, gpus: Simulator
) -> Iterator[AgentContainer]:
    with AgentContainer(agent_image, runc, tmp_path, gpus.path.parent) as running:
        yield running


def test_it_serves_the_simulated_gpus_of_its_node(agent: AgentContainer, gpus: Simulator) -> None:
    (gpu,) = agent.client.node().gpus

    assert gpu.uuid == gpus.uuids()[0]
    assert agent.client.node().simulated


def test_it_sets_a_limit_and_puts_it_back_when_it_is_told_to_end(
    agent: AgentContainer, gpus: Simulator
) -> None:
    before = gpus.power_limit_watts(0)
    agent.client.open_session("a", SessionRequest(job="digits"))

    lease = agent.client.set_power_limit("a", gpus.uuids()[0], 150.0)
    assert (lease.applied_watts, gpus.power_limit_watts(0)) == (150.0, 150.0)

    assert agent.running is not None
    agent.running.send(signal.SIGTERM)
    assert agent.running.wait().code == 0
    assert gpus.power_limit_watts(0) == before


def test_no_loader_finds_the_simulator_by_itself(agent_image: Image, runc: Runc) -> None:
    # On a node with a real GPU, its driver's library must be the one that is found.
    load = f"import ctypes; ctypes.CDLL('{LIBRARY}')"

    alone = runc.run(Container(agent_image, command=["python", "-c", load]))
    asked = runc.run(Container(agent_image, command=["python", "-c", load], environment=SIMULATOR))

    assert f"{LIBRARY}: cannot open shared object file" in alone.errors
    assert asked.code == 0, asked.errors


def test_gpu_sim_makes_gpus_without_a_compiler(
    agent_image: Image, runc: Runc, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()

    done = runc.run(
        Container(
            agent_image,
            command=["gpu-sim"],
            arguments=["--state=/gpus/state", "create", "--gpu=A40", "--gpu=V100"],
            mounts=[Mount(folder, "/gpus", writable=True)],
        )
    )

    assert done.code == 0, done.errors
    assert [gpu.model for gpu in Simulator(folder / "state").devices()] == ["A40", "V100"]


def test_its_library_runs_in_containers_of_old_distributions(agent_image: Image) -> None:
    # Those of the device plug-in get it, whatever they are made of.
    (library,) = {
        path.resolve() for path in agent_image.root.glob(f"opt/gpu-simulator/*/lib/{LIBRARY}")
    }
    text = library.read_bytes()
    versions = {
        tuple(map(int, part.split(b"\0")[0].split(b"."))) for part in text.split(b"GLIBC_")[1:]
    }

    assert max(versions) <= (2, 17)
