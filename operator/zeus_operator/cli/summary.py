"""What is printed when a run has ended: what happened, and what was saved.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from zeus_operator.cli.tables import table
from zeus_operator.records import RecurrenceRecord, RecurrenceState
from zeus_operator.report import units
from zeus_operator.report.estimate import Estimate
from zeus_operator.report.savings import Comparison, Saving, Savings
from zeus_operator.report.words import headline, interval_words


def outcome_sentence(
    learned: Sequence[RecurrenceRecord], control: Sequence[RecurrenceRecord]
) -> str:
    """Return how many recurrences ran, and how they ended."""
    parts = [_counted(learned, "recurrence")]
    if control:
        parts.append(_counted(control, "recurrence", " of the default configuration"))
    return "; ".join(parts) + "."


def _counted(recurrences: Sequence[RecurrenceRecord], noun: str, of: str = "") -> str:
    count = len(recurrences)
    reached = sum(r.state is RecurrenceState.REACHED for r in recurrences)
    attempts = sum(len(r.attempts) for r in recurrences)
    plural = "" if count == 1 else "s"
    unfinished = sum(r.state is RecurrenceState.OPEN for r in recurrences)
    goes_on = f", {unfinished} to go on with when the command is given again" if unfinished else ""
    return (
        f"{count} {noun}{plural}{of}, {reached} reached the target, {attempts} "
        f"attempt{'' if attempts == 1 else 's'}{goes_on}"
    )


def savings_lines(savings: Savings) -> list[str]:
    """Return the table of means with the savings, and the result in one sentence."""
    overall = savings.overall
    rows: list[tuple[str, ...]] = []
    if overall.cost is not None:
        default = (overall.cost, overall.energy, overall.time)
        rows.append(
            _means(
                f"default configuration ({overall.cost.default.runs})",
                [s.default if s else None for s in default],
            )
        )
    rows += _side("learned, all", overall)
    if savings.control:
        rows += _side("default runs included", savings.with_control)
    rows += _side("learned, last third", savings.converged)
    lines = []
    if rows:
        lines += [*table(("per finished model", "cost", "energy", "time"), rows), ""]
    return [*lines, headline(savings)]


def _side(name: str, comparison: Comparison) -> list[tuple[str, ...]]:
    savings: tuple[Saving | None, ...] = (comparison.cost, comparison.energy, comparison.time)
    if comparison.cost is None:
        return []
    return [
        _means(f"{name} ({comparison.recurrences})", [s.learned if s else None for s in savings]),
        ("  saved", *(units.percent(s.fraction if s else None) for s in savings)),
        ("  95 % interval", *(interval_words(s) for s in savings)),
    ]


def _means(name: str, estimates: Sequence[Estimate | None]) -> tuple[str, ...]:
    shown = (units.joules, units.joules, units.seconds)
    means = [e.mean if e else None for e in estimates]
    return (name, *(show(mean) for show, mean in zip(shown, means, strict=True)))
