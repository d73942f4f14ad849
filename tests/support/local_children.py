"""Jobs whose child is a small Python script, for the tests of the local executor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from zeus_operator.executors.execution import Execution
from zeus_operator.executors.local import LocalDevices, LocalExecutor
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    DecisionRecord,
    ExecutionRecord,
    JobRecord,
)
from zeus_runtime.protocol import Decision

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


def spec(
    command: Sequence[str] = ("python", "train.py"),
    args: Sequence[str] = (),
    *,
    env: Sequence[dict[str, str]] = (),
    gpus: int = 0,
    grace_seconds: int = 30,
) -> dict[str, Any]:
    """Return a ZeusJob's spec whose one container runs `command`."""
    container: dict[str, Any] = {
        "name": "train",
        "image": "unused",
        "command": list(command),
        "args": list(args),
        "env": list(env),
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    return {
        "objective": {"metric": {"target": "0.9", "mode": "Max"}, "maxEpochs": 100000},
        "batchSize": {
            "default": 32,
            "choices": [16, 32, 64],
            "learningRate": {"default": "0.1"},
        },
        "workload": {
            "template": {
                "spec": {
                    "template": {
                        "spec": {
                            "restartPolicy": "Never",
                            "terminationGracePeriodSeconds": grace_seconds,
                            "containers": [container],
                        }
                    }
                }
            }
        },
    }


def job(folder: Path, script: str = "", *, uid: str = "uid-1", **of_spec: Any) -> JobRecord:
    """Return a job in `folder`, whose `train.py` is `script`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(script, encoding="utf-8")
    return JobRecord(
        id=1,
        namespace="default",
        name="tiny",
        uid=uid,
        generation=1,
        spec=spec(**of_spec),
        policy="structured",
        seed=0,
        manifest_path=str(folder / "zeusjob.yaml"),
        created_at=NOW,
    )


def attempt(*, identifier: int = 1, child_name: str = "tiny-0001-1") -> AttemptRecord:
    """Return a decided attempt."""
    return AttemptRecord(
        id=identifier,
        recurrence_id=7,
        number=1,
        state=AttemptState.DECIDED,
        child_name=child_name,
        decision=DecisionRecord(
            batch_size=64,
            cost_threshold_joules=None,
            learning_rate=0.1,
            seed=3,
            policy="structured",
            sentence="because",
        ),
        decided_at=NOW,
    )


def with_executions(record: AttemptRecord, *executions: ExecutionRecord) -> AttemptRecord:
    """Return `record` as the store gives it once `executions` are recorded."""
    return dataclasses.replace(record, executions=executions, state=AttemptState.RUNNING)


def executor(home: Path, *, gpus: Sequence[str] = (), **arguments: Any) -> LocalExecutor:
    """Return an executor on a machine of its own, whose runs are under `home`."""
    devices = LocalDevices(tuple(gpus), machine=str(home))
    return LocalExecutor(home / "runs", devices, decision, **arguments)


def decision(job: JobRecord, attempt: AttemptRecord) -> Decision:
    """Return what the run is told."""
    return Decision(
        batch_size=attempt.decision.batch_size,
        target=0.9,
        metric_mode="Max",
        max_epochs=5,
        learning_rate=attempt.decision.learning_rate,
    )


def last_execution(local: LocalExecutor, job: JobRecord, attempt: AttemptRecord) -> ExecutionRecord:
    """Return the newest execution."""
    return local.observe(job, attempt)[-1]


def ended(local: LocalExecutor, job: JobRecord, attempt: AttemptRecord) -> ExecutionRecord:
    """Wait for the end of the newest execution and return it."""

    def look() -> ExecutionRecord | None:
        local.wait(0.05)
        record = last_execution(local, job, attempt)
        return record if record.ended_at is not None else None

    return eventually(look, f"the child of {attempt.child_name} ends")


def output_has(execution: ExecutionRecord, text: str) -> None:
    """Wait until the child has printed `text`."""
    path = Path(execution.output_path)
    eventually(
        lambda: path.exists() and text in path.read_text(encoding="utf-8"),
        f"the child prints {text!r}",
    )


def execution_directory(home: Path, attempt: AttemptRecord, number: int = 1) -> Execution:
    """Return the execution's directory."""
    return Execution(home / "runs" / attempt.child_name / str(number))
