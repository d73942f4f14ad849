"""The CIFAR-100 example: its script on a few images, and the parts it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import examples
from tests.support.forked_scripts import Ran, Script, Scripts
from tests.support.runtime_lab import RuntimeLab
from zeus_runtime.protocol import STOP_EXIT_CODE, Decision, Outcome

pytestmark = pytest.mark.torch

DECISION = Decision(
    batch_size=16, target=0.9, metric_mode="Max", max_epochs=30, learning_rate=1.0, seed=1
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    machine.start_agent()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.make_slice("cifar100", tmp_path_factory.mktemp("cifar") / "slice")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    with examples.forked(tmp_path_factory.mktemp("scripts"), "torchvision") as made:
        yield made


def start(lab: RuntimeLab, scripts: Scripts, data: Path, decision: Decision) -> Script:
    words = [
        *examples.script_and_arguments("cifar100", decision),
        *(f"--data={data}", "--workers=0", "--width=0.5", "--max-epochs=1000"),
        *(f"--checkpoints={lab.folder / 'checkpoints'}", f"--save={lab.folder / 'model.pt'}"),
    ]
    return scripts.start(words, lab.environ(decision, OMP_NUM_THREADS="1"))


def run(lab: RuntimeLab, scripts: Scripts, data: Path, decision: Decision) -> Ran:
    return start(lab, scripts, data, decision).end()


def test_it_trains_with_the_decided_batch_size_until_it_is_good_enough(
    lab: RuntimeLab, scripts: Scripts, data: Path
) -> None:
    ran = run(lab, scripts, data, DECISION)

    result = lab.result()
    assert ran.exit_code == 0, ran.errors
    assert result is not None
    assert (result.outcome, result.batch_size) == (Outcome.REACHED.value, 16)
    assert examples.epochs_told(ran.output) == list(range(1, result.epochs + 1))
    assert result.energy_joules is not None
    assert 0.0 < result.energy_joules < lab.simulator.true_energy_joules(0)
    assert result.power_profile
    saved = torch.load(lab.folder / "model.pt", weights_only=True)
    assert saved["fc.weight"].shape == (100, 1024)
    assert list((lab.folder / "checkpoints").iterdir()) == []
    lab.wait_until_restored()


def test_an_interrupted_run_goes_on_and_one_that_misses_its_target_saves_no_model(
    lab: RuntimeLab, scripts: Scripts, data: Path
) -> None:
    endless = replace(DECISION, batch_size=32, target=2.0, max_epochs=1000)
    first = start(lab, scripts, data, endless)
    first.says("epoch 3:")
    first.kill()
    (kept,) = (lab.folder / "checkpoints").glob("*.pt")
    epochs = torch.load(kept, weights_only=True)["zeus"]["epochs"]

    ran = run(lab, scripts, data, replace(endless, max_epochs=epochs + 1))

    result = lab.result()
    assert ran.exit_code == STOP_EXIT_CODE, ran.errors
    assert result is not None
    assert (result.outcome, result.epochs) == (Outcome.MAX_EPOCHS.value, epochs + 1)
    assert result.carried_epochs == epochs >= 2
    assert examples.epochs_told(ran.output) == [epochs + 1]
    assert not (lab.folder / "model.pt").exists()
    assert list((lab.folder / "checkpoints").glob("*.pt")) == []


def test_images_are_read_as_colours_rows_and_columns(tmp_path: Path) -> None:
    red, green, blue = bytes([10]) * 1024, bytes([20]) * 1024, bytes(range(32)) * 32
    (tmp_path / "train.bin").write_bytes(bytes([3, 42]) + red + green + blue)

    ((image, label),) = examples.module("cifar100", "data").read_images(tmp_path / "train.bin")

    assert int(label) == 42
    assert image[:, 5, 7].tolist() == [10, 20, 7]


def test_data_that_is_no_cifar_is_refused_in_a_sentence(tmp_path: Path) -> None:
    images = examples.module("cifar100", "data")
    (tmp_path / "train.bin").write_bytes(b"no images")

    with pytest.raises(SystemExit, match="rows of 3074 bytes"):
        images.read_images(tmp_path / "train.bin")
    with pytest.raises(SystemExit, match=r"make_slice\.py"):
        images.read_images(tmp_path / "test.bin")


def test_augmenting_shifts_and_mirrors_each_image_by_itself() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(32).expand(3, 32, 32)  # grows by 1 from the left to the right
    batch = ramp.to(torch.uint8).repeat(64, 1, 1, 1)

    shown = examples.module("cifar100", "data").augmented(batch)

    assert shown.shape == batch.shape
    middle = shown[:, 0, 16, 15:17].int()
    steps = (middle[:, 1] - middle[:, 0]).tolist()
    assert {-1, 1} == set(steps), "some are mirrored, some are not"
    assert len(set(middle[:, 0].tolist())) > 4, "they are shifted by different numbers of pixels"
    assert torch.equal(shown[:, 0], shown[:, 2]), "all colours alike"
