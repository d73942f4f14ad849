"""What the report shows, gathered from records.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from zeus_operator.api.types import ZeusJobSpec
from zeus_operator.records import JobRecord, RecurrenceKind, RecurrenceRecord
from zeus_operator.report.comparable import is_of_the_default
from zeus_operator.report.findings import Environment, Findings, PowerCurve, findings_of
from zeus_operator.report.savings import Savings


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.  Recurrences ascend; open ones are left to `status`.

    Args:
        missing: what of the history is not at hand, in a sentence; "": nothing is.
    """

    job: JobRecord
    spec: ZeusJobSpec
    learned: tuple[RecurrenceRecord, ...]
    control: tuple[RecurrenceRecord, ...]
    savings: Savings
    curves: tuple[PowerCurve, ...]
    environment: Environment
    generated_at: datetime
    missing: str = ""

    @property
    def compared(self) -> tuple[RecurrenceRecord, ...]:
        """The recurrences, but for control runs, that the savings count."""
        return tuple(r for r in self.learned if r.id in self.savings.compared)

    @property
    def compared_learned(self) -> tuple[RecurrenceRecord, ...]:
        """Those of `compared` that a policy decided: no policy does under Observe or Recommend."""
        return tuple(r for r in self.compared if not is_of_the_default(r))


def gather(
    job: JobRecord,
    recurrences: Sequence[RecurrenceRecord],
    generated_at: datetime,
    findings: Findings | None = None,
    missing: str = "",
) -> ReportData:
    """Return the report's data.

    Args:
        job: the job as stored; its spec is read back with `ZeusJobSpec`.
        recurrences: the history, of both kinds.
        generated_at: printed on the page.
        findings: of the whole history; None: `recurrences` are that.
        missing: what of the history is not in `recurrences`, in a sentence; "": nothing is.
    """
    spec = ZeusJobSpec.model_validate(job.spec)
    found = findings or findings_of(recurrences, float(spec.objective.energy_preference))
    return ReportData(
        job=job,
        spec=spec,
        learned=_ended(recurrences, RecurrenceKind.LEARNED),
        control=_ended(recurrences, RecurrenceKind.CONTROL),
        savings=found.savings,
        curves=found.curves,
        environment=found.environment,
        generated_at=generated_at,
        missing=missing,
    )


def _ended(
    recurrences: Sequence[RecurrenceRecord], kind: RecurrenceKind
) -> tuple[RecurrenceRecord, ...]:
    return tuple(r for r in recurrences if r.kind is kind and r.attempts and r.ended_at is not None)
