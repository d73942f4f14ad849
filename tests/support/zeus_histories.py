"""Scripted histories of the published policy, as tables of text.

The tables (`zeus_tables/*.txt`) were written from the published rules, not by
running the policy; docs/explanation/zeus-baseline.md says how.  A history is

    # what it shows
    arms 32 64 128   default 64   window 2   seed 7   attempts 4
    run     1    64      -    100 reached
    start   2    32    200
    end     2    32            90 reached
    ask     3   128    180
    draws 64=101.25  128=98.5

where the columns are recurrence, batch size, cost threshold (joules; `-`: none),
cost (joules) and how the attempt ended.  `start` is a decision, `end` its
attempt's end, `run` both at once, `ask` a decision whose attempt does not
matter.  What has started and not ended is in flight.  `draws` are the costs
that Thompson sampling drew in the decision above.  A history's seed is 0 and
its window 0 (all runs) unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from zeus_operator.optimizer.types import Observation, Problem, Situation
from zeus_runtime.protocol import Outcome

TABLES = Path(__file__).parent / "zeus_tables"
OUTCOMES = {
    "reached": Outcome.REACHED,
    "failed": Outcome.MAX_EPOCHS,
    "stopped": Outcome.COST_EXCEEDED,
    "diverged": Outcome.DIVERGED,
    "out-of-memory": Outcome.OUT_OF_MEMORY,
}


@dataclass(frozen=True)
class Decision:
    """A decision that the rules give, and what it is made from.

    Args:
        line: of the table, for messages.
        draws: batch size -> drawn cost; empty if the table gives none.
    """

    line: str
    seen: tuple[Observation, ...]
    situation: Situation
    batch_size: int
    cost_threshold_joules: float | None
    draws: dict[int, float] = field(default_factory=dict)


@dataclass
class ScriptedHistory:
    """One table."""

    name: str
    problem: Problem
    window: int
    seed: int
    decisions: list[Decision]


def histories() -> list[ScriptedHistory]:
    """Return all of them, file by file."""
    return [
        _parse(block.strip().splitlines())
        for file in sorted(TABLES.glob("*.txt"))
        for block in file.read_text().split("\n\n")
    ]


def _parse(lines: list[str]) -> ScriptedHistory:
    title, header, *rows = lines
    options = dict(part.split(" ", 1) for part in header.split("   "))
    problem = Problem(
        batch_sizes=tuple(int(size) for size in options["arms"].split()),
        default_batch_size=int(options["default"]),
        max_epochs=50,
        max_attempts=int(options.get("attempts", 21)),
    )
    return ScriptedHistory(
        title.removeprefix("# "),
        problem,
        window=int(options.get("window", 0)),
        seed=int(options.get("seed", 0)),
        decisions=list(_decisions(rows)),
    )


def _decisions(rows: list[str]) -> Iterator[Decision]:
    seen: tuple[Observation, ...] = ()
    in_flight: dict[int, int] = {}
    overlapping: set[int] = set()  # recurrences whose attempt started while another ran
    for index, row in enumerate(rows):
        kind, *columns = row.split()
        if kind == "draws":
            continue
        recurrence, size = int(columns[0]), int(columns[1])
        failed = tuple(o.batch_size for o in seen if o.recurrence == recurrence)
        if kind != "end":
            following = rows[index + 1] if index + 1 < len(rows) else ""
            yield Decision(
                row,
                seen,
                Situation(recurrence, failed, tuple(in_flight.values())),
                size,
                None if columns[2] == "-" else float(columns[2]),
                _draws(following) if following.startswith("draws") else {},
            )
        if kind in ("run", "start"):
            (overlapping.add if in_flight else overlapping.discard)(recurrence)
        if kind == "start":
            in_flight[recurrence] = size
        if kind in ("run", "end"):
            in_flight.pop(recurrence, None)
            ended = _observation(len(seen) + 1, recurrence, len(failed) + 1, size, columns)
            seen += (replace(ended, overlapping=recurrence in overlapping),)


def _draws(row: str) -> dict[int, float]:
    pairs = (word.split("=") for word in row.split()[1:])
    return {int(size): float(cost) for size, cost in pairs}


def _observation(
    attempt_id: int, recurrence: int, attempt: int, batch_size: int, columns: list[str]
) -> Observation:
    cost, outcome = float(columns[-2]), OUTCOMES[columns[-1]]
    return Observation(
        attempt_id=attempt_id,
        recurrence=recurrence,
        attempt=attempt,
        batch_size=batch_size,
        outcome=outcome,
        epochs=10 if cost else 0,
        cost_joules=cost,
        epoch_cost_joules=cost / 10 if cost else None,
    )
