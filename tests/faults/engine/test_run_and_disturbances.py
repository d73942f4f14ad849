"""What a run makes of signals, of services that go away, and of scripts that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.support.eventually import eventually
from tests.support.local_machine import Machine, machine
from tests.support.postgres import TestServer
from zeus_operator.executors import rundir
from zeus_operator.executors.rundir import Started
from zeus_operator.local.services import open_store
from zeus_operator.records import AttemptRecord, RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres

LONG = ("reach", "40")  # epochs: a run that is still going on when the test acts
FOREVER = ("reach", "1000000")


def attempts(store: Store) -> list[AttemptRecord]:
    """Return all attempts of the one job, in order."""
    (job,) = store.jobs()
    return [attempt for recurrence in store.history(job.id) for attempt in recurrence.attempts]


def reached_in_one_execution_each(store: Store, recurrences: int) -> None:
    """Check that each recurrence reached its target, and that no execution was cut off.

    A busy machine can make a later run cost more than the earlier ones allow: then it is stopped
    by rule and tried again, which is an attempt more and no disturbance.
    """
    (job,) = store.jobs()
    history = store.history(job.id)
    assert [item.state for item in history] == [RecurrenceState.REACHED] * recurrences
    assert [item.attempts[-1].outcome for item in history] == [Outcome.REACHED] * recurrences
    tried = [attempt for item in history for attempt in item.attempts]
    assert {attempt.outcome for attempt in tried} <= {Outcome.REACHED, Outcome.COST_EXCEEDED}
    assert {len(attempt.executions) for attempt in tried} == {1}


def training(on: Machine) -> Started:
    """Wait until a child does epochs, and return it."""

    def look() -> Started | None:
        for output in on.home.runs.glob("*/*/output.log"):
            if "epoch" in output.read_text(encoding="utf-8"):
                return rundir.read_document(output.parent / rundir.STARTED, Started)
        return None

    return eventually(look, "a child trains")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the program; returns its exit code and what it said on stderr."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def agent_pid(on: Machine) -> int | None:
    """Return the pid of this machine's agent."""
    state = str(on.gpus.folder / "agent-state").encode()
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                if state in (directory / "cmdline").read_bytes().split(b"\0"):
                    return int(directory.name)
            except OSError:
                continue
    return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(
    make_machine, store: Store, number: signal.Signals
) -> None:
    on = make_machine(arguments=LONG)
    with on.start("--recurrences", "1") as process:
        child = training(on)
        os.killpg(process.pid, number)
        code, errors = finish(process)
    assert code == 130, errors
    assert rundir.process_start_ticks(child.pid) != child.start_ticks
    on.limit_comes_back()
    (attempt,) = attempts(store)
    (execution,) = attempt.executions
    assert execution.outcome is Outcome.PREEMPTED
    assert execution.exit_code == 128 + signal.SIGTERM
    assert execution.result is not None
    assert execution.result.epochs >= 1
    assert attempt.ended_at is None

    went_on = on.run("--recurrences", "1")
    assert went_on.exit_code == 0, went_on.errors
    assert went_on.events[1]["event"] == "request_resumed"
    (attempt,) = attempts(store)
    assert attempt.outcome is Outcome.REACHED
    assert len(attempt.executions) == 2
    energies = [e.result.energy_joules for e in attempt.executions if e.result]
    assert attempt.energy_joules == pytest.approx(sum(energies))


def test_a_script_that_ignores_the_signal_is_killed_after_its_grace_period(
    make_machine, store: Store
) -> None:
    on = make_machine(arguments=("ignore-sigterm", "1000000"), grace_seconds=1)
    with on.start("--recurrences", "1") as process:
        training(on)
        os.killpg(process.pid, signal.SIGINT)
        code, errors = finish(process)
    assert code == 130, errors
    (attempt,) = attempts(store)
    assert attempt.executions[0].outcome is Outcome.PREEMPTED
    assert attempt.executions[0].exit_code == 128 + signal.SIGKILL
    on.limit_comes_back()


def test_a_job_that_this_machine_can_not_run_asks_for_nothing(make_machine, store: Store) -> None:
    on = make_machine(gpus_asked=2)
    ran = on.run("--recurrences", "3")
    assert ran.exit_code == 1
    assert "asks for 2 GPUs, this machine has 1" in ran.errors
    (job,) = store.jobs()
    assert store.history(job.id) == ()
    assert store.facts(job.id).requests == ()


def test_an_agent_that_is_killed_is_back_and_so_is_the_limit(make_machine, store: Store) -> None:
    on = make_machine(arguments=LONG)
    with on.start("--recurrences", "1") as process:
        training(on)
        before = agent_pid(on)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        code, errors = finish(process)
    assert code == 0, errors
    assert [attempt.outcome for attempt in attempts(store)] == [Outcome.REACHED]
    again = on.run("--recurrences", "1")
    assert again.exit_code == 0, again.errors
    on.limit_comes_back()


def test_connections_that_the_database_ends_cost_nothing(
    make_machine, store: Store, postgres_server: TestServer
) -> None:
    on = make_machine(arguments=LONG)
    with on.start("--recurrences", "2") as process:
        training(on)
        postgres_server._execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'zeus%' AND pid <> pg_backend_pid()"
        )
        code, errors = finish(process)
    assert code == 0, errors
    reached_in_one_execution_each(store, 2)


def test_a_database_that_stays_away_ends_the_run_and_the_next_command_goes_on(
    make_machine, store: Store, postgres_server: TestServer, database: str
) -> None:
    on = make_machine(arguments=LONG)
    name = make_url(database).database
    with on.start("--recurrences", "1") as process:
        child = training(on)
        postgres_server._execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        postgres_server._execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        code, errors = finish(process)
    assert code == 3, errors
    assert "the database can't be used" in errors
    eventually(
        lambda: rundir.process_start_ticks(child.pid) != child.start_ticks, "the child has ended"
    )
    on.limit_comes_back()

    postgres_server._execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    went_on = on.run("--recurrences", "1")
    assert went_on.exit_code == 0, went_on.errors
    (attempt,) = attempts(store)
    assert attempt.outcome is Outcome.REACHED
    # It trains while the program waits for the database; what it finished counts.
    *cut_off, last = [execution.outcome for execution in attempt.executions]
    assert last is None
    assert set(cut_off) <= {Outcome.PREEMPTED}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_embedded_database_that_ends_is_started_again(
    folder: Path, number: signal.Signals
) -> None:
    on = machine(folder, None, arguments=LONG)
    with on.start("--recurrences", "2") as process:
        training(on)
        (pid_file,) = on.home.postgres.glob("*/postmaster.pid")
        os.kill(int(pid_file.read_text().splitlines()[0]), number)
        code, errors = finish(process)
    assert code == 0, errors
    with open_store(on.home, {}) as store:
        reached_in_one_execution_each(store, 2)


@pytest.mark.parametrize(
    ("behaviour", "outcome", "said"),
    [
        ("crash", Outcome.CRASHED, "no such dataset: /data/train"),
        ("diverge", Outcome.DIVERGED, ""),
        ("silent", Outcome.NO_TELEMETRY, ""),
    ],
)
def test_a_script_that_fails_is_an_outcome_and_no_success(
    make_machine, store: Store, behaviour: str, outcome: Outcome, said: str
) -> None:
    on = make_machine(arguments=(behaviour,))
    ran = on.run("--recurrences", "1")
    assert ran.exit_code == 1, ran.errors
    assert ran.summary["learned"] == [RecurrenceState.FAILED.value]
    tried = attempts(store)
    assert [attempt.outcome for attempt in tried] == [outcome] * 2
    assert said in tried[0].executions[0].output_tail
    (job,) = store.jobs()
    learned = [observation.outcome for observation in store.facts(job.id).observations]
    assert learned == ([outcome] * 2 if outcome is Outcome.DIVERGED else [])
    on.limit_comes_back()


def test_an_interpreter_that_vanishes_between_check_and_run_is_a_crash_with_the_reason(
    make_machine, store: Store
) -> None:
    on = make_machine(command=("./interpreter", "train.py"))
    program = on.manifest.parent / "interpreter"
    program.write_text("#!/nowhere/python\n", encoding="utf-8")
    program.chmod(0o755)
    ran = on.run("--recurrences", "1")
    assert ran.exit_code == 1, ran.errors
    first = attempts(store)[0]
    assert first.outcome is Outcome.CRASHED
    assert first.executions[0].exit_code == rundir.EXIT_NOT_FOUND
    assert "No such file or directory" in first.executions[0].output_tail


def test_after_failures_in_a_row_it_stops_and_says_so(make_machine) -> None:
    on = make_machine(arguments=("crash",), max_attempts=1)
    ran = on.run("--recurrences", "9")
    assert ran.exit_code == 1, ran.errors
    assert ran.summary["learned"] == [RecurrenceState.FAILED.value] * 3
    assert "paused after 3 failed recurrences" in ran.summary["paused"]
    assert "no such dataset" in ran.summary["paused"]


def test_a_second_program_on_the_same_job_is_told_that_it_is_busy(
    make_machine, store: Store
) -> None:
    on = make_machine(arguments=FOREVER)
    with on.start("--recurrences", "1") as process:
        training(on)
        second = on.run("--recurrences", "5")
        os.killpg(process.pid, signal.SIGINT)
        code, errors = finish(process)
    assert second.exit_code == 4
    assert "another program works on this job" in second.errors
    assert code == 130, errors
    assert len(attempts(store)) == 1


def test_the_second_command_learns_on_from_the_first(make_machine, store: Store) -> None:
    on = make_machine()
    assert on.run("--recurrences", "2").exit_code == 0
    assert on.run("--recurrences", "1").exit_code == 0
    seen = [attempt.decision.observations_seen for attempt in attempts(store)]
    assert seen[:2] == [0, 1]
    assert seen == list(range(len(seen)))


def test_a_command_with_other_numbers_drops_what_a_killed_one_had_left(
    make_machine, store: Store
) -> None:
    on = make_machine()
    killed = on.run(
        "--recurrences", "9", "--control", "9", ZEUS_TEST_KILL_AT="after-close-recurrence:1"
    )
    assert killed.exit_code == -signal.SIGKILL
    went_on = on.run("--recurrences", "2")
    assert went_on.exit_code == 0, went_on.errors
    assert went_on.summary["learned"] == ["reached"] * 2
    assert "asked for 9 learned recurrences, of which 1 ended" in str(went_on.events)
    (job,) = store.jobs()
    assert [each.ordinal for each in store.history(job.id)] == [1, 2, 3]
    assert store.facts(job.id).requests == ()


def test_a_killed_shim_is_a_preempted_run_that_goes_on(make_machine, store: Store) -> None:
    on = make_machine(arguments=LONG)
    with on.start("--recurrences", "1") as process:
        training(on)
        (claim,) = on.home.runs.glob("*/1/shim.json")
        shim = rundir.read_json(claim)
        assert shim is not None
        os.kill(shim["pid"], signal.SIGKILL)
        code, errors = finish(process)
    assert code == 0, errors
    (attempt,) = attempts(store)
    assert attempt.outcome is Outcome.REACHED
    assert [execution.outcome for execution in attempt.executions] == [Outcome.PREEMPTED, None]
    on.limit_comes_back()
