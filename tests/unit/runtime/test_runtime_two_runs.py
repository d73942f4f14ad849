"""A process trains one model: what a second training run in it means is defined, and said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtime_lab import ROOT, Ended, RuntimeLab, decided

SCRIPT = str(ROOT / "tests" / "support" / "two_runs.py")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuntimeLab]:
    machine = RuntimeLab(tmp_path)
    yield machine
    machine.close()


def run(lab: RuntimeLab, how: str, *, in_job: bool) -> Ended:
    environ = lab.environ(decided() if in_job else None, agent=False)
    environ.pop("LD_LIBRARY_PATH")
    if not in_job:
        environ.pop("ZEUS_RESULT_PATH")
    return lab.run_script([SCRIPT, how], environ)


def test_the_result_of_an_attempt_is_that_of_its_first_run(lab: RuntimeLab) -> None:
    ended = run(lab, "after", in_job=True)
    assert ended.exit_code == 0, ended.errors
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.batch_size) == ("reached", 16)
    assert ended.output == "2\n"  # the second trains as outside of a ZeusJob: to its last epoch
    assert ended.errors.count("trains a second time") == 1


def test_one_run_after_the_other_is_fine_outside_of_a_job(lab: RuntimeLab) -> None:
    ended = run(lab, "after", in_job=False)
    assert (ended.exit_code, ended.output) == (0, "2\n"), ended.errors
    assert "second time" not in ended.errors
    assert ended.errors.count("epochs in") == 2  # a summary of each


def test_a_run_that_never_trained_leaves_the_attempt_to_the_next(lab: RuntimeLab) -> None:
    ended = run(lab, "unused", in_job=True)
    assert ended.exit_code == 0, ended.errors
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.epochs) == ("reached", 1)
    assert "second time" not in ended.errors
    assert "this run was ended when another training loader" in ended.output


def test_epochs_of_a_run_that_another_one_ended_do_not_just_end(lab: RuntimeLab) -> None:
    ended = run(lab, "within", in_job=False)
    assert ended.exit_code == 0, ended.errors
    assert "this run was ended when another training loader" in ended.output
    assert ended.errors.count("it ends after 0 epochs") == 1


def test_a_run_in_a_forked_child_ends_as_it_should_and_leaves_the_parents_alone(
    lab: RuntimeLab,
) -> None:
    ended = run(lab, "fork", in_job=True)
    assert ended.exit_code == 0, ended.errors
    assert ended.output == "1 -15\n"
    assert "RecursionError" not in ended.errors
    assert ended.errors.count("KeyError: 'the child fails'") == 1
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.epochs) == ("reached", 2)
