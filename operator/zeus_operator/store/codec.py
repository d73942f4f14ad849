"""Between records and what the tables hold.

A result comes from a training script, so it may hold anything: values that
JSON or PostgreSQL can't take are stored as text and read back as what they
were, because judging them is the business of `classify`, not of the store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import Any

from zeus_operator.optimizer.types import Candidate, Observation, Problem, Situation, SweepPoint
from zeus_operator.records import DecisionRecord, ProfileRecord
from zeus_operator.relearning import StoredObservation, Terms
from zeus_runtime.protocol import (
    MetricMode,
    Outcome,
    PowerProfilePoint,
    Result,
    SweepMeasurement,
)
from zeus_runtime.stopping import StopRule

_NON_FINITE = {f"float:{value}": value for value in (math.nan, math.inf, -math.inf)}
_TEXT = "text:"
"""Marks a string that would otherwise be read back as something else."""


def utc(moment: datetime | None) -> datetime | None:
    """Return `moment` in UTC; the server answers in the time zone of the session."""
    return None if moment is None else moment.astimezone(UTC)


def clean_text(text: str) -> str:
    """Return `text` without what a UTF-8 database refuses: NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _to_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float:{value}"
    if isinstance(value, str):
        text = clean_text(value)
        return _TEXT + text if text in _NON_FINITE or text.startswith(_TEXT) else text
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value.removeprefix(_TEXT))
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value


def _parsed(text: str) -> Any:
    """Return what a JSON column holds; only what holds a mark is walked through."""
    value = json.loads(text)
    return _from_json(value) if '"float:' in text or f'"{_TEXT}' in text else value


def _known(kind: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Drop keys that a newer release has stored."""
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in raw.items() if key in names}


def _points(raw: list[dict[str, Any]]) -> tuple[PowerProfilePoint, ...]:
    return tuple(PowerProfilePoint(**_known(PowerProfilePoint, point)) for point in raw)


def result_to_json(result: Result | None) -> dict[str, Any] | None:
    """Return the result as JSON values."""
    if result is None:
        return None
    document: dict[str, Any] = _to_json(asdict(result))
    return document


def result_from_text(text: str | None) -> Result | None:
    """Return the result as it was, from the text of its JSON."""
    if text is None:
        return None
    values = _known(Result, _parsed(text))
    values["milestones"] = tuple(tuple(item) for item in values.get("milestones", ()))
    values["power_profile"] = _points(values.get("power_profile", []))
    values["sweep"] = tuple(
        SweepMeasurement(**_known(SweepMeasurement, each)) for each in values.get("sweep", ())
    )
    return Result(**values)


def decision_to_json(decision: DecisionRecord) -> dict[str, Any]:
    """Return the decision as JSON values."""
    rule = None if decision.stop_rule is None else decision.stop_rule.to_body()
    plain = asdict(replace(decision, stop_rule=None))
    document: dict[str, Any] = _to_json({**plain, "stop_rule": rule})
    return document


def _stop_rule(raw: Any) -> StopRule | None:
    """Return a stop rule; None for one of a newer release: the run is then not stopped by it."""
    try:
        return None if raw is None else StopRule.from_body(raw)
    except (TypeError, ValueError, AttributeError):
        return None


def decision_from_json(raw: dict[str, Any]) -> DecisionRecord:
    """Return the decision as it was."""
    return _decision(_from_json(raw))


def decision_from_text(text: str) -> DecisionRecord:
    """Return the decision as it was, from the text of its JSON."""
    return _decision(_parsed(text))


def _decision(raw: Mapping[str, Any]) -> DecisionRecord:
    values = _known(DecisionRecord, raw)
    values["candidates"] = tuple(
        Candidate(**_known(Candidate, candidate)) for candidate in values.get("candidates", ())
    )
    values["stop_rule"] = _stop_rule(values.get("stop_rule"))
    values["sweep"] = tuple(values.get("sweep", ()))
    problem, situation = values.get("problem"), values.get("situation")
    if problem is not None:
        problem = _known(Problem, problem)
        values["problem"] = Problem(**{**problem, "batch_sizes": tuple(problem["batch_sizes"])})
    if situation is not None:
        situation = _known(Situation, situation)
        values["situation"] = Situation(
            **{
                **situation,
                "failed": tuple(situation["failed"]),
                "in_flight": tuple(situation["in_flight"]),
            }
        )
    return DecisionRecord(**values)


def observation_from_row(row: Mapping[str, Any]) -> Observation:
    """Return a row of `observations` as the policies see it."""
    return Observation(
        attempt_id=row["attempt_id"],
        recurrence=row["recurrence"],
        attempt=row["attempt"],
        batch_size=row["batch_size"],
        outcome=Outcome(row["outcome"]),
        epochs=row["epochs"],
        cost_joules=row["cost_joules"],
        epoch_cost_joules=row["epoch_cost_joules"],
        gpu_model=row["gpu_model"],
        gpu_count=row["gpu_count"],
        milestones=tuple((int(epoch), float(metric)) for epoch, metric in row["milestones"]),
        full_power_epoch_cost_joules=row["full_power_epoch_cost_joules"],
        sweep=tuple(SweepPoint(**_known(SweepPoint, point)) for point in row["sweep"]),
        sweep_cost_joules=row["sweep_cost_joules"],
        overlapping=row["overlapping"],
    )


def stored_observation_from_row(row: Mapping[str, Any]) -> StoredObservation:
    """Return a row of `observations` with the terms that it was made under."""
    target, mode, max_epochs = row["target"], row["metric_mode"], row["max_epochs"]
    known = target is not None and mode is not None and max_epochs is not None
    return StoredObservation(
        observation=observation_from_row(row),
        terms=Terms(target, MetricMode(mode), max_epochs, row["eta"]) if known else None,
        energy_joules=row["energy_joules"],
        time_seconds=row["time_seconds"],
        max_power_watts=row["max_power_watts"],
    )


def profile_from_row(row: Mapping[str, Any]) -> ProfileRecord:
    """Return a row of `power_profiles`."""
    return ProfileRecord(
        batch_size=row["batch_size"],
        gpu_model=row["gpu_model"],
        gpu_driver=row["gpu_driver"],
        gpu_count=row["gpu_count"],
        points=_points(row["points"]),
        measured_at=row["measured_at"].astimezone(UTC),
    )
