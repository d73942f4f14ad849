"""explain and replay of decisions made before and after the spec changed."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.support.histories import START, store_decisions
from tests.support.jobs import execution_of, result_for
from tests.support.stored_cli import Zeusctl, output
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence
from zeus_operator.deciding import decide
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import JobRecord, RecurrenceKind, RecurrenceState
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome

pytestmark = pytest.mark.postgres

CHANGES: dict[str, dict[str, Any]] = {
    "target": {"metric": {"target": "0.8", "mode": "Max"}},
    "a harder target": {"metric": {"target": "0.97", "mode": "Max"}},
    "epochs": {"maxEpochs": 3},
    "preference": {"energyPreference": "1"},
    "mode": {"metric": {"target": "0.2", "mode": "Min"}},
}


def change(store: Store, job: JobRecord, **objective: Any) -> JobRecord:
    """Apply the job with another objective and the same policy."""
    spec = {**job.spec, "objective": {**job.spec["objective"], **objective}}
    return store.apply_job(
        job.namespace,
        job.name,
        spec,
        manifest_path=job.manifest_path,
        policy=job.policy,
        seed=job.seed,
        now=START + timedelta(days=30),
    )


def run_on(store: Store, job: JobRecord, recurrences: int) -> None:
    """Decide and run more recurrences; every run meets its target in its fourth epoch."""
    spec = JobPlanSpec.from_document(job.spec)
    best = spec.target
    for _ in range(recurrences):
        ordinal = store.facts(job.id).last_ordinal[RecurrenceKind.LEARNED] + 1
        now = START + timedelta(days=30 + ordinal)
        made = store.create_recurrence(
            CreateRecurrence(job.id, RecurrenceKind.LEARNED, ordinal, now), now
        )
        decided = decide(store.facts(job.id), made, spec, policy(job.policy))
        attempt = store.decide_attempt(decided, now)
        result = result_for(
            job,
            made,
            attempt,
            epochs=min(4, spec.max_epochs),
            best_metric=best,
            last_metric=best,
            milestones=((1, 0.5 * (best + 0.5)), (min(4, spec.max_epochs), best)),
        )
        ended = execution_of(result, started_at=now, ended_at=now + timedelta(seconds=10))
        store.record_execution(attempt.id, ended, now)
        store.close_attempt(CloseAttempt(attempt.id, Outcome.REACHED, "", learn=True), now)
        store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), now)


@pytest.mark.parametrize("what", CHANGES)
def test_every_decision_is_made_again_on_what_it_saw_under_its_own_terms(
    zeusctl: Zeusctl, store: Store, what: str
) -> None:
    job = store_decisions(store, 4, lambda batch_size: 500.0 + abs(batch_size - 128))
    changed = change(store, job, **CHANGES[what])
    run_on(store, changed, 3)
    again = change(store, changed, **job.spec["objective"])  # and back
    run_on(store, again, 2)

    views = [
        json.loads(output(zeusctl("explain", "digits", str(n), "-o", "json")))["attempts"]
        for n in range(1, 10)
    ]
    assert [view["replayed"] for attempts in views for view in attempts] == [True] * 9
    replayed = json.loads(output(zeusctl("replay", "digits", "--policy", job.policy, "-o", "json")))
    assert [each["same"] for each in replayed["decisions"]] == [True] * 9


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_any_policy_can_be_asked_about_all_of_it(zeusctl: Zeusctl, store: Store, name: str) -> None:
    job = store_decisions(store, 3, lambda batch_size: 500.0)
    run_on(store, change(store, job, energyPreference="0", maxEpochs=5), 2)
    replayed = json.loads(output(zeusctl("replay", "digits", "--policy", name, "-o", "json")))
    assert len(replayed["decisions"]) == 5
