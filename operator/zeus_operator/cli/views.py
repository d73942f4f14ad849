"""Records as the JSON that `-o json` prints.  Pure.

Keys are snake_case and carry their units; a value that is not known is null,
never left out, so that a program can rely on every key.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from zeus_operator import events
from zeus_operator.records import (
    AttemptRecord,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RecurrenceState,
)
from zeus_operator.report.savings import (
    Comparison,
    Savings,
    recurrence_energy_joules,
    recurrence_time_seconds,
)
from zeus_operator.report.words import headline, why_not_known
from zeus_runtime.protocol import Result


def plain(value: Any) -> Any:
    """Return dataclasses, enums and times as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """Return strict JSON; a number that is not finite becomes null."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def job_view(job: JobRecord) -> dict[str, Any]:
    """Return a job without its spec."""
    return {
        "namespace": job.namespace,
        "name": job.name,
        "uid": job.uid,
        "generation": job.generation,
        "policy": job.policy,
        "seed": job.seed,
        "suspended": job.suspended,
        "manifest": job.manifest_path,
        "created_at": job.created_at.isoformat(),
    }


def attempt_view(attempt: AttemptRecord, *, with_output: bool = False) -> dict[str, Any]:
    """Return an attempt.

    Args:
        attempt: the attempt.
        with_output: with the end of the script's output.
    """
    decision = attempt.decision
    last = attempt.executions[-1] if attempt.executions else None
    view = {
        "attempt": attempt.number,
        "state": attempt.state.value,
        "outcome": None if attempt.outcome is None else attempt.outcome.value,
        "detail": attempt.detail,
        "batch_size": decision.batch_size,
        "learning_rate": decision.learning_rate,
        "cost_threshold_joules": decision.cost_threshold_joules,
        "optimize_power": decision.optimize_power,
        "policy": decision.policy,
        "reason": decision.sentence,
        "epochs": attempt.epochs,
        "energy_joules": attempt.energy_joules,
        "time_seconds": attempt.time_seconds,
        "cost_joules": attempt.cost_joules,
        "power_limit_watts": attempt.power_limit_watts,
        "best_metric": attempt.best_metric,
        "gpu_model": attempt.gpu_model,
        "executions": len(attempt.executions),
        "exit_code": None if last is None else last.exit_code,
        "output": None if last is None else last.output_path,
        "decided_at": attempt.decided_at.isoformat(),
        "ended_at": None if attempt.ended_at is None else attempt.ended_at.isoformat(),
    }
    if with_output:
        view["output_tail"] = "" if last is None else last.output_tail
    return view


def recurrence_view(recurrence: RecurrenceRecord, *, attempts: bool = True) -> dict[str, Any]:
    """Return a recurrence, with its attempts unless told otherwise."""
    view: dict[str, Any] = {
        "recurrence": recurrence.ordinal,
        "kind": recurrence.kind.value,
        "state": recurrence.state.value,
        "reason": recurrence.reason,
        "scheduled_time": recurrence.scheduled_time.isoformat(),
        "ended_at": None if recurrence.ended_at is None else recurrence.ended_at.isoformat(),
        "cost_joules": recurrence.cost_joules,
        "energy_joules": recurrence_energy_joules(recurrence),
        "time_seconds": recurrence_time_seconds(recurrence),
    }
    if attempts:
        view["attempts"] = [attempt_view(attempt) for attempt in recurrence.attempts]
    return view


def savings_view(savings: Savings) -> dict[str, Any]:
    """Return savings as fractions, 0.25 is a quarter saved; null with why it is not known yet."""

    def comparison(value: Comparison) -> dict[str, Any]:
        view: dict[str, Any] = {
            "recurrences": value.recurrences,
            "not_known": why_not_known(value),
        }
        for name, saving in (("cost", value.cost), ("energy", value.energy), ("time", value.time)):
            unit = "seconds" if name == "time" else "joules"
            view[name] = (
                None
                if saving is None
                else {
                    f"learned_mean_{unit}": saving.learned.mean,
                    f"default_mean_{unit}": saving.default.mean,
                    "saved_fraction": saving.fraction,
                    "saved_fraction_low": saving.low,
                    "saved_fraction_high": saving.high,
                }
            )
        return view

    return {
        "sentence": headline(savings),
        "overall": comparison(savings.overall),
        "with_control": comparison(savings.with_control),
        "last_third": comparison(savings.converged),
        "default_runs": savings.default_runs,
        "control": savings.control,
        "learned_failed": savings.learned_failed,
        "default_failed": savings.control_failed,
        "unmeasured": savings.unmeasured,
        "left_out": [plain(item) for item in savings.left_out],
    }


def result_view(result: Result) -> dict[str, Any]:
    """Return the progress of a running attempt."""
    return {
        "epochs": result.epochs,
        "last_metric": result.last_metric,
        "best_metric": result.best_metric,
        "energy_joules": result.energy_joules,
        "time_seconds": result.time_seconds,
        "power_limit_watts": result.power_limit_watts,
        "gpu_model": result.gpu_model,
        "note": result.note,
    }


def event_view(event: events.Event) -> dict[str, Any]:
    """Return an event; `event` names its kind."""
    match event:
        case events.RequestResumed(job=job, request=request):
            return {
                "event": "request_resumed",
                "job": job.key,
                "kind": request.kind.value,
                "recurrences": request.recurrences,
                "finished": request.finished,
            }
        case events.RecurrenceStarted(job=job, recurrence=recurrence):
            return {
                "event": "recurrence_started",
                "job": job.key,
                **recurrence_view(recurrence, attempts=False),
            }
        case events.AttemptDecided(recurrence=recurrence, attempt=attempt):
            return {"event": "attempt_decided", **_of(recurrence), **attempt_view(attempt)}
        case events.AttemptStarted(recurrence=recurrence, attempt=attempt, adopted=adopted):
            return {
                "event": "attempt_started",
                "adopted": adopted,
                **_of(recurrence),
                **attempt_view(attempt),
            }
        case events.AttemptProgress(recurrence=recurrence, attempt=attempt, result=result):
            return {
                "event": "attempt_progress",
                **_of(recurrence),
                "attempt": attempt.number,
                "batch_size": attempt.decision.batch_size,
                **result_view(result),
            }
        case events.AttemptEnded(recurrence=recurrence, attempt=attempt):
            return {
                "event": "attempt_ended",
                **_of(recurrence),
                **attempt_view(attempt, with_output=True),
            }
        case events.RecurrenceEnded(recurrence=recurrence):
            return {"event": "recurrence_ended", **recurrence_view(recurrence, attempts=False)}
        case events.Waiting(until=until):
            return {"event": "waiting", "until": None if until is None else until.isoformat()}
        case events.Notice(text=text):
            return {"event": "notice", "text": text}


def _of(recurrence: RecurrenceRecord) -> dict[str, Any]:
    return {"recurrence": recurrence.ordinal, "kind": recurrence.kind.value}


def counts(recurrences: tuple[RecurrenceRecord, ...]) -> dict[str, int]:
    """Return how many learned recurrences are in each state, and how many control ones ended."""
    learned = [r for r in recurrences if r.kind is RecurrenceKind.LEARNED]
    view = {state.value: sum(r.state is state for r in learned) for state in RecurrenceState}
    view["control"] = sum(
        r.kind is RecurrenceKind.CONTROL and r.state is not RecurrenceState.OPEN
        for r in recurrences
    )
    return view
