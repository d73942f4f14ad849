"""When the batch size of a job counts as settled, with the real policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.jobs import decision
from tests.support.optimizer_histories import SyntheticJob
from tests.support.plan_facts import attempt, recurrence
from tests.unit.status.situations import by_policy, ended, view
from zeus_operator.optimizer import policy
from zeus_operator.optimizer.types import Candidate, Problem
from zeus_operator.plan_spec import Mode
from zeus_operator.records import RecurrenceKind, RecurrenceRecord
from zeus_operator.status.convergence import convergence
from zeus_runtime.protocol import Outcome

CHOICES = (16, 32, 64, 128)
KNOWN = tuple(Candidate(size, 5, typical_cost_joules=900.0 + abs(size - 64)) for size in CHOICES)
EPOCHS: dict[int, float | None] = {32: 22.0, 64: 13.0, 128: 10.0, 256: 11.0, 512: 16.0}
COSTS = {32: 300.0, 64: 200.0, 128: 130.0, 256: 100.0, 512: 95.0}


def settled(**last: Any) -> tuple[RecurrenceRecord, ...]:
    """Return five recurrences that agree; `last` changes the newest."""
    known = {"candidates": KNOWN, "problem": Problem(CHOICES, 64, 20)}
    return (*(ended(n, **known) for n in range(1, 5)), ended(5, **{**known, **last}))


def words(*recurrences: RecurrenceRecord, **changes: Any) -> str:
    found = convergence(view(*recurrences, **changes))
    assert found.reason == ("Converged" if found.is_converged else "Learning")
    return found.message


def test_five_that_agree_and_nothing_to_try_is_converged() -> None:
    assert words(*settled()) == (
        "batch size 64: the last 5 recurrences agree, and no other is worth a try"
    )


def with_candidate(size: int, **changes: Any) -> tuple[Candidate, ...]:
    return tuple(replace(c, **changes) if c.batch_size == size else c for c in KNOWN)


@pytest.mark.parametrize(
    ("recurrences", "expected"),
    [
        (settled()[:4], "4 of 5 recurrences have ended"),
        (
            settled(batch_size=32),
            "the last 5 recurrences began with different batch sizes: 32, 64",
        ),
        (
            settled(outcome=Outcome.CRASHED, detail="exit code 1"),
            "not each of the last 5 recurrences reached its target in one attempt",
        ),
        (
            settled(candidates=with_candidate(128, net_gain_joules=50.0)),
            "worth a try yet: 128",
        ),
        (
            settled(candidates=with_candidate(128, typical_cost_joules=800.0)),
            "128 looks cheaper than 64, but not surely enough yet",
        ),
        (
            settled(target=0.8),
            "target or energy preference have changed: not each of the last 5 recurrences was run "
            "under the present ones",
        ),
        (settled(candidates=KNOWN[:3]), "the choices have changed since the last run: 128"),
        (
            (*settled(), recurrence(6, attempt(1, decision=decision(32)))),
            "the run under way has batch size 32, not 64",
        ),
    ],
)
def test_what_is_missing_is_said(recurrences: tuple[RecurrenceRecord, ...], expected: str) -> None:
    assert words(*recurrences) == expected


def test_an_arm_that_runs_out_of_memory_is_not_waited_for() -> None:
    candidates = with_candidate(128, typical_cost_joules=800.0, note="out of memory")
    assert convergence(view(*settled(candidates=candidates))).is_converged


def test_control_runs_do_not_interrupt_what_agrees() -> None:
    control = ended(6, batch_size=16, kind=RecurrenceKind.CONTROL)
    assert convergence(view(*settled(), control)).is_converged


@pytest.mark.parametrize("mode", ["Observe", "Recommend"])
def test_nothing_converges_where_nothing_is_chosen(mode: str) -> None:
    seen = view(*settled(), spec={"mode": mode})
    assert seen.spec is not None
    assert seen.spec.mode is Mode(mode)
    assert convergence(seen).reason == "NotOptimizing"


@pytest.mark.parametrize("most", [Mode.OBSERVE, Mode.RECOMMEND])
def test_where_the_operator_allows_no_choice_it_says_so(most: Mode) -> None:
    asked = view(*settled())
    assert asked.spec is not None
    seen = replace(asked, spec=asked.spec.with_mode_at_most(most))

    found = convergence(seen)

    assert (found.is_converged, found.reason) == (False, "ModeLimited")
    assert found.message == (
        f"spec.mode is Optimize, and the operator allows {most} at most in this namespace: no "
        "batch size is chosen"
    )


# With the real policies ------------------------------------------------------


def verdicts(name: str, recurrences: int, changed: SyntheticJob | None = None) -> list[bool]:
    """Return whether the job counts as converged after each recurrence."""
    job = SyntheticJob(EPOCHS, COSTS, default=256)
    records, spec = by_policy(policy(name), job, recurrences, changed)
    return [
        convergence(replace(view(*records[:n]), spec=spec)).is_converged
        for n in range(1, recurrences + 1)
    ]


@pytest.mark.parametrize("name", ["structured", "zeus"])
def test_a_job_that_stays_as_it_is_converges_and_stays_so(name: str) -> None:
    found = verdicts(name, 60)
    assert not any(found[:5])
    assert all(found[-20:])


def test_a_job_that_changes_is_learning_again_and_settles_anew() -> None:
    slower = SyntheticJob({size: 4 * (e or 1) for size, e in EPOCHS.items()}, COSTS, default=256)
    found = verdicts("structured", 160, slower)
    assert found[79]
    assert not all(found[80:110])
    assert found[-1]
