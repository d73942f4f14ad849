"""Executions whose pods are not there any more, or were never seen.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from zeus_operator.executors.pod_fields import GONE_MARK
from zeus_operator.executors.pods import ChildPhase, ChildView
from zeus_operator.records import AttemptRecord, ExecutionRecord
from zeus_operator.workloads.base import WorkloadKind
from zeus_runtime.protocol import Outcome, Result


def shows_a_new_end(view: ChildView, attempt: AttemptRecord) -> bool:
    """Return whether an execution has ended since `attempt` was stored."""
    stored = {each.uid for each in attempt.executions if each.ended_at is not None}
    return any(each.ended_at is not None and each.uid not in stored for each in view.executions)


def with_absent(
    view: ChildView,
    attempt: AttemptRecord,
    pods: Sequence[Mapping[str, Any]],
    now: datetime,
    kind: WorkloadKind,
    reported: Mapping[str, Result] | None = None,
) -> tuple[ExecutionRecord, ...]:
    """Return the executions of `view`, ended where their pod is gone without a known end."""
    results = reported or {}
    gone = {pod["metadata"]["uid"] for pod in pods if pod.get(GONE_MARK)}
    found = [
        _ended(each, view, now, kind) if each.uid in gone and each.ended_at is None else each
        for each in view.executions
    ]
    known = {each.uid for each in found}
    absent = [
        _ended(replace(each, result=results.get(each.uid, each.result)), view, now, kind)
        for each in attempt.executions
        if each.ended_at is None and each.uid not in known
    ]
    has_ended = any(
        each.ended_at is not None and each.outcome is not Outcome.PREEMPTED
        for each in attempt.executions
    )
    if absent or has_ended:  # then the child had a pod: nothing stands in for one that never was
        found = [each for each in found if each.uid != view.uid]
    every = (*absent, *found)
    last = max(every, key=lambda each: each.started_at, default=None)
    if view.phase is ChildPhase.GONE and (last is None or last.outcome is Outcome.PREEMPTED):
        # Deleted between two pods: that is no reason to create it again.
        cancelled = ExecutionRecord(attempt.child_uid, now)
        every = (*every, _ended(cancelled, view, now, kind))
    return every


def _ended(
    execution: ExecutionRecord, view: ChildView, now: datetime, kind: WorkloadKind
) -> ExecutionRecord:
    if view.phase is ChildPhase.GONE:
        outcome, reason = Outcome.CANCELLED, f"its {kind.kind} was deleted"
    elif view.is_finished:
        outcome, reason = Outcome.LOST, "its pod was deleted before anybody saw how it ended"
    else:
        outcome, reason = Outcome.PREEMPTED, "its pod was deleted"
    return replace(execution, ended_at=now, outcome=outcome, reason=reason)
