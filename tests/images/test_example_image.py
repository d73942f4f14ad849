"""The example trains on the CPU, with time and energy of the GPU that a node simulates."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from gpu_simulator import Simulator
from tests.images.containers import Container, Image, Mount, Runc

REPOSITORY = Path(__file__).resolve().parents[2]
ASK_PLUGIN = """
import dataclasses, json, sys
from pathlib import Path
from gpu_simulator.device_plugin.container import ContainerFiles
print(json.dumps(dataclasses.asdict(ContainerFiles(Path(sys.argv[1])).setup([sys.argv[2]]))))
"""


def test_a_node_with_the_agents_image_gives_it_a_gpu_to_train_on(
    agent_image: Image, example_image: Image, runc: Runc, tmp_path: Path
) -> None:
    # The simulator's folder has one path on the host and in the plug-in's container.
    state = tmp_path / "gpus" / "state"
    state.parent.mkdir()
    here = [Mount(state.parent, str(state.parent), writable=True)]
    make = ["gpu-sim", f"--state={state}", "create", "--gpu=V100", "--gpu=A40", "--time-scale=0.05"]
    made = runc.run(Container(agent_image, command=[*make, "--writable-by=root"], mounts=here))
    assert made.code == 0, made.errors
    _theirs, mine = Simulator(state).uuids()
    asked = runc.run(
        Container(agent_image, command=["python", "-c", ASK_PLUGIN, str(state), mine], mounts=here)
    )
    assert asked.code == 0, asked.errors
    setup = json.loads(asked.output)

    done = runc.run(
        Container(
            example_image,
            command=["python", "train.py"],
            arguments=["--batch-size=64", "--max-epochs=1"],
            environment=setup["variables"],
            mounts=[
                Mount(Path(each["host_path"]), each["container_path"], not each["read_only"])
                for each in setup["mounts"]
            ],
        )
    )

    assert done.code == 0, done.errors
    assert done.output.startswith("epoch 1: validation accuracy 0.")
    assert "J on NVIDIA A40" in done.errors  # the summary of a run outside a ZeusJob
    assert Simulator(state).true_energy_joules(mine) > 0


def test_the_command_of_its_zeusjob_trains_in_it(example_image: Image, runc: Runc) -> None:
    manifest = yaml.safe_load((REPOSITORY / "examples/digits/zeusjob.yaml").read_text())
    pod = manifest["spec"]["workload"]["template"]["spec"]["template"]["spec"]
    (training,) = pod["containers"]
    values = {"$(ZEUS_BATCH_SIZE)": "256", "$(ZEUS_LEARNING_RATE)": "0.05"}
    arguments = [_expanded(argument, values) for argument in training["args"]]

    done = runc.run(
        Container(
            example_image,
            command=training["command"],
            arguments=[*arguments, "--max-epochs=2"],
        )
    )

    assert done.code == 0, done.errors
    assert [line.split(":")[0] for line in done.output.splitlines() if "accuracy" in line] == [
        "epoch 1",
        "epoch 2",
    ]


def test_its_torch_is_one_that_the_project_supports(example_image: Image, runc: Runc) -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (wanted,) = extras["optional-dependencies"]["torch"]

    done = runc.run(
        Container(example_image, command=["python", "-c", "import torch; print(torch.__version__)"])
    )

    (version,) = done.output.split()[-1:]
    assert Requirement(wanted).specifier.contains(version.partition("+")[0])


def _expanded(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text
