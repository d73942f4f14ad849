"""Job groups in time: the runs of recurring jobs, when they start and when they end.

Format (CSV with a header, plain or packed by xz): group, dataset, start_time,
end_time, runtime_ratio.  A group is one recurring job of the dataset; its rows
are its runs; times are seconds from any origin; `runtime_ratio` is the run time
over the mean run time of the dataset.  A run that starts before an earlier one
of its group ended overlaps it.
"""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from zeus_operator.simulate.rows import Row, TraceError, read_rows

COLUMNS = ("group", "dataset", "start_time", "end_time", "runtime_ratio")
SYNTHETIC_PREFIX = "synthetic-"
"""Groups that a generator made are named so, and so is everything computed from them."""


@dataclass(frozen=True)
class GroupRun:
    """One run of a group, as its trace has it."""

    start_seconds: float
    end_seconds: float
    runtime_ratio: float

    @property
    def duration_seconds(self) -> float:
        """How long the run took."""
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True)
class JobGroup:
    """One recurring job in time; `runs` by their start."""

    name: str
    dataset: str
    runs: tuple[GroupRun, ...]

    @property
    def synthetic(self) -> bool:
        """Whether a generator made it."""
        return self.name.startswith(SYNTHETIC_PREFIX)

    @property
    def overlapping_runs(self) -> int:
        """Runs that start before an earlier one of the group ended."""
        count, busy_until = 0, float("-inf")
        for run in self.runs:
            count += run.start_seconds < busy_until
            busy_until = max(busy_until, run.end_seconds)
        return count


def load_groups(path: Path) -> tuple[JobGroup, ...]:
    """Return the groups of a file, by the order of their first row.

    Raises:
        TraceError: the file is missing or malformed; the text says where.
    """
    datasets: dict[str, str] = {}
    runs: dict[str, list[GroupRun]] = {}
    for row in read_rows(path, COLUMNS):
        name, dataset = row.text("group"), row.text("dataset")
        if datasets.setdefault(name, dataset) != dataset:
            problem = f"group {name} is of {datasets[name]} in an earlier line, not of {dataset}"
            raise row.error("dataset", problem)
        runs.setdefault(name, []).append(_run(row))
    if not runs:
        raise TraceError(f"{path} holds no runs")
    return tuple(
        JobGroup(name, datasets[name], tuple(sorted(found, key=lambda run: run.start_seconds)))
        for name, found in runs.items()
    )


def _run(row: Row) -> GroupRun:
    start, end = row.number("start_time"), row.number("end_time")
    if end < start:
        raise row.error("end_time", f"must not be before start_time {start:g}")
    return GroupRun(start, end, row.positive("runtime_ratio"))


def write_groups(path: Path, groups: Sequence[JobGroup]) -> None:
    """Write a file that `load_groups` reads; packed by xz where its name ends in `.xz`.

    Raises:
        OSError: the file can't be written.
    """
    with _opened(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for group in groups:
            for run in group.runs:
                writer.writerow(
                    (
                        group.name,
                        group.dataset,
                        repr(run.start_seconds),
                        repr(run.end_seconds),
                        repr(run.runtime_ratio),
                    )
                )


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if path.suffix == ".xz":
        with lzma.open(path, "wt", encoding="utf-8", newline="") as packed:
            yield packed
    else:
        with path.open("w", encoding="utf-8", newline="") as plain:
            yield plain
