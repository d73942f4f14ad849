"""`zeusctl run` on a machine with a simulated GPU, a real agent and a real PostgreSQL."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_machine import Machine, machine

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket."""
    with tempfile.TemporaryDirectory(prefix="zeus-test-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def start(where: Machine, *arguments: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).parent / "zeusctl"
    return subprocess.Popen(
        [program, "run", where.manifest, "--home", where.home.root, *arguments],
        env=where.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(where: Machine, *arguments: str) -> tuple[int, str, str]:
    with start(where, *arguments) as process:
        output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def look(where: Machine, command: str) -> Any:
    """What another command says of the job."""
    program = Path(sys.executable).parent / "zeusctl"
    asked = [program, command, "tiny", "--home", where.home.root, "-o", "json"]
    said = subprocess.run(asked, env=where.environment, capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def events_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_run_tells_each_attempt_measures_the_default_and_writes_the_report(
    folder: Path, database: str
) -> None:
    where = machine(folder, database)
    report = folder / "report.html"

    code, output, errors = run(
        where, "--recurrences", "2", "--control", "4", "--report", str(report)
    )

    assert code == 0, errors
    lines = output.splitlines()
    assert "simulated" in lines[0]
    assert any(line.startswith("recurrence 1.1: batch size ") for line in lines)
    ended = [line for line in lines if ": reached the target: " in line]
    assert [line.split(":")[0] for line in ended] == [
        "recurrence 1.1",
        "recurrence 2.1",
        *(f"default {n}.1" for n in (1, 2, 3, 4)),
    ]
    assert all(
        word in ended[0] for word in (" epochs, ", " J, ", " s, ", "limit ", "cost ", "metric ")
    )
    assert "2 recurrences, 2 reached the target" in output
    assert re.search(
        r"over 2 recurrences, measured against [45] runs of the default \(95 %", output
    )
    assert "With the 4 recurrences of the default, which saved nothing, it is " in output
    assert lines[-1] == f"Report: {report}"
    assert "Measured on a simulated GPU" in report.read_text(encoding="utf-8")


def test_a_share_of_the_recurrences_runs_the_default_and_all_commands_say_the_same_of_it(
    folder: Path, database: str
) -> None:
    where = machine(folder, database, savings={"controlFraction": "0.5"})

    code, output, errors = run(where, "--recurrences", "5", "-o", "json")

    assert code == 0, errors
    events = events_of(output)
    started = [event for event in events if event["event"] == "recurrence_started"]
    assert [(event["kind"], event["recurrence"]) for event in started] == [
        ("learned", 1),
        ("control", 1),
        ("learned", 2),
        ("control", 2),
        ("learned", 3),
    ]
    summary = events[-1]
    assert (summary["recurrences"]["reached"], summary["recurrences"]["control"]) == (3, 2)
    status, history = look(where, "status"), look(where, "history")
    assert status["savings"] == summary["savings"]
    assert status["savings"]["control"] == 2
    assert status["control_fraction"] == "0.5"
    controls = [each for each in history["recurrences"] if each["kind"] == "control"]
    assert {run["optimize_power"] for each in controls for run in each["attempts"]} == {False}


def test_a_second_run_goes_on_learning_and_every_event_is_one_json_object(
    folder: Path, database: str
) -> None:
    where = machine(folder, database)

    first_code, first, errors = run(where, "-o", "json")
    second_code, second, _ = run(where, "--once", "-o", "json")

    assert (first_code, second_code) == (0, 0), errors
    kinds = [event["event"] for event in events_of(first)]
    assert kinds[0] == "notice"
    assert kinds[-1] == "summary"
    assert {"recurrence_started", "attempt_decided", "attempt_started", "attempt_ended"} <= {*kinds}
    decided = [e for e in events_of(second) if e["event"] == "attempt_decided"]
    assert [(e["recurrence"], e["attempt"]) for e in decided] == [(2, 1)]


@pytest.mark.parametrize(
    ("behaviour", "outcome", "words"),
    [
        ("crash", "crashed", "no such dataset: /data/train"),
        ("diverge", "diverged", "epoch 1"),
        ("silent", "no_telemetry", "epoch 3"),
    ],
)
def test_a_run_without_a_model_exits_1_with_the_outcome_and_the_end_of_the_output(
    folder: Path, database: str, behaviour: str, outcome: str, words: str
) -> None:
    where = machine(folder, database, arguments=[behaviour], max_attempts=1)

    code, output, _ = run(where, "-o", "json")
    text_code, text, _ = run(where)

    ended = [event for event in events_of(output) if event["event"] == "attempt_ended"]
    assert (code, text_code) == (1, 1)
    assert [event["outcome"] for event in ended] == [outcome]
    assert words in ended[0]["output_tail"]
    assert any(line.startswith("  | ") and words in line for line in text.splitlines())
    assert "  whole output: " in text


def test_ctrl_c_stops_cleanly_with_130_and_the_same_command_goes_on(
    folder: Path, database: str
) -> None:
    where = machine(folder, database, arguments=["reach", "100000"])
    with start(where, "--recurrences", "2") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("recurrence 1.1:"):
                process.send_signal(signal.SIGINT)
                break
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "1 to go on with when the command is given again" in rest

    job = where.manifest.read_text(encoding="utf-8")
    where.manifest.write_text(job.replace("'100000'", "'2'"), encoding="utf-8")
    code, output, errors = run(where, "--recurrences", "2", "-o", "json")

    assert code == 0, errors
    events = events_of(output)
    assert "request_resumed" in [event["event"] for event in events]
    assert events[-1]["recurrences"]["reached"] == 2
    where.limit_comes_back()


def test_a_job_that_runs_already_is_busy(folder: Path, database: str) -> None:
    where = machine(folder, database, arguments=["reach", "100000"])
    with start(where, "-o", "json") as first:
        assert first.stdout is not None
        for line in first.stdout:
            if json.loads(line)["event"] == "attempt_started":
                break
        code, _, errors = run(where)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=120)

    assert code == 4
    assert "another program works on this job" in errors
    assert first.returncode == 130


def test_a_reader_that_goes_away_stops_the_run_without_a_traceback(
    folder: Path, database: str
) -> None:
    where = machine(folder, database, arguments=["reach", "100000"])
    with start(where, "-o", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=120)

    assert process.returncode == 130
    assert "Traceback" not in errors
