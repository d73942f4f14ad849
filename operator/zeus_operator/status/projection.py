"""The `.status` of a ZeusJob from facts.  Pure: the same view gives the same status.

Nothing in it ticks: where nothing has happened the status stays as it is, and nobody writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from zeus_operator.agents.reports import AgentReport
from zeus_operator.api.status import (
    MAX_ACTIVE,
    MAX_DETAIL,
    MAX_MESSAGE,
    MAX_REQUESTED,
    MAX_SENTENCE,
    ActiveRun,
    ActiveState,
    Recommendation,
    RequestedRuns,
    RunKind,
    RunOutcome,
    SavingsStatus,
    ZeusJobStatus,
)
from zeus_operator.api.types import Mode as ApiMode
from zeus_operator.classify import RunIdentity
from zeus_operator.deciding import DEFAULT_POLICY
from zeus_operator.executors.pods import ChildPhase, ChildView
from zeus_operator.plan_spec import Mode
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    RecurrenceKind,
    RecurrenceRecord,
)
from zeus_operator.report.savings import NotKnown, Saving, Savings
from zeus_operator.status.conditions import conditions
from zeus_operator.status.history import HistorySummary, run_kind, summarize
from zeus_operator.status.text import (
    count,
    cut,
    decimal,
    moment,
    moment_or_none,
    percent,
    signed,
    whole,
)
from zeus_operator.status.view import StatusView
from zeus_runtime.protocol import Result

__all__ = ["HistorySummary", "project", "store_away", "summarize"]

_STATES = {
    ChildPhase.QUEUED: ActiveState.QUEUED,
    ChildPhase.PENDING: ActiveState.PENDING,
    ChildPhase.RUNNING: ActiveState.RUNNING,
}
_WOULD_TAKE = re.compile(r"The policy would take ([0-9]{1,8}): ")
"""The words of `deciding`: the policy's choice is not the cheapest candidate, nor stored apart."""

_NOT_KNOWN = {
    NotKnown.NOTHING_LEARNED: "only the default has run",
    NotKnown.NO_MODEL: "no run has reached the target yet",
    NotKnown.NO_DEFAULT: "the default has not run yet, so there is nothing to compare with",
    NotKnown.DEFAULT_FAILED: "the default has not reached the target",
    NotKnown.NO_SPREAD: "too few runs to say how much chance is in the figure",
    NotKnown.NOT_MEASURED: "the energy of the runs could not be measured",
    NotKnown.FEW_RECURRENCES: "too few recurrences",
}


def project(view: StatusView) -> dict[str, Any]:
    """Return the status as JSON, absent fields left out."""
    facts, history = view.facts, view.history
    last_outcome = next(
        (r.outcome for r in history.runs if r.outcome is not RunOutcome.SKIPPED), None
    )
    status = ZeusJobStatus(
        observed_generation=view.generation,
        mode=ApiMode(view.spec.mode.value) if view.spec else None,
        conditions=conditions(view),
        last_schedule_time=moment_or_none(facts.last_scheduled_time) if facts else None,
        next_schedule_time=moment_or_none(view.next_tick),
        active=tuple(_active(view, each) for each in view.open_recurrences[:MAX_ACTIVE]),
        runs=history.runs,
        last_outcome=last_outcome,
        best=history.best,
        savings=_savings(history) if history.totals.recurrences else None,
        recommendation=_recommendation(view),
        totals=history.totals if history.totals.recurrences else None,
        requested=_requested(view),
        history_kibibytes=view.history_kibibytes,
    )
    document: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in document.items() if value != []}


def store_away(
    previous: Mapping[str, Any], generation: int, words: str, now: datetime
) -> dict[str, Any]:
    """Return the status as it was, but that the store does not answer."""
    text = cut(f"{words}; runs go on, none starts until it answers", MAX_MESSAGE)
    kept = [each for each in previous.get("conditions") or () if each["type"] != "Ready"]
    before: Mapping[str, Any] = next(
        (c for c in previous.get("conditions") or () if c["type"] == "Ready"), {}
    )
    same = before.get("status") == "False"
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "StoreUnavailable",
        "message": text,
        "lastTransitionTime": before["lastTransitionTime"] if same else moment(now),
        "observedGeneration": generation,
    }
    return {**previous, "conditions": [ready, *kept]}


def _active(view: StatusView, recurrence: RecurrenceRecord) -> ActiveRun:
    attempt = recurrence.attempts[-1] if recurrence.attempts else None
    child = view.children.get(attempt.id) if attempt else None
    report = _report(view, recurrence, attempt)
    result = _progress(attempt, report)
    return ActiveRun(
        recurrence=recurrence.id,
        number=recurrence.number,
        kind=run_kind(recurrence),
        state=_state(attempt, child),
        scheduled_time=moment(recurrence.scheduled_time),
        attempt=attempt.number if attempt else 0,
        max_attempts=view.spec.max_attempts if view.spec else 1,
        batch_size=attempt.decision.batch_size if attempt else None,
        child_name=attempt.child_name if attempt else None,
        started_at=moment(attempt.executions[0].started_at)
        if attempt and attempt.executions
        else None,
        node=child.node or None if child else None,
        epochs=result.epochs if result else None,
        energy_joules=whole(result.energy_joules) if result else None,
        last_metric=decimal(result.last_metric) if result else None,
        best_metric=decimal(result.best_metric) if result else None,
        reported_at=moment(report.received_at) if report else None,
        message=_message(attempt, child, view.awaited),
    )


def _report(
    view: StatusView, recurrence: RecurrenceRecord, attempt: AttemptRecord | None
) -> AgentReport | None:
    """Return what an agent has told of the newest pod, if it is of this attempt."""
    if view.facts is None or attempt is None or not attempt.executions:
        return None
    report = view.progress.get(attempt.executions[-1].uid)
    identity = RunIdentity(view.facts.job.key, str(recurrence.id), attempt.number)
    return report if report is not None and report.identity == identity else None


def _progress(attempt: AttemptRecord | None, report: AgentReport | None) -> Result | None:
    """Return the newest that is known of the newest pod."""
    stored = attempt.executions[-1].result if attempt and attempt.executions else None
    if report is None or (stored is not None and stored.sequence >= report.result.sequence):
        return stored
    return report.result


def _state(attempt: AttemptRecord | None, child: ChildView | None) -> ActiveState:
    if attempt is None or (attempt.state is AttemptState.DECIDED and child is None):
        return ActiveState.DECIDED
    if child is None:
        return ActiveState.ENDING
    return _STATES.get(child.phase, ActiveState.ENDING)


def _message(
    attempt: AttemptRecord | None, child: ChildView | None, awaited: Mapping[int, str]
) -> str | None:
    if attempt is not None and (who := awaited.get(attempt.id)):
        return cut(f"Its pod has ended and left no result; waiting for {who}.", MAX_DETAIL)
    if child is not None and child.trouble is not None:
        return cut(child.trouble.message, MAX_DETAIL)
    return cut(attempt.decision.sentence, MAX_DETAIL) if attempt else None


def _requested(view: StatusView) -> tuple[RequestedRuns, ...]:
    if view.facts is None:
        return ()
    return tuple(
        RequestedRuns(
            id=request.token or str(request.id),
            kind=RunKind.CONTROL if request.kind is RecurrenceKind.CONTROL else RunKind.LEARNED,
            runs=request.recurrences,
            finished=request.finished,
        )
        for request in view.facts.requests[:MAX_REQUESTED]
    )


def _recommendation(view: StatusView) -> Recommendation | None:
    """Return what the policy would do, which Recommend writes into each decision."""
    if view.spec is None or view.spec.mode is not Mode.RECOMMEND:
        return None
    for attempt in reversed(view.attempts):
        found = _WOULD_TAKE.search(attempt.decision.sentence)
        if found is not None and attempt.decision.policy == DEFAULT_POLICY:
            return Recommendation(
                batch_size=int(found[1]), sentence=cut(attempt.decision.sentence, MAX_SENTENCE)
            )
    return None


def _savings(history: HistorySummary) -> SavingsStatus:
    savings: Savings = history.savings
    overall = savings.overall
    if overall.cost is None:
        why = overall.not_known or NotKnown.NOTHING_LEARNED
        return SavingsStatus(
            recurrences=overall.recurrences,
            not_known="".join(word.capitalize() for word in why.value.split()),
            sentence=cut(f"Not known yet: {_NOT_KNOWN[why]}.", MAX_SENTENCE),
        )
    joules = _saved_joules(overall.energy, history.models)
    return SavingsStatus(
        **_bounds("cost", overall.cost),
        **_bounds("energy", overall.energy),
        **_bounds("time", overall.time),
        energy_joules=joules[0],
        energy_joules_low=joules[1],
        energy_joules_high=joules[2],
        recurrences=overall.recurrences,
        sentence=_sentence(overall.cost, overall.recurrences),
    )


def _bounds(name: str, saving: Saving | None) -> dict[str, str | None]:
    if saving is None:
        return {}
    return {
        f"{name}_percent": percent(saving.fraction),
        f"{name}_percent_low": percent(saving.low),
        f"{name}_percent_high": percent(saving.high),
    }


def _saved_joules(saving: Saving | None, models: int) -> tuple[int | None, int | None, int | None]:
    """Return the energy saved by all finished models together, with its bounds.

    What was spent is known: the interval is that of the default alone.
    """
    if saving is None:
        return None, None, None
    spent = saving.learned.mean * models
    return tuple(  # type: ignore[return-value]
        signed(spent * fraction / (1.0 - fraction)) if fraction < 1.0 else None
        for fraction in (saving.fraction, saving.low, saving.high)
    )


def _sentence(cost: Saving, recurrences: int) -> str:
    low, high = percent(cost.low), percent(cost.high)
    of = f"over {count(recurrences, 'recurrence')}, exploration paid for (95 %: {low} to {high} %)"
    if cost.fraction < 0:
        return f"{percent(-cost.fraction)} % more cost than the default {of}."
    return f"{percent(cost.fraction)} % of the default's cost saved {of}."
