"""The ImageNet example: its script on two simulated GPUs and a few images."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import examples
from tests.support.forked_scripts import Script, Scripts
from tests.support.runtime_lab import RuntimeLab
from zeus_runtime.protocol import STOP_EXIT_CODE, Decision, Outcome

PROCESSES = 2
DECISION = Decision(
    batch_size=16, target=0.9, metric_mode="Max", max_epochs=30, learning_rate=0.05, seed=1
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path, *["V100"] * PROCESSES)
    machine.start_agent()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.make_slice("imagenet", tmp_path_factory.mktemp("imagenet") / "slice")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    with examples.forked(tmp_path_factory.mktemp("scripts"), "torchvision") as made:
        yield made


def options(lab: RuntimeLab, data: Path) -> list[str]:
    return [
        *(f"--data={data}", "--workers=0", "--width=8", "--image-size=32", "--max-epochs=1000"),
        *(f"--checkpoints={lab.folder / 'checkpoints'}", f"--save={lab.folder / 'model.pt'}"),
    ]


def start(lab: RuntimeLab, scripts: Scripts, data: Path, decision: Decision) -> list[Script]:
    """Start the script for each GPU, with the variables that torchrun would give."""
    words = [*examples.script_and_arguments("imagenet", decision), *options(lab, data)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    started = []
    for rank in range(PROCESSES):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        started.append(scripts.start(words, lab.environ(decision, **place, **rendezvous)))
    return started


@pytest.mark.torch
@pytest.mark.slow
def test_torchrun_trains_with_the_decided_batch_size_until_it_is_good_enough(
    lab: RuntimeLab, data: Path
) -> None:
    words = [
        word.replace("--nproc-per-node=4", f"--nproc-per-node={PROCESSES}")
        for word in examples.words_of("imagenet", DECISION)
    ]
    ran = subprocess.run(
        [sys.executable, *words, *options(lab, data), "--largest-micro-batch=4"],
        env=lab.environ(DECISION, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )

    result = lab.result()
    assert ran.returncode == 0, ran.stderr
    assert result is not None
    assert (result.outcome, result.batch_size) == (Outcome.REACHED.value, 16)
    assert result.gpu_count == PROCESSES
    told = examples.epochs_told(ran.stdout)
    assert told == list(range(1, result.epochs + 1)), "rank 0 tells each once"
    assert result.energy_joules is not None
    both = sum(lab.simulator.true_energy_joules(index) for index in range(PROCESSES))
    assert 0.0 < result.energy_joules < both
    assert result.power_profile
    saved = torch.load(lab.folder / "model.pt", weights_only=True)
    assert saved["fc.weight"].shape == (3, 2048)
    assert list((lab.folder / "checkpoints").iterdir()) == []
    lab.wait_until_restored()


@pytest.mark.torch
def test_an_interrupted_run_goes_on_and_one_that_misses_its_target_saves_no_model(
    lab: RuntimeLab, scripts: Scripts, data: Path
) -> None:
    endless = replace(DECISION, batch_size=32, target=2.0, max_epochs=1000)
    first = start(lab, scripts, data, endless)
    first[0].says("epoch 3:")
    for script in first:
        script.kill()
    (kept,) = (lab.folder / "checkpoints").glob("*.pt")
    epochs = torch.load(kept, weights_only=True)["zeus"]["epochs"]

    last = replace(endless, max_epochs=epochs + 1)
    lead, other = [script.end() for script in start(lab, scripts, data, last)]

    result = lab.result()
    assert lead.exit_code == other.exit_code == STOP_EXIT_CODE, lead.errors + other.errors
    assert result is not None
    assert (result.outcome, result.epochs) == (Outcome.MAX_EPOCHS.value, epochs + 1)
    assert result.carried_epochs == epochs >= 2
    assert examples.epochs_told(lead.output) == [epochs + 1]
    assert other.output == ""
    assert not (lab.folder / "model.pt").exists()
    assert list((lab.folder / "checkpoints").glob("*.pt")) == []


def test_the_learning_rate_climbs_for_five_epochs_and_then_falls_to_nothing() -> None:
    share = [examples.module("imagenet", "schedule").share_of_rate(n, 40) for n in range(41)]

    assert share[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert share[5:] == sorted(share[5:], reverse=True)
    assert share[40] == pytest.approx(0.0)
