"""`ZeusCallback` in a real Lightning `Trainer`: 20 samples, batches of 4, known metrics."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked_trainings import Trained, Trainings
from tests.support.runtime_lab import ROOT, RuntimeLab, decided
from zeus_runtime.protocol import Decision

pytestmark = pytest.mark.torch

BATCHES = 5  # of an epoch
DECIDED = decided(batch_size=4)


@dataclass(frozen=True)
class Bench:
    """Trains by a plan; the target is 0.9."""

    lab: RuntimeLab
    trainings: Trainings

    def train(
        self,
        folder: Path,
        decision: Decision | None = None,
        *,
        attempt: int = 1,
        trainer: dict[str, Any] | None = None,
        **plan: Any,
    ) -> Trained:
        environ = self.lab.environ(decision, agent=False, ZEUS_ATTEMPT=str(attempt))
        environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # as importing Lightning sets it
        plan.update(folder=str(folder), trainer=trainer or {})
        return self.trainings.train(plan, environ)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("lightning")
    lab = RuntimeLab(folder)
    made = Trainings("tests.support.lightning_training", folder, lab.environ(None, agent=False))
    yield Bench(lab, made)
    made.close()
    lab.close()


# ---- what is counted ------------------------------------------------------------------


def test_a_step_is_one_of_the_optimizer_and_the_epoch_ends_before_its_validation(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.train(tmp_path, trainer={"accumulate_grad_batches": 2, "max_epochs": 2})
    assert ended.exit_code == 0, ended.errors
    assert ended.seen_at("batch_end") == [
        (0, 0, True), (0, 1, True), (0, 1, True), (0, 2, True), (1, 3, False),
        (1, 3, True), (1, 4, True), (1, 4, True), (1, 5, True), (2, 6, False),
    ]  # fmt: skip
    assert ended.seen_at("evaluate") == [(1, 3, False), (2, 6, False)]
    assert ended.result is not None
    assert (ended.result.epochs, ended.outcome) == (2, None)
    assert ended.saved


def test_validations_within_an_epoch_are_reported_for_it_and_are_no_steps(
    bench: Bench, tmp_path: Path
) -> None:
    trainer = {"max_epochs": 2, "val_check_interval": 2}
    ended = bench.train(tmp_path, trainer=trainer, metrics=[0.1, 0.2, 0.3, 0.4])
    assert ended.seen_at("evaluate") == [(0, 2, True), (0, 4, True), (1, 7, True), (1, 9, True)]
    assert ended.result is not None
    assert [epoch for epoch, _ in ended.result.milestones] == [1, 1, 2, 2]
    assert ended.result.epochs == 2


def test_energy_is_measured_while_training_and_validation_go_on(
    bench: Bench, tmp_path: Path
) -> None:
    before = bench.lab.simulator.true_energy_joules(0)
    ended = bench.train(tmp_path, metrics=[0.5])
    used = bench.lab.simulator.true_energy_joules(0) - before
    assert ended.result is not None
    assert ended.result.energy_joules is not None
    assert 0.0 < ended.result.energy_joules <= used


def test_the_sanity_check_says_nothing_about_the_training(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, trainer={"max_epochs": 1}, metrics=[0.125])
    assert ended.result is not None
    assert (ended.outcome, ended.result.milestones) == ("max_epochs", ((1, 0.125),))


# ---- how it ends ------------------------------------------------------------------------


def test_training_ends_where_the_target_is_reached(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, trainer={"max_epochs": 5}, metrics=[0.2, 0.95])
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs) == ("reached", 2)
    assert len(ended.seen_at("batch_end")) == 2 * BATCHES
    assert (ended.exit_code, ended.saved) == (0, True), ended.errors


def test_training_ends_within_an_epoch_where_the_target_is_reached_there(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.train(tmp_path, DECIDED, trainer={"val_check_interval": 2}, metrics=[0.95])
    assert ended.seen_at("batch_end") == [(0, 1, True), (0, 2, True)]
    assert (ended.outcome, ended.exit_code, ended.saved) == ("reached", 0, True), ended.errors


def test_a_target_reached_before_the_least_epochs_counts_and_training_goes_on(
    bench: Bench, tmp_path: Path
) -> None:
    trainer = {"min_epochs": 2, "max_epochs": 5}
    ended = bench.train(tmp_path, DECIDED, trainer=trainer, metrics=[0.95])
    assert len(ended.seen_at("batch_end")) == 2 * BATCHES
    assert (ended.outcome, ended.exit_code, ended.saved) == ("reached", 0, True), ended.errors


def test_a_script_does_not_go_on_with_a_model_that_is_not_good_enough(
    bench: Bench, tmp_path: Path
) -> None:
    trainer = {"max_epochs": 2, "enable_checkpointing": True}
    ended = bench.train(tmp_path, DECIDED, trainer=trainer, metrics=[0.1])
    assert (ended.exit_code, ended.saved, ended.outcome) == (86, False, "max_epochs")
    assert {"heard": "fit_end"} in ended.told  # Lightning has done what it does at the end
    assert list(tmp_path.rglob(f"*step={2 * BATCHES}.ckpt"))
    assert "training stops: the target 0.9 was not reached in 2 epochs" in ended.errors
    assert "Traceback" not in ended.errors


def test_on_stop_return_only_ends_the_training(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, metrics=[0.1], callback={"on_stop": "return"})
    assert (ended.exit_code, ended.outcome) == (0, "max_epochs")
    assert "was not reached" in ended.told[-1]["reason"]


def test_the_jobs_epochs_bound_those_of_the_script(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, decided(batch_size=4, max_epochs=1), metrics=[0.1])
    assert (ended.exit_code, ended.outcome) == (86, "max_epochs")
    assert len(ended.seen_at("batch_end")) == BATCHES


@pytest.mark.parametrize("validated", [1.0, 0])
def test_a_run_that_gets_too_dear_is_stopped_with_and_without_validation(
    bench: Bench, tmp_path: Path, validated: float
) -> None:
    decision = decided(batch_size=4, cost_threshold_joules=1e-6)
    ended = bench.train(tmp_path, decision, trainer={"limit_val_batches": validated})
    assert (ended.exit_code, ended.saved, ended.outcome) == (86, False, "cost_exceeded")
    assert len(ended.seen_at("batch_end")) == BATCHES


def test_epochs_without_validation_go_on(bench: Bench, tmp_path: Path) -> None:
    trainer = {"max_epochs": 5, "check_val_every_n_epoch": 2}
    ended = bench.train(tmp_path, DECIDED, trainer=trainer, metrics=[0.95])
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs) == ("reached", 2)
    assert [epoch for epoch, _ in ended.result.milestones] == [2]


def test_max_steps_end_a_training_in_the_middle_of_its_last_epoch(
    bench: Bench, tmp_path: Path
) -> None:
    trainer = {"max_epochs": -1, "max_steps": 7}
    ended = bench.train(tmp_path, DECIDED, trainer=trainer, metrics=[0.1])
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs, ended.exit_code) == ("max_epochs", 2, 86)


def test_an_epoch_that_was_cut_does_not_tell_how_long_one_is(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, trainer={"max_epochs": -1, "max_steps": 7})
    assert ended.told[-1]["steps_per_epoch"] == BATCHES


def test_an_early_stop_of_lightnings_own_is_a_run_that_failed_to_converge(
    bench: Bench, tmp_path: Path
) -> None:
    trainer = {"max_epochs": 9}
    ended = bench.train(tmp_path, DECIDED, trainer=trainer, metrics=[0.5, 0.25], patience=1)
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs) == ("max_epochs", 2), ended.errors
    assert (ended.exit_code, ended.saved) == (86, False)
    assert "the script itself has ended its training after 2 of 9 epochs" in ended.errors


def test_out_of_memory_is_told(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, fails_at=BATCHES + 2)
    assert (ended.exit_code, ended.outcome) == (1, "out_of_memory")
    assert "no room" in ended.errors


# ---- the metric's name, and batch sizes --------------------------------------------------


def test_a_metric_that_no_validation_logs_is_one_error_with_the_names_that_there_are(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.train(tmp_path, DECIDED, callback={"metric": "val_f1"}, metrics=[0.95])
    assert len(ended.seen_at("evaluate")) == 3
    assert ended.errors.count("gives no 'val_f1'") == 1
    assert "it gives: val_accuracy" in ended.errors
    assert (ended.exit_code, ended.outcome) == (0, "no_telemetry")


def test_the_batch_size_is_the_global_one(bench: Bench, tmp_path: Path) -> None:
    decision = decided(batch_size=8)
    ended = bench.train(tmp_path, decision, trainer={"accumulate_grad_batches": 2}, metrics=[0.95])
    assert ended.outcome == "reached", ended.errors
    ended = bench.train(tmp_path, decision, metrics=[0.95])
    assert ended.outcome == "decision_not_applied"
    assert "decided was a batch size of 8, but this script trains with 4" in ended.errors


def test_samples_may_count_as_an_epoch(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(
        tmp_path,
        DECIDED,
        trainer={"max_epochs": 2, "val_check_interval": 2},
        callback={"samples_per_epoch": 8},
        metrics=[0.1],
    )
    assert ended.result is not None
    assert (ended.result.epochs, ended.outcome) == (5, "max_epochs")
    assert ended.seen_at("evaluate") == [(1, 2, False), (2, 4, False), (3, 7, True), (4, 9, True)]


# ---- checkpoints -----------------------------------------------------------------------------


def test_after_a_checkpoint_the_run_goes_on_from_there(bench: Bench, tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "saved.ckpt")
    bench.train(tmp_path, trainer={"max_epochs": 2}, metrics=[0.125, 0.25], save=checkpoint)
    ended = bench.train(
        tmp_path, DECIDED, trainer={"max_epochs": 4}, resume=checkpoint, metrics=[0.5, 0.75]
    )
    assert ended.result is not None, ended.errors
    assert ended.result.milestones == ((1, 0.125), (2, 0.25), (3, 0.5), (4, 0.75))
    assert (ended.result.epochs, ended.outcome) == (4, "max_epochs")
    assert ended.result.carried_epochs == 2
    assert ended.result.energy_joules is not None
    assert ended.result.carried_energy_joules is not None
    assert ended.result.energy_joules > ended.result.carried_energy_joules > 0.0
    assert len(ended.seen_at("batch_end")) == 2 * BATCHES


def test_lightnings_own_checkpoints_hold_the_metric_of_their_epoch(
    bench: Bench, tmp_path: Path
) -> None:
    bench.train(tmp_path, trainer={"max_epochs": 1, "enable_checkpointing": True}, metrics=[0.25])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    ended = bench.train(
        tmp_path, DECIDED, trainer={"max_epochs": 2}, resume=str(checkpoint), metrics=[0.5]
    )
    assert ended.result is not None, ended.errors
    assert ended.result.milestones == ((1, 0.25), (2, 0.5))


def test_after_a_checkpoint_of_another_training_the_epochs_that_are_left_count_alone(
    bench: Bench, tmp_path: Path
) -> None:
    checkpoint = str(tmp_path / "saved.ckpt")
    bench.train(tmp_path, trainer={"max_epochs": 2}, metrics=[0.125], save=checkpoint)
    ended = bench.train(
        tmp_path,
        DECIDED,
        attempt=2,
        trainer={"max_epochs": 4},
        resume=checkpoint,
        metrics=[0.5, 0.75],
    )
    assert ended.result is not None, ended.errors
    assert ended.result.milestones == ((1, 0.5), (2, 0.75))
    assert (ended.result.epochs, ended.outcome) == (2, "max_epochs")
    assert ended.errors.count("This run counts alone") == 1


def test_an_epoch_that_a_checkpoint_cut_is_gone_on_with(bench: Bench, tmp_path: Path) -> None:
    bench.train(tmp_path, trainer={"max_epochs": 2}, save_at=7)
    checkpoint = str(tmp_path / "step=7.ckpt")
    ended = bench.train(tmp_path, trainer={"max_epochs": 2}, resume=checkpoint)
    assert ended.seen_at("batch_end") == [(1, 1, True), (1, 2, True), (2, 3, False)], ended.errors
    assert ended.told[-1]["steps_per_epoch"] == BATCHES


# ---- either Lightning ------------------------------------------------------------------------


def test_the_callback_is_one_of_the_lightning_that_the_script_has_imported() -> None:
    """By its other name; all that is above is by that of `lightning.pytorch`."""
    code = (
        "import pytorch_lightning as framework\n"
        "from zeus_runtime.lightning import ZeusCallback\n"
        "print(issubclass(ZeusCallback, framework.Callback))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout == "True\n"


def test_without_lightning_the_module_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("lightning.pytorch", "zeus_runtime.lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match="pip install lightning"):
        importlib.import_module("zeus_runtime.lightning")
