"""What policies may spend in a simulation: `--max-extra-cost-percent` and `--bound`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.tiny_traces import write_groups_file, write_noisy_folder
from zeus_operator.cli.main import main
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.types import Problem
from zeus_operator.simulate.terms import OnTerms, Terms

ISSUE = (
    "workload gpu policy recurrences seeds cost_mean cost_default cost_best_arm regret_mean "
    "energy_joules_mean time_seconds_mean attempts_mean worse_than_default"
)


def simulated(traces: Path, *arguments: object) -> list[dict[str, Any]]:
    command = (
        *("simulate", "--traces", traces, "--workload", "toy", "--gpu", "v100"),
        *("--recurrences", 12, "--seeds", 6, "--processes", 1, "-o", "json", *arguments),
    )
    result = CliRunner().invoke(main, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_the_object_of_a_pair_has_the_fields_that_were_asked_for_and_no_others(
    tmp_path: Path,
) -> None:
    (found,) = simulated(write_noisy_folder(tmp_path / "t"), "--policy", "structured")
    assert " ".join(found) == ISSUE


def test_five_percent_in_expectation_is_what_goes_without_saying(tmp_path: Path) -> None:
    traces, ours = write_noisy_folder(tmp_path / "t"), ("--policy", "structured")
    plain = simulated(traces, *ours)
    said = simulated(traces, *ours, "--max-extra-cost-percent", 5, "--bound", "Expected")
    other = simulated(traces, *ours, "--max-extra-cost-percent", 5, "--bound", "EveryHistory")
    assert plain == said
    assert other != plain


def test_with_nothing_to_spend_in_any_history_the_default_always_runs(tmp_path: Path) -> None:
    traces = write_noisy_folder(tmp_path / "t")
    nothing = ("--max-extra-cost-percent", 0, "--bound", "EveryHistory")
    (found,) = simulated(traces, "--policy", "structured", *nothing)
    (bold,) = simulated(traces, "--policy", "structured")
    assert found["attempts_mean"] == 12.0
    assert bold["attempts_mean"] > 12.0


def test_the_published_policy_knows_no_bound(tmp_path: Path) -> None:
    traces = write_noisy_folder(tmp_path / "t")
    nothing = ("--max-extra-cost-percent", 0, "--bound", "EveryHistory")
    assert simulated(traces, "--policy", "zeus", *nothing) == simulated(traces, "--policy", "zeus")


def test_groups_are_replayed_on_the_same_terms(tmp_path: Path) -> None:
    traces = write_noisy_folder(tmp_path / "t")
    rows = [f"a,toy,{10 * n},{10 * n + 5},1.0" for n in range(12)]
    groups = ("--groups", write_groups_file(tmp_path / "g.csv", *rows))
    nothing = ("--max-extra-cost-percent", 0, "--bound", "EveryHistory")
    _, bold = simulated(traces, "--policy", "structured", *groups)
    _, careful = simulated(traces, "--policy", "structured", *groups, *nothing)
    assert careful["attempts_mean"] == 12.0
    assert bold["attempts_mean"] > 12.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-extra-cost-percent", "101"), "101.0 is not in the range 0.0<=x<=100.0"),
        (("--max-extra-cost-percent", "-1"), "-1.0 is not in the range 0.0<=x<=100.0"),
        (("--max-extra-cost-percent", "much"), "'much' is not a valid float"),
        (("--bound", "Never"), "'Never' is not one of 'Expected', 'EveryHistory'"),
    ],
)
def test_terms_that_make_no_sense_are_refused(
    tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    traces = str(write_noisy_folder(tmp_path / "t"))
    command = ["simulate", "--traces", traces, "--policy", "structured", "--recurrences", "2"]
    result = CliRunner().invoke(main, [*command, *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_policy_on_terms_takes_them_in_the_place_of_the_problems() -> None:
    problem = Problem((32, 64), 64, 10)
    held = OnTerms(policy("structured"), Terms(0.2, True))
    assert held.name == "structured"
    assert held.begin(problem).problem == Problem(
        (32, 64), 64, 10, exploration_share=0.2, bound_every_history=True
    )
