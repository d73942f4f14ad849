"""Every example has a ZeusJob that is taken as it is, and a page that says how to use it."""

from __future__ import annotations

import pytest

from tests.support.examples import EXAMPLES
from zeus_operator.api.manifest import load_manifest
from zeus_operator.api.template import training_container

NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/zeusjob.yaml"))


def test_every_folder_of_the_examples_is_an_example_and_in_the_list() -> None:
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    assert folders == NAMES
    assert [name for name in NAMES if f"]({name}/README.md)" not in listed] == []


@pytest.mark.parametrize("local", [True, False], ids=["one machine", "cluster"])
@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_is_taken(name: str, local: bool) -> None:
    loaded = load_manifest(EXAMPLES / name / "zeusjob.yaml", local=local)

    assert loaded.job.spec.batch_size.default in loaded.job.spec.batch_size.choices


def test_no_two_examples_are_the_same_job() -> None:
    keys = [load_manifest(EXAMPLES / name / "zeusjob.yaml").job.key for name in NAMES]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_manifest_runs_is_there(name: str) -> None:
    container = training_container(load_manifest(EXAMPLES / name / "zeusjob.yaml").job.spec)
    words = (*container.command, *container.args)
    scripts = [word for word in words if word.endswith(".py")]

    assert scripts == ["train.py"]
    assert (EXAMPLES / name / "train.py").exists()
    assert (EXAMPLES / name / "README.md").exists()


def test_every_batch_size_of_several_processes_can_be_shared_evenly() -> None:
    spec = load_manifest(EXAMPLES / "imagenet" / "zeusjob.yaml").job.spec
    container = training_container(spec)
    (option,) = (word for word in container.args if word.startswith("--nproc-per-node="))
    processes = int(option.partition("=")[2])

    assert processes == container.gpu_count == 4
    assert [size for size in spec.batch_size.choices if size % processes] == []
