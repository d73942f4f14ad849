"""SIGKILL to the whole process group at each step of a run, then the same command again."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.support.eventually import eventually
from tests.support.local_machine import Machine, machine
from zeus_operator.executors import rundir
from zeus_operator.executors.checkpoints import Checkpoint
from zeus_operator.records import AttemptState, RecurrenceKind, RecurrenceState
from zeus_operator.store.store import Store

RECURRENCES, CONTROL = 2, 1
COMMAND = ("--recurrences", str(RECURRENCES), "--control", str(CONTROL))

# The second recurrence is one that has something to learn from, the third the control run.
STEPS = [(moment, 1) for moment in Checkpoint] + [
    (Checkpoint.WAITING_FOR_CHILD, 3),
    (Checkpoint.CHILD_CLAIMED, 2),
    (Checkpoint.BEFORE_CLOSE_ATTEMPT, 2),
    (Checkpoint.AFTER_CLOSE_ATTEMPT, 2),
    (Checkpoint.AFTER_CLOSE_RECURRENCE, 2),
    (Checkpoint.AFTER_CREATE_RECURRENCE, 3),
    (Checkpoint.CHILD_CLAIMED, 3),
    (Checkpoint.AFTER_CLOSE_RECURRENCE, 3),
]


def no_child_is_left(on: Machine) -> bool:
    """Whether nothing of a run on this machine is alive."""
    prefix = str(on.home.runs)
    return not any(
        rundir.processes_with_environment("ZEUS_RESULT_PATH", str(path / rundir.RESULT))
        for path in on.home.runs.glob("*/*")
        if path.is_dir() and str(path).startswith(prefix)
    )


def check_history(store: Store, *, learned: int = RECURRENCES, control: int = CONTROL) -> None:
    """Everything that was asked for happened, and happened once."""
    (job,) = store.jobs()
    history = store.history(job.id)
    by_kind = Counter(recurrence.kind for recurrence in history)
    assert by_kind == Counter({RecurrenceKind.LEARNED: learned, RecurrenceKind.CONTROL: control})
    for kind in RecurrenceKind:
        ordinals = [recurrence.ordinal for recurrence in history if recurrence.kind is kind]
        assert ordinals == list(range(1, by_kind[kind] + 1))
    assert {recurrence.state for recurrence in history} == {RecurrenceState.REACHED}
    attempts = [attempt for recurrence in history for attempt in recurrence.attempts]
    assert {attempt.state for attempt in attempts} == {AttemptState.ENDED}
    assert all(execution.ended_at for attempt in attempts for execution in attempt.executions)
    assert all(attempt.energy_joules is not None for attempt in attempts)
    observed = [observation.attempt_id for observation in store.facts(job.id).observations]
    learned_attempts = [
        attempt.id
        for recurrence in history
        if recurrence.kind is RecurrenceKind.LEARNED
        for attempt in recurrence.attempts
    ]
    assert observed == learned_attempts
    assert store.facts(job.id).requests == ()


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("moment", "count"), STEPS, ids=[f"{moment.value}-{count}" for moment, count in STEPS]
)
def test_a_killed_run_goes_on_where_it_was(
    make_machine, store: Store, moment: Checkpoint, count: int
) -> None:
    on = make_machine()
    killed = on.run(*COMMAND, ZEUS_TEST_KILL_AT=f"{moment.value}:{count}")
    assert killed.exit_code == -signal.SIGKILL, killed.errors
    eventually(lambda: no_child_is_left(on), "the child of the killed program has ended")
    on.limit_comes_back()

    went_on = on.run(*COMMAND)
    assert went_on.exit_code == 0, went_on.errors
    # Killed after the last step, the command had done its work and does it again.
    again = moment is Checkpoint.AFTER_CLOSE_RECURRENCE and count == RECURRENCES + CONTROL
    check_history(store, learned=RECURRENCES * (1 + again), control=CONTROL * (1 + again))
    assert went_on.summary["learned"] == ["reached"] * RECURRENCES
    assert went_on.summary["control"] == ["reached"] * CONTROL
    on.limit_comes_back()


@pytest.mark.postgres
@pytest.mark.slow
def test_a_run_that_is_killed_at_every_step_one_after_the_other_still_ends(
    make_machine, store: Store
) -> None:
    on = make_machine()
    command = ("--recurrences", "6", "--control", "2")
    for moment in Checkpoint:
        ran = on.run(*command, ZEUS_TEST_KILL_AT=f"{moment.value}:1")
        assert ran.exit_code == -signal.SIGKILL, ran.errors
    assert on.run(*command).exit_code == 0
    check_history(store, learned=6, control=2)
    on.limit_comes_back()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "moment",
    [Checkpoint.SERVICES_DATABASE_READY, Checkpoint.CHILD_CLAIMED, Checkpoint.AFTER_CLOSE_ATTEMPT],
    ids=lambda moment: moment.value,
)
def test_a_killed_run_on_the_embedded_database_goes_on(folder, moment: Checkpoint) -> None:
    on = machine(folder, None)
    killed = on.run(*COMMAND, ZEUS_TEST_KILL_AT=f"{moment.value}:1")
    assert killed.exit_code == -signal.SIGKILL, killed.errors
    went_on = on.run(*COMMAND)
    assert went_on.exit_code == 0, went_on.errors
    assert went_on.summary["learned"] == ["reached"] * RECURRENCES
    assert went_on.summary["control"] == ["reached"] * CONTROL
    on.limit_comes_back()
