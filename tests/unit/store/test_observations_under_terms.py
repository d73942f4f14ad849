"""What facts say of observations once the spec has changed, and what stays as it was stored."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection

from tests.support.jobs import apply, at, decision, execution_of, result_for, spec_document
from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.optimizer.types import Problem
from zeus_operator.records import DecisionRecord, JobRecord, RecurrenceKind, RecurrenceState
from zeus_operator.relearning import Terms
from zeus_operator.store.store import Store
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import MetricMode, Outcome

pytestmark = pytest.mark.postgres
TERMS = Terms(0.9, MetricMode.MAX, 20, 0.5)


def objective(
    target: str = "0.9", mode: str = "Max", max_epochs: int = 20, eta: str = "0.5"
) -> dict[str, Any]:
    return {
        "metric": {"target": target, "mode": mode},
        "maxEpochs": max_epochs,
        "energyPreference": eta,
    }


def decided() -> DecisionRecord:
    """Return a decision under the terms of `spec_document()`."""
    problem = Problem((16, 32, 64, 128), 64, 20)
    return decision(target=0.9, eta=0.5, metric_mode="Max", problem=problem)


def begun(store: Store) -> tuple[JobRecord, int]:
    """Store a job with a run of four epochs that has ended and is not closed yet."""
    job = apply(store)
    made = store.create_recurrence(
        CreateRecurrence(job.id, RecurrenceKind.LEARNED, 1, at(1)), at(1)
    )
    attempt = store.decide_attempt(DecideAttempt(made.id, 1, "digits-1", decided()), at(1))
    result = result_for(job, made, attempt, milestones=((1, 0.5), (2, 0.8), (4, 0.91)))
    store.record_execution(attempt.id, execution_of(result), at(10))
    return job, attempt.id


def close(store: Store, job: JobRecord, attempt_id: int) -> None:
    store.close_attempt(CloseAttempt(attempt_id, Outcome.REACHED, "", True), at(11))
    (made,) = store.history(job.id)
    store.close_recurrence(CloseRecurrence(made.id, RecurrenceState.REACHED), at(11))


def learned(store: Store) -> JobRecord:
    job, attempt_id = begun(store)
    close(store, job, attempt_id)
    return job


def test_it_is_stored_with_the_terms_and_what_its_cost_was_made_of(store: Store) -> None:
    job = learned(store)
    (stored,) = store.stored_observations(job.id)
    assert stored.terms == TERMS
    assert (stored.energy_joules, stored.time_seconds, stored.max_power_watts) == (
        1000.0,
        8.0,
        250.0,
    )
    assert store.observations(job.id) == (stored.observation,)


@pytest.mark.parametrize(
    ("changes", "outcome", "epochs", "cost"),
    [
        ({"eta": "1"}, Outcome.REACHED, 4, 1000.0),
        ({"eta": "0"}, Outcome.REACHED, 4, 2000.0),
        ({"target": "0.8"}, Outcome.REACHED, 2, 750.0),
        ({"target": "0.905"}, Outcome.REACHED, 4, 1500.0),
        ({"max_epochs": 2}, Outcome.MAX_EPOCHS, 2, 750.0),
        ({"max_epochs": 2, "target": "0.8", "eta": "1"}, Outcome.REACHED, 2, 500.0),
    ],
)
def test_facts_read_it_under_the_present_spec_and_the_way_back_loses_nothing(
    store: Store, changes: dict[str, Any], outcome: Outcome, epochs: int, cost: float
) -> None:
    job = learned(store)
    before = store.facts(job.id).observations
    stored = store.stored_observations(job.id)

    apply(store, objective=objective(**changes))
    (seen,) = store.facts(job.id).observations
    assert (seen.outcome, seen.epochs) == (outcome, epochs)
    assert seen.cost_joules == pytest.approx(cost)
    assert store.stored_observations(job.id) == stored

    apply(store)
    assert store.facts(job.id).observations == before


def test_a_change_that_is_none_of_the_terms_keeps_what_was_learned(store: Store) -> None:
    job = learned(store)
    before = store.facts(job.id).observations
    apply(store, batchSize={"default": 32, "choices": [32, 256]}, mode="Observe", policy="zeus")
    assert store.facts(job.id).observations == before


@pytest.mark.parametrize("changes", [{"mode": "Min"}, {"target": "0.95"}], ids=str)
def test_another_metric_or_a_harder_target_leaves_nothing_to_decide_on(
    store: Store, changes: dict[str, Any]
) -> None:
    job = learned(store)
    apply(store, objective=objective(**changes))
    assert store.facts(job.id).observations == ()
    assert len(store.stored_observations(job.id)) == 1


def test_a_run_that_went_on_while_the_spec_changed_is_stored_under_what_it_was_decided_for(
    store: Store,
) -> None:
    job, attempt_id = begun(store)
    apply(store, objective=objective(target="0.8", eta="1", max_epochs=30))
    close(store, job, attempt_id)
    (stored,) = store.stored_observations(job.id)
    assert stored.terms == TERMS
    assert stored.observation.cost_joules == pytest.approx(cost_joules(1000.0, 8.0, 250.0, 0.5))
    (seen,) = store.observations(job.id)
    assert (seen.outcome, seen.epochs) == (Outcome.REACHED, 2)
    assert seen.cost_joules == pytest.approx(500.0)


def test_a_later_incarnation_reads_it_under_its_own_spec(store: Store) -> None:
    job = learned(store)
    store.delete_job(job.id, at(20))
    back = apply(store, objective=objective(eta="1"))
    (seen,) = store.observations(back.id)
    assert seen.cost_joules == pytest.approx(1000.0)
    (as_it_was,) = store.observations(job.id)  # of the deleted one, under the spec it had
    assert as_it_was.cost_joules == pytest.approx(1500.0)


def test_a_row_of_a_release_that_kept_no_terms_is_taken_as_it_is(store: Store) -> None:
    job = learned(store)

    def forget_terms(connection: Connection) -> None:
        connection.exec_driver_sql(
            "UPDATE observations SET target = NULL, metric_mode = NULL, max_epochs = NULL"
        )

    store._database.write(forget_terms)
    (stored,) = store.stored_observations(job.id)
    assert stored.terms is None
    apply(store, objective=objective(target="0.95", eta="1", max_epochs=2))
    assert store.observations(job.id) == (stored.observation,)


def test_nothing_is_stored_of_a_job_that_is_not_there(store: Store) -> None:
    assert store.stored_observations(99) == ()


def test_the_terms_of_this_file_are_those_of_the_spec_that_it_applies(store: Store) -> None:
    assert spec_document()["objective"] == objective()
