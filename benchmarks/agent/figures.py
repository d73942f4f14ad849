"""Measured figures, their thresholds, and the tables of the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured line.

    Args:
        what: what was measured.
        value: in `unit`.
        unit: of the value.
        limit: what it must not exceed; None: it is for comparison.
        peer: the same of zeusd; None: it has no such thing.
    """

    what: str
    value: float
    unit: str
    limit: float | None = None
    peer: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether the threshold is missed."""
        return self.limit is not None and not self.value <= self.limit

    def __str__(self) -> str:
        """Return a row of the page's tables."""
        peer = "" if self.peer is None else _with_unit(self.peer, self.unit)
        limit = "" if self.limit is None else f"at most {_with_unit(self.limit, self.unit)}"
        missed = " (**missed**)" if self.is_missed else ""
        value = _with_unit(self.value, self.unit)
        return f"| {self.what} | {value} | {peer} | {limit}{missed} |"


def _with_unit(value: float, unit: str) -> str:
    return "never" if value == math.inf else f"{number(value)} {unit}"


def number(value: float) -> str:
    """Return a value in three digits, with commas in the thousands; never a power of ten."""
    digits = 0 if abs(value) >= 100 or value == 0 else 1 if abs(value) >= 10 else 2
    if 0 < abs(value) < 0.1:
        digits = 3
    return f"{value:,.{digits}f}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100.0) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def table(figures: Sequence[Figure], head: Sequence[str]) -> str:
    """Return figures as a table.

    Args:
        figures: its rows.
        head: four names of columns.
    """
    rows = ["| " + " | ".join(head) + " |", "| --- | --- | --- | --- |", *map(str, figures)]
    return "\n".join(rows)
