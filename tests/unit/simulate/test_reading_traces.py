"""Trace folders: what is read from them, and what is said of those that can't be read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.support.tiny_traces import JOB, ONE_ARM_POWER, ONE_ARM_TRAIN, write_folder
from zeus_operator.simulate.jobs import PAPER_JOBS, load_jobs
from zeus_operator.simulate.traces import TraceError, datasets, gpus, jobs_of, load_workloads


def test_a_run_brings_the_hardest_level_of_each_epoch_as_its_milestones(tmp_path: Path) -> None:
    rows = [
        "toy,net,64,sgd,.1,1,0.3,1",
        "toy,net,64,sgd,.1,1,0.2,1",
        "toy,net,64,sgd,.1,1,0.5,4",
        "toy,net,64,sgd,.1,1,0.4,3",
        "toy,net,64,sgd,.1,1,0.6,nan",
        "toy,net,64,sgd,.1,2,0.2,2",
        "toy,net,64,sgd,.1,2,0.5,",
    ]
    (found,) = load_workloads(write_folder(tmp_path, rows))

    (arm,) = found.arms
    assert arm.target_epochs == (4.0, math.inf)
    assert arm.milestones == (((1, 0.3), (3, 0.4), (4, 0.5)), ((2, 0.2),))


def test_of_a_metric_that_falls_the_hardest_level_is_the_lowest(tmp_path: Path) -> None:
    rows = [
        "toy,net,64,sgd,.1,1,0.9,1",
        "toy,net,64,sgd,.1,1,0.7,2",
        "toy,net,64,sgd,.1,1,0.8,2",
        "toy,net,64,sgd,.1,1,0.5,3",
        "toy,net,64,sgd,.1,1,0.4,3",
    ]
    (found,) = load_workloads(write_folder(tmp_path, rows, job={**JOB, "higher_is_better": False}))

    assert found.arms[0].milestones == (((1, 0.9), (2, 0.7), (3, 0.4)),)


def test_runs_of_one_number_at_two_learning_rates_are_two_runs(tmp_path: Path) -> None:
    rows = [
        "toy,net,64,sgd,.1,1,0.4,1",
        "toy,net,64,sgd,.1,1,0.5,3",
        "toy,net,64,sgd,.2,1,0.4,2",
        "toy,net,64,sgd,.2,1,0.5,5",
    ]
    (found,) = load_workloads(write_folder(tmp_path, rows))

    assert found.arms[0].target_epochs == (3.0, 5.0)
    assert found.arms[0].milestones == (((1, 0.4), (3, 0.5)), ((2, 0.4), (5, 0.5)))


def test_a_batch_size_without_a_row_at_the_target_keeps_its_milestones(tmp_path: Path) -> None:
    rows = [*ONE_ARM_TRAIN, "toy,net,32,sgd,.1,1,0.4,9", "toy,net,32,sgd,.1,2,0.4,8"]
    power = [*ONE_ARM_POWER, "toy,net,32,sgd,100,2,50"]
    (found,) = load_workloads(write_folder(tmp_path, rows, power))

    assert found.arm(32).target_epochs == (math.inf, math.inf)
    assert found.arm(32).milestones == (((9, 0.4),), ((8, 0.4),))


def test_the_expected_recurrence_of_the_default_is_at_full_power(tmp_path: Path) -> None:
    (found,) = load_workloads(write_folder(tmp_path))

    default = found.default_recurrence
    assert (default.cost_joules, default.energy_joules, default.time_seconds) == (810.0, 720.0, 4.5)
    assert found.best_arm_cost_joules == 750.0


def test_a_folder_says_which_datasets_and_gpu_models_it_has(tmp_path: Path) -> None:
    write_folder(tmp_path, [*ONE_ARM_TRAIN, "else,net,64,sgd,.1,1,0.5,3"], gpu="a40")

    assert datasets(tmp_path) == ["else", "toy"]
    assert gpus(tmp_path) == ["a40"]


def test_only_the_gpu_models_asked_for_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "summary_power_a40.csv").write_text("not what it should be")

    (found,) = load_workloads(tmp_path, on_gpus=["v100"])

    assert found.gpu == "v100"


def test_jobs_are_those_of_the_folder_else_those_of_the_paper(tmp_path: Path) -> None:
    assert jobs_of(tmp_path) is PAPER_JOBS
    assert list(jobs_of(write_folder(tmp_path))) == ["toy"]


WRONG_TRAIN = {
    "toy,net,64,sgd,.1,1,0.5,soon": "line 2, column target_epoch: must be a number, not 'soon'",
    "toy,net,64,sgd,.1,1,0.5,0": "line 2, column target_epoch: must be a whole number from 1",
    "toy,net,64,sgd,.1,1,0.5,2.5": "line 2, column target_epoch: must be a whole number from 1",
    "toy,net,64,sgd,.1,1,0.5,inf": "line 2, column target_epoch: must be a finite number",
    "toy,net,-64,sgd,.1,1,0.5,3": "line 2, column batch_size: must be a whole number from 1",
    "toy,net,64,sgd,.1,1,nan,3": "line 2, column target_metric: must be a finite number",
    "toy,net,64,sgd,.1,,0.5,3": "line 2, column run: must not be empty",
    "toy,net,64,sgd,.1": "line 2, column run: must not be empty",
    "toy,net,64,sgd,.1,1,0.4,3": "no row of toy has target_metric 0.5, the target of its job; "
    "the file has 0.4",
    "toy,net,64,sgd,.1,1,0.5,11": "no run of toy reaches the target 0.5 within 10 epochs",
}


@pytest.mark.parametrize("row", WRONG_TRAIN)
def test_a_wrong_row_of_runs_is_named_with_its_line_and_column(tmp_path: Path, row: str) -> None:
    with pytest.raises(TraceError) as error:
        load_workloads(write_folder(tmp_path, [row]))

    assert str(error.value).startswith(f"{tmp_path}/summary_train.csv")
    assert WRONG_TRAIN[row] in str(error.value)


WRONG_POWER = {
    "toy,net,64,sgd,100,0,50": "line 2, column time_per_epoch: must be above 0, not '0'",
    "toy,net,64,sgd,100,2,nan": "line 2, column average_power: must be a finite number",
    "toy,net,64,sgd,all,2,50": "line 2, column power_limit: must be a number, not 'all'",
    "toy,net,128,sgd,100,2,50": "every batch size of toy (128) is above the default of its job, 64",
}


@pytest.mark.parametrize("row", WRONG_POWER)
def test_a_wrong_row_of_power_is_named_with_its_line_and_column(tmp_path: Path, row: str) -> None:
    train = [*ONE_ARM_TRAIN, "toy,net,128,sgd,.1,1,0.5,3"]

    with pytest.raises(TraceError) as error:
        load_workloads(write_folder(tmp_path, train, [row]))

    assert str(error.value).startswith(f"{tmp_path}/summary_power_v100.csv")
    assert WRONG_POWER[row] in str(error.value)


def test_a_file_without_its_columns_says_which_are_needed(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "summary_power_v100.csv").write_text("dataset,batch_size\ntoy,64\n")

    with pytest.raises(TraceError, match="missing: network, optimizer, power_limit"):
        load_workloads(tmp_path)


def test_a_folder_without_power_measurements_says_what_they_are_called(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "summary_power_v100.csv").unlink()

    with pytest.raises(TraceError, match=r"summary_power_<gpu>\.csv"):
        load_workloads(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "summary_train.csv").write_bytes(b"\xff\xfe\x00 no text")

    with pytest.raises(TraceError, match="not a CSV file in UTF-8"):
        load_workloads(tmp_path)


WRONG_JOBS = {
    "[]": "must be an object of workloads",
    "{": "not JSON",
    '{"toy": 3}': "toy: needs exactly network, optimizer, target",
    json.dumps({"toy": {**JOB, "epochs": 3}}): "found: network, optimizer, target",
    json.dumps({"toy": {**JOB, "target": "high"}}): "toy, target: must be a finite number",
    json.dumps({"toy": {**JOB, "max_epochs": 0}}): "toy, max_epochs: must be a whole number from 1",
    json.dumps({"toy": {**JOB, "network": ""}}): "toy, network: must be a text",
    json.dumps({"toy": {**JOB, "higher_is_better": 1}}): "must be true or false, not 1",
}


@pytest.mark.parametrize("text", WRONG_JOBS)
def test_a_wrong_jobs_file_is_named_with_workload_and_field(tmp_path: Path, text: str) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(text)

    with pytest.raises(TraceError) as error:
        load_jobs(path)

    assert str(error.value).startswith(str(path))
    assert WRONG_JOBS[text] in str(error.value)


def test_a_jobs_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.json is missing"):
        load_jobs(tmp_path / "none.json")
