"""The runtime gets into an image that lacks it, as the operator says it to the kubelet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.images.containers import Container, Done, Image, Mount, Runc
from zeus_operator.api.template import TrainingContainer
from zeus_operator.executors.child_additions import add_runtime

SOMEBODY = 1000
SCRIPT = """
import os, sys, pynvml, zeus_runtime
print(sys.argv[1:], zeus_runtime.__file__, pynvml.__file__, os.environ["PYTHONPATH"])
print(zeus_runtime.batch_size(32), zeus_runtime.TrainingRun.__name__)
"""


class Pod:
    """A pod of a run into which the operator puts the runtime.

    Attributes:
        volume: the folder that stands for the volume between the two containers.
    """

    def __init__(self, folder: Path, runc: Runc, command: list[str]) -> None:
        self._runc = runc
        self.volume = folder / "volume"
        self.volume.mkdir()
        self.volume.chmod(0o777)  # as the kubelet makes an emptyDir
        self.training: dict[str, Any] = {"name": "train", "command": command}
        self.spec: dict[str, Any] = {"containers": [self.training]}
        container = TrainingContainer(0, "train", tuple(command), (), (), gpu_count=1)
        add_runtime(self.spec, self.training, container, "example.org/runtime:1")

    def init(self, image: Image) -> Done:
        """Run the init container."""
        (ours,) = self.spec["initContainers"]
        rights = ours["securityContext"]
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["readOnlyRootFilesystem"]
        return self._runc.run(
            Container(
                image,
                command=ours["command"],
                user=rights["runAsUser"],
                mounts=self._mounts(ours, writable=True),
            )
        )

    def train(self, image: Image, **environment: str) -> Done:
        """Run the training container, as somebody who is not root."""
        return self._runc.run(
            Container(
                image,
                command=self.training["command"],
                environment=environment,
                user=SOMEBODY,
                mounts=self._mounts(self.training, writable=False),
            )
        )

    def _mounts(self, container: dict[str, Any], *, writable: bool) -> list[Mount]:
        (mount,) = container["volumeMounts"]
        assert bool(mount.get("readOnly")) is not writable
        return [Mount(self.volume, mount["mountPath"], writable)]


@pytest.fixture
def pod(tmp_path: Path, runc: Runc) -> Pod:
    return Pod(tmp_path, runc, ["python3", "-c", SCRIPT, "an argument"])


def test_a_plain_python_image_trains_with_the_runtime_that_the_init_container_brought(
    pod: Pod, runtime_image: Image, plain_python_image: Image
) -> None:
    assert pod.init(runtime_image) == Done(0, "", "")

    done = pod.train(plain_python_image, ZEUS_BATCH_SIZE="64", PYTHONPATH="/their/own")

    assert done.errors == ""
    assert done.output.splitlines() == [
        "['an argument'] /zeus/zeus_runtime/__init__.py /zeus/pynvml.py /zeus:/their/own",
        "64 TrainingRun",
    ]


def test_a_newer_python_does_too(pod: Pod, runtime_image: Image, example_image: Image) -> None:
    pod.init(runtime_image)

    done = pod.train(example_image, PYTHONPATH="")

    assert (done.code, done.errors) == (0, "")
    assert done.output.startswith("['an argument'] /zeus/zeus_runtime/__init__.py")


def test_an_init_container_that_is_started_again_brings_the_same(
    pod: Pod, runtime_image: Image
) -> None:
    pod.init(runtime_image)

    assert pod.init(runtime_image).code == 0
    assert sorted(path.name for path in pod.volume.iterdir()) == [
        "launch",
        "pynvml.py",
        "zeus_runtime",
    ]


def test_nothing_that_could_hide_a_module_of_the_user_comes_along(runtime_image: Image) -> None:
    # nvidia-ml-py's package also has a module `example`.
    found = {path.name for path in (runtime_image.root / "opt" / "zeus").iterdir()}

    assert found == {"launch", "pynvml.py", "zeus_runtime"}


def test_without_its_init_container_the_run_fails_by_name(
    pod: Pod, plain_python_image: Image
) -> None:
    done = pod.train(plain_python_image)

    assert done.code != 0
    assert "/zeus/launch" in done.errors


def test_it_holds_cp_its_libraries_and_the_licences_of_both(runtime_image: Image) -> None:
    programs = [
        path.name
        for folder in ("bin", "usr/bin", "sbin", "usr/sbin")
        for path in (runtime_image.root / folder).glob("*")
    ]
    licences = {path.parent.name for path in runtime_image.root.glob("usr/share/doc/*/copyright")}

    assert programs == ["cp"]
    assert {"coreutils", "libc6"} <= licences
    assert {path.name for path in (runtime_image.root / "licenses").iterdir()} == {
        "nvidia-ml-py",
        "zeus-operator",
    }
