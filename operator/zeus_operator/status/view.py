"""What the status of a ZeusJob is projected from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zeus_operator.agents.reports import AgentReport
from zeus_operator.api.template import Problem
from zeus_operator.executors.pods import ChildView
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import AttemptRecord, JobFacts, RecurrenceRecord, RecurrenceState
from zeus_operator.status.history import HistorySummary


@dataclass(frozen=True)
class StatusView:
    """All that is known of a ZeusJob at one moment.

    Args:
        generation: of the object, whether or not its spec is valid.
        previous: the status as it was; {} at first.
        facts: None: the spec was never valid.
        spec: the last valid one, its mode cut to what the operator allows.
        history: of all recurrences of the job (`summarize`).
        children: how the child of an attempt stands, by attempt id.
        next_tick: of the schedule; None: none comes.
        problems: of the spec.
        request_problems: of the annotations by which a person asks for something.
        refusal: why no child can be created: one word, and words for people.
        store_trouble: why the store does not answer; "": it does.
        reset_waits: a reset was asked for and waits for what runs.
        now: aware; when what is new here is said to have changed.
        name, uid: of the object; "": those of `facts.job`.
        progress: what agents have told of the pods of open attempts, by UID.
        awaited: whose word on an ended pod is waited for, by attempt id.
        history_kibibytes: most that the history beside the ZeusJob may take; None: nobody says.
    """

    generation: int
    previous: Mapping[str, Any]
    facts: JobFacts | None
    spec: JobPlanSpec | None
    history: HistorySummary
    children: Mapping[int, ChildView]
    next_tick: datetime | None
    problems: tuple[Problem, ...]
    request_problems: tuple[Problem, ...]
    refusal: tuple[str, str] | None
    store_trouble: str
    reset_waits: bool
    now: datetime
    name: str = ""
    uid: str = ""
    progress: Mapping[str, AgentReport] = field(default_factory=dict)
    awaited: Mapping[int, str] = field(default_factory=dict)
    history_kibibytes: int | None = None

    @property
    def open_recurrences(self) -> tuple[RecurrenceRecord, ...]:
        """Return the recurrences that are open, oldest first."""
        if self.facts is None:
            return ()
        opened = [r for r in self.facts.recurrences if r.state is RecurrenceState.OPEN]
        return tuple(sorted(opened, key=lambda r: (r.scheduled_time, r.id)))

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """Return the attempts in the facts, oldest first."""
        if self.facts is None:
            return ()
        found = [attempt for r in self.facts.recurrences for attempt in r.attempts]
        return tuple(sorted(found, key=lambda attempt: attempt.id))
