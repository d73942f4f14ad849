"""`ZeusCallback` in a real `Trainer` of transformers: 20 samples, batches of 4, known metrics."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked_trainings import Trained, Trainings
from tests.support.runtime_lab import RuntimeLab, decided
from zeus_runtime.protocol import Decision

pytestmark = pytest.mark.torch

STEPS = 5  # of an epoch
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
        arguments: dict[str, Any] | None = None,
        **plan: Any,
    ) -> Trained:
        environ = self.lab.environ(decision, agent=False, ZEUS_ATTEMPT=str(attempt))
        plan.update(folder=str(folder), arguments=arguments or {})
        return self.trainings.train(plan, environ)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("huggingface")
    lab = RuntimeLab(folder)
    made = Trainings("tests.support.huggingface_training", folder, lab.environ(None, agent=False))
    yield Bench(lab, made)
    made.close()
    lab.close()


# ---- what is counted ------------------------------------------------------------------


def test_a_step_is_one_of_the_optimizer_and_the_epoch_ends_before_its_evaluation(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.train(
        tmp_path, arguments={"gradient_accumulation_steps": 2, "num_train_epochs": 2}
    )
    assert ended.exit_code == 0, ended.errors
    assert ended.seen_at("step_end") == [
        (0, 1, True), (0, 2, True), (1, 3, False),
        (1, 4, True), (1, 5, True), (2, 6, False),
    ]  # fmt: skip
    assert ended.seen_at("evaluate") == [(1, 3, False), (2, 6, False)]
    assert ended.result is not None
    assert (ended.result.epochs, ended.outcome) == (2, None)
    assert ended.saved


def test_evaluations_within_an_epoch_are_reported_for_it_and_are_no_steps(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 2}
    ended = bench.train(tmp_path, arguments=arguments, metrics=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert ended.seen_at("evaluate") == [
        (0, 2, True), (0, 4, True), (1, 6, True), (1, 8, True), (2, 10, False),
    ]  # fmt: skip
    assert ended.result is not None
    assert ended.result.milestones == ((1, 0.1), (1, 0.2), (2, 0.3), (2, 0.4), (2, 0.5))
    assert ended.result.epochs == 2


def test_energy_is_measured_while_training_and_evaluation_go_on(
    bench: Bench, tmp_path: Path
) -> None:
    before = bench.lab.simulator.true_energy_joules(0)
    ended = bench.train(tmp_path, metrics=[0.5])
    used = bench.lab.simulator.true_energy_joules(0) - before
    assert ended.result is not None
    assert ended.result.energy_joules is not None
    assert 0.0 < ended.result.energy_joules <= used


def test_an_evaluation_before_the_first_step_says_nothing_about_the_training(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"eval_on_start": True, "num_train_epochs": 1}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, metrics=[0.95, 0.1])
    assert ended.result is not None
    assert (ended.outcome, ended.result.milestones) == ("max_epochs", ((1, 0.1),))


# ---- how it ends ------------------------------------------------------------------------


def test_training_ends_where_the_target_is_reached(bench: Bench, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 5}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, metrics=[0.2, 0.95])
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs) == ("reached", 2)
    assert len(ended.seen_at("step_end")) == 2 * STEPS
    assert (ended.exit_code, ended.saved) == (0, True), ended.errors


def test_training_ends_within_an_epoch_where_the_target_is_reached_there(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"eval_strategy": "steps", "eval_steps": 2}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, metrics=[0.95])
    assert ended.seen_at("step_end") == [(0, 1, True), (0, 2, True)]
    assert (ended.outcome, ended.exit_code, ended.saved) == ("reached", 0, True), ended.errors


def test_a_script_does_not_go_on_with_a_model_that_is_not_good_enough(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"num_train_epochs": 2, "save_strategy": "epoch", "load_best_model_at_end": True}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, metrics=[0.1, 0.2])
    assert (ended.exit_code, ended.saved, ended.outcome) == (86, False, "max_epochs")
    assert {"heard": "train_end"} in ended.told  # the Trainer has done what it does at the end
    assert (tmp_path / f"checkpoint-{2 * STEPS}").is_dir()
    assert "training stops: the target 0.9 was not reached in 2 epochs" in ended.errors


def test_on_stop_return_only_ends_the_training(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, metrics=[0.1], callback={"on_stop": "return"})
    assert (ended.exit_code, ended.outcome) == (0, "max_epochs")
    assert "was not reached" in ended.told[-1]["reason"]


def test_the_jobs_epochs_bound_those_of_the_script(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, decided(batch_size=4, max_epochs=1), metrics=[0.1])
    assert (ended.exit_code, ended.outcome) == (86, "max_epochs")
    assert len(ended.seen_at("step_end")) == STEPS


@pytest.mark.parametrize("strategy", ["epoch", "no"])
def test_a_run_that_gets_too_dear_is_stopped_with_and_without_evaluation(
    bench: Bench, tmp_path: Path, strategy: str
) -> None:
    decision = decided(batch_size=4, cost_threshold_joules=1e-6)
    ended = bench.train(tmp_path, decision, arguments={"eval_strategy": strategy}, metrics=[0.1])
    assert (ended.exit_code, ended.saved, ended.outcome) == (86, False, "cost_exceeded")
    assert len(ended.seen_at("step_end")) == STEPS


def test_epochs_without_evaluation_go_on(bench: Bench, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 5, "eval_delay": 3}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, metrics=[0.95])
    assert ended.result is not None
    assert (ended.outcome, ended.result.milestones) == ("reached", ((3, 0.95),))


def test_max_steps_end_a_training_in_the_middle_of_its_last_epoch(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.train(tmp_path, DECIDED, arguments={"max_steps": 7}, metrics=[0.1])
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs, ended.exit_code) == ("max_epochs", 2, 86)


def test_an_epoch_that_was_cut_does_not_tell_how_long_one_is(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, arguments={"max_steps": 7})
    assert ended.told[-1]["steps_per_epoch"] == STEPS
    ended = bench.train(tmp_path, arguments={"max_steps": 7}, stream=True)
    assert ended.told[-1]["steps_per_epoch"] == STEPS


def test_an_early_stop_of_the_trainers_own_is_a_run_that_failed_to_converge(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"num_train_epochs": 9, "metric_for_best_model": "accuracy"}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, metrics=[0.5, 0.4], patience=1)
    assert ended.result is not None
    assert (ended.outcome, ended.result.epochs) == ("max_epochs", 2), ended.errors
    assert (ended.exit_code, ended.saved) == (86, False)
    assert "the script itself has ended its training after 2 of 9 epochs" in ended.errors


def test_out_of_memory_is_told(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, fails_at=STEPS + 2)
    assert (ended.exit_code, ended.outcome) == (1, "out_of_memory")
    assert "no room" in ended.errors


def test_a_batch_size_that_is_lowered_to_fit_was_out_of_memory(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"auto_find_batch_size": True}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, fails_at=2, metrics=[0.95])
    assert ended.outcome == "out_of_memory", ended.errors
    assert ended.exit_code == 0  # the Trainer goes on with a smaller one, as it was asked to


# ---- the metric's name -------------------------------------------------------------------


def test_a_metric_that_no_evaluation_gives_is_one_error_with_the_names_that_there_are(
    bench: Bench, tmp_path: Path
) -> None:
    ended = bench.train(tmp_path, DECIDED, callback={"metric": "eval_f1"}, metrics=[0.95])
    assert len(ended.seen_at("evaluate")) == 3
    assert ended.errors.count("gives no 'eval_f1'") == 1
    assert "eval_accuracy, eval_loss" in ended.errors
    assert (ended.exit_code, ended.outcome) == (0, "no_telemetry")
    assert ended.result is not None
    assert "eval_f1" in ended.result.note


def test_the_prefix_of_the_name_may_be_left_out(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, DECIDED, callback={"metric": "accuracy"}, metrics=[0.95])
    assert ended.outcome == "reached", ended.errors


# ---- batch sizes ---------------------------------------------------------------------------


def test_the_batch_size_is_the_global_one(bench: Bench, tmp_path: Path) -> None:
    decision = decided(batch_size=8)
    accumulated = {"gradient_accumulation_steps": 2}
    ended = bench.train(tmp_path, decision, arguments=accumulated, metrics=[0.95])
    assert ended.outcome == "reached", ended.errors
    ended = bench.train(tmp_path, decision, metrics=[0.95])
    assert ended.outcome == "decision_not_applied"
    assert "decided was a batch size of 8, but this script trains with 4" in ended.errors


def test_training_arguments_are_what_the_decided_batch_size_needs(
    bench: Bench, tmp_path: Path
) -> None:
    decided_sizes = {"default_global": 12, "largest_micro_batch": 5}
    plan = {"decided": decided_sizes, "metrics": [0.95]}
    ended = bench.train(tmp_path, **plan)
    assert ended.told[0]["sizes"] == {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3,
    }  # fmt: skip
    ended = bench.train(tmp_path, decided(batch_size=10), **plan)
    assert ended.told[0]["sizes"] == {
        "per_device_train_batch_size": 5, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    assert ended.outcome == "reached", ended.errors


# ---- data without an end ---------------------------------------------------------------------


def test_samples_may_count_as_an_epoch_where_the_data_has_no_end(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"max_steps": 12, "eval_strategy": "steps", "eval_steps": 4}
    ended = bench.train(
        tmp_path,
        DECIDED,
        arguments=arguments,
        stream=True,
        callback={"samples_per_epoch": 16},
        metrics=[0.1, 0.2, 0.3],
    )
    assert ended.seen_at("evaluate") == [(1, 4, False), (2, 8, False), (3, 12, False)]
    assert ended.result is not None
    assert ended.result.milestones == ((1, 0.1), (2, 0.2), (3, 0.3))
    assert (ended.exit_code, ended.outcome) == (86, "max_epochs")


def test_else_its_epochs_are_the_trainers_passes(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(tmp_path, arguments={"max_steps": 10}, stream=True)
    assert ended.seen_at("epoch_end") == [(1, STEPS, False), (2, 2 * STEPS, False)]


# ---- checkpoints -----------------------------------------------------------------------------


def test_after_a_checkpoint_the_run_goes_on_from_there(bench: Bench, tmp_path: Path) -> None:
    saving = {"save_strategy": "epoch"}
    bench.train(tmp_path, arguments={"num_train_epochs": 2, **saving}, metrics=[0.1, 0.2])
    arguments = {"num_train_epochs": 4, **saving}
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, resume=True, metrics=[0.5, 0.6])
    assert ended.result is not None, ended.errors
    assert ended.result.milestones == ((1, 0.1), (2, 0.2), (3, 0.5), (4, 0.6))
    assert (ended.result.epochs, ended.outcome) == (4, "max_epochs")
    assert ended.result.carried_epochs == 2
    assert ended.result.energy_joules is not None
    assert ended.result.carried_energy_joules is not None
    assert ended.result.energy_joules > ended.result.carried_energy_joules > 0.0
    assert len(ended.seen_at("step_end")) == 2 * STEPS


def test_a_run_that_had_all_its_epochs_before_the_checkpoint_ends_as_it_would_have(
    bench: Bench, tmp_path: Path
) -> None:
    arguments = {"num_train_epochs": 2, "save_strategy": "epoch"}
    bench.train(tmp_path, arguments=arguments, metrics=[0.1])
    ended = bench.train(tmp_path, DECIDED, arguments=arguments, resume=True)
    assert ended.seen_at("step_end") == []
    assert (ended.exit_code, ended.outcome) == (86, "max_epochs"), ended.errors


@pytest.mark.parametrize("callback_was_there", [True, False])
def test_after_a_checkpoint_of_another_training_the_epochs_that_are_left_count_alone(
    bench: Bench, tmp_path: Path, callback_was_there: bool
) -> None:
    saving = {"save_strategy": "epoch"}
    bench.train(tmp_path, arguments={"num_train_epochs": 2, **saving}, metrics=[0.1])
    if not callback_was_there:
        path = tmp_path / f"checkpoint-{2 * STEPS}" / "trainer_state.json"
        kept = json.loads(path.read_text())
        del kept["stateful_callbacks"]["ZeusCallback"]
        path.write_text(json.dumps(kept))
    ended = bench.train(
        tmp_path,
        DECIDED,
        attempt=2,
        arguments={"num_train_epochs": 4, **saving},
        resume=True,
        metrics=[0.5, 0.6],
    )
    assert ended.result is not None, ended.errors
    assert ended.result.milestones == ((1, 0.5), (2, 0.6))
    assert (ended.result.epochs, ended.outcome) == (2, "max_epochs")
    assert ended.errors.count("This run counts alone") == 1


def test_an_epoch_that_a_checkpoint_cut_is_gone_on_with(bench: Bench, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 7}
    bench.train(tmp_path, arguments={"max_steps": 7, **saving})
    arguments = {"num_train_epochs": 2, **saving}
    ended = bench.train(tmp_path, arguments=arguments, resume=True)
    assert ended.seen_at("step_end") == [(1, 1, True), (1, 2, True), (2, 3, False)], ended.errors
    assert ended.told[-1]["steps_per_epoch"] == STEPS


def test_without_transformers_the_module_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("transformers.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "zeus_runtime.huggingface", raising=False)
    with pytest.raises(ImportError, match="pip install transformers accelerate"):
        importlib.import_module("zeus_runtime.huggingface")
