"""What a user finds under Events, and that nothing is said twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.jobs import START, at, decision, execution_of
from tests.support.plan_facts import attempt, recurrence
from tests.unit.status.situations import NOW, ended, never_valid, view
from zeus_operator.api.template import Problem
from zeus_operator.plan_spec import Mode
from zeus_operator.records import RecurrenceState
from zeus_operator.status.events import EventNote, event_manifest, events_of
from zeus_operator.status.projection import project
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Outcome

LONG_AGO = START - timedelta(days=1)
BAD = Problem("spec.batchSize.default", "48 is not among spec.batchSize.choices")
FAILURES = tuple(ended(n, Outcome.CRASHED, "exit code 1") for n in (1, 2, 3))


def notes(seen: StatusView, newer_than: datetime = LONG_AGO) -> tuple[EventNote, ...]:
    return events_of(seen, project(seen), newer_than=newer_than)


def said(seen: StatusView) -> dict[str, tuple[str, str]]:
    return {note.reason: (note.type.value, note.message) for note in notes(seen)}


def preempted() -> StatusView:
    gone = execution_of(
        None, outcome=Outcome.PREEMPTED, reason="evicted: The node was low on resource: memory"
    )
    return view(recurrence(1, attempt(1, executions=(gone,))))


def late() -> StatusView:
    reason = "2 earlier ticks were missed"
    return view(recurrence(1, attempt(1), reason=reason))


def skipped() -> StatusView:
    reason = "could not start within 60 s of its time"
    return view(recurrence(1, state=RecurrenceState.SKIPPED, reason=reason))


def cancelled() -> StatusView:
    tried = attempt(1, Outcome.CANCELLED, detail="its Job was deleted", ended_at=at(9))
    return view(recurrence(1, tried, state=RecurrenceState.CANCELLED))


def limited(**changes: Any) -> StatusView:
    seen = view(**changes)
    assert seen.spec is not None
    return replace(seen, spec=seen.spec.with_mode_at_most(Mode.OBSERVE))


DUE = "the recurrence of 2026-03-02T12:00:01Z"


@pytest.mark.parametrize(
    ("seen", "reason", "type_", "message"),
    [
        (view(recurrence(1, attempt(1, executions=(execution_of(None),)))), "RunStarted", "Normal",
         "child-1 (attempt 1) trains with batch size 64. because"),
        (view(ended(1)), "RunReached", "Normal", "digits-1-1 reached 0.9 with batch size 64"),
        (view(ended(1, Outcome.CRASHED, "exit code 1")), "AttemptFailed", "Warning",
         "digits-1-1 (attempt 1, crashed): exit code 1"),
        (view(ended(1, Outcome.CRASHED, "exit code 1")), "RunFailed", "Warning",
         f"{DUE} has failed after 1 attempts: exit code 1"),
        (view(ended(1, Outcome.OUT_OF_MEMORY, "CUDA out of memory")), "OutOfMemory", "Warning",
         "digits-1-1 (attempt 1, out_of_memory): CUDA out of memory"),
        (view(ended(1, Outcome.DECISION_NOT_APPLIED, "trained with 32")), "DecisionNotApplied",
         "Warning", "digits-1-1 (attempt 1, decision_not_applied): trained with 32"),
        (preempted(), "Preempted", "Warning",
         "child-1 (attempt 1) was ended from outside and goes on: evicted: The node was low on "
         "resource: memory"),
        (late(), "MissedSchedule", "Warning", f"{DUE} has started; 2 earlier ticks were missed"),
        (skipped(), "Skipped", "Warning",
         f"{DUE} was skipped: it could not start within 60 s of its time"),
        (cancelled(), "RunCancelled", "Normal", f"{DUE} was cancelled: its Job was deleted"),
        (never_valid(problems=(BAD,)), "Invalid", "Warning", str(BAD)),
        (view(refusal=("ChildRefused", "exceeded quota")), "ChildRefused", "Warning",
         "exceeded quota"),
        (limited(), "ModeLimited", "Warning",
         "spec.mode is Optimize, and the operator allows Observe at most in this namespace: no "
         "batch size is chosen"),
        (view(*FAILURES), "PausedAfterFailures", "Warning",
         "paused after 3 failed recurrences in a row (retry.pauseAfterFailures is 3); the last "
         "attempt ended as crashed: exit code 1. Repair the job and apply it again, or run it "
         "again."),
    ],
)  # fmt: skip
def test_what_happened_is_said(seen: StatusView, reason: str, type_: str, message: str) -> None:
    assert said(seen)[reason] == (type_, message)


def test_a_threshold_that_ended_an_attempt_is_no_warning() -> None:
    stopped = attempt(1, Outcome.COST_EXCEEDED, ended_at=at(5))
    assert said(view(recurrence(1, stopped))) == {}


def test_an_idle_job_says_nothing() -> None:
    assert notes(view()) == ()


@pytest.mark.parametrize(
    "seen", [view(*FAILURES), view(ended(1)), preempted(), never_valid(problems=(BAD,))]
)
def test_the_same_facts_have_the_same_names_after_a_restart(seen: StatusView) -> None:
    before = {note.name for note in notes(seen)}
    again = replace(seen, previous=project(seen), now=NOW + timedelta(minutes=5))
    assert {note.name for note in notes(again)} == before
    assert len(before) == len(notes(seen))


def test_another_incarnation_has_names_of_its_own() -> None:
    ours = {note.name for note in notes(view(ended(1)))}
    theirs = {note.name for note in notes(view(ended(1), job={"uid": "ffffffff-4e5f"}))}
    assert not ours & theirs


def test_old_news_is_not_told_by_a_fresh_operator() -> None:
    seen = view(ended(1), *FAILURES[1:])
    assert {note.at for note in notes(seen, at(102))} == {at(103)}
    settled = replace(seen, previous=project(seen), now=NOW + timedelta(days=1))
    assert notes(settled, NOW + timedelta(hours=23)) == ()


def test_words_that_change_from_try_to_try_are_said_once() -> None:
    first = view(refusal=("ChildRefused", "exceeded quota: used 3"))
    (one,) = notes(first)
    second = view(refusal=("ChildRefused", "exceeded quota: used 4"), previous=project(first))
    (other,) = notes(second)
    assert one.name == other.name


def test_a_new_reason_is_said_though_the_job_was_degraded_before() -> None:
    before = project(view(refusal=("ChildRefused", "exceeded quota"), now=START))
    seen = view(problems=(BAD,), previous=before, generation=2)
    assert [n.reason for n in notes(seen, NOW - timedelta(minutes=1))] == ["Invalid"]


def test_a_repair_that_did_not_help_is_said_again() -> None:
    before = project(never_valid(problems=(BAD,), now=START))
    seen = never_valid(problems=(BAD,), previous=before, generation=2)
    assert [n.reason for n in notes(seen, NOW - timedelta(minutes=1))] == ["Invalid"]


def test_a_mode_that_is_limited_is_said_once() -> None:
    before = project(view(now=START))
    first = limited(previous=before)
    (said_first,) = notes(first, NOW - timedelta(minutes=1))
    assert said_first.reason == "ModeLimited"

    later = limited(previous=project(first), now=NOW + timedelta(minutes=40))
    assert notes(later, later.now - timedelta(minutes=30)) == ()


def test_an_event_is_about_the_zeusjob_and_of_the_time_of_the_fact() -> None:
    (note,) = [n for n in notes(view(ended(1))) if n.reason == "RunReached"]
    manifest: dict[str, Any] = event_manifest(note, "vision", "digits", "the-uid")
    assert manifest["involvedObject"] == {
        "apiVersion": "zeus.energy/v1alpha1",
        "kind": "ZeusJob",
        "namespace": "vision",
        "name": "digits",
        "uid": "the-uid",
    }
    assert manifest["metadata"] == {"name": note.name, "namespace": "vision"}
    assert manifest["firstTimestamp"] == manifest["lastTimestamp"] == "2026-03-02T12:01:41Z"
    assert (manifest["count"], manifest["source"]) == (1, {"component": "zeus-operator"})


def test_a_message_is_cut_between_words() -> None:
    long = attempt(1, executions=(execution_of(None),), decision=decision(sentence="word " * 999))
    (note,) = notes(view(recurrence(1, long)))
    message = event_manifest(note, "a", "b", "c")["message"]
    assert len(message.encode()) <= 1024
    assert message.endswith("word…")
