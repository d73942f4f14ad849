"""The environment of a run is read once and never breaks training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import zeus_runtime
from zeus_runtime.notices import Notices
from zeus_runtime.protocol import Decision, Result, decode_result
from zeus_runtime.result_file import ResultFile
from zeus_runtime.settings import RunSettings

GOOD = {"batch_size": 64, "target": 0.9, "metric_mode": "Max", "max_epochs": 10}
POINT = {"power_limit_watts": 200.0, "average_power_watts": 180.0, "seconds_per_step": 0.01}


def test_outside_a_job_there_is_no_decision_and_nothing_is_written() -> None:
    settings = RunSettings.from_environment({})
    assert (settings.decision, settings.decision_error, settings.result_path) == (None, "", None)


def test_the_decision_and_ids_are_read() -> None:
    decision = Decision(
        batch_size=64, target=0.9, metric_mode="Max", max_epochs=10, learning_rate=0.1
    )
    settings = RunSettings.from_environment(
        {
            "ZEUS_DECISION": decision.to_json(),
            "ZEUS_JOB": "vision/digits",
            "ZEUS_RECURRENCE": "7",
            "ZEUS_ATTEMPT": "2",
            "ZEUS_RESULT_PATH": "/somewhere",
            "ZEUS_RESULT_BYTES": "2048",
        }
    )
    assert settings == RunSettings(decision, "", "vision/digits", "7", 2, "/somewhere", 2048)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (json.dumps({**GOOD, "version": 99}), "version 99"),
        (json.dumps({"batch_size": 64}), "target"),
        (json.dumps({**GOOD, "metric_mode": "Best"}), "Best"),
        (json.dumps({**GOOD, "batch_size": "64"}), "batch_size"),
        (json.dumps({**GOOD, "batch_size": 0}), "batch_size"),
        (json.dumps({**GOOD, "max_epochs": True}), "max_epochs"),
        (json.dumps({**GOOD, "eta": 1.5}), "eta"),
        (json.dumps({**GOOD, "cost_threshold_joules": "much"}), "cost_threshold_joules"),
        (json.dumps({**GOOD, "optimize_power": "yes"}), "optimize_power"),
        (json.dumps({**GOOD, "power_profile": [{"watts": 1}]}), "power_profile"),
        (json.dumps({**GOOD, "power_profile": 5}), "int"),
        (json.dumps({**GOOD, "power_profile": [{**POINT, "power_limit_watts": "1"}]}), "[0]"),
        (json.dumps({**GOOD, "power_profile": [POINT, {**POINT, "seconds_per_step": 0}]}), "[1]"),
        ('{"batch_size": 64, "target": NaN, "metric_mode": "Max", "max_epochs": 10}', "target"),
    ],
)
def test_a_malformed_decision_is_told_and_not_raised(text: str, named: str) -> None:
    settings = RunSettings.from_environment({"ZEUS_DECISION": text, "ZEUS_RESULT_PATH": "/r"})
    assert settings.decision is None
    assert named in settings.decision_error
    assert settings.result_path == "/r"


def test_the_script_gets_what_was_decided_and_else_its_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("ZEUS_")]:
        monkeypatch.delenv(name)
    assert zeus_runtime.batch_size(256) == 256
    assert zeus_runtime.learning_rate(0.05) == 0.05
    assert zeus_runtime.seed(3) == 3
    decision = {**GOOD, "learning_rate": 0.2, "seed": 11}
    monkeypatch.setenv("ZEUS_DECISION", json.dumps(decision))
    assert zeus_runtime.batch_size(256) == 64
    assert zeus_runtime.learning_rate(0.05) == 0.2
    assert zeus_runtime.seed(3) == 11
    monkeypatch.setenv("ZEUS_BATCH_SIZE", "128")
    monkeypatch.setenv("ZEUS_LEARNING_RATE", "0.3")
    assert zeus_runtime.batch_size(256) == 128
    assert zeus_runtime.learning_rate(0.05) == 0.3


def test_a_literal_placeholder_is_refused_with_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZEUS_BATCH_SIZE", "$(ZEUS_BATCH_SIZE)")
    with pytest.raises(ValueError, match="ZEUS_BATCH_SIZE"):
        zeus_runtime.batch_size(256)


def test_the_result_is_replaced_in_place_at_constant_length(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"x" * 5000)
    inode = path.stat().st_ino
    file = ResultFile(str(path), 1024, Notices())
    for epochs in (1, 2, 3):
        assert file.write(Result(job="a/b", epochs=epochs, note="n" * 900))
    file.close()
    data = path.read_bytes()
    assert (len(data), path.stat().st_ino) == (5000, inode)
    result = decode_result(data[:1024])
    assert result is not None
    assert result.epochs == 3


def test_a_result_that_can_not_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = ResultFile(str(tmp_path / "missing" / "result"), 1024, Notices())
    assert [file.write(Result()) for _ in range(3)] == [False, False, False]
    assert len(caplog.records) == 1
    assert "missing" in caplog.text


def test_a_full_disk_is_said(caplog: pytest.LogCaptureFixture) -> None:
    file = ResultFile("/dev/full", 1024, Notices())
    assert not file.write(Result())
    assert "/dev/full" in caplog.text
    file.close()
