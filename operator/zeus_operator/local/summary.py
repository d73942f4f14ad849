"""What `run_job` hands back."""

from __future__ import annotations

from dataclasses import dataclass

from zeus_operator.records import JobRecord, RecurrenceRecord, RecurrenceState


@dataclass(frozen=True)
class RunSummary:
    """How one call of `run_job` ended.

    Args:
        job: the job as stored.
        learned: the recurrences this command was to run, ascending, the ones that an earlier,
            killed command of the same request had run included.
        control: likewise, of the default configuration.
        stopped: ended because it was asked to, with work left to do.
        paused: why no further recurrence starts (failed too often in a row); "": it is not.
    """

    job: JobRecord
    learned: tuple[RecurrenceRecord, ...] = ()
    control: tuple[RecurrenceRecord, ...] = ()
    stopped: bool = False
    paused: str = ""

    @property
    def failed(self) -> tuple[RecurrenceRecord, ...]:
        """Recurrences that ended without reaching the target."""
        return tuple(
            recurrence
            for recurrence in (*self.learned, *self.control)
            if recurrence.state is RecurrenceState.FAILED
        )
