"""What a local child is given: command, arguments and environment."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import local_children
from zeus_operator.api.template import EnvEntry, TrainingContainer
from zeus_operator.executors.command import command, injected_environment
from zeus_runtime import protocol


def container(*, words=("python", "train.py"), args=(), env=()) -> TrainingContainer:
    return TrainingContainer(0, "train", tuple(words), tuple(args), tuple(env), 0)


def test_python_means_the_interpreter_that_runs_the_program() -> None:
    made = command(container(), {}, {"PATH": "/bin"}, interpreter="/opt/venv/bin/python")
    assert made.arguments == ("/opt/venv/bin/python", "train.py")
    assert made.environment["PATH"] == "/opt/venv/bin:/bin"


def test_another_program_is_left_as_it_is() -> None:
    assert command(container(words=("sh", "python")), {}, {}).arguments == ("sh", "python")


def test_an_injected_name_is_expanded_in_args_and_in_the_containers_own_env() -> None:
    made = command(
        container(
            args=("--batch-size=$(ZEUS_BATCH_SIZE)", "$$(HOME)", "$(MISSING)", "$(FOLDER)"),
            env=(EnvEntry("FOLDER", "out/$(ZEUS_ATTEMPT)"),),
        ),
        {"ZEUS_BATCH_SIZE": "64", "ZEUS_ATTEMPT": "2"},
        {},
    )
    assert made.arguments[2:] == ("--batch-size=64", "$(HOME)", "$(MISSING)", "out/2")
    assert made.environment["FOLDER"] == "out/2"


def test_the_machines_environment_is_inherited_but_the_containers_wins() -> None:
    made = command(
        container(env=(EnvEntry("MODE", "train"),)), {}, {"MODE": "test", "HOME": "/home/user"}
    )
    assert made.environment["MODE"] == "train"
    assert made.environment["HOME"] == "/home/user"


def test_a_run_started_inside_a_run_does_not_inherit_its_decision() -> None:
    outer = {"ZEUS_DECISION": "{}", "ZEUS_LEARNING_RATE": "9", "ZEUS_HOME": "/z"}
    made = command(container(), {"ZEUS_BATCH_SIZE": "64"}, outer)
    assert "ZEUS_DECISION" not in made.environment
    assert "ZEUS_LEARNING_RATE" not in made.environment
    assert made.environment["ZEUS_HOME"] == "/z"


def test_a_library_path_of_the_container_keeps_the_machines() -> None:
    made = command(
        container(env=(EnvEntry("LD_LIBRARY_PATH", "/mine"),)), {}, {"LD_LIBRARY_PATH": "/driver"}
    )
    assert made.environment["LD_LIBRARY_PATH"] == "/mine:/driver"


def test_the_injected_environment_names_the_run_and_carries_the_decision(tmp_path: Path) -> None:
    job, attempt = local_children.job(tmp_path), local_children.attempt()
    made = injected_environment(
        job,
        attempt,
        local_children.decision(job, attempt),
        result_path=tmp_path / "result",
        agent_address="unix:///a.sock",
    )
    assert made["ZEUS_JOB"] == "default/tiny"
    assert made["ZEUS_RECURRENCE"] == "7"
    assert made["ZEUS_ATTEMPT"] == "1"
    assert made["ZEUS_BATCH_SIZE"] == "64"
    assert made["ZEUS_LEARNING_RATE"] == "0.1"
    assert made["ZEUS_AGENT"] == "unix:///a.sock"
    assert made["ZEUS_RESULT_PATH"] == str(tmp_path / "result")
    assert json.loads(made["ZEUS_DECISION"])["target"] == 0.9
    assert set(made) <= set(protocol.INJECTED_ENVIRONMENT)


def test_a_dollar_in_an_injected_value_is_no_reference() -> None:
    made = command(container(), {"ZEUS_RESULT_PATH": "/home/$(HOME)/a$$b"}, {"HOME": "/root"})
    assert made.environment["ZEUS_RESULT_PATH"] == "/home/$(HOME)/a$$b"
