"""Builders of jobs, executions and results for tests of the engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from zeus_operator.records import (
    AttemptRecord,
    DecisionRecord,
    ExecutionRecord,
    JobRecord,
    RecurrenceRecord,
)
from zeus_operator.store.store import Store
from zeus_runtime.protocol import Outcome, PowerProfilePoint, Result

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a moment after `START`."""
    return START + timedelta(seconds=seconds)


def spec_document(**changes: Any) -> dict[str, Any]:
    """Return a spec as the store keeps it; `changes` are top-level fields."""
    document: dict[str, Any] = {
        "suspend": False,
        "concurrencyPolicy": "Forbid",
        "objective": {
            "metric": {"target": "0.9", "mode": "Max"},
            "maxEpochs": 20,
            "energyPreference": "0.5",
        },
        "batchSize": {
            "default": 64,
            "choices": [16, 32, 64, 128],
            "learningRate": {"default": "0.1", "scaling": "SquareRoot"},
        },
        "mode": "Optimize",
        "power": {"minPercent": 50, "maxPercent": 100},
        "policy": "structured",
        "retry": {"maxAttempts": 5, "pauseAfterFailures": 3},
        "workload": {"template": {"spec": {}}},
    }
    return {**document, **changes}


def apply(
    store: Store, name: str = "digits", seed: int = 7, *, now: datetime = START, **changes: Any
) -> JobRecord:
    """Apply a job to the store."""
    return store.apply_job(
        "default",
        name,
        spec_document(**changes),
        manifest_path="/jobs/zeusjob.yaml",
        policy="structured",
        seed=seed,
        now=now,
    )


PROFILE = (
    PowerProfilePoint(250.0, 220.0, 0.010),
    PowerProfilePoint(150.0, 140.0, 0.012),
)


def result_for(
    job: JobRecord, recurrence: RecurrenceRecord, attempt: AttemptRecord, **changes: Any
) -> Result:
    """Return a believable result of a run that reached the target; `changes` to it."""
    plain = Result(
        job=job.key,
        recurrence=str(recurrence.id),
        attempt=attempt.number,
        sequence=5,
        outcome=Outcome.REACHED.value,
        batch_size=attempt.decision.batch_size,
        epochs=4,
        time_seconds=8.0,
        energy_joules=1000.0,
        epoch_energy_joules=240.0,
        epoch_time_seconds=2.0,
        gpu_model="Tesla V100",
        gpu_count=1,
        gpu_driver="550.1",
        power_limit_watts=150.0,
        max_power_watts=250.0,
        best_metric=0.91,
        last_metric=0.91,
        milestones=((1, 0.5), (4, 0.91)),
        power_profile=PROFILE,
    )
    return replace(plain, **changes)


def execution_of(result: Result | None, **changes: Any) -> ExecutionRecord:
    """Return an execution of ten seconds that ended well."""
    plain = ExecutionRecord(
        uid="run-1", started_at=at(0), ended_at=at(10), exit_code=0, result=result
    )
    return replace(plain, **changes)


def decision(batch_size: int = 64, **changes: Any) -> DecisionRecord:
    """Return a decision without a threshold."""
    plain = DecisionRecord(
        batch_size=batch_size,
        cost_threshold_joules=None,
        learning_rate=0.1,
        seed=1,
        policy="structured",
        sentence="because",
    )
    return replace(plain, **changes)
