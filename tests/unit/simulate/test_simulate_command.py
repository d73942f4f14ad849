"""`zeusctl simulate` and `simulate-arrivals` as a user types them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.support.tiny_traces import JOB, write_folder, write_groups_file, write_noisy_folder
from zeus_operator.cli.main import main
from zeus_operator.cli.simulate_progress import SimulationProgress
from zeus_operator.simulate.output import SUMMARY_FIELDS


def zeusctl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def simulate(traces: Path, *arguments: object) -> Result:
    return zeusctl("simulate", "--traces", traces, "--processes", "1", *arguments)


def test_one_arm_counted_by_hand(tmp_path: Path) -> None:
    traces, out = write_folder(tmp_path / "t"), tmp_path / "out.json"

    result = simulate(traces, "--policy", "zeus", "--recurrences", 4, "--seeds", 3, "--json", out)

    assert result.exit_code == 0, result.output
    # Every run takes 3 epochs at 250 J, 100 J and 2 s; the very first epoch profiles, which is
    # the mean of both limits: 260 J, 170 J and 1.75 s.  The default at full power: 270 J.
    assert json.loads(out.read_text()) == [
        {
            "workload": "toy",
            "gpu": "v100",
            "policy": "zeus",
            "recurrences": 4,
            "seeds": 3,
            "cost_mean": 12 * 250.0 + 10.0,
            "cost_default": 12 * 270.0,
            "cost_best_arm": 12 * 250.0,
            "regret_mean": pytest.approx(10.0 / 750.0),
            "energy_joules_mean": 12 * 100.0 + 70.0,
            "time_seconds_mean": 12 * 2.0 - 0.25,
            "attempts_mean": 4.0,
            "worse_than_default": 0.0,
        }
    ]


def test_eta_weighs_energy_against_time(tmp_path: Path) -> None:
    traces = write_folder(tmp_path / "t")

    result = simulate(
        traces, "--policy", "zeus", "--recurrences", 1, "--eta", 1, "--seeds", 1, "-o", "json"
    )

    (found,) = json.loads(result.stdout)
    assert found["cost_mean"] == found["energy_joules_mean"] == 170.0 + 200.0
    assert found["cost_default"] == 3 * 240.0


def test_there_is_one_object_for_each_workload_gpu_policy_and_number(tmp_path: Path) -> None:
    traces, out = write_noisy_folder(tmp_path / "t"), tmp_path / "out.json"

    result = simulate(
        traces, "--policy", "zeus", "structured", "--recurrences", 3, 6, "--seeds", 2,
        "--json", out,
    )  # fmt: skip

    found = json.loads(out.read_text())
    assert result.exit_code == 0, result.output
    assert all(tuple(item) == SUMMARY_FIELDS for item in found)
    assert [tuple(item[key] for key in SUMMARY_FIELDS[:4]) for item in found] == [
        (name, gpu, policy, count)
        for name in ("other", "toy")
        for gpu in ("a40", "v100")
        for policy in ("zeus", "structured")
        for count in (3, 6)
    ]
    assert result.stdout.count("structured") == 4 * 2 + 2  # rows, and the means over the pairs
    assert "Geometric mean over the pairs" in result.stdout


def test_options_may_be_repeated_or_given_several_values(tmp_path: Path) -> None:
    traces = write_noisy_folder(tmp_path / "t")
    common = ("--seeds", 1, "-o", "json")

    several = simulate(
        traces, "--policy", "zeus", "structured", "--gpu=a40", "v100", "--recurrences", 2, 3,
        "--workload", "toy", *common,
    )  # fmt: skip
    repeated = simulate(
        traces, "--policy", "zeus", "--policy", "structured", "--gpu", "v100", "--gpu", "a40",
        "--recurrences", 3, "--recurrences", 2, "--workload", "toy", "--workload", "toy", *common,
    )  # fmt: skip

    assert several.exit_code == 0, several.output
    assert json.loads(several.stdout) == json.loads(repeated.stdout)
    assert {item["workload"] for item in json.loads(several.stdout)} == {"toy"}


def test_the_figures_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    traces = write_noisy_folder(tmp_path / "t")
    groups = write_groups_file(
        tmp_path / "g.csv", *(f"g{i % 3},toy,{i},{i + 4},1.0" for i in range(30))
    )
    command = (
        "simulate", "--traces", traces, "--policy", "zeus", "structured", "--recurrences", 8,
        "--groups", groups, "--seeds", 5, "-o", "json", "--processes",
    )  # fmt: skip

    alone = zeusctl(*command, 1)

    assert alone.exit_code == 0, alone.output
    assert zeusctl(*command, 3).stdout == alone.stdout
    assert zeusctl(*command, 1).stdout == alone.stdout


@pytest.mark.parametrize(
    ("name", "magic"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.pdf", b"%PDF")]
)
def test_the_figure_is_written_in_the_format_of_its_name(
    tmp_path: Path, name: str, magic: bytes
) -> None:
    traces = write_noisy_folder(tmp_path / "t")

    result = simulate(
        traces, "--policy", "zeus", "--recurrences", 3, "--seeds", 2, "--plot", tmp_path / name
    )

    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert not list(tmp_path.glob(".p*"))  # nothing half written is left


def test_the_figure_has_a_row_for_each_pair_and_names_its_quantities(tmp_path: Path) -> None:
    traces = write_noisy_folder(tmp_path / "t")
    groups = write_groups_file(tmp_path / "g.csv", "synthetic-1,toy,0,4,1.0")

    simulate(
        traces, "--policy", "zeus", "structured", "--recurrences", 3, "--seeds", 1,
        "--plot", tmp_path / "p.svg", "--groups", groups,
    )  # fmt: skip

    svg = (tmp_path / "p.svg").read_text()
    comments = [line for line in svg.splitlines() if line.strip().startswith("<!--")]
    text = "\n".join(comments)
    for expected in (
        "cumulative regret",
        "cost / always the default",
        "energy / always the default",
        "batch size chosen",
        "Job groups in time, synthetic arrivals",
        "a40",
        "structured",
    ):
        assert expected in text


def test_groups_are_replayed_and_summed_for_each_workload(tmp_path: Path) -> None:
    traces = write_folder(tmp_path / "t")
    groups = write_groups_file(
        tmp_path / "g.csv", "a,toy,0,9,2.0", "a,toy,5,20,1.0", "a,toy,30,40,0.5", "b,else,0,1,1"
    )

    result = simulate(traces, "--policy", "zeus", "--groups", groups, "--seeds", 2, "-o", "json")

    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    # The first two overlap, so that both profile: 760 J; the third does not: 750 J.
    assert found == {
        "workload": "toy",
        "gpu": "v100",
        "policy": "zeus",
        "arrivals": "recorded",
        "groups": 1,
        "runs": 3,
        "overlapping_runs": 1,
        "seeds": 2,
        "cost_mean": 3.0 * 760.0 + 0.5 * 750.0,
        "cost_default": 3.5 * 810.0,
        "energy_joules_mean": 3.0 * 370.0 + 0.5 * 300.0,
        "energy_joules_default": 3.5 * 720.0,
        "time_seconds_mean": 3.0 * 5.75 + 0.5 * 6.0,
        "time_seconds_default": 3.5 * 4.5,
        "attempts_mean": 3.0,
        "failed_mean": 0.0,
        "worse_than_default": 0.0,
    }
    assert "job groups left out, not in the traces: 1 of else" in result.stderr


def test_synthetic_arrivals_are_called_so_in_every_output(tmp_path: Path) -> None:
    traces, groups = write_folder(tmp_path / "t"), tmp_path / "g.csv.xz"

    made = zeusctl(
        "simulate-arrivals", "--out", groups, "--workload", "toy", "--groups", 3, "--runs", 4
    )
    shown = simulate(traces, "--policy", "zeus", "--groups", groups, "--seeds", 1)
    data = simulate(traces, "--policy", "zeus", "--groups", groups, "--seeds", 1, "-o", "json")

    again = zeusctl("simulate-arrivals", "--out", groups, "--workload", "toy", "-o", "json")

    assert made.exit_code == 0, made.output
    assert "3 synthetic groups" in made.stdout
    assert json.loads(again.stdout)["arrivals"] == "synthetic"
    assert "synthetic arrivals" in shown.stdout
    assert "synthetic arrivals" in shown.stderr  # the progress
    assert {item["arrivals"] for item in json.loads(data.stdout)} == {"synthetic"}


def test_single_runs_and_groups_can_be_asked_for_together(tmp_path: Path) -> None:
    traces = write_folder(tmp_path / "t")
    groups = write_groups_file(tmp_path / "g.csv", "a,toy,0,9,2.0")

    result = simulate(
        traces, "--policy", "zeus", "--recurrences", 2, "--groups", groups, "--seeds", 1,
        "--json", "-",
    )  # fmt: skip

    single, in_time = json.loads(result.stdout)
    assert tuple(single) == SUMMARY_FIELDS
    assert in_time["arrivals"] == "recorded"


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    train = ["toy,net,64,sgd,.1,1,0.5,3", "nameless,net,64,sgd,.1,1,0.5,3"]
    traces = write_folder(tmp_path / "t", train)

    result = simulate(traces, "--policy", "zeus", "--recurrences", 1, "--seeds", 1)

    assert result.exit_code == 0
    assert "left out, no job says their target: nameless (see --jobs)" in result.stderr


def test_a_default_that_never_reaches_the_target_is_null_in_json(tmp_path: Path) -> None:
    train = ["toy,net,64,sgd,.1,1,0.5,nan", "toy,net,32,sgd,.1,1,0.5,3"]
    power = [f"toy,net,{size},sgd,100,2,50" for size in (32, 64)]
    traces = write_folder(tmp_path / "t", train, power)
    command = ("--policy", "structured", "--recurrences", 3, "--seeds", 1)

    found = simulate(traces, *command, "-o", "json")
    shown = simulate(traces, *command, "--plot", tmp_path / "p.png")

    assert json.loads(found.stdout)[0]["cost_default"] is None
    assert shown.exit_code == 0, shown.output
    assert "  -  " in shown.stdout


def test_wrong_input_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    traces = write_folder(tmp_path / "t")
    (tmp_path / "bad.json").write_text("{")
    other = write_groups_file(tmp_path / "else.csv", "a,else,0,1,1.0")
    broken = write_groups_file(tmp_path / "broken.csv", "a,toy,0,1,none")
    run = ("--policy", "zeus", "--recurrences", "2")
    wrong = {
        ("--policy", "zeus"): "--recurrences N is needed, or --groups FILE",
        ("--recurrences", "2"): "Missing option '--policy'",
        ("--policy", "magic", "--recurrences", "2"): "'structured', 'zeus'",
        (*run, "--eta", "2"): "2.0 is not in the range 0.0<=x<=1.0",
        (*run, "--workload", "nope"): f"--workload nope: {traces} holds toy",
        (*run, "--gpu", "h100"): "has no summary_power_h100.csv; GPU models there: v100",
        (*run, "--jobs", tmp_path / "none.json"): "Invalid value for '--jobs'",
        (*run, "--jobs", tmp_path / "bad.json"): "bad.json: not JSON",
        (*run, "--groups", tmp_path / "none.csv"): "Invalid value for '--groups'",
        (*run, "--groups", tmp_path): "is a directory",
        (*run, "--groups", other): "no group is of a workload that is simulated (toy)",
        (*run, "--groups", broken): "line 2, column runtime_ratio: must be a number, not 'none'",
        (*run, "--plot", tmp_path / "p.gif"): "the name must end in .png, .svg, .pdf",
        (*run, "--json", tmp_path / "no" / "x.json"): "make it first",
        (*run, "--json", tmp_path): "is a folder; name a file",
    }
    for arguments, message in wrong.items():
        result = simulate(traces, *arguments)

        assert result.exit_code == 2, arguments
        assert message in result.stderr, arguments
        assert result.stdout == ""


def test_a_workload_without_a_job_says_where_to_add_one(tmp_path: Path) -> None:
    traces = write_folder(tmp_path / "t", job=None)

    result = simulate(traces, "--policy", "zeus", "--recurrences", 1, "--workload", "toy")

    assert result.exit_code == 2
    assert "add it to the file of --jobs (there are: cifar100" in result.stderr


def test_a_jobs_file_stands_in_for_the_one_of_the_folder(tmp_path: Path) -> None:
    traces, jobs = write_folder(tmp_path / "t", job=None), tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"toy": JOB}))

    result = simulate(traces, "--policy", "zeus", "--recurrences", 1, "--seeds", 1, "--jobs", jobs)

    assert result.exit_code == 0, result.output


def test_a_folder_without_training_runs_says_what_it_must_hold(tmp_path: Path) -> None:
    result = simulate(tmp_path, "--policy", "zeus", "--recurrences", 1)

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{tmp_path}/summary_train.csv is missing; a trace folder holds summary_train.csv and "
        "summary_power_<gpu>.csv for each GPU model"
    ]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = simulate(tmp_path / "none", "--policy", "zeus", "--recurrences", 1)

    assert result.exit_code == 2
    assert "none' does not exist" in result.stderr


def test_arrivals_out_of_range_are_refused(tmp_path: Path) -> None:
    result = zeusctl(
        "simulate-arrivals", "--out", tmp_path / "g.csv", "--workload", "toy", "--load", -1
    )

    assert result.exit_code == 2
    assert "load must be above 0" in result.stderr
    assert not (tmp_path / "g.csv").exists()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_in_a_pipe_progress_is_a_line_now_and_then_and_one_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with SimulationProgress("simulated", Console(file=stream), clock) as progress:
        for done in range(1, 101):
            clock.now += 0.2
            progress(done, 100)

    lines = stream.getvalue().splitlines()
    assert lines[-1] == "simulated: 100 of 100"
    assert lines[0] == "simulated: 25 of 100"
    assert len(lines) == 4


def test_on_a_terminal_progress_is_a_bar() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=80)
    with SimulationProgress("simulated", console, clock) as progress:
        for done in range(1, 11):
            clock.now += 1.0
            progress(done, 10)

    assert "10/10" in stream.getvalue()
    assert "━" in stream.getvalue()
