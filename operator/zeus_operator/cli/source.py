"""Where `history`, `explain` and `report` take a job from: the store, or a cluster's ConfigMap."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Protocol

from zeus_operator.history.document import LeftOut, ProjectedHistory
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import JobRecord, RecurrenceKind, RecurrenceRecord
from zeus_operator.relearning import StoredHistory
from zeus_operator.report.findings import Findings, findings_of
from zeus_operator.status.text import count
from zeus_operator.store.store import Store


class JobHistory(Protocol):
    """A job with what happened to it."""

    @property
    def job(self) -> JobRecord:
        """The job."""

    @property
    def left_out(self) -> LeftOut:
        """What of the history is not here."""

    def recurrences(
        self, limit: int | None = None, kind: RecurrenceKind | None = None
    ) -> tuple[RecurrenceRecord, ...]:
        """Return recurrences, ascending.

        Args:
            limit: only so many of the latest.
            kind: only learned or control ones.
        """

    def learned(self) -> StoredHistory:
        """Return what was learned."""

    def findings(self) -> Findings:
        """Return what the whole history says."""


@dataclass(frozen=True)
class HistoryInStore:
    """A job in the database: the whole of it."""

    store: Store
    job: JobRecord
    left_out: LeftOut = field(default_factory=LeftOut)

    def recurrences(
        self, limit: int | None = None, kind: RecurrenceKind | None = None
    ) -> tuple[RecurrenceRecord, ...]:
        """Return recurrences, ascending; see `JobHistory`."""
        if limit is None and kind is None:
            return self._whole
        return self.store.history(self.job.id, limit=limit, kind=kind)

    @functools.cached_property
    def _whole(self) -> tuple[RecurrenceRecord, ...]:
        return self.store.history(self.job.id)

    def learned(self) -> StoredHistory:
        """Return what was learned."""
        return StoredHistory(self.store.stored_observations(self.job.id))

    def findings(self) -> Findings:
        """Return what the whole history says."""
        return findings_of(self._whole, JobPlanSpec.from_document(self.job.spec).eta)


@dataclass(frozen=True)
class HistoryInCluster:
    """A job as the operator has projected it, as far as there was room."""

    projected: ProjectedHistory

    @property
    def job(self) -> JobRecord:
        """The job; its spec has no workload."""
        return self.projected.job

    @property
    def left_out(self) -> LeftOut:
        """What of the history is not here."""
        return self.projected.left_out

    def recurrences(
        self, limit: int | None = None, kind: RecurrenceKind | None = None
    ) -> tuple[RecurrenceRecord, ...]:
        """Return recurrences, ascending; see `JobHistory`."""
        found = [r for r in self.projected.recurrences if kind in (None, r.kind)]
        return tuple(found if limit is None else found[-limit:])

    def learned(self) -> StoredHistory:
        """Return what was learned."""
        return StoredHistory(self.projected.observations)

    def findings(self) -> Findings:
        """Return what the whole history says."""
        return self.projected.findings


def left_out_words(left_out: LeftOut) -> str:
    """Return what is not here in a sentence, for people; "": everything is."""
    parts = []
    if left_out.recurrences:
        parts.append(f"the oldest {count(left_out.recurrences, 'recurrence')}")
    if left_out.reasons:
        parts.append(f"the reasons of {count(left_out.reasons, 'old recurrence')}")
    if left_out.details:
        parts.append(
            f"the numbers behind the decisions of {count(left_out.details, 'older recurrence')}"
        )
    if left_out.observations:
        parts.append("what is needed to make a decision again")
    if left_out.curves:
        parts.append("the measured power limits")
    if not parts:
        return ""
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"Left out for room: {listed}. The operator's database has all of it."
