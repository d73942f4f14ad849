"""`gpuSimulator.enabled`: each node gets GPUs of its own, and an agent that sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu_simulator.control import main as gpu_sim
from gpu_simulator.state import Simulator
from tests.chart.support.helm import LEAST, Helm, Rendered, Values, containers_of, merged

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
SIMULATOR, AGENT = "DaemonSet/zeus-gpu-simulator", "DaemonSet/zeus-agent"


def simulated(helm: Helm, values: Values | None = None) -> Rendered:
    return helm.render(merged(LEAST, {"gpuSimulator": {"enabled": True, **(values or {})}}))


def container(rendered: Rendered, pod: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in containers_of(rendered.pods()[pod]) if each["name"] == name]
    return found


class Node:
    """A folder that stands for a node's; runs there what the containers would run."""

    def __init__(self, directory: Path, name: str) -> None:
        self.state = directory / name / "state"
        self.state.parent.mkdir()
        self._name = name

    def run(self, container: dict[str, Any]) -> int:
        """Return the exit code."""
        with self.start(container) as process:
            process.communicate()
            return process.returncode

    def start(self, container: dict[str, Any]) -> subprocess.Popen[str]:
        programs = Path(sys.executable).parent
        return subprocess.Popen(
            [*container["command"], *container.get("args", ())],
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "NODE_NAME": self._name,
                "GPU_SIM_STATE": str(self.state),
            },
            stdout=subprocess.PIPE,
            text=True,
        )

    def gpus(self) -> list[tuple[str, str]]:
        """Return model and UUID of each GPU."""
        return [(gpu.model, gpu.uuid) for gpu in Simulator(self.state).devices()]


def test_the_machine_is_the_one_of_the_values(helm: Helm, tmp_path: Path) -> None:
    values = {"gpus": ["A40", "V100"], "noise": 0.05, "timeScale": 0.5, "tickMilliseconds": 20}
    rendered = simulated(helm, {**values, "workload": "bert"})
    node = Node(tmp_path, "node-1")

    assert node.run(container(rendered, SIMULATOR, "make-gpus")) == 0

    machine = Simulator(node.state)
    assert [model for model, _ in node.gpus()] == ["A40", "V100"]
    assert {gpu.workload for gpu in machine.devices()} == {"bert"}
    assert machine.get("noise") == pytest.approx(0.05)
    assert machine.get("time_scale") == pytest.approx(0.5)
    assert machine.get("tick_seconds") == pytest.approx(0.02)


def test_nodes_have_gpus_of_their_own(helm: Helm, tmp_path: Path) -> None:
    make = container(simulated(helm), SIMULATOR, "make-gpus")
    nodes = [Node(tmp_path, name) for name in ("node-1", "node-2")]

    assert [node.run(make) for node in nodes] == [0, 0]

    assert not set(nodes[0].gpus()) & set(nodes[1].gpus())


def test_a_pod_that_starts_again_finds_the_machine_as_it_was(helm: Helm, tmp_path: Path) -> None:
    make = container(simulated(helm), SIMULATOR, "make-gpus")
    node = Node(tmp_path, "node-1")
    node.run(make)
    gpu_sim(["--state", str(node.state), "set", "--index", "0", "--limit", "150"])
    identity = node.state.stat().st_ino

    assert node.run(make) == 0

    assert node.state.stat().st_ino == identity
    assert Simulator(node.state).devices()[0].numbers["limit_watts"] == 150


@pytest.mark.parametrize("change", [{"gpus": ["A40"]}, {"seed": 1}], ids=["gpus", "seed"])
def test_other_values_make_another_machine_and_the_agent_waits_for_it(
    helm: Helm, tmp_path: Path, change: Values
) -> None:
    before, after = simulated(helm), simulated(helm, change)
    node = Node(tmp_path, "node-1")
    node.run(container(before, SIMULATOR, "make-gpus"))
    first = node.gpus()
    assert node.run(container(before, AGENT, "wait-for-gpus")) == 0

    with node.start(container(after, AGENT, "wait-for-gpus")) as waiting:
        assert waiting.stdout is not None
        assert "waiting for the pod zeus-gpu-simulator" in waiting.stdout.readline()
        assert node.run(container(after, SIMULATOR, "make-gpus")) == 0
        waiting.communicate()

    assert waiting.returncode == 0
    assert not set(node.gpus()) & set(first)


def test_the_agent_gets_the_simulated_nvml_and_the_signals(helm: Helm) -> None:
    """A shell says where the library is and is then replaced by the agent."""
    agent = container(simulated(helm), AGENT, "agent")

    assert agent["command"][:2] == ["sh", "-c"]
    assert "exec zeus-agent" in agent["command"][2]
    mounts = {each["mountPath"] for each in agent["volumeMounts"]}
    variables = {each["name"]: each.get("value") for each in agent["env"]}
    assert str(Path(variables["GPU_SIM_STATE"]).parent) in mounts


def test_the_agents_command_starts_an_agent_that_sees_the_gpus(helm: Helm, tmp_path: Path) -> None:
    rendered = simulated(helm)
    node = Node(tmp_path, "node-1")
    node.run(container(rendered, SIMULATOR, "make-gpus"))
    agent = container(rendered, AGENT, "agent")

    # The same shell; what it starts only says what it would see.
    shell = [*agent["command"][:2], agent["command"][2].replace("zeus-agent", "python3"), "x"]
    look = "import pynvml as n; n.nvmlInit(); raise SystemExit(40 + n.nvmlDeviceGetCount())"
    seen = node.run({"command": shell, "args": ["-c", look]})

    assert seen == 42


def test_no_runtime_brings_real_gpus_to_what_works_on_simulated_ones(helm: Helm) -> None:
    """The image asks for all of them, where the nodes' default runtime is NVIDIA's."""
    pods = simulated(helm).pods()

    asked = {
        each["name"]: [one.get("value") for one in each["env"] if one["name"] == VISIBLE]
        for name in (SIMULATOR, AGENT)
        for each in containers_of(pods[name])
    }
    names = ("make-gpus", "device-plugin", "wait-for-gpus", "agent")
    assert asked == {name: ["void"] for name in names}


def test_gpus_are_offered_from_the_folder_that_the_node_knows(helm: Helm) -> None:
    rendered = simulated(helm, {"directory": "/sim", "replicas": 4, "migStrategy": "single"})
    plugin = container(rendered, SIMULATOR, "device-plugin")
    volumes = rendered.pods()[SIMULATOR]["spec"]["volumes"]
    paths = {each["name"]: each.get("hostPath", {}).get("path") for each in volumes}
    mounts = {each["name"]: each["mountPath"] for each in plugin["volumeMounts"]}

    assert paths["simulator"] == mounts["simulator"] == "/sim"
    assert paths["device-plugins"] == mounts["device-plugins"]
    assert {"--replicas=4", "--mig-strategy=single", "--resource=nvidia.com/gpu"} <= {
        *plugin["args"]
    }


def test_agents_and_simulated_gpus_are_on_the_same_nodes(helm: Helm) -> None:
    values = {"nodeSelector": {"gpus": "none"}, "tolerations": [{"key": "x", "operator": "Exists"}]}
    pods = simulated(helm, values).pods()

    for pod in (pods[SIMULATOR], pods[AGENT]):
        assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux", "gpus": "none"}
        assert pod["spec"]["tolerations"] == values["tolerations"]
        assert "runtimeClassName" not in pod["spec"]
